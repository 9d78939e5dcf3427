"""Builds the simulated boards: headers, Verilog, firmware, simulators. Steps whose inputs did not
change are skipped.

With --report it synthesises the SoC for the XC7Z020 instead and says what it takes and how fast it
may be (some 15 minutes), or one unit of it (seconds to minutes). With --board and --ps7 it writes
how the processing system of a board is started.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bitnet_soc.simulators import (
    DSP_CLOCKS,
    build,
    build_vector_unit,
    gateware_verilog,
    rom_init,
)
from bitnet_soc.steps import ROOT, BuildError, Steps, interrupt, run

__all__ = ["build", "build_vector_unit", "list_boards", "main", "rom_init", "synthesise",
           "write_ps7"]


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


def synthesise(folder: Path, unit: str, dsp_clock: str = "2x") -> tuple[Path, str]:
    """Builds what it needs into ``folder`` and synthesises the SoC or a unit of it: the netlist,
    and its top module. Raises BuildError."""
    from bitnet_soc.report import merge_modules, reachable, script, yosys
    work, simulation = folder / "report" / unit, folder / "sim"
    if unit == "soc":
        build(folder, dsp_clock)
    else:
        simulation.mkdir(parents=True, exist_ok=True)
        gateware_verilog(Steps(simulation, 2), simulation, dsp_clock)
    try:
        command = yosys()
    except FileNotFoundError as error:
        raise BuildError(str(error)) from error
    sources, top = _unit(simulation, unit)
    work.mkdir(parents=True, exist_ok=True)
    for source in sources:
        text = source.read_text()
        if source.name == "tvu.v":
            text = (merge_modules(text, "Cfu") if unit == "soc"
                    else merge_modules(reachable(text, top), "\\" + top))
        (work / source.name).write_text(text)
    for memory in simulation.glob("*.init"):
        shutil.copy(memory, work)
    (work / "report.ys").write_text(script([s.name for s in sources], top, "netlist.json"))
    print("synthesising, some 20 minutes ..." if unit == "soc" else "synthesising ...", flush=True)
    run([command, "-q", "report.ys"], work, work / "yosys.log")
    return work / "netlist.json", top


def list_boards() -> None:
    from bitnet_soc import boards
    for name in boards.names():
        board = boards.load(name)
        print(f"{name:16}{board.title}, {board.part}, {board.dram.bytes >> 20} MB")


def _board(name: str | None, ps7: Path | None) -> None:
    from bitnet_soc import boards
    if name not in boards.names():
        raise BuildError(f"{'there is no board ' + name if name else '--ps7 needs --board'}; "
                         f"the boards are {', '.join(boards.names())}")
    if ps7 is None:
        raise BuildError("a design for a board cannot be built yet; --ps7 FILE writes how its "
                         "processing system is started")
    write_ps7(name, ps7)


def write_ps7(name: str, path: Path) -> None:
    """Writes the start of a board's processing system, in the form that the name's suffix asks for.
    Raises BuildError."""
    from bitnet_host.errors import BadArgument, BadFile
    from bitnet_host.files import replacing
    from bitnet_soc import boards
    from bitnet_soc.ps7 import emit
    from bitnet_soc.ps7.sequence import start
    forms: dict[str, Callable[..., str]] = {".json": emit.json_text, ".cfg": emit.openocd,
                                            ".tcl": emit.xsdb, ".h": emit.c_table}
    if path.suffix not in forms:
        raise BuildError(f"--ps7 {path}: the name has to end in .json, .cfg (for OpenOCD), .tcl "
                         "(for xsdb) or .h")
    board = boards.load(name)
    try:
        text = forms[path.suffix](start(board), board.title)
    except ValueError as error:
        raise BuildError(f"soc/bitnet_soc/boards/{name}.py: {error}") from error
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except (BadArgument, BadFile) as error:
        raise BuildError(str(error)) from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="folder to build into")
    parser.add_argument("--report", nargs="?", const="soc", metavar="UNIT",
                        help="synthesise for the XC7Z020 and print resources and an estimate of "
                             "slack; of the whole, or of one unit "
                             "such as network, ps, vector or products.array")
    parser.add_argument("--dsp-clock", choices=DSP_CLOCKS, default="2x",
                        help="clock of the TVU's DSP slices, in system clocks: 2x for devices of "
                             "speed grade -2 and better, 1x for -1, whose prompts take longer "
                             "(default: 2x)")
    parser.add_argument("--vector-unit", action="store_true",
                        help="only the simulator of the vector unit, for its tests")
    parser.add_argument("--with-ps", action="store_true",
                        help="also the simulated board whose UART and Ethernet are those of a "
                             "processing system, into the folder ps")
    parser.add_argument("--list-boards", action="store_true", help="name the boards")
    parser.add_argument("--board", metavar="B", help="one of --list-boards")
    parser.add_argument("--ps7", type=Path, metavar="FILE",
                        help="write how the processing system of --board is started: as a list "
                             "(.json), for OpenOCD (.cfg), for xsdb (.tcl), or in C (.h)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, interrupt)
    try:
        if arguments.list_boards:
            list_boards()
        elif arguments.board or arguments.ps7:
            _board(arguments.board, arguments.ps7)
        elif arguments.report:
            from bitnet_soc.report import print_report
            print_report(*synthesise(arguments.output.resolve(), arguments.report,
                                     arguments.dsp_clock))
        elif arguments.vector_unit:
            build_vector_unit(arguments.output.resolve(), arguments.dsp_clock)
        else:
            build(arguments.output.resolve(), arguments.dsp_clock, arguments.with_ps)
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("build: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
