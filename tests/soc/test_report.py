"""The synthesis report, on a small design that Yosys maps: counts, levels and merging."""

from __future__ import annotations

import json
import subprocess
import sys

from bitnet_soc.report import (
    control_sets,
    lut_sites_for_multiplexers,
    merge_modules,
    print_report,
    reachable,
    script,
    usage_by_module,
    yosys,
)
from bitnet_soc.timing import Netlist
from conftest import BUILD, DSP_CLOCK, ROOT

_VERILOG = """
module add_a (input clk, input [15:0] a, b, output reg [15:0] r);
  always @(posedge clk) r <= a + b;
endmodule
module add_b (input clk, input [15:0] a, b, output reg [15:0] r);
  always @(posedge clk) r <= a + b;
endmodule
module top (input clk, input [15:0] a, b, c, input [8:0] at, output reg [15:0] r,
            output reg [35:0] word);
  wire [15:0] s, t;
  reg [35:0] memory [0:511];
  add_a  first0 (.clk(clk), .a(a), .b(b), .r(s));
  add_b  first1 (.clk(clk), .a(s), .b(c), .r(t));
  always @(posedge clk) r <= ^t ? t : s;
  always @(posedge clk) begin word <= memory[at]; if (a[0]) memory[at] <= {a, b}; end
endmodule
"""


def test_counts_levels_and_merging(tmp_path, capsys):
    merged = merge_modules(_VERILOG, "top")
    assert merged.count("endmodule") == 2 and "add_b" not in merged and merged.count("add_a") == 3
    source, netlist = tmp_path / "design.v", tmp_path / "design.json"
    source.write_text(merged)
    (tmp_path / "run.ys").write_text(script([source.name], "top", netlist.name))
    subprocess.run([yosys(), "-q", "run.ys"], cwd=tmp_path, check=True, capture_output=True)
    module = json.loads(netlist.read_text())["modules"]["top"]
    usage = usage_by_module(module, 2)
    assert usage["first*"].counts["FF"] == 32 and usage["first*"].counts["LUT"] >= 32
    assert usage["(top)"].counts["BRAM36"] == 0.5 and usage["(top)"].counts["FF"] == 16
    print_report(netlist, "top", 2)
    said = capsys.readouterr().out
    assert "XC7Z020" in said and "speed grade -1" in said and "125 to 125" in said


def test_only_what_a_unit_consists_of():
    kept = reachable(_VERILOG, "top")
    assert kept.count("endmodule") == 3
    assert reachable(_VERILOG, "add_a").count("endmodule") == 1
    escaped = "\n".join(["module \\a.b$1 (clk);", "  \\a.b.c$2  \\c$2  (", "  );", "endmodule",
                         "module \\a.b.c$2 (x);", "endmodule",
                         "module \\d (x);", "endmodule", ""])
    assert reachable(escaped, "a.b$1").count("endmodule") == 2


def test_luts_that_only_feed_multiplexers_and_control_sets():
    def cell(kind, **pins):
        return {"type": kind, "connections": {port: [net] for port, net in pins.items()},
                "port_directions": {port: "output" if port in "OQ" else "input" for port in pins}}

    cells = {
        "a": cell("LUT2", I0=10, I1=11, O=12), "b": cell("LUT2", I0=10, I1=11, O=13),
        "c": cell("LUT1", I0=13, O=14),
        "m": cell("MUXF7", I0=12, I1=13, S=15, O=16),  # b drives something else, too
        "n": cell("MUXF7", I0="0", I1=17, S=15, O=18),  # a constant, and a register
        "r": cell("FDRE", C=1,
                  CE="1", R="0", D=16, Q=17), "s": cell("FDRE", C=1, CE="1", R="0", D=18, Q=19),
        "t": cell("FDRE", C=1,
                  CE=19, R="0", D=18, Q=20), "u": cell("FDRE", C=2, CE="1", R="0", D=18, Q=21),
    }
    netlist = Netlist({"cells": cells, "ports": {}, "netnames": {}})
    assert lut_sites_for_multiplexers(netlist) == 3 and control_sets(netlist) == 3


def test_a_unit_that_is_not_there(tmp_path):
    """One sentence that names those that are."""
    done = subprocess.run([sys.executable, ROOT / "soc/build.py", "--output", BUILD,
                           "--dsp-clock", DSP_CLOCK, "--report", "no.such"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("build: there is no unit no.such")
    assert "products.array" in done.stderr and "tvu" in done.stderr and ", ," not in done.stderr
    assert not (BUILD / "report/no.such").exists()
