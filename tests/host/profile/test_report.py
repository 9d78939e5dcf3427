"""Rows, sums and forms of a profile, from cycles that are made up."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from bitnet_host.bench.measure import BenchOptions
from bitnet_host.errors import BadArgument
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.profile.measure import Measured
from bitnet_host.profile.page import page
from bitnet_host.profile.plots import drawn
from bitnet_host.profile.report import FORMS, Report
from bitnet_host.run.protocol import PARTS, STEPS

SHAPE = "hidden=64,intermediate=96,layers=2,heads=4,kv_heads=2,head_dim=32,vocab=128,context=200"
NAMES = list(STEPS)


@pytest.fixture(scope="module")
def report():
    """Each step takes ten cycles moving and one of each stall, down_proj of layer 1 a thousand."""
    cycles = np.zeros((4, len(STEPS), len(PARTS)), np.int64)
    inside = slice(NAMES.index("input_norm"), NAMES.index("final_norm"))
    cycles[0, 0] = cycles[1:3, inside] = cycles[3, NAMES.index("final_norm"):] = (10, 1, 1, 1)
    cycles[2, NAMES.index("down_proj")] = (600, 300, 90, 10)
    image = convert(synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1))
    options = BenchOptions(shape="x<y", context=10, clock=1e6)
    return Report(Measured("x<y", image, options, (10,), cycles, 1400, 30.0),
                  [(64, 12.5), (128, 11.0)])


def test_rows(report):
    """4 steps outside, 13 in each of two layers, one of them of 1,000 cycles."""
    total = 4 * 13 + 25 * 13 + 1000
    assert [row.step for row in report.layers] == (
        NAMES[:1] + 2 * NAMES[1:14] + NAMES[14:])
    assert [row.layer for row in report.layers] == [None, *[0] * 13, *[1] * 13, *[None] * 3]
    down = next(row for row in report.layers if (row.step, row.layer) == ("down_proj", 1))
    assert (down.cycles, down.time_ms, down.bytes) == (1000, 1.0, 600 * 32)
    assert down.time_share == 1000 / total and down.operations == 2 * 64 * 96
    assert down.gops == pytest.approx(2 * 64 * 96 / 1e-3 / 1e9)
    assert down.bandwidth_mb_s == pytest.approx(600 * 32 / 1e-3 / 1e6)
    assert (down.stall_memory, down.stall_compute, down.stall_control) == (300, 90, 10)
    both = next(row for row in report.steps if row.step == "down_proj")
    assert both.cycles == 1013 and both.operations == 2 * down.operations and both.layer is None


def test_sums(report):
    sums = {row.step: row for row in report.sums}
    assert sums["attention block"].cycles == 2 * 8 * 13
    assert sums["MLP block"].cycles == 9 * 13 + 1000
    assert sums["outside of layers"].cycles == 4 * 13
    assert sums["all linear"].cycles == (2 * 7 - 1 + 1) * 13 + 1000
    for names in (("attention block", "MLP block", "outside of layers"),
                  ("all linear", "all non-linear")):
        for field in ("cycles", "operations", "bytes", "stall_memory", "time_share",
                      "operations_share"):
            assert sum(getattr(sums[name], field) for name in names) == pytest.approx(
                getattr(report.total, field))
    assert sum(row.cycles for row in report.layers) == report.total.cycles
    assert sum(row.operations for row in report.layers) == report.total.operations


def test_table(report):
    lines = FORMS["table"](report).splitlines()
    assert lines[0].startswith("x<y, one token at context 10") and "1 MHz" in lines[0]
    down = next(line for line in lines if line.startswith("down_proj")).split()
    assert down[1:5] == ["64", "x", "96", "1,013"]
    assert "1,400 cycles = 714.29 tokens/s" in lines[-1] and "-1.6 %" in lines[-1]


def test_csv(report):
    rows = list(csv.DictReader(io.StringIO(FORMS["csv"](report))))
    assert len(rows) == 30 and [row["layer"] for row in rows[:2]] == ["", "0"]
    for row, right in zip(rows, report.layers, strict=True):
        assert row["step"] == right.step and int(row["cycles"]) == right.cycles
        assert float(row["gops"]) == right.gops and int(row["stall_compute"]) == right.stall_compute


def test_json(report):
    whole = json.loads(FORMS["json"](report))
    assert whole["cycles"] == 1400 and whole["tokens_per_second"] == pytest.approx(714.2857)
    assert len(whole["layers"]) == 30 and len(whole["steps"]) == 17 and len(whole["sums"]) == 6
    assert whole["over_context"][1] == {"context": 128, "tokens_per_second": 11.0}
    assert whole["stream_mb_s"] == 30.0 and whole["peak_gops"] == 2 * 160 * 1e-3
    down = next(row for row in whole["steps"] if row["step"] == "down_proj")
    assert down["linear"] and down["group"] == "mlp" and down["cycles"] == 1013


def test_markdown(report):
    lines = [line for line in FORMS["md"](report).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + 17 + 6
    assert lines[-1].startswith("| **total** |")


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links, self.cells = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.cells += tag == "td"
        self.links += [value for name, value in attrs
                       if name in ("src", "href", "xlink:href") and not value.startswith("#")]
        if tag not in ("meta", "use", "path", "image"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs
                       if name in ("src", "href", "xlink:href") and not value.startswith("#")]

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag


def test_page(report):
    """One file that loads nothing, with all pictures and each layer's rows."""
    text = page(report)
    parsed = _Page()
    parsed.feed(text)
    assert not parsed.open and not parsed.links
    assert text.count("<svg") == 4 and "x&lt;y" in text and "x<y" not in text
    assert not re.search(r"@import|url\((?!#)", text) and "<script" not in text
    assert parsed.cells == 13 * (17 + 6) + 14 * 30


def test_pictures(report):
    vectors, pixels = drawn(report, "svg"), drawn(report, "png")
    assert list(vectors) == list(pixels) == ["steps", "roofline", "timeline", "context"]
    assert all(b"<svg" in data for data in vectors.values())
    assert all(data.startswith(b"\x89PNG") for data in pixels.values())
    assert drawn(report, "svg") == vectors  # the same each time
    without = Report(report.measured)
    assert list(drawn(without, "svg")) == ["steps", "roofline", "timeline"]


def test_without_matplotlib(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BadArgument, match=r"pip install 'bitnet-zynq\[plots\]'"):
        page(report)
