"""Static timing of a flattened Yosys netlist: an estimate of the slack of every path, before place
and route.

A path runs from a register, memory or DSP slice through logic to another. It has the time from an
edge of the first one's clock to the next edge of the second one's: with clocks of one and of two
beats per cycle, in phase, that is half a cycle where either is the fast one. What is left of it is
its slack. delays.py has the figures and says where they are from.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .delays import (
    FLIP_FLOP_OUT,
    GRADES,
    LUT,
    UNCERTAINTY,
    UNCERTAINTY_BETWEEN,
    Cell,
    Timed,
    net_delay,
    timed,
)

__all__ = ["Endpoint", "Netlist", "Path", "Step", "analyse", "part_of"]

Net = int
_FAR = 0.30  # more for a net that starts or ends at a block RAM or DSP slice
_BLOCKS = ("RAMB", "DSP")
_LUTS = ("LUT", "INV", "RAM32", "RAM64", "RAM128", "RAM256")  # what takes the place of a LUT
_SLICE_OUT = (*_LUTS, "MUXF", "CARRY")  # what lies beside flip-flops in a slice


@dataclass
class Step:
    """A cell of a path: its type, the net that leaves it, and the time at which it does."""

    type: str
    net: str
    time: float


@dataclass
class Endpoint:
    """The worst path to a pin: ``slack`` of ``budget`` ns, the clocks of both ends (1 or 2 beats
    per cycle), and where to look for it."""

    slack: float
    budget: float
    start: str
    end: str
    clocks: tuple[int, int]
    net: Net


@dataclass
class Path:
    """An endpoint with what lies on the way."""

    endpoint: Endpoint
    steps: list[Step]


class Netlist:
    """The flattened module of a Yosys JSON netlist. ``fast``: clocks with two edges per cycle, by
    the names of their nets at the top."""

    def __init__(self,
                 module: dict[str, Any],
                 fast: Iterable[str] = ("tvu_fast_clk", "fast_clk", "sys2x_clk")) -> None:
        self.cells = {name: Cell(cell["type"], cell["connections"], cell.get("parameters", {}))
                      for name, cell in module["cells"].items()}
        self._module, fast_names = module, set(fast)
        self.driver: dict[Net, tuple[str, str, int]] = {}
        self.sinks: dict[Net, list[tuple[str, str, int]]] = defaultdict(list)
        outputs = {name: {port for port, way in cell["port_directions"].items() if way == "output"}
                   for name, cell in module["cells"].items()}
        for name, cell in self.cells.items():
            for port, nets in cell.connections.items():
                for bit, net in enumerate(nets):
                    if isinstance(net, int):
                        if port in outputs[name]:
                            self.driver[net] = name, port, bit
                        else:
                            self.sinks[net].append((name, port, bit))
        self.names = self._names()
        self._fast = {net for names in (module["ports"], module["netnames"])
                      for name, port in names.items() if name in fast_names
                      for net in port["bits"]}
        self.inputs = {net for port in module["ports"].values() if port["direction"] == "input"
                       for net in port["bits"]
                       if isinstance(net, int)}
        self.outputs = {net: name
                        for name, port in module["ports"].items() if port["direction"] == "output"
                        for net in port["bits"]
                        if isinstance(net, int)}
        self._beside = self._packed()

    def _names(self) -> dict[Net, str]:
        """A name for each net: a public one if there is one, and of those one of the instance that
        drives it, or else the one that is deepest in the hierarchy."""
        best: dict[Net, tuple[bool, bool, int, str]] = {}
        for name, entry in self._module["netnames"].items():
            hidden = bool(entry.get("hide_name"))
            instance = name.rpartition(".")[0].replace("\\", "")
            for bit, net in enumerate(entry["bits"]):
                if isinstance(net, int):
                    label = name if len(entry["bits"]) == 1 else f"{name}[{bit}]"
                    foreign = self._instance(net) != instance
                    best[net] = min(best.get(net, (True, True, 0, "~")),
                                    (hidden, foreign, -name.count("."), label))
        return {net: label for net, (_, _, _, label) in best.items()}

    def _instance(self, net: Net) -> str | None:
        """The path of the instance that a net's driver lay in before all was flattened, if Yosys
        still knows it."""
        driver = self.driver.get(net)
        found = re.match(r"\$flatten\\(.*?)\.\$", driver[0]) if driver else None
        return found and found[1].replace("\\", "")

    def _packed(self) -> dict[Net, tuple[str, str, int]]:
        """The pin that lies in one slice with the logic that drives its net: one for each net, and
        rather one that has to."""
        beside: dict[Net, tuple[str, str, int]] = {}
        for into, ports, sources in (("MUXF", ("I0", "I1"), (*_LUTS, "MUXF")),
                                     ("CARRY4", ("S",), _LUTS), ("FD", ("D",), _SLICE_OUT)):
            for name, cell in self.cells.items():
                if cell.type.startswith(into):
                    for port, bit in cell.pins(*ports):
                        net = cell.connections[port][bit]
                        driver = self.driver.get(net)
                        if (driver
                            and net not in beside
                            and self.cells[driver[0]].type.startswith(sources)):
                            beside[net] = name, port, bit
        return beside

    def clock(self, cell: Cell, port: str) -> int:
        """Beats per cycle of the clock at a port."""
        nets = cell.connections.get(port, [])
        return 2 if nets and nets[0] in self._fast else 1

    def wire(self, net: Net, sink: tuple[str, str, int]) -> float:
        """Time from a net's driver to a pin."""
        name, port, _ = sink
        to, driver = self.cells[name], self.driver.get(net)
        source = self.cells[driver[0]] if driver else None
        chained = source is not None and source.type == to.type == "CARRY4" and port == "CI"
        if chained or port in ("PCIN", "ACIN", "BCIN") or self._beside.get(net) == sink:
            return 0.0
        far = (sum(cell is not None and cell.type.startswith(_BLOCKS) for cell in (source, to))
               * _FAR)
        # what goes into a wide multiplexer or a carry chain does so through a LUT
        inside = ((to.type.startswith("MUXF") and port != "S")
                  or (to.type == "CARRY4" and port == "S"))
        through = LUT if inside else 0.0
        return net_delay(len(self.sinks[net])) + far + through


class _Arrivals:
    """The latest time at which each net is stable, after an edge of the clocks with so many beats
    per cycle."""

    def __init__(self, netlist: Netlist, grade: str) -> None:
        self._netlist, self._factor = netlist, GRADES[grade]
        self.times: dict[int, dict[Net, float]] = {1: {}, 2: {}}
        self._from: dict[int, dict[Net, Net | None]] = {1: {}, 2: {}}
        self.known: dict[str, Timed] = {}
        after: dict[Net, list[tuple[Net, float]]] = defaultdict(list)
        waiting: Counter[Net] = Counter()
        for name, cell in netlist.cells.items():
            what = timed(cell)
            if what is None:
                continue
            self.known[name] = what
            self._launch(cell, what)
            for pin, output, delay in what.through:
                net, to = cell.connections[pin[0]][pin[1]], cell.connections[output[0]][output[1]]
                if isinstance(net, int) and isinstance(to, int):
                    after[net].append((to,
                                       (netlist.wire(net, (name, *pin)) + delay) * self._factor))
                    waiting[to] += 1
        for net in netlist.inputs:  # of a unit by itself: as if from a register
            self._start(1, net, FLIP_FLOP_OUT)
        self._propagate(after, waiting)

    def _start(self, clock: int, net: Net, time: float) -> None:
        times = self.times[clock]
        if time * self._factor > times.get(net, -1.0):
            times[net] = time * self._factor
            self._from[clock][net] = None

    def _launch(self, cell: Cell, what: Timed) -> None:
        for (port, bit), clock, delay in what.launches:
            net = cell.connections[port][bit]
            if isinstance(net, int):
                self._start(self._netlist.clock(cell, clock), net, delay)

    def _propagate(self, after: dict[Net, list[tuple[Net, float]]], waiting: Counter[Net]) -> None:
        """In order of the logic; what is in a loop of logic stays out."""
        ready = [net for net in after if not waiting[net]]
        while ready:
            net = ready.pop()
            for to, delay in after.get(net, ()):
                for clock, times in self.times.items():
                    if net in times and times[net] + delay > times.get(to, -1.0):
                        times[to] = times[net] + delay
                        self._from[clock][to] = net
                waiting[to] -= 1
                if not waiting[to]:
                    ready.append(to)

    def origin(self, endpoint: Endpoint) -> Net:
        """The net where the worst path to an endpoint starts."""
        net, before = endpoint.net, self._from[endpoint.clocks[0]]
        while (previous := before[net]) is not None:
            net = previous
        return net

    def path(self, endpoint: Endpoint) -> Path:
        """All of it."""
        steps: list[Step] = []
        clock = endpoint.clocks[0]
        current: Net | None = endpoint.net
        while current is not None:
            driver = self._netlist.driver.get(current)
            kind = self._netlist.cells[driver[0]].type if driver else "port"
            name = self._netlist.names.get(current, "?")
            steps.append(Step(kind, name, self.times[clock][current]))
            current = self._from[clock][current]
        return Path(endpoint, steps[::-1])


def analyse(netlist: Netlist, grade: str, cycle: float = 8.0, *,
            keep: int = 20) -> tuple[list[Endpoint], list[Path]]:
    """The worst path to every cell with a clock, from each clock, and to every output; and the
    ``keep`` worst of all in full. ``cycle`` in ns. Inputs come as if from a register, outputs go
    as if into one right behind them."""
    arrivals = _Arrivals(netlist, grade)
    found: list[Endpoint] = []
    for name, what in arrivals.known.items():
        cell = netlist.cells[name]
        worst: dict[int, Endpoint] = {}
        for (port, bit), clock, setup in what.captures:
            net = cell.connections[port][bit]
            if not isinstance(net, int):
                continue
            end = netlist.clock(cell, clock)
            for start, times in arrivals.times.items():
                if net not in times:
                    continue
                late = times[net] + (netlist.wire(net, (name, port, bit)) + setup) * GRADES[grade]
                budget = cycle / max(start, end)
                slack = budget - late - (UNCERTAINTY if start == end else UNCERTAINTY_BETWEEN)
                if start not in worst or slack < worst[start].slack:
                    worst[start] = Endpoint(slack, budget, "", _label(netlist, name, port, bit),
                                            (start, end), net)
        found.extend(worst.values())
    for net, name in netlist.outputs.items():
        for start, times in arrivals.times.items():
            if net in times:
                slack = (cycle / start
                         - times[net] - (UNCERTAINTY if start == 1 else UNCERTAINTY_BETWEEN))
                found.append(Endpoint(slack, cycle / start, "", f"{name} (output)", (start, 1),
                                      net))
    found.sort(key=lambda endpoint: endpoint.slack)
    for endpoint in found:
        endpoint.start = netlist.names.get(arrivals.origin(endpoint), "?")
    return found, _distinct(arrivals, found, keep)


def _distinct(arrivals: _Arrivals, found: list[Endpoint], keep: int) -> list[Path]:
    """The worst path of each pair of registers, bits of one register together."""
    paths: list[Path] = []
    seen: set[tuple[str, str]] = set()
    for endpoint in found:
        pair = re.sub(r"\d+", "", endpoint.start), re.sub(r"\d+", "", endpoint.end)
        if pair not in seen:
            seen.add(pair)
            paths.append(arrivals.path(endpoint))
            if len(paths) == keep:
                break
    return paths


def _label(netlist: Netlist, name: str, port: str, bit: int) -> str:
    """A pin, by the name of the register it belongs to if that has one."""
    cell = netlist.cells[name]
    if cell.type.startswith("FD"):
        net = cell.connections["Q"][0]
        return f"{netlist.names.get(net, name)} {port}"
    return f"{name.removeprefix('$flatten')} {port}[{bit}]"


def part_of(label: str, depth: int = 3) -> str:
    """The instance that a net or pin belongs to, cut to ``depth`` levels, numbered twins as one."""
    path = re.sub(r"\$.*|\s.*", "", label.replace("\\", "")).strip(".").split(".")
    levels = [re.sub(r"_?\d+$", "*", level) for level in path[:-1]][:depth]
    return ".".join(levels) or "(top)"
