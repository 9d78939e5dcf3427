"""The synthesis report, on a small design that Yosys maps: counts, levels and merging."""

from __future__ import annotations

import json
import subprocess

from bitnet_soc.report import merge_modules, print_report, script, usage_by_module, yosys

_VERILOG = """
module add_a (input clk, input [15:0] a, b, output reg [15:0] r);
  always @(posedge clk) r <= a + b;
endmodule
module add_b (input clk, input [15:0] a, b, output reg [15:0] r);
  always @(posedge clk) r <= a + b;
endmodule
module top (input clk, input [15:0] a, b, c, input [8:0] at, output reg [15:0] r, output reg [35:0] word);
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
