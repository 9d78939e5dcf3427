"""How long the cells of a 7-series netlist take: an estimate, for timing.py.

Figures are for speed grade -1, in nanoseconds, recalled from Xilinx DS187 and DS181 and from public
timing databases (shared/timing/README.md); grade -2 is about 0.865 of it. They are pessimistic for
LUT logic and about right for the fixed delays of block RAM and DSP slices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "FLIP_FLOP_OUT", "GRADES", "LUT", "UNCERTAINTY", "UNCERTAINTY_BETWEEN", "Cell", "Timed",
    "net_delay", "timed",
]

#: Factor on every delay.
GRADES = {"-1": 1.0, "-2": 0.865}
#: Of a clock, and between the two clocks; these do not become less with the grade.
UNCERTAINTY, UNCERTAINTY_BETWEEN = 0.10, 0.22

LUT = 0.124
FLIP_FLOP_OUT = 0.456
_FF_SETUP = {"D": 0.05, "CE": 0.205, "R": 0.429, "S": 0.429, "CLR": 0.429, "PRE": 0.429}
_MUX = {"MUXF7": {"I0": 0.22, "I1": 0.22, "S": 0.28}, "MUXF8": {"I0": 0.10, "I1": 0.10, "S": 0.30}}
_S_CO, _S_O, _DI, _CI_CO, _CI_O, _CYINIT = 0.53, 0.35, 0.50, 0.114, 0.30, 0.58
_RAM_OUT, _SRL_OUT, _RAM_DATA, _RAM_WRITE, _RAM_ADDRESS = 1.32, 1.62, 0.40, 0.53, 0.45
_BRAM_OUT, _BRAM_REGISTERED = 2.454, 0.882
_BRAM_SETUP = {"ADDR": 0.566, "DI": 0.60, "WE": 0.532}
_BRAM_ENABLE = 0.443
_BRAM_A = ("ADDRARDADDR", "DIADI", "DIPADIP", "WEA", "ENARDEN", "REGCEAREGCE", "RSTRAMARSTRAM",
           "RSTREGARSTREG")
_BRAM_B = ("ADDRBWRADDR", "DIBDI", "DIPBDIP", "WEBWE", "ENBWREN", "REGCEB", "RSTRAMB", "RSTREGB")
_DSP_P, _DSP_M = 0.434, 1.47  # from PREG, from MREG with no PREG behind it
_DSP_SETUP = {"C": 0.21, "OPMODE": 0.33, "ALUMODE": 0.33}  # into their own registers
_DSP_INPUT, _DSP_ENABLE = 0.36, 0.33
_DSP_TO_M, _DSP_TO_P, _DSP_THROUGH = 2.6, 3.9, 4.2  # A or B through the multiplier
_DSP_ADD, _DSP_CASCADE = 1.75, 1.25  # C, or A:B without the multiplier, and PCIN, into PREG

Pin = tuple[str, int]  # port, and bit of it


@dataclass
class Cell:
    """A cell of a Yosys JSON netlist."""

    type: str
    connections: dict[str, list[Any]]
    parameters: dict[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> int:
        """An integer parameter; 1 where the cell does not say (the default of every DSP
        register)."""
        given = self.parameters.get(name, 1)
        return (int(given, 2) if isinstance(given, str) and set(given) <= {"0", "1"}
                and given else int(given))

    def pins(self, *ports: str) -> Iterator[Pin]:
        """The pins of ports that are there."""
        for port in ports:
            for bit in range(len(self.connections.get(port, ()))):
                yield port, bit


@dataclass
class Timed:
    """What a cell does in time: ``through``: from a pin to a pin without a clock; ``launches``: a
    pin's value comes so long after the edge at a clock port; ``captures``: a pin has to be stable
    so long before it."""

    through: list[tuple[Pin, Pin, float]] = field(default_factory=list)
    launches: list[tuple[Pin, str, float]] = field(default_factory=list)
    captures: list[tuple[Pin, str, float]] = field(default_factory=list)


def net_delay(fan_out: int) -> float:
    """Of a net that leaves its slice."""
    doublings = math.log2(max(1, fan_out))
    return 0.36 + 0.07 * doublings + 0.010 * doublings**2


def timed(cell: Cell) -> Timed | None:
    """What is known of a cell; None if nothing is."""
    kind = cell.type
    if kind.startswith("LUT") or kind == "INV":
        return _all_through(cell, dict.fromkeys(("I", *(f"I{n}" for n in range(6))), LUT), "O")
    if kind in _MUX:
        return _all_through(cell, _MUX[kind], "O")
    if kind == "CARRY4":
        return _carry(cell)
    if kind in ("FDRE", "FDSE", "FDCE", "FDPE"):
        return Timed(launches=[(pin, "C", FLIP_FLOP_OUT) for pin in cell.pins("Q")],
                     captures=[(pin, "C",
                                time)
                               for port, time in _FF_SETUP.items() for pin in cell.pins(port)])
    if kind in ("SRL16E", "SRLC32E"):
        return _shift_register(cell)
    if kind.startswith(("RAM32", "RAM64", "RAM128", "RAM256")):
        return _distributed_ram(cell)
    if kind in ("RAMB18E1", "RAMB36E1"):
        return _block_ram(cell)
    return _dsp(cell) if kind == "DSP48E1" else None


def _all_through(cell: Cell, delays: dict[str, float], output: str) -> Timed:
    return Timed(through=[(pin, (output, 0), delay) for port, delay in delays.items()
                          for pin in cell.pins(port)])


def _carry(cell: Cell) -> Timed:
    through = []
    for (port, bit) in cell.pins("S", "DI", "CI", "CYINIT"):
        for to in range(bit, 4):
            carry = {"S": _S_CO, "DI": _DI, "CI": _CI_CO, "CYINIT": _CYINIT}[port]
            through.append(((port, bit), ("CO", to), carry))
            total = {"S": _S_O if to == bit else _S_CO, "DI": _DI, "CI": _CI_O,
                     "CYINIT": _CYINIT}[port]
            if (port, to) != ("DI", bit):  # which only goes into the carry
                through.append(((port, bit), ("O", to), total))
    return Timed(through=through)


def _shift_register(cell: Cell) -> Timed:
    outputs = list(cell.pins("Q", "Q31"))
    return Timed(
        through=[(pin, ("Q", 0), LUT) for pin in cell.pins("A", "A0", "A1", "A2", "A3")],
        launches=[(pin, "CLK", _SRL_OUT) for pin in outputs],
        captures=[(pin, "CLK",
                   time)
                  for port, time in (("D", _RAM_DATA), ("CE", _RAM_WRITE))
                  for pin in cell.pins(port)])


def _distributed_ram(cell: Cell) -> Timed:
    """Read addresses go through; those of a port that is also written (D, or A) have to be there
    before the clock, too."""
    found = Timed()
    four = cell.type.endswith("M")
    wide = LUT + (_MUX["MUXF7"]["S"] if cell.type.startswith(("RAM128", "RAM256")) else 0)
    for letter in "ABCD" if four else ():
        for address in cell.pins(f"ADDR{letter}"):
            found.through += [(address, output, LUT) for output in cell.pins(f"DO{letter}")]
    if not four:
        for port, outputs in (("A", ("SPO", "O")), ("DPRA", ("DPO",))):
            for address in cell.pins(port, *(f"{port}{n}" for n in range(8))):
                found.through += [(address, output, wide) for output in cell.pins(*outputs)]
    found.launches = [(pin,
                       "WCLK", _RAM_OUT)
                      for pin in cell.pins("DOA", "DOB", "DOC", "DOD", "DPO", "SPO", "O")]
    setups = {"DIA": _RAM_DATA, "DIB": _RAM_DATA, "DIC": _RAM_DATA, "DID": _RAM_DATA,
              "D": _RAM_DATA, "WE": _RAM_WRITE,
              "ADDRD": _RAM_ADDRESS, "A": _RAM_ADDRESS, **{f"A{n}": _RAM_ADDRESS for n in range(8)}}
    found.captures = [(pin, "WCLK", time) for port, time in setups.items()
                      for pin in cell.pins(port)]
    return found


def _block_ram(cell: Cell) -> Timed:
    # all 72 bits are read by A's clock and written by B's
    simple = cell.parameters.get("RAM_MODE", "TDP") == "SDP"
    found = Timed()
    for side, clock, inputs in (("A", "CLKARDCLK", _BRAM_A), ("B", "CLKBWRCLK", _BRAM_B)):
        registered = cell.value(f"DO{'A' if simple else side}_REG")
        found.launches += [(pin, "CLKARDCLK" if simple else clock,
                            _BRAM_REGISTERED if registered else _BRAM_OUT)
                           for pin in cell.pins(f"DO{side}DO", f"DOP{side}DOP")]
        for port in inputs:
            time = next((time for prefix, time in _BRAM_SETUP.items() if port.startswith(prefix)),
                        _BRAM_ENABLE)
            written = simple and port.startswith("DI")
            found.captures += [(pin, "CLKBWRCLK" if written else clock, time)
                               for pin in cell.pins(port)]
    return found


def _dsp(cell: Cell) -> Timed:
    found = Timed()
    multiplies = cell.parameters.get("USE_MULT", "MULTIPLY") != "NONE"
    p, m = cell.value("PREG"), cell.value("MREG") and multiplies
    outputs = list(cell.pins("P", "PCOUT", "CARRYOUT", "CARRYCASCOUT", "PATTERNDETECT", "OVERFLOW",
                             "UNDERFLOW", "PATTERNBDETECT"))

    def unregistered(pin: Pin, into_p: float, through: float) -> None:
        if p:
            found.captures.append((pin, "CLK", into_p))
        else:
            found.through.extend((pin, output, through) for output in outputs)

    for port, register in (("A", "AREG"), ("ACIN", "AREG"), ("B", "BREG"), ("BCIN", "BREG"),
                           ("D", "DREG")):
        for pin in cell.pins(port):
            if cell.value(register):
                found.captures.append((pin, "CLK", _DSP_INPUT))
            elif m:
                found.captures.append((pin, "CLK", _DSP_TO_M))
            elif multiplies:
                unregistered(pin, _DSP_TO_P, _DSP_THROUGH)
            else:
                unregistered(pin, _DSP_ADD, _DSP_ADD + _DSP_P)
    for port, register in (("C", "CREG"), ("OPMODE", "OPMODEREG"), ("ALUMODE", "ALUMODEREG")):
        for pin in cell.pins(port):
            if cell.value(register):
                found.captures.append((pin, "CLK", _DSP_SETUP[port]))
            else:
                unregistered(pin, _DSP_ADD, _DSP_ADD + _DSP_P)
    for pin in cell.pins("PCIN", "CARRYCASCIN"):
        unregistered(pin, _DSP_CASCADE, _DSP_CASCADE + _DSP_P)
    enables = [port
               for port in cell.connections if port.startswith(("CE", "RST")) or port in ("INMODE",
                       "CARRYINSEL", "CARRYIN")]
    found.captures += [(pin, "CLK", _DSP_ENABLE) for pin in cell.pins(*enables)]
    late = _DSP_P if p else _DSP_M if m else None
    if late is None and any(cell.value(register) for register in ("AREG", "BREG")):
        late = _DSP_THROUGH
    if late is not None:
        found.launches = [(pin, "CLK", late) for pin in outputs]
    found.launches += [(pin, "CLK", _DSP_P) for pin in cell.pins("ACOUT", "BCOUT")]
    return found
