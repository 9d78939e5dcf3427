"""Every signal that goes from one clock to another, in the design of a board, and through what.

A signal that changes near an edge of the clock that takes it can leave a register between one and
zero for a while. It may cross only as one bit, from a register, into a register that is marked as
the first of a chain (LiteX's MultiReg and reset synchroniser mark theirs) and feeds nothing but the
next one; or as a word of a memory whose addresses cross so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Crossing", "crossings", "script"]

#: Cells of a design that was not mapped yet: registers, and their pins of clock, inputs, output.
_REGISTERS = {"$dff": "Q", "$dffe": "Q", "$sdff": "Q", "$sdffe": "Q", "$sdffce": "Q", "$adff": "Q",
              "$adffe": "Q", "$aldff": "Q", "FDPE": "Q", "FDCE": "Q", "FDRE": "Q", "FDSE": "Q"}
#: Registers of pads: what they take from outside comes with their clock.
_SEQUENTIAL = ("$dff", "$adff", "$aldff", "$sdff", "$dlatch", "$adlatch", "$sr", "$ff", "$fsm",
               "LD", "ISERDES", "OSERDES", "SRL", "RAM")
_PAD_REGISTERS = ("IDDR", "ODDR")
_CLOCK_PINS = ("CLK", "C")
_MARKS = ("async_reg", "mr_ff", "ars_ff1", "ars_ff2")
Bit = int | str


@dataclass(frozen=True)
class Crossing:
    """``start`` and ``end``: clocks, by the names of their nets; ``register``: what takes the
    signal; ``how``: ``synchroniser``, ``reset``, ``memory``, or ``bare``."""

    start: str
    end: str
    register: str
    how: str


def script(sources: Iterable[str], top: str, netlist: str, boxes: Mapping[str, str]) -> str:
    """The Yosys script that writes the flattened, unmapped design. ``boxes``: modules to leave out,
    each with the name of the clock that it runs at (see ``crossings``)."""
    return "\n".join([*(f"read_verilog -sv -noassert {source}" for source in sources),
                      "read_verilog -lib +/xilinx/cells_sim.v", "read_verilog -lib "
                      "+/xilinx/cells_xtra.v", *(f"blackbox {name}" for name in boxes),
                      f"hierarchy -check -top {top}", "proc", "flatten", "opt_clean",
                      "memory_dff", "memory_collect", "opt_clean", f"select {top}",
                      f"write_json -selected {netlist}", ""])


class _Design:
    def __init__(self, module: dict[str, Any], boxes: Mapping[str, str]) -> None:
        self.cells: dict[str, dict[str, Any]] = module["cells"]
        self._boxes = boxes
        self.names: dict[Bit, str] = {}
        self.marked: set[Bit] = set()
        for name, net in module["netnames"].items():
            for bit in net["bits"]:
                if any(mark in net["attributes"] for mark in _MARKS):
                    self.marked.add(bit)
                if bit not in self.names or len(name) < len(self.names[bit]):
                    self.names[bit] = name
        self.driver: dict[Bit, tuple[str, str]] = {}
        self.sinks: dict[Bit, list[str]] = defaultdict(list)
        for name, cell in self.cells.items():
            if cell["type"].startswith(_SEQUENTIAL) and cell["type"] not in _REGISTERS:
                raise ValueError(f"{name} is a {cell['type']}, whose clock is not known here")
            for pin, bits in cell["connections"].items():
                for bit in bits:
                    if cell["port_directions"][pin] == "output":
                        self.driver[bit] = name, pin
                    else:
                        self.sinks[bit].append(name)
        self._ports = {bit for port in module["ports"].values() for bit in port["bits"]}
        self._from: dict[Bit, frozenset[str]] = {}

    def clock(self, bit: Bit) -> str:
        """Its name."""
        return self.names.get(bit, str(bit))

    def is_marked(self, cell: dict[str, Any]) -> bool:
        """Whether a register is one of a chain that settles what crosses."""
        return (any(mark in cell.get("attributes", {}) for mark in _MARKS)
                or all(out in self.marked for out in cell["connections"].get("Q", [None])))

    def clock_of(self, cell: dict[str, Any], pin: str = "") -> str | None:
        """Of a register, of a module that is left out, or of a pin of a hard block; None for
        logic and for what is asynchronous."""
        if cell["type"] in self._boxes:
            return self.clock(cell["connections"][self._boxes[cell["type"]]][0])
        if cell["type"] == "PS7":
            return (self.clock(cell["connections"][f"{pin[:len('SAXIHP0')]}ACLK"][0])
                    if pin.startswith("SAXI") else None)
        if cell["type"] in _REGISTERS or cell["type"] in _PAD_REGISTERS:
            pin = next(pin for pin in _CLOCK_PINS if pin in cell["connections"])
            return self.clock(cell["connections"][pin][0])
        return None

    def starts(self, bit: Bit) -> frozenset[str]:
        """The clocks of the registers that a signal comes from through logic; ``outside`` for pads
        and for what has no clock."""
        if bit in self._from:
            return self._from[bit]
        found: set[str] = set()
        seen, waiting = {bit}, [bit]
        while waiting:
            here = waiting.pop()
            if here not in self.driver:
                if here in self._ports:
                    found.add("outside")
                continue  # or a constant
            name, pin = self.driver[here]
            cell = self.cells[name]
            clock = self.clock_of(cell, pin)
            if cell["type"] == "$mem_v2":
                clocks, through = self._memory(cell, here)
                found |= clocks
                waiting += through
            elif clock is not None:
                found.add(clock)
            elif not cell["type"].startswith("$"):
                found.add("outside")  # a hard block: PS7, PLL, delays
            else:
                for other, bits in cell["connections"].items():
                    if cell["port_directions"][other] == "input":
                        waiting += [b for b in bits if b not in seen]
                        seen.update(bits)
        self._from[bit] = frozenset(found)
        return self._from[bit]

    def _memory(self, cell: dict[str, Any], bit: Bit) -> tuple[set[str], list[Bit]]:
        """The clocks of what a memory reads as ``bit``, and through which pins it depends on logic:
        without a clock for reading, it shows what is written, and follows its address."""
        connections, parameters = cell["connections"], cell["parameters"]
        port = connections["RD_DATA"].index(bit) // int(parameters["WIDTH"], 2)
        if int(parameters["RD_CLK_ENABLE"], 2) >> port & 1:
            return {self.clock(connections["RD_CLK"][port])}, []
        bits = int(parameters["ABITS"], 2)
        return ({self.clock(clock) for clock in connections["WR_CLK"]},
                connections["RD_ADDR"][port * bits:(port + 1) * bits])

    def crossing(self, ends: Bit, clock: str, related: Mapping[str, str]) -> frozenset[str]:
        """Clocks from which a signal comes to a pin that ``clock`` samples, other than that."""
        group = related.get(clock, clock)
        return frozenset(start for start in self.starts(ends) if related.get(start, start) != group)

    def releases(self, cell: dict[str, Any]) -> bool:
        """Whether a register is one of the two that release a reset with their clock: the first
        feeds only the second, whose other input pins are as the first one's."""
        outputs = cell["connections"]["Q"]
        data = cell["connections"]["D"][0]
        if not self.is_marked(cell):
            return False
        if data in self.driver:  # the second
            before = self.cells[self.driver[data][0]]
            return (self.is_marked(before)
                    and before["connections"].get("PRE") == cell["connections"]["PRE"])
        following = self.sinks[outputs[0]]
        return len(following) == 1 and self.is_marked(self.cells[following[0]])

    def is_synchronised(self, cell: dict[str, Any], bit: Bit) -> bool:
        """Whether a register is the first of a marked chain, and takes ``bit`` as it is."""
        if not self.is_marked(cell):
            return False
        if bit in self.driver:
            source = self.cells[self.driver[bit][0]]
            if source["type"].startswith("$") and source["type"] not in _REGISTERS:
                return False  # logic, whose output may go up and down before it settles
        connections = cell["connections"]
        following = self.sinks[connections["Q"][connections["D"].index(bit)]]
        return len(following) == 1 and self.cells[following[0]]["type"] in _REGISTERS


def _pins(design: _Design, name: str) -> Iterable[tuple[str, Bit, str]]:
    """Pins of a cell that a clock samples: name, bit, clock."""
    cell = design.cells[name]
    if cell["type"] == "$mem_v2":
        yield from _memory_pins(design, cell)
        return
    for pin, bits in cell["connections"].items():
        is_clock = pin in _CLOCK_PINS or pin.endswith(("clk", "CLK"))
        if cell["port_directions"][pin] != "input" or is_clock:
            continue
        clock = design.clock_of(cell, pin)
        if clock is None or (cell["type"] == "IDDR" and pin == "D"):
            continue
        for bit in bits:
            yield pin, bit, clock


def _memory_pins(design: _Design, cell: dict[str, Any]) -> Iterable[tuple[str, Bit, str]]:
    connections = cell["connections"]
    for port, pins in (("WR", ("ADDR", "DATA", "EN")), ("RD", ("ADDR", "EN"))):
        count = int(cell["parameters"][f"{port}_PORTS"], 2)
        enabled = int(cell["parameters"][f"{port}_CLK_ENABLE"], 2)
        for i in range(count):
            if not enabled >> i & 1:
                continue
            clock = design.clock(connections[f"{port}_CLK"][i])
            for pin in pins:
                bits = connections[f"{port}_{pin}"]
                width = len(bits) // count
                for bit in bits[i * width:(i + 1) * width]:
                    yield f"{port}_{pin}", bit, clock


def _memories(design: _Design, name: str, related: Mapping[str, str]) -> Iterable[Crossing]:
    """What is written with one clock and read with another."""
    cell = design.cells[name]
    if cell["type"] != "$mem_v2":
        return
    clocks = [{related.get(clock, clock) for clock in
               (design.clock(bit) for bit in cell["connections"][f"{port}_CLK"])}
              for port in ("WR", "RD")]
    for start in clocks[0]:
        for end in clocks[1] - {start}:
            if not end.startswith(("0", "1", "x")):
                yield Crossing(start, end, name, "memory")


def crossings(module: dict[str, Any], boxes: Mapping[str, str],
              related: Mapping[str, str]) -> list[Crossing]:
    """All crossings of a design that ``script`` wrote; ``boxes`` as there. ``related``: clocks that
    are edge by edge those of another one, and that one. Raises ValueError for a register of a kind
    that is not known."""
    design = _Design(module, boxes)
    found = set()
    for name, cell in design.cells.items():
        found.update(_memories(design, name, related))
        for pin, bit, clock in _pins(design, name):
            for start in design.crossing(bit, clock, related):
                outputs = cell["connections"].get("Q", [])
                register = design.names.get(outputs[0], name) if outputs else f"{name} {pin}"
                if pin == "PRE" and design.releases(cell):
                    how = "reset"
                elif pin == "D" and design.is_synchronised(cell, bit):
                    how = "synchroniser"
                else:
                    how = "bare"
                found.add(Crossing(start, clock, register, how))
    return sorted(found, key=lambda crossing: (crossing.how, crossing.start, crossing.register))
