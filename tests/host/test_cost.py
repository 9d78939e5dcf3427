"""What a pass is predicted to cost, against what docs/performance.md says was measured."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from bitnet_host.model.convert import make_header, packing
from bitnet_host.model.cost import decode_cycles, pass_cycles, prefill_cycles
from bitnet_host.model.sources.synthetic import parse_shape
from conftest import ROOT

_ROW = re.compile(r"^\|[^`\n]*?\| ([\d,]{9,}) \|[^`\n]*`bitnet-host bench --shape (\S+?)( [^`]*)?`",
                  re.MULTILINE)


def _header(shape, **changes):
    config = parse_shape(shape)
    return make_header(replace(config, **changes), packing(config))


def _measured():
    """Shape, options and cycles of one conversation's rows with the default memory."""
    found = []
    for cycles, shape, text in _ROW.findall((ROOT / "docs/performance.md").read_text()):
        words = text.split()
        options = dict(zip([word.strip("-") for word in words[::2]], words[1::2], strict=False))
        flags = {word for word in words if word.startswith("--")}
        if flags <= {"--context", "--prefill", "--cached", "--tokens"}:
            found.append((shape, options, int(cycles.replace(",", ""))))
    return found


def test_all_that_was_measured_of_large_shapes_is_predicted_to_3_percent():
    rows = _measured()
    assert {shape for shape, *_ in rows} >= {"2b4t", "falcon-e-1b", "falcon-e-3b", "bonsai-1.7b"}
    assert len(rows) >= 8 and any("prefill" in options for _, options, _ in rows)
    for shape, options, cycles in rows:
        context = int(options.get("context", 2048))
        header = _header(shape, context=max(2048, context))
        ours = (prefill_cycles(header, int(options["prefill"]), int(options.get("cached", 0)), True)
                if "prefill" in options else decode_cycles(header, context))
        assert ours == pytest.approx(cycles, rel=0.03), (shape, options)


def test_what_a_pass_consists_of():
    """Of parts that grow with what they depend on, and not with what they do not."""
    header = _header("falcon-e-1b")
    one = pass_cycles(header, [100], True, True)
    later, two = (pass_cycles(header, positions, True, True)
                  for positions in ([1000], [100, 101]))
    assert later["attention"] > 2 * one["attention"]
    assert {name for name in one if later[name] != one[name]} == {"attention"}
    for name in ("qkv", "o_proj", "gate_up", "down_proj"):  # both tokens share the stream
        assert one[name] < two[name] < 1.1 * one[name]
    for name in ("norm", "attention", "activation"):
        assert 1.8 * one[name] < two[name] < 2.2 * one[name]
    assert pass_cycles(header, [100], True, False)["head"] == 0
    words = 2048 * 13 * 2 + 2 * 256 * 13  # rows of 160 base-3 weights: q, o, k and v
    assert one["qkv"] + one["o_proj"] > 24 * words
