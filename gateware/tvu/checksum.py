"""Checksum of stream words (``semantics.checksum``), one lane of 32 bits per clock."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES

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
        left, lane, fresh = Signal(24), Signal(range(LANES)), Signal()
        take = Signal()
        m.d.comb += [self.hungry.eq(left != 0), take.eq(self.hungry & self.word.valid),
                     self.word.ready.eq(self.hungry & lane.all())]

        # Three stages: a lane of the word, s1 of that lane, s2 of that lane.
        ports = []
        for name in ("s1", "s2"):
            m.submodules[name] = sums = memory.Memory(shape=unsigned(32), depth=LANES, init=[])
            ports.append((sums.read_port(domain="comb"), sums.write_port()))
        (read1, write1), (read2, write2) = ports
        summand, added = Signal(32), Signal(32)
        takes, lanes, news = [take], [lane], [fresh]
        for stage in (1, 2):
            taken, lane_then, new = (Signal(name=f"take{stage}"),
                                     Signal(range(LANES),
                                            name=f"lane{stage}"), Signal(name=f"fresh{stage}"))
            m.d.sync += [taken.eq(takes[-1]), lane_then.eq(lanes[-1]), new.eq(news[-1])]
            takes.append(taken)
            lanes.append(lane_then)
            news.append(new)
        m.d.sync += [summand.eq(self.word.payload.word_select(lane, 32)), added.eq(write1.data)]
        m.d.comb += [
            read1.addr.eq(lanes[1]), write1.addr.eq(lanes[1]), write1.en.eq(takes[1]),
            write1.data.eq(Mux(news[1], 0, read1.data) + summand),
            read2.addr.eq(lanes[2]), write2.addr.eq(lanes[2]), write2.en.eq(takes[2]),
            write2.data.eq(Mux(news[2], 0, read2.data) + added),
        ]

        with m.FSM():
            with m.State("SUM"):
                with m.If(self.start):
                    m.d.sync += [left.eq(self.words), lane.eq(0), fresh.eq(1)]
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(take):
                    m.d.sync += lane.eq(lane + 1)
                    with m.If(lane.all()):
                        m.d.sync += [left.eq(left - 1), fresh.eq(0)]
                with m.Elif((left == 0) & ~takes[1] & ~takes[2]):
                    m.d.sync += [lane.eq(LANES - 1), self.value.eq(0)]
                    m.next = "FOLD"
            # the last lane first, so that each is rotated by four bits once for every lane before
            # it
            with m.State("FOLD"):
                m.d.comb += [read1.addr.eq(lane), read2.addr.eq(lane)]
                m.d.sync += [self.value.eq(self.value.rotate_left(4) ^ read1.data.rotate_left(2)
                                           ^ read2.data), lane.eq(lane - 1)]
                with m.If(lane == 0):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "SUM"
        return m
