"""All steps that start the processing system of a board, in order."""

from __future__ import annotations

from collections.abc import Iterable

from ..boards.board import Board
from . import clocks, ddr, mio, peripherals
from .steps import Start, Step, overwrite

__all__ = ["start"]


def _unlocked(steps: Iterable[Step]) -> list[Step]:
    """The registers of the system-level control (SLCR) can be written between these two."""
    return [overwrite("SLCR_UNLOCK", UNLOCK_KEY=0xDF0D), *steps,
            overwrite("SLCR_LOCK", LOCK_KEY=0x767B)]


def start(board: Board) -> Start:
    """Phase to steps. ``post_config`` comes after the bitstream. Raises ValueError if the board
    file contradicts itself or asks for what the chip cannot do."""
    functions = board.mio.functions
    return {
        "mio_init": _unlocked([*mio.buffers(board.dram, bool(board.mio.hstl)),
                               *mio.pins(board.mio)]),
        "pll_init": _unlocked(clocks.plls(board.clocks)),
        "clock_init": _unlocked(clocks.peripherals(board.clocks, functions)),
        "ddr_init": ddr.controller(board.dram, board.clocks.ddr_mhz()),
        "peripherals_init": [*_unlocked(mio.terminate(board.dram)), *peripherals.configure(board)],
        "post_config": _unlocked(peripherals.connect()),
    }
