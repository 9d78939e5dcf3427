"""Builds the simulated board: headers, Verilog, firmware, simulators. Steps whose inputs did not
change are skipped.

With --report it synthesises the SoC for the XC7Z020 instead and says what it takes and how fast it
may be (some 15 minutes), or one unit of it (seconds to minutes). With --board and --ps7 it writes
how the processing system of a board is started.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = {"verilator": "verilator", "g++": "g++", "make": "make",
         "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf"}
ROM_WORDS = 0x2000
SLICE_MODEL = ROOT / "gateware/tvu/dsp48e1.v"
_SIMULATION = ROOT / "soc/bitnet_soc/sim"
#: The clock of the product array's DSP slices, in system clocks.
DSP_CLOCKS = {"2x": 2, "1x": 1}
_VERILATOR = ["--cc", "--exe", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--assert",
              "-Wno-fatal", "-Wno-lint",
              "-Wno-COMBDLY", "-Wno-BLKANDNBLK", "-Wno-UNOPTFLAT", "--output-split", "20000"]

__all__ = ["build", "build_vector_unit", "list_boards", "main", "rom_init", "synthesise",
           "write_if_changed", "write_ps7"]


_interrupted = False


def _interrupt(number: int, frame: object) -> None:
    """Remembers it, too: where Python must not raise, such as in a finaliser, it only prints."""
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


class BuildError(Exception):
    """A step failed; the message says which and where its output is."""


def _digest(paths: Iterable[Path], *extra: str) -> str:
    state = hashlib.sha256("\0".join(extra).encode())
    for path in sorted(paths):
        state.update(str(path).encode() + path.read_bytes())
    return state.hexdigest()


def _sources(*folders: str) -> list[Path]:
    return [p
            for folder in folders
            for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".cpp", ".hpp")]


def write_if_changed(path: Path, text: str) -> None:
    """Keeps the file's time when nothing changed, so that make does not rebuild."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _run(command: list[str | Path], folder: Path, log: Path) -> None:
    with log.open("w") as output:
        done = subprocess.run([str(c) for c in command], cwd=folder, stdout=output,
                              stderr=subprocess.STDOUT)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BuildError(f"{command[0]} failed, see {log}:\n{tail}")


class _Steps:
    """Numbers the steps and remembers their inputs' digests in ``folder``."""

    def __init__(self, folder: Path, total: int) -> None:
        self._folder, self._total, self._done = folder, total, 0

    def step(self, name: str, digest: str, action: Callable[[], None], *outputs: Path) -> None:
        self._done += 1
        stamp = self._folder / f"{name.replace(' ', '-')}.stamp"
        fresh = (stamp.exists()
                 and stamp.read_text() == digest and all(output.exists() for output in outputs))
        print(f"[{self._done}/{self._total}] {name}{': up to date' if fresh else ' ...'}",
              flush=True)
        if not fresh:
            stamp.unlink(missing_ok=True)  # a step that fails half-way is not up to date
            action()
            if _interrupted:
                raise KeyboardInterrupt
            stamp.write_text(digest)


def _headers(folder: Path) -> None:
    from bitnet_host.model import header, plan
    from bitnet_host.run import protocol
    from xtvu import datagram, emit, selftest
    for name, text in (("tvu.h", emit.c_header()), ("selftest.h", selftest.c_header()),
                       ("protocol.h", protocol.c_header()),
                       ("image.h", header.c_header()), ("plan.h", plan.c_header()),
                       ("datagram.h", datagram.c_header())):
        write_if_changed(folder / name, text)


def _tvu_verilog(path: Path, dsp_clock: str) -> None:
    from tvu.config import TVUConfig
    from tvu.verilog import generate
    generate(path, TVUConfig(dsp_clock=DSP_CLOCKS[dsp_clock]))


def _network_verilog(path: Path) -> None:
    from bitnet_soc.soc import MEMORY, SOC_ADDRESSES
    from network.verilog import generate
    generate(path, SOC_ADDRESSES, MEMORY)


def _soc_verilog(folder: Path, cfu: Path) -> None:
    import logging

    from bitnet_soc.sim.platform import generate
    logging.disable(logging.INFO)  # LiteX tells its whole hierarchy
    with contextlib.redirect_stdout(io.StringIO()):
        sources = generate(folder, cfu)
    (folder / "soc_rom.init").unlink()  # LiteX's placeholder; the firmware step writes the real one
    write_if_changed(folder / "sources.txt", "\n".join(str(s) for s in sources))
    for header in (folder / "generated").iterdir():  # C headers, and csr.csv for LiteX's tools
        # LiteX writes the date into them
        text = ("\n".join(line
                          for line in header.read_text().splitlines()
                          if "Auto-generated" not in line) + "\n")
        write_if_changed(folder.parent / "generated" / header.name, text)


def rom_init(binary: Path, output: Path) -> None:
    """The firmware as the memory file that the simulated ROM reads."""
    data = binary.read_bytes()
    data += bytes(-len(data) % 4)
    words = [int.from_bytes(data[i:i + 4], "little") for i in range(0, len(data), 4)]
    if len(words) > ROM_WORDS:
        raise BuildError(f"the firmware has {len(words)} words, the ROM {ROM_WORDS}")
    write_if_changed(output,
                     "\n".join(f"{w:08x}" for w in words + [0] * (ROM_WORDS - len(words))) + "\n")


def _verilate(folder: Path, top: str, sources: list[Path], mains: list[str], binary: str,
              optimise: str) -> None:
    work = folder / f"{binary}.obj"
    shutil.rmtree(work, ignore_errors=True)
    _run(["verilator",
          *_VERILATOR,
          "--top-module", top, "-CFLAGS", f"-O2 -march=native -I{_SIMULATION}",
          "-LDFLAGS", "-lutil", "--Mdir", work.name, *sources,
          *(_SIMULATION / main for main in mains), "-o", binary],
         folder, folder / f"{binary}.verilator.log")
    _run(["make",
          f"-j{os.cpu_count() or 1}", "-C", work.name, "-f", f"V{top}.mk", f"OPT_FAST={optimise}",
          "OPT_SLOW=-O0"],
         folder, folder / f"{binary}.make.log")
    (work / binary).replace(folder / binary)
    shutil.rmtree(work)


def _gateware_verilog(steps: _Steps, sim: Path, dsp_clock: str) -> str:
    """The two steps that need nothing but Python; returns the digest of what they are made of."""
    versions = "".join(version(p) for p in ("amaranth", "litex", "pythondata-cpu-vexriscv"))
    gateware = _digest(_sources("toolchain/xtvu", "gateware"), versions, dsp_clock)
    tvu, network = sim / "tvu.v", sim / "network.v"
    steps.step("vector unit", gateware, lambda: _tvu_verilog(tvu, dsp_clock), tvu)
    steps.step("network side", _digest([ROOT / "soc/bitnet_soc/soc.py"], gateware),
               lambda: _network_verilog(network), network)
    return gateware


def build(folder: Path, dsp_clock: str = "2x") -> None:
    """Builds everything into ``folder``, with the slices at one of DSP_CLOCKS. Raises
    BuildError."""
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise BuildError(f"missing tools: run `make setup`, or apt-get install {' '.join(missing)}")
    sim, generated = folder / "sim", folder / "generated"
    sim.mkdir(parents=True, exist_ok=True)
    steps = _Steps(sim, 7)
    tvu, network, soc = sim / "tvu.v", sim / "network.v", sim / "soc.v"
    steps.step("C headers", _digest(_sources("toolchain/xtvu", "host/bitnet_host")),
               lambda: _headers(generated), generated / "tvu.h")
    gateware = _gateware_verilog(steps, sim, dsp_clock)
    described = [p
                 for p in _sources("soc/bitnet_soc") if p.name not in ("report.py", "timing.py",
                         "delays.py")]
    steps.step("SoC", _digest(described, gateware), lambda: _soc_verilog(sim, tvu), soc,
               sim / "sources.txt",
               generated / "csr.h")
    binary = folder / "firmware/firmware.bin"

    def firmware() -> None:
        binary.parent.mkdir(exist_ok=True)
        _run(["make", "-C", ROOT / "firmware", f"BUILD={folder}"], ROOT, binary.parent / "make.log")
        rom_init(binary, sim / "soc_rom.init")

    steps.step("firmware",
               _digest([*(ROOT / "firmware").rglob("*.[chS]"), ROOT / "firmware/Makefile",
                        ROOT / "firmware/link.ld",
                                    *generated.glob("*.h")]), firmware, sim / "soc_rom.init",
               binary)
    sources = [*(Path(line) for line in (sim / "sources.txt").read_text().split()), network,
               SLICE_MODEL]
    mains = ["soc_main.cpp", "serial.cpp", "network.cpp", "ddr.cpp"]
    steps.step("board simulator (some minutes)",
               _digest([*_SIMULATION.glob("*.[ch]pp"), *sources]),
               lambda: _verilate(sim, "soc", sources, mains, "soc_sim", "-O2 -march=native"),
               sim / "soc_sim")
    _vector_unit_simulator(steps, sim)


def _vector_unit_simulator(steps: _Steps, sim: Path) -> None:
    sources = [sim / "tvu.v", SLICE_MODEL]
    steps.step("vector unit simulator", _digest([*_SIMULATION.glob("*.[ch]pp"), *sources]),
               lambda: _verilate(sim, "Cfu", sources, ["tvu_main.cpp", "ddr.cpp"], "tvu_sim",
                                 "-O1"),
               sim / "tvu_sim")


def build_vector_unit(folder: Path, dsp_clock: str) -> None:
    """Builds the simulator of the vector unit alone into ``folder``. Raises BuildError."""
    sim = folder / "sim"
    sim.mkdir(parents=True, exist_ok=True)
    steps = _Steps(sim, 3)
    _gateware_verilog(steps, sim, dsp_clock)
    _vector_unit_simulator(steps, sim)


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
        _gateware_verilog(_Steps(simulation, 2), simulation, dsp_clock)
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
    _run([command, "-q", "report.ys"], work, work / "yosys.log")
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
    parser.add_argument("--list-boards", action="store_true", help="name the boards")
    parser.add_argument("--board", metavar="B", help="one of --list-boards")
    parser.add_argument("--ps7", type=Path, metavar="FILE",
                        help="write how the processing system of --board is started: as a list "
                             "(.json), for OpenOCD (.cfg), for xsdb (.tcl), or in C (.h)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, _interrupt)
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
            build(arguments.output.resolve(), arguments.dsp_clock)
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("build: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
