"""Sizes of the TVU, in one object."""

from __future__ import annotations

from dataclasses import dataclass

from xtvu.isa import SCRATCH_ROWS

__all__ = ["TVUConfig"]


@dataclass(frozen=True)
class TVUConfig:
    """Parameters that both compute and build the hardware.

    Members: ``scratch_rows`` (rows of 8 float32 in the scratchpad); ``queue_depth`` (operations);
    ``stream_queue_depth`` (stream descriptors); ``port_fifo_depth`` (64-bit beats buffered per AXI
    port, which bounds the bursts in flight); ``dsp_clock`` (the clock of the product array's DSP
    slices as a multiple of the system clock, 1 or 2).
    """

    scratch_rows: int = SCRATCH_ROWS
    queue_depth: int = 32
    stream_queue_depth: int = 8
    port_fifo_depth: int = 1024  # two block RAMs
    dsp_clock: int = 2

    def __post_init__(self) -> None:
        if not 8 <= self.scratch_rows <= SCRATCH_ROWS:
            raise ValueError(f"the instruction set is made for {SCRATCH_ROWS} scratchpad rows at "
                             f"most")
        if self.port_fifo_depth not in (32, 64, 128, 256, 512, 1024):
            raise ValueError("a port needs room for two bursts of 16 beats, 1,024 at most, and a "
                             "power of two")
        if self.dsp_clock not in (1, 2):
            raise ValueError("the DSP slices run at the system clock or at twice that")
