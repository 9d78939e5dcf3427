"""Checksum of stream words (``semantics.checksum``), one word per clock."""

from __future__ import annotations

from functools import reduce
from operator import xor

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Checksum"]


class Checksum(wiring.Component):
    """``start`` takes ``words``; ``done`` pulses when they have been summed into ``value``."""

    def __init__(self) -> None:
        super().__init__({
            "start": In(1), "words": In(24), "word": In(stream.Signature(256)), "hungry": Out(1),
            "done": Out(1), "value": Out(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(24)
        sums = [(Signal(32, name=f"s1_{lane}"), Signal(32, name=f"s2_{lane}")) for lane in range(8)]
        running = Signal()
        m.d.comb += [self.hungry.eq(left != 0), self.word.ready.eq(self.hungry)]
        with m.If(self.start):
            m.d.sync += [left.eq(self.words), running.eq(1)]
            m.d.sync += [value.eq(0) for pair in sums for value in pair]
        with m.Elif(self.word.valid & self.word.ready):
            m.d.sync += left.eq(left - 1)
            for lane, (s1, s2) in enumerate(sums):
                added = Signal(32, name=f"added{lane}")
                m.d.comb += added.eq(s1 + self.word.payload.word_select(lane, 32))
                m.d.sync += [s1.eq(added), s2.eq(s2 + added)]
        with m.Elif(running & (left == 0)):
            m.d.sync += running.eq(0)
            m.d.comb += self.done.eq(1)
        turned = [value.rotate_left(turn % 32)
                  for lane, (s1, s2) in enumerate(sums) for value, turn in ((s1, 4 * lane + 2), (s2, 4 * lane))]
        m.d.comb += self.value.eq(reduce(xor, turned))
        return m
