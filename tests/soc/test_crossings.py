"""What is found of signals between clocks, on small designs with and without what they need. The
designs of the boards are held to it in test_board_files.py."""

from __future__ import annotations

import json
import subprocess

import pytest
from bitnet_soc.crossings import crossings, script
from bitnet_soc.report import yosys

_BOX = "module box (input clk, input d, output q); endmodule\n"
_CHAIN = """
  (* async_reg = "true", mr_ff = "true" *) reg first;
  (* async_reg = "true" *) reg second;
"""
_TOP = """
module top (input a_clk, b_clk, c_clk, input pad, d, output reg q);
  reg from_a;
  always @(posedge a_clk) from_a <= d;
{body}
endmodule
"""


def _found(folder, body, related=None):
    """As text, such as ``a_clk b_clk synchroniser``."""
    (folder / "top.v").write_text(_BOX + _TOP.replace("{body}", body))
    (folder / "run.ys").write_text(script(["top.v"], "top", "top.json", {"box": "clk"}))
    subprocess.run([yosys(), "-q", "run.ys"], cwd=folder, check=True, capture_output=True)
    module = json.loads((folder / "top.json").read_text())["modules"]["top"]
    found = {f"{c.start} {c.end} {c.how}" for c in crossings(module, {"box": "clk"}, related or {})
             if (c.start, c.end) != ("outside", "a_clk")}  # of d
    return found


_TAKES = "always @(posedge b_clk) begin first <= {}; second <= first; q <= second; end"


@pytest.mark.parametrize(("body", "found"), [
    ("always @(posedge a_clk) q <= from_a;", set()),
    ("always @(posedge b_clk) q <= from_a;", {"a_clk b_clk bare"}),
    ("always @(posedge b_clk) if (from_a) q <= ~q;", {"a_clk b_clk bare"}),  # its enable
    ("always @(posedge b_clk) q <= pad;", {"outside b_clk bare"}),
    (_CHAIN + _TAKES.format("from_a"), {"a_clk b_clk synchroniser"}),
    (_CHAIN + _TAKES.format("pad"), {"outside b_clk synchroniser"}),
    # logic in front of the chain, and a chain that is also used from its middle
    (_CHAIN + _TAKES.format("from_a & d"), {"a_clk b_clk bare", "outside b_clk bare"}),
    (_CHAIN + "reg other; always @(posedge b_clk) begin first <= from_a; second <= first; "
     "other <= first; q <= second ^ other; end", {"a_clk b_clk bare"}),
    # a module that is left out, on both sides
    ("wire w; box b (.clk(b_clk), .d(from_a), .q(w)); always @(posedge a_clk) q <= w;",
     {"a_clk b_clk bare", "b_clk a_clk bare"}),
    # a reset that is released by a chain, and one that is not
    ("""wire m, r;
  (* ars_ff1 = "true", async_reg = "true" *) FDPE x (.C(b_clk), .CE(1'b1), .D(1'b0), .PRE(from_a),
    .Q(m));
  (* ars_ff2 = "true", async_reg = "true" *) FDPE y (.C(b_clk), .CE(1'b1), .D(m), .PRE(from_a),
    .Q(r));
  always @(posedge b_clk) if (r) q <= 0; else q <= ~q;""", {"a_clk b_clk reset"}),
    ("FDPE x (.C(b_clk), .CE(1'b1), .D(1'b0), .PRE(from_a), .Q(q_)); wire q_; "
     "always @(posedge b_clk) q <= q_;", {"a_clk b_clk bare"}),
    # one register of the two
    ("""wire m;
  (* ars_ff1 = "true", async_reg = "true" *) FDPE x (.C(b_clk), .CE(1'b1), .D(1'b0), .PRE(from_a),
    .Q(m));
  always @(posedge b_clk) if (m) q <= 0; else q <= ~q;""", {"a_clk b_clk bare"}),
    # a memory with two clocks, and one whose address comes bare
    ("reg [7:0] m [0:15]; reg [3:0] i, j; reg [7:0] o; always @(posedge a_clk) begin i <= i + 1; "
     "m[i] <= {8{from_a}}; end always @(posedge b_clk) begin j <= j + 1; o <= m[j]; q <= ^o; end",
     {"a_clk b_clk memory"}),
    ("reg [7:0] m [0:15]; reg [3:0] i; reg [7:0] o; always @(posedge a_clk) begin i <= i + 1; "
     "m[i] <= {8{from_a}}; end always @(posedge b_clk) begin o <= m[i]; q <= ^o; end",
     {"a_clk b_clk memory", "a_clk b_clk bare"}),
])
def test_what_is_found(tmp_path, body, found):
    assert _found(tmp_path, body) == found


def test_what_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is a \$dlatch, whose clock is not known here"):
        _found(tmp_path, "always @* if (pad) q = from_a;")


def test_clocks_of_one_pll_are_one(tmp_path):
    body = "always @(posedge b_clk) q <= from_a;"
    assert _found(tmp_path, body, {"b_clk": "a_clk"}) == set()
    assert _found(tmp_path, body, {"b_clk": "c_clk"}) == {"a_clk b_clk bare"}
