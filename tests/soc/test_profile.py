"""``bitnet-host profile`` on the simulated board."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from bitnet_host.bench.measure import BenchOptions, measure_model
from bitnet_host.model.convert import convert
from bitnet_host.model.image import write_image
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint

SHAPE = "hidden=96,intermediate=160,layers=3,heads=4,kv_heads=2,head_dim=32,vocab=640,context=300"


def _profile(*arguments):
    return subprocess.run([sys.executable, "-m", "bitnet_host", "profile", *arguments], text=True,
                          capture_output=True, timeout=200, check=False)


def test_a_shape(tmp_path):
    """Its steps together are what `bench` says of the operators; files are whole."""
    done = _profile("--shape", SHAPE, "--context", "100", "--over-context", "50,200", "--format",
                    "json", "-o", str(tmp_path / "p.json"), "--plots", str(tmp_path / "plots"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "p.json").read_text())
    bench = measure_model(BenchOptions(shape=SHAPE, context=100))
    steps = {row["step"]: row for row in found["steps"]}
    for operator, names in (("qkv", ("q_proj", "k_proj", "v_proj")), ("o_proj", ("o_proj",)),
                            ("gate_up", ("gate_proj", "up_proj")), ("head", ("final_norm", "head")),
                            ("norm", ("input_norm", "attn_sub_norm", "post_norm"))):
        assert sum(steps[name]["bytes"] for name in names) == bench["operators"][operator]["bytes"]
        assert sum(steps[name]["cycles"] for name in names) == pytest.approx(
            bench["operators"][operator]["cycles"], rel=0.2, abs=300)
    assert found["cycles"] == pytest.approx(bench["cycles"], rel=0.1)
    assert {row["layer"] for row in found["layers"]} == {None, 0, 1, 2}
    assert [one["context"] for one in found["over_context"]] == [50, 200]
    assert found["over_context"][0]["tokens_per_second"] > found["over_context"][1][
        "tokens_per_second"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(
        f"{name}.{kind}" for name in ("steps", "roofline", "timeline", "context")
        for kind in ("png", "svg"))


def test_a_prompt_of_a_model(tmp_path):
    write_image(convert(synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1), "2bit"),
                tmp_path / "m.bitnet")
    done = _profile("--model", str(tmp_path / "m.bitnet"), "--prompt-tokens", "20", "--format",
                    "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["layers"]) == 4 + 3 * 13 and found["contexts"] == [1, 20]
    assert found["layers"][0]["step"] == "embed" and found["layers"][0]["bytes"] == 20 * 96
    assert found["weights"] == "2bit" and found["peak_gops"] == 2 * 128 * 0.125


@pytest.mark.parametrize("arguments,sentence", [
    (("--shape", "x", "--model", "y"), "not both"), (("--format", "pdf"), "--format must be"),
    (("--shape", "nothing"), "shape nothing"), (("--context", "0"), "context"),
    (("--over-context", "1,x"), "--over-context must be"), (("--ddr", "none"), "--ddr must be"),
    (("--model", "/none"), "/none"), (("--prompt-tokens", "999999"), "context"),
    (("--model", "/none", "--over-context", "64"), "is for --shape"),
])
def test_what_does_not_make_sense(arguments, sentence):
    done = _profile(*arguments)
    assert done.returncode == 2 and sentence in done.stderr and not done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
