"""The estimate of slack, against sums made by hand on small netlists."""

from __future__ import annotations

import json
import math
import subprocess

import pytest
from bitnet_soc.delays import Cell, net_delay, timed
from bitnet_soc.report import script, yosys
from bitnet_soc.timing import Netlist, analyse, part_of

_OUT, _SETUP, _LUT = 0.456, 0.05, 0.124
_ALONE, _TWO = 0.36, 0.36 + 0.07 + 0.01
_INPUTS = {"C", "D", "CE", "R", "I0", "I1", "S", "DI", "CI", "CYINIT", "CLKARDCLK", "ADDRARDADDR",
           "CLK", "A", "B", "PCIN"}


def _module(cells, names=None):
    """A netlist of (type, connections, parameters); nets 0 and 1 of the clocks ``clk`` and
    ``fast_clk``."""
    return {
        "ports": {"clk": {"direction": "input", "bits": [0]},
                  "fast_clk": {"direction": "input", "bits": [1]}},
        "netnames": {name: {"bits": [net], "hide_name": 0} for name, net in (names or {}).items()},
        "cells": {name: {"type": kind, "parameters": parameters,
                         "connections": {port: nets if isinstance(nets, list) else [nets]
                                         for port, nets in connections.items()},
                         "port_directions": {port: "input" if port in _INPUTS else "output"
                                             for port in connections}}
                  for name, (kind, connections, parameters) in cells.items()},
    }


def _ff(d, q, clock=0, **more):
    return "FDRE", {"C": clock, "D": d, "Q": q, **more}, {}


def _worst(cells, grade="-1", **names):
    found, paths = analyse(Netlist(_module(cells, names)), grade)
    assert (found[0].slack == min(endpoint.slack for endpoint in found)
            and paths[0].endpoint is found[0])
    return found[0], paths[0]


def test_a_path_is_the_sum_of_its_parts():
    """Two registers with two LUTs between them; the last one lies beside its register."""
    cells = {"a": _ff(90, 10), "one": ("LUT1", {"I0": 10, "O": 11}, {}),
             "two": ("LUT2", {"I0": 11, "I1": 91, "O": 12}, {}),
             "b": _ff(12, 13)}
    late = _OUT + _ALONE + _LUT + _ALONE + _LUT + 0 + _SETUP
    endpoint, path = _worst(cells, first=10, last=13)
    assert (endpoint.slack == pytest.approx(8 - late - 0.10) and endpoint.clocks == (1, 1)
            and endpoint.budget == 8)
    assert (endpoint.start, endpoint.end) == ("first", "last D")
    assert [step.type for step in path.steps] == ["FDRE", "LUT1", "LUT2"]
    assert path.steps[-1].time == pytest.approx(late - _SETUP)
    assert _worst(cells, "-2")[0].slack == pytest.approx(8 - 0.865 * late - 0.10)


def test_fan_out_and_the_register_beside_the_logic():
    """Of three registers behind one LUT one is in its slice; the net to the others is slower with
    each pin."""
    assert net_delay(1) == _ALONE and net_delay(2) == pytest.approx(_TWO)
    assert (net_delay(350)
            == pytest.approx(0.36 + 0.07 * math.log2(350) + 0.01 * math.log2(350) ** 2))
    cells = {"a": _ff(90, 10), "one": ("LUT1", {"I0": 10, "O": 11}, {}), "b": _ff(11, 12),
             "c": _ff(11, 13)}
    found, _ = analyse(Netlist(_module(cells)), "-1")
    slacks = sorted(endpoint.slack for endpoint in found)
    near = 8 - 0.10 - (_OUT + _ALONE + _LUT + _SETUP)
    assert slacks[:2] == pytest.approx([near - _TWO, near])


@pytest.mark.parametrize("start,end,budget,uncertainty",
                         [(0, 0, 8, 0.10), (0, 1, 4, 0.22), (1, 0, 4, 0.22), (1, 1, 4, 0.10)])
def test_the_clocks_of_both_ends_say_how_long_there_is(start, end, budget, uncertainty):
    endpoint, _ = _worst({"a": _ff(90, 10, start), "b": _ff(10, 11, end)})
    assert (endpoint.budget
            == budget
            and endpoint.slack == pytest.approx(budget - _OUT - _ALONE - _SETUP - uncertainty))
    assert endpoint.clocks == (start + 1, end + 1)


def test_a_carry_chain():
    """Through a LUT's slice into the chain, along it for nothing but the carry, and out into a
    register beside it."""
    low = {"CI": 92, "CYINIT": 93, "S": [11, 94, 95, 96], "DI": [97] * 4, "CO": [20, 21, 22, 23],
           "O": [30, 31, 32, 33]}
    high = {"CI": 23, "CYINIT": 93, "S": [98] * 4, "DI": [97] * 4, "CO": [24, 25, 26, 27],
            "O": [34, 35, 36, 37]}
    cells = {"a": _ff(90, 10), "one": ("LUT1", {"I0": 10, "O": 11}, {}),
             "low": ("CARRY4", low, {}), "high": ("CARRY4", high, {}),
             "b": _ff(37, 12)}
    assert (_worst(cells)[0].slack
            == pytest.approx(8 - 0.10 - (_OUT + _ALONE + _LUT + 0.53 + 0.30 + _SETUP)))


@pytest.mark.parametrize("registered,out", [("00", 2.454), ("01", 0.882)])
def test_block_ram(registered, out):
    """Far nets at both of its ends, and an output register where it has one."""
    ram = ("RAMB18E1", {"CLKARDCLK": 1, "ADDRARDADDR": [10], "DOADO": [11]},
           {"DOA_REG": registered})
    found, _ = analyse(Netlist(_module({"a": _ff(90, 10, 1), "ram": ram, "b": _ff(11, 12, 1)})),
                       "-1")
    slacks = {endpoint.end: endpoint.slack for endpoint in found if endpoint.clocks == (2, 2)}
    assert slacks["ram ADDRARDADDR[0]"] == pytest.approx(4 - 0.10 - (_OUT + _ALONE + 0.30 + 0.566))
    assert slacks["b D"] == pytest.approx(4 - 0.10 - (out + _ALONE + 0.30 + _SETUP))


@pytest.mark.parametrize("registers,to,out", [
    ({"AREG": 1, "MREG": 1,
      "PREG": 1}, 0.36, 0.434), ({"AREG": 0, "MREG": 1, "PREG": 1}, 2.6, 0.434),
    ({"AREG": 0, "MREG": 0,
      "PREG": 1}, 3.9, 0.434), ({"AREG": 1, "MREG": 1, "PREG": 0}, 0.36, 1.47)])
def test_a_multiplier(registers, to, out):
    """Which of its registers it has decides."""
    slice_ = ("DSP48E1",
              {"CLK": 0, "A": [10],
               "P": [11]}, {name: f"{value:032b}" for name, value in registers.items()})
    found, _ = analyse(Netlist(_module({"a": _ff(90, 10), "slice": slice_, "b": _ff(11, 12)})),
                       "-1")
    slacks = {endpoint.end: endpoint.slack for endpoint in found}
    assert slacks["slice A[0]"] == pytest.approx(8 - 0.10 - (_OUT + _ALONE + 0.30 + to))
    assert slacks["b D"] == pytest.approx(8 - 0.10 - (out + _ALONE + 0.30 + _SETUP))


def test_block_ram_of_one_reader_and_one_writer():
    """All of it is read by the first clock and written by the second."""
    pins = {"CLKARDCLK": 1, "CLKBWRCLK": 0, "DIADI": [10], "DOADO": [11], "DOBDO": [12]}
    found = timed(Cell("RAMB36E1", {port: nets if isinstance(nets, list) else [nets]
                                    for port, nets in pins.items()}, {"RAM_MODE": "SDP"}))
    assert {clock for _, clock, _ in found.launches} == {"CLKARDCLK"}
    assert [(pin[0], clock) for pin, clock, _ in found.captures] == [("DIADI", "CLKBWRCLK")]


def test_a_multiplier_without_registers_is_logic():
    parameters = {name: 0 for name in ("AREG", "BREG", "CREG", "MREG", "PREG")}
    slice_ = ("DSP48E1", {"CLK": 0, "A": [10], "P": [11]}, parameters)
    endpoint, _ = _worst({"a": _ff(90, 10), "slice": slice_, "b": _ff(11, 12)})
    assert (endpoint.slack
            == pytest.approx(8 - 0.10 - (_OUT + _ALONE + 0.30 + 4.2 + _ALONE + 0.30 + _SETUP)))


def test_distributed_ram_and_shift_registers():
    ram = timed(Cell("RAM32X1D",
                     {"WCLK": [0],
                      "DPRA0": [1], "A0": [2], "D": [3], "WE": [4], "DPO": [5], "SPO": [6]}))
    assert (((("DPRA0", 0), ("DPO", 0), _LUT)) in ram.through
            and (("DPO", 0), "WCLK", 1.32) in ram.launches)
    assert ({(pin[0], time)
             for pin, _, time in ram.captures} == {("D", 0.40), ("WE", 0.53), ("A0", 0.45)})
    delay = timed(Cell("SRL16E", {"CLK": [0], "D": [1], "CE": [2], "Q": [3]}))
    assert delay.launches == [(("Q", 0), "CLK", 1.62)]
    assert timed(Cell("BUFG", {})) is None


def test_inputs_and_outputs_of_a_unit():
    """As if registers stood on the other side."""
    module = _module({"one": ("LUT2", {"I0": 92, "I1": 5, "O": 11}, {}), "a": _ff(90, 10)})
    module["ports"] |= {"in": {"direction": "input", "bits": [5]},
                        "out": {"direction": "output", "bits": [11]}}
    found, _ = analyse(Netlist(module), "-1")
    assert [endpoint.end for endpoint in found] == ["out (output)"]
    assert found[0].slack == pytest.approx(8 - 0.10 - (_OUT + _ALONE + _LUT))


def test_logic_in_a_loop_does_not_hang():
    cells = {"a": _ff(90, 10), "one": ("LUT2", {"I0": 10, "I1": 12, "O": 11}, {}),
             "two": ("LUT1", {"I0": 11, "O": 12}, {}),
             "b": _ff(10, 13)}
    assert _worst(cells)[0].slack == pytest.approx(8 - 0.10 - (_OUT + _TWO + _SETUP))


def test_a_design_that_yosys_maps(tmp_path):
    """Names are found, and a longer sum is slower."""
    (tmp_path / "design.v").write_text("""
module unit (input clk, input [31:0] a, output reg [31:0] total);
  reg [31:0] held;
  always @(posedge clk) begin held <= a; total <= held + total; end
endmodule
module top (input clk, input [31:0] a, output [31:0] b, output reg odd);
  unit inner (.clk(clk), .a(a), .total(b));
  always @(posedge clk) odd <= b[0];
endmodule
""")
    (tmp_path / "run.ys").write_text(script(["design.v"], "top", "design.json"))
    subprocess.run([yosys(), "-q", "run.ys"], cwd=tmp_path, check=True, capture_output=True)
    module = json.loads((tmp_path / "design.json").read_text())["modules"]["top"]
    found, paths = analyse(Netlist(module), "-1")
    assert part_of(paths[0].endpoint.end) == "inner" == part_of(paths[0].endpoint.start)
    print(*paths[0].steps, sep="\n")
    # 32 bits are eight CARRY4: seven carries, and an output
    assert (8 - 0.10
            - found[0].slack
            == pytest.approx(_OUT + net_delay(2) + _LUT + 0.53 + 6 * 0.114 + 0.30 + _SETUP,
                             abs=0.3))
    assert any(endpoint.end == "odd D" for endpoint in found)


def test_parts_are_named_by_instance():
    assert part_of("VexRiscv.\\Cfu.tvu.vector.scale3.product[4] D") == "VexRiscv.Cfu.tvu"
    assert (part_of("tvu.vector.scale3.product", 3) == "tvu.vector.scale*"
            and part_of("single") == "(top)")


def test_a_register_is_named_by_the_instance_it_lies_in():
    """Not by the instances that its output goes to, however deep those are."""
    cells = {"$flatten\\CPU.\\decode.$auto$1": _ff(90, 10), "b": _ff(10, 13)}
    found, _ = analyse(Netlist(_module(cells, {"CPU.decode.rs1": 10, "CPU.bus.rs1": 10,
                                               "Cfu.tvu.frontend.rs1": 10, "last": 13})), "-1")
    assert [(endpoint.start, endpoint.end) for endpoint in found] == [("CPU.decode.rs1", "last D")]
