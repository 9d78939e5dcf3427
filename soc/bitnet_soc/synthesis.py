"""Runs Yosys on the simulated SoC, on one unit of it, or on the design of a board."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from .boards.board import Board
from .crossings import Crossing, crossings
from .crossings import script as script_of_crossings
from .parts import gateware_verilog
from .report import merge_modules, reachable, script, yosys
from .simulators import build
from .steps import BuildError, Steps, run

__all__ = ["board_crossings", "synthesise", "synthesise_board"]


def _unit(folder: Path, name: str) -> tuple[list[Path], str]:
    """Verilog sources and top module of a part of the SoC: ``soc``, ``network``, ``ps``, or a unit
    of the TVU by its path, such as ``vector`` or ``products.array``. Raises BuildError."""
    network, tvu = folder / "network.v", folder / "tvu.v"
    if name == "soc":
        return [*(Path(line) for line in (folder / "sources.txt").read_text().split()),
                network], "soc"
    if name == "network":
        return [network], "network"
    if name == "ps":
        from ps.processing_system import generate
        generate(folder / "ps.v")
        return [folder / "ps.v"], "processing_system"
    modules = {re.sub(r"\$\d+$", "", found).removeprefix("Cfu.tvu").removeprefix("."): found
               for found in re.findall(r"^module \\?(Cfu[^\s(]*)", tvu.read_text(), re.M)}
    modules["tvu"] = modules.pop("")
    del modules["Cfu"]  # the same, for the CPU's bus
    if name not in modules:
        raise BuildError(f"there is no unit {name}: soc, network, ps, or one of "
                         f"{', '.join(sorted(n for n in modules if n.count('.') < 2))}")
    return [tvu], modules[name]


def _command() -> str:
    """Raises BuildError."""
    try:
        return yosys()
    except FileNotFoundError as error:
        raise BuildError(str(error)) from error


def _run(work: Path, sources: Iterable[Path], memories: Iterable[Path], top: str,
         pads: bool) -> Path:
    """Synthesises copies of ``sources`` in ``work``: the netlist. Raises BuildError."""
    command = _command()
    work.mkdir(parents=True, exist_ok=True)
    names = []
    for source in sources:
        text = source.read_text()
        if source.name == "tvu.v":
            whole = not top.startswith("Cfu")
            text = (merge_modules(text, "Cfu") if whole
                    else merge_modules(reachable(text, top), "\\" + top))
        (work / source.name).write_text(text)
        names.append(source.name)
    for memory in memories:
        shutil.copy(memory, work)
    (work / "report.ys").write_text(script(names, top, "netlist.json", pads))
    run([command, "-q", "report.ys"], work, work / "yosys.log")
    return work / "netlist.json"


def synthesise(folder: Path, unit: str, dsp_clock: str = "2x") -> tuple[Path, str]:
    """Builds what it needs into ``folder`` and synthesises the SoC or a unit of it: the netlist,
    and its top module. Raises BuildError."""
    simulation = folder / "sim"
    if unit == "soc":
        build(folder, dsp_clock)
    else:
        simulation.mkdir(parents=True, exist_ok=True)
        gateware_verilog(Steps(simulation, 2), simulation, dsp_clock)
    sources, top = _unit(simulation, unit)
    print("synthesising, some 20 minutes ..." if unit == "soc" else "synthesising ...", flush=True)
    return _run(folder / "report" / unit, sources, simulation.glob("*.init"), top, False), top


def synthesise_board(folder: Path, board: Board) -> tuple[Path, str]:
    """The same for what write_board wrote to ``folder``, with pads and clock buffers. Raises
    BuildError."""
    from .design import NAME
    gateware = folder / "gateware"
    print(f"synthesising the design of {board.title}, some 20 minutes ...", flush=True)
    return _run(folder / "report", sorted(gateware.glob("*.v")), gateware.glob("*.init"), NAME,
                True), NAME


#: Modules of one clock, and its pin: nothing within them crosses (the TVU's other clocks are edge
#: by edge the system's).
_ONE_CLOCK = {name: "clk" for name in ("Cfu", "VexRiscv", "network", "processing_system",
                                       "hp_slices")}
_RELATED = {"sys2x_clk": "sys_clk"}


def _ports_only(verilog: str, name: str) -> str:
    """A module without its contents."""
    module = re.search(rf"^module {name}\s*(\(.*?\);)(.*?)^endmodule", verilog, re.S | re.M)
    assert module
    ports = re.findall(r"^\s*(?:input|output)\b.*?;", module[2], re.M)
    return "\n".join([f"module {name} {module[1]}", *ports, "endmodule", ""])


def board_crossings(folder: Path) -> list[Crossing]:
    """What goes from one clock to another in what write_board wrote to ``folder``. Raises
    BuildError."""
    from .design import NAME
    gateware, work = folder / "gateware", folder / "crossings"
    work.mkdir(exist_ok=True)
    names = [source.name for source in sorted(gateware.glob("*.v"))]
    for source in (*gateware.glob("*.v"), *gateware.glob("*.init")):
        shutil.copy(source, work)
    # which Yosys would take minutes to read
    (work / "tvu.v").write_text(_ports_only((gateware / "tvu.v").read_text(), "Cfu"))
    (work / "crossings.ys").write_text(script_of_crossings(names, NAME, "netlist.json", _ONE_CLOCK))
    run([_command(), "-q", "crossings.ys"], work, work / "yosys.log")
    module = json.loads((work / "netlist.json").read_text())["modules"][NAME]
    return crossings(module, _ONE_CLOCK, _RELATED)
