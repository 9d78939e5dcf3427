"""Builds the simulated boards: headers, Verilog, firmware, and Verilator's simulators.

There are two: one whose UART and Ethernet are the fabric's, in ``folder`` itself, and a Zybo Z7-20,
where they are the processing system's, in its folder ``ps``, which looks the same inside.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path

from . import boards
from .parts import (
    FIRMWARE_TOOLS,
    firmware,
    firmware_digest,
    gateware_verilog,
    headers,
    ps_headers,
    ps_verilog,
    require,
    undated,
)
from .steps import ROOT, Steps, digest, run, sources, write_if_changed

__all__ = ["build", "build_vector_unit"]

TOOLS = {"verilator": "verilator", "g++": "g++", **FIRMWARE_TOOLS}
SLICE_MODEL = ROOT / "gateware/tvu/dsp48e1.v"
#: The simulated board with a processing system.
PS_BOARD = "zybo_z7_20"
_SIMULATION = ROOT / "soc/bitnet_soc/sim"
_VERILATOR = ["--cc", "--exe", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--assert",
              "-Wno-fatal", "-Wno-lint",
              "-Wno-COMBDLY", "-Wno-BLKANDNBLK", "-Wno-UNOPTFLAT", "--output-split", "20000"]
#: Nothing of these is in a simulated board.
_OTHERS = ("report.py", "timing.py", "delays.py", "steps.py", "synthesis.py", "crossings.py",
           "boot.py", "board_files.py", "design.py", "openxc7.py", "rgmii.py")
_MODELS = ["ddr.cpp", "ddr_faults.cpp", "ddr_preset.cpp"]
_MAINS = ["soc_main.cpp", "serial.cpp", "network.cpp", *_MODELS]


def _ps7_header(path: Path) -> None:
    """For the model of the processing system, which starts as boards do."""
    from .ps7 import emit
    from .ps7.sequence import start
    board = boards.load(PS_BOARD)
    write_if_changed(path, emit.c_table(start(board), board.title))


def _soc_verilog(folder: Path, cfu: Path, fabric: bool) -> None:
    import logging

    from bitnet_soc.sim.platform import generate
    logging.disable(logging.INFO)  # LiteX tells its whole hierarchy
    with contextlib.redirect_stdout(io.StringIO()):
        verilog = generate(folder, folder.parent / "generated", cfu, fabric)
    verilog_file = folder / "soc.v"
    verilog_file.write_text(undated(verilog_file.read_text()))
    (folder / "soc_rom.init").unlink()  # LiteX's placeholder; the firmware step writes the real one
    write_if_changed(folder / "sources.txt", "\n".join(str(s) for s in verilog))


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


def build(folder: Path, dsp_clock: str = "2x", with_ps: bool = False) -> None:
    """Builds everything into ``folder``, with the slices at one of DSP_CLOCKS; ``with_ps``: the
    board with a processing system as well. Raises BuildError."""
    require(TOOLS)
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
    from .soc import CLOCK_HZ
    fabric, sim, generated = not suffix, folder / "sim", folder / "generated"
    described = [p for p in sources("soc/bitnet_soc")
                 if p.name not in _OTHERS and p.parent.name != "load"]

    def c_headers() -> None:
        headers(generated)
        if not fabric:
            ps_headers(generated, boards.load(PS_BOARD), CLOCK_HZ)
            _ps7_header(generated / "ps7.h")
            ps_verilog(sim)

    steps.step(f"C headers{suffix}",
               digest([*sources("toolchain/xtvu", "host/bitnet_host"), *described], gateware),
               c_headers, generated / "tvu.h")
    steps.step(f"SoC{suffix}", digest(described, gateware),
               lambda: _soc_verilog(sim, shared / "tvu.v", fabric), sim / "soc.v",
               sim / "sources.txt", generated / "csr.h")
    rom = sim / "soc_rom.init"
    steps.step(f"firmware{suffix}", firmware_digest(generated),
               lambda: firmware(folder, fabric, rom), rom, folder / "firmware/firmware.bin")
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
               lambda: _verilate(sim, "Cfu", verilog, ["tvu_main.cpp", *_MODELS], "tvu_sim",
                                 "-O1"),
               sim / "tvu_sim")


def build_vector_unit(folder: Path, dsp_clock: str) -> None:
    """Builds the simulator of the vector unit alone into ``folder``. Raises BuildError."""
    sim = folder / "sim"
    sim.mkdir(parents=True, exist_ok=True)
    steps = Steps(sim, 3)
    gateware_verilog(steps, sim, dsp_clock)
    _vector_unit_simulator(steps, sim)
