"""Verilator's own warnings (-Wall) about the Verilog of both simulated boards: there are none but
those that soc/bitnet_soc/sim/lint.vlt excuses."""

from __future__ import annotations

import subprocess

import pytest
from bitnet_soc.simulators import SLICE_MODEL
from conftest import BUILD, ROOT

_WAIVERS = ROOT / "soc/bitnet_soc/sim/lint.vlt"


def _lint(top, *files):
    return subprocess.run(["verilator", "--lint-only", "-Wall", "--top-module", top, _WAIVERS,
                           *files], capture_output=True, text=True).stderr


@pytest.mark.parametrize("board", ["sim", "ps/sim"])
def test_no_warnings(board):
    folder = BUILD / board
    sources = [*(folder / "sources.txt").read_text().split(), BUILD / "sim/network.v", SLICE_MODEL]
    if board == "ps/sim":
        sources += [folder / "ps.v", folder / "slices.v"]
    assert _lint("soc", *sources) == ""


@pytest.mark.parametrize(("rule", "body"), [
    ("LATCH", "always @* if (a) q = b;"),
    ("MULTIDRIVEN", "always @(posedge a) q <= b; always @(posedge b) q <= a;"),
    ("UNOPTFLAT", "wire [1:0] w = {w[0] ^ a, w[1] | b}; always @* q = w[0];"),
    ("IMPLICIT", "assign nowhere = a; always @* q = nowhere ^ b;"),
    ("UNDRIVEN", "wire w; always @* q = w ^ a ^ b;"),
    ("COMBDLY", "always @* q <= a ^ b;"),
])
def test_the_other_rules_hold(tmp_path, rule, body):
    source = tmp_path / "top.v"
    source.write_text(f"module top (input a, b, output reg q);\n{body}\nendmodule\n")
    assert f"-{rule}:" in _lint("top", source)
