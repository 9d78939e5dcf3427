"""Builds the simulated boards: headers, Verilog, firmware, and Verilator's simulators.

There are two: one whose UART and Ethernet are the fabric's, in ``folder`` itself, and a Zybo Z7-20,
where they are the processing system's, in its folder ``ps``, which looks the same inside.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from importlib.metadata import version
from pathlib import Path

from .steps import ROOT, BuildError, Steps, digest, run, sources, write_if_changed

__all__ = ["DSP_CLOCKS", "build", "build_vector_unit", "gateware_verilog", "rom_init"]

TOOLS = {"verilator": "verilator", "g++": "g++", "make": "make",
         "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf"}
ROM_WORDS = 0x2000
SLICE_MODEL = ROOT / "gateware/tvu/dsp48e1.v"
#: The clock of the product array's DSP slices, in system clocks.
DSP_CLOCKS = {"2x": 2, "1x": 1}
#: The simulated board with a processing system.
PS_BOARD = "zybo_z7_20"
_SIMULATION = ROOT / "soc/bitnet_soc/sim"
_VERILATOR = ["--cc", "--exe", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--assert",
              "-Wno-fatal", "-Wno-lint",
              "-Wno-COMBDLY", "-Wno-BLKANDNBLK", "-Wno-UNOPTFLAT", "--output-split", "20000"]
_MAINS = ["soc_main.cpp", "serial.cpp", "network.cpp", "ddr.cpp"]


def _headers(folder: Path) -> None:
    from bitnet_host.model import header, plan
    from bitnet_host.run import protocol
    from xtvu import datagram, emit, selftest
    for name, text in (("tvu.h", emit.c_header()), ("selftest.h", selftest.c_header()),
                       ("protocol.h", protocol.c_header()),
                       ("image.h", header.c_header()), ("plan.h", plan.c_header()),
                       ("datagram.h", datagram.c_header())):
        write_if_changed(folder / name, text)


def _ps_headers(folder: Path) -> None:
    """For the firmware, and for the model of the processing system, which starts as boards do."""
    from bitnet_soc import boards
    from bitnet_soc.ps7 import emit
    from bitnet_soc.ps7.sequence import start
    from bitnet_soc.ps_header import c_header
    from bitnet_soc.soc import CLOCK_HZ, SOC_ADDRESSES
    board = boards.load(PS_BOARD)
    write_if_changed(folder / "ps.h", c_header(board, SOC_ADDRESSES.mac, CLOCK_HZ))
    write_if_changed(folder / "ps7.h", emit.c_table(start(board), board.title))


def _tvu_verilog(path: Path, dsp_clock: str) -> None:
    from tvu.config import TVUConfig
    from tvu.verilog import generate
    generate(path, TVUConfig(dsp_clock=DSP_CLOCKS[dsp_clock]))


def _network_verilog(path: Path) -> None:
    from network.verilog import generate

    from bitnet_soc.soc import MEMORY, SOC_ADDRESSES
    generate(path, SOC_ADDRESSES, MEMORY)


def _ps_verilog(folder: Path) -> None:
    from ps import processing_system, slices
    processing_system.generate(folder / "ps.v")
    slices.generate(folder / "slices.v")


def _soc_verilog(folder: Path, cfu: Path, fabric: bool) -> None:
    import logging

    from bitnet_soc.sim.platform import generate
    logging.disable(logging.INFO)  # LiteX tells its whole hierarchy
    with contextlib.redirect_stdout(io.StringIO()):
        verilog = generate(folder, cfu, fabric)
    # LiteX writes the date into it
    kept = [line for line in (folder / "soc.v").read_text().splitlines()
            if not line.startswith(("// Date", "//  Auto-Generated"))]
    (folder / "soc.v").write_text("\n".join(kept) + "\n")
    (folder / "soc_rom.init").unlink()  # LiteX's placeholder; the firmware step writes the real one
    write_if_changed(folder / "sources.txt", "\n".join(str(s) for s in verilog))
    for header in (folder / "generated").iterdir():  # C headers, and csr.csv for LiteX's tools
        # LiteX writes the date into them
        text = ("\n".join(line
                          for line in header.read_text().splitlines()
                          if "Auto-generated" not in line) + "\n")
        write_if_changed(folder.parent / "generated" / header.name, text)


def rom_init(binary: Path, output: Path) -> None:
    """The firmware as the memory file that the simulated ROM reads. Raises BuildError."""
    data = binary.read_bytes()
    data += bytes(-len(data) % 4)
    words = [int.from_bytes(data[i:i + 4], "little") for i in range(0, len(data), 4)]
    if len(words) > ROM_WORDS:
        raise BuildError(f"the firmware has {len(words)} words, the ROM {ROM_WORDS}")
    write_if_changed(output,
                     "\n".join(f"{w:08x}" for w in words + [0] * (ROM_WORDS - len(words))) + "\n")


def _verilate(folder: Path, top: str, verilog: list[Path], mains: list[str], binary: str,
              optimise: str, flags: str = "") -> None:
    work = folder / f"{binary}.obj"
    shutil.rmtree(work, ignore_errors=True)
    run(["verilator",
         *_VERILATOR,
         "--top-module", top, "-CFLAGS", f"-O2 -march=native -I{_SIMULATION} {flags}",
         "-LDFLAGS", "-lutil", "--Mdir", work.name, *verilog,
         *(_SIMULATION / main for main in mains), "-o", binary],
        folder, folder / f"{binary}.verilator.log")
    run(["make",
         f"-j{os.cpu_count() or 1}", "-C", work.name, "-f", f"V{top}.mk", f"OPT_FAST={optimise}",
         "OPT_SLOW=-O0"],
        folder, folder / f"{binary}.make.log")
    (work / binary).replace(folder / binary)
    shutil.rmtree(work)


def gateware_verilog(steps: Steps, sim: Path, dsp_clock: str) -> str:
    """The two steps that need nothing but Python; returns the digest of what they are made of."""
    versions = "".join(version(p) for p in ("amaranth", "litex", "pythondata-cpu-vexriscv"))
    gateware = digest(sources("toolchain/xtvu", "gateware"), versions, dsp_clock)
    tvu, network = sim / "tvu.v", sim / "network.v"
    steps.step("vector unit", gateware, lambda: _tvu_verilog(tvu, dsp_clock), tvu)
    steps.step("network side", digest([ROOT / "soc/bitnet_soc/soc.py"], gateware),
               lambda: _network_verilog(network), network)
    return gateware


def build(folder: Path, dsp_clock: str = "2x", with_ps: bool = False) -> None:
    """Builds everything into ``folder``, with the slices at one of DSP_CLOCKS; ``with_ps``: the
    board with a processing system as well. Raises BuildError."""
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise BuildError(f"missing tools: run `make setup`, or apt-get install {' '.join(missing)}")
    sim = folder / "sim"
    sim.mkdir(parents=True, exist_ok=True)
    steps = Steps(sim, 11 if with_ps else 7)
    gateware = gateware_verilog(steps, sim, dsp_clock)
    _board(steps, folder, gateware, sim, "")
    _vector_unit_simulator(steps, sim)
    if with_ps:
        (folder / "ps/sim").mkdir(parents=True, exist_ok=True)
        _board(steps, folder / "ps", gateware, sim, " with a processing system")


def _board(steps: Steps, folder: Path, gateware: str, shared: Path, suffix: str) -> None:
    """Four steps: what is between the gateware and a simulator of the board. ``shared``: where
    tvu.v and network.v are; ``suffix`` of the steps' names, none for the board of the fabric."""
    fabric, sim, generated = not suffix, folder / "sim", folder / "generated"
    described = [p for p in sources("soc/bitnet_soc")
                 if p.name not in ("report.py", "timing.py", "delays.py", "steps.py")]

    def headers() -> None:
        _headers(generated)
        if not fabric:
            _ps_headers(generated)
            _ps_verilog(sim)

    steps.step(f"C headers{suffix}",
               digest([*sources("toolchain/xtvu", "host/bitnet_host"), *described], gateware),
               headers, generated / "tvu.h")
    steps.step(f"SoC{suffix}", digest(described, gateware),
               lambda: _soc_verilog(sim, shared / "tvu.v", fabric), sim / "soc.v",
               sim / "sources.txt", generated / "csr.h")
    binary = folder / "firmware/firmware.bin"

    def firmware() -> None:
        binary.parent.mkdir(exist_ok=True)
        run(["make", "-C", ROOT / "firmware", f"BUILD={folder}",
             f"OUTSIDE={'fabric' if fabric else 'ps'}"], ROOT, binary.parent / "make.log")
        rom_init(binary, sim / "soc_rom.init")

    steps.step(f"firmware{suffix}",
               digest([*(ROOT / "firmware").rglob("*.[chS]"), ROOT / "firmware/Makefile",
                       ROOT / "firmware/link.ld", *generated.glob("*.h")]), firmware,
               sim / "soc_rom.init", binary)
    verilog = [*(Path(line) for line in (sim / "sources.txt").read_text().split()),
               shared / "network.v", SLICE_MODEL]
    mains, flags, models = [*_MAINS, "fabric.cpp"], "", [*_SIMULATION.glob("*.[ch]pp")]
    if not fabric:
        verilog += [sim / "ps.v", sim / "slices.v"]
        models += [*(_SIMULATION / "ps").iterdir(), generated / "ps7.h"]
        mains = [*_MAINS, *(f"ps/{path.name}" for path in (_SIMULATION / "ps").glob("*.cpp"))]
        flags = f"-I{folder} -DPROCESSING_SYSTEM"
    steps.step(f"board simulator{suffix} (some minutes)", digest([*models, *verilog]),
               lambda: _verilate(sim, "soc", verilog, mains, "soc_sim", "-O2 -march=native",
                                 flags),
               sim / "soc_sim")


def _vector_unit_simulator(steps: Steps, sim: Path) -> None:
    verilog = [sim / "tvu.v", SLICE_MODEL]
    steps.step("vector unit simulator", digest([*_SIMULATION.glob("*.[ch]pp"), *verilog]),
               lambda: _verilate(sim, "Cfu", verilog, ["tvu_main.cpp", "ddr.cpp"], "tvu_sim",
                                 "-O1"),
               sim / "tvu_sim")


def build_vector_unit(folder: Path, dsp_clock: str) -> None:
    """Builds the simulator of the vector unit alone into ``folder``. Raises BuildError."""
    sim = folder / "sim"
    sim.mkdir(parents=True, exist_ok=True)
    steps = Steps(sim, 3)
    gateware_verilog(steps, sim, dsp_clock)
    _vector_unit_simulator(steps, sim)
