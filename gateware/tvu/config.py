"""Sizes of the TVU, in one object."""

from __future__ import annotations

from dataclasses import dataclass

from xtvu.isa import LANES, VECTORS

__all__ = ["TVUConfig"]


@dataclass(frozen=True)
class TVUConfig:
    """Parameters that both compute and build the hardware.

    Members: ``scratch_rows`` (rows of 8 float32 in the scratchpad); ``act_depth`` (words of 160 int8 per activation
    vector); ``queue_depth`` (operations); ``stream_queue_depth`` (stream descriptors); ``port_fifo_depth``
    (64-bit beats buffered per AXI port, which bounds the bursts in flight).
    """

    scratch_rows: int = 4096
    act_depth: int = 64
    queue_depth: int = 32
    stream_queue_depth: int = 8
    port_fifo_depth: int = 256

    lanes: int = LANES
    vectors: int = VECTORS

    def __post_init__(self) -> None:
        if self.scratch_rows > 4096:
            raise ValueError("row addresses have 12 bits: scratch_rows is at most 4096")
        if self.port_fifo_depth < 32:
            raise ValueError("a port needs room for two bursts of 16 beats")
