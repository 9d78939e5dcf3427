"""All that a board needs, as files: gateware for the tool that makes the bitstream, firmware in its
memory file, and the start of the processing system. Needs no vendor tool."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path

from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.files import replacing

from . import boot
from .boards.board import Board
from .load.programs import write_script
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
from .ps7 import emit
from .ps7.sequence import start
from .steps import ROOT, BuildError, Steps, digest, sources, write_if_changed

__all__ = ["FORMS", "TOOLCHAINS", "default_dsp_clock", "write_board", "write_start"]

#: What can make a bitstream, as LiteX names them.
TOOLCHAINS = ("vivado", "openxc7")
#: The forms of the processing system's start, by the suffix of their names.
FORMS = {".json": emit.json_text, ".cfg": emit.openocd, ".tcl": emit.xsdb, ".h": emit.c_table}


def default_dsp_clock(board: Board) -> str:
    """DSP slices of speed grade -1 do not run at twice the system clock (docs/timing.md)."""
    return "1x" if board.grade == 1 else "2x"


def write_start(board: Board, path: Path) -> None:
    """Writes the start of a board's processing system, in the form that the name's suffix asks for.
    Raises BuildError."""
    if path.suffix not in FORMS:
        raise BuildError(f"--ps7 {path}: the name has to end in .json, .cfg (for OpenOCD), .tcl "
                         "(for xsdb) or .h")
    try:
        text = FORMS[path.suffix](start(board), board.title)
    except ValueError as error:
        raise BuildError(f"soc/bitnet_soc/boards/{board.name}.py: {error}") from error
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except (BadArgument, BadFile) as error:
        raise BuildError(str(error)) from error


def _start_files(board: Board, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for suffix in FORMS:
        write_start(board, folder / f"ps7_init{suffix}")
    write_script(board, folder.parent / "jtag")


def _soc(board: Board, work: Path, generated: Path, clock_hz: int, toolchain: str) -> None:
    from .design import NAME, generate
    logging.disable(logging.INFO)  # LiteX tells its whole hierarchy
    with contextlib.redirect_stdout(io.StringIO()):
        made = generate(board, work, clock_hz, toolchain)
    (work / f"{NAME}_rom.init").unlink()  # a placeholder; the firmware step writes the real one
    for name, text in made.items():
        write_if_changed(generated / name, undated(text))


def write_board(board: Board, folder: Path, dsp_clock: str, clock_hz: int, toolchain: str) -> None:
    """Writes ``folder``/gateware, generated, firmware, ps7, jtag and boot. Raises BuildError."""
    require(FIRMWARE_TOOLS | boot.BOOT_TOOLS)
    work, generated = folder / "gateware", folder / "generated"
    work.mkdir(parents=True, exist_ok=True)
    steps = Steps(work, 7)
    gateware = gateware_verilog(steps, work, dsp_clock, board.dram.bytes)
    described = digest([path for path in sources("soc/bitnet_soc") if "/sim/" not in str(path)],
                       gateware, board.name, str(clock_hz), toolchain)
    fabric = board.uart.where == "pl"

    def c_headers() -> None:
        headers(generated)
        ps_verilog(work)
        if not fabric:
            ps_headers(generated, board, clock_hz)

    steps.step("C headers", digest(sources("toolchain/xtvu", "host/bitnet_host"), described),
               c_headers, generated / "tvu.h", work / "slices.v")
    steps.step("SoC", described, lambda: _soc(board, work, generated, clock_hz, toolchain),
               work / "bitnet.v", generated / "csr.h")
    steps.step("firmware", firmware_digest(generated),
               lambda: firmware(folder, fabric, work / "bitnet_rom.init"),
               work / "bitnet_rom.init")
    steps.step("start of the processing system", described,
               lambda: _start_files(board, folder / "ps7"), folder / "ps7/ps7_init.json",
               folder / "jtag/load.cfg")
    steps.step("boot stub", digest([*(ROOT / "boot").iterdir()], described),
               lambda: boot.compile_stub(folder, boot.c_header(board)),
               folder / "boot/BOOT.BIN")
