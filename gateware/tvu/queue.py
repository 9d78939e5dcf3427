"""A FIFO with a stream at either end."""

from __future__ import annotations

from amaranth.hdl import Module, Value
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Queue"]


class Queue(wiring.Component):
    """Members: ``i`` in and ``o`` out, streams of ``shape``; ``level``: how many it holds, of
    ``depth``."""

    def __init__(self, shape: object, *, depth: int) -> None:
        self._depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entering, leaving = Value.cast(self.i.payload), Value.cast(self.o.payload)
        m.submodules.fifo = queue = fifo.SyncFIFOBuffered(width=len(entering), depth=self._depth)
        m.d.comb += [
            queue.w_data.eq(entering), queue.w_en.eq(self.i.valid), self.i.ready.eq(queue.w_rdy),
            leaving.eq(queue.r_data), self.o.valid.eq(queue.r_rdy), queue.r_en.eq(self.o.ready),
            self.level.eq(queue.level),
        ]
        return m
