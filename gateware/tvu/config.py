"""Sizes of the TVU, in one object."""

from __future__ import annotations

from dataclasses import dataclass

from xtvu.isa import ACT_WORDS, SCRATCH_ROWS, VECTORS

__all__ = ["TVUConfig"]


@dataclass(frozen=True)
class TVUConfig:
    """Parameters that both compute and build the hardware.

    Members: ``scratch_rows`` (rows of 8 float32 in the scratchpad); ``act_depth`` (words of 160 int8 per activation
    vector); ``queue_depth`` (operations); ``stream_queue_depth`` (stream descriptors); ``port_fifo_depth``
    (64-bit beats buffered per AXI port, which bounds the bursts in flight).
    """

    scratch_rows: int = SCRATCH_ROWS
    act_depth: int = ACT_WORDS
    queue_depth: int = 32
    stream_queue_depth: int = 8
    port_fifo_depth: int = 1024  # two block RAMs

    vectors: int = VECTORS

    def __post_init__(self) -> None:
        if not 8 <= self.scratch_rows <= SCRATCH_ROWS or not 1 <= self.act_depth <= ACT_WORDS or self.vectors != VECTORS:
            raise ValueError(f"the instruction set is made for {SCRATCH_ROWS} rows, {ACT_WORDS} words and {VECTORS} vectors at most")
        if self.port_fifo_depth < 32:
            raise ValueError("a port needs room for two bursts of 16 beats")
