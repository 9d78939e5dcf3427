"""The CPU's way to DDR: Wishbone with incrementing bursts to a general-purpose port, a cache line
as one AXI burst.

A write is acknowledged when the memory has it, so that whoever waits for the bus knows that others
see it. The port reaches DDR from 0x8_0000 on (UG585, table 4-1).
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from tvu.queue import Queue

from .gp import Access

__all__ = ["BurstBus", "LINE_WORDS", "MainRam"]

LINE_WORDS = 8  # of VexRiscv's caches
_INCREMENTING = 2  # Wishbone's cycle type identifier; the last word of a burst has another


class BurstBus(wiring.Signature):
    """Wishbone with byte selects and cycle types, as seen by the master; ``adr`` counts words."""

    def __init__(self) -> None:
        super().__init__({"adr": Out(30), "dat_w": Out(32), "dat_r": In(32), "sel": Out(4),
                          "we": Out(1), "cyc": Out(1), "stb": Out(1), "cti": Out(3), "ack": In(1),
                          "err": In(1)})


class MainRam(wiring.Component):
    """Members: ``bus``, a slave of 2^``bits`` bytes; ``access``. A burst is read up to the end of
    its line; what the master does not want of it is dropped."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        super().__init__({"bus": In(BurstBus()), "access": Out(Access())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.line = line = Queue(33, depth=LINE_WORDS)
        bus, request, answer = self.bus, self.access.request, self.access.answer
        within = bus.adr[:LINE_WORDS.bit_length() - 1]
        asks, owed, following = bus.cyc & bus.stb & ~bus.ack & ~bus.err, Signal(), Signal(30)
        m.d.comb += [
            request.payload.address.eq((bus.adr << 2)[:self._bits]),
            request.payload.write.eq(bus.we),
            request.payload.length.eq(Mux(~bus.we & (bus.cti == _INCREMENTING),
                                          LINE_WORDS - 1 - within, 0)),
            self.access.beat.valid.eq(1), self.access.beat.payload.data.eq(bus.dat_w),
            self.access.beat.payload.strobe.eq(bus.sel),
            line.i.payload.eq(Cat(answer.data, answer.error)),
        ]
        m.d.sync += [bus.ack.eq(0), bus.err.eq(0), bus.dat_r.eq(line.o.payload[:32])]
        with m.If(answer.valid & answer.last):
            m.d.sync += owed.eq(0)
        with m.FSM():
            with m.State("idle"):
                m.d.comb += request.valid.eq(asks)
                with m.If(request.valid & request.ready):
                    m.d.sync += [owed.eq(1), following.eq(bus.adr)]
                    m.next = "read"
                    with m.If(bus.we):
                        m.next = "write"
            with m.State("write"):
                with m.If(answer.valid):
                    m.d.sync += [bus.ack.eq(~answer.error), bus.err.eq(answer.error)]
                    m.next = "idle"
            with m.State("read"):
                m.d.comb += line.i.valid.eq(answer.valid)
                # who asks now may be another one than who began the burst: the CPU can be reset
                with m.If(~bus.cyc | (asks & (bus.we | (bus.adr != following)))):
                    m.next = "drop"
                with m.Elif(asks & line.o.valid):
                    failed = line.o.payload[32]
                    m.d.comb += line.o.ready.eq(1)
                    m.d.sync += [bus.ack.eq(~failed), bus.err.eq(failed),
                                 following.eq(bus.adr + 1)]
                    with m.If((bus.cti != _INCREMENTING) | (~owed & (line.level == 1))):
                        m.next = "drop"
            with m.State("drop"):
                m.d.comb += [line.i.valid.eq(answer.valid), line.o.ready.eq(1)]
                with m.If(~owed & (line.level == 0)):
                    m.next = "idle"
        return m
