"""The processing system's registers and on-chip memory on the SoC's bus, at their own addresses.

Whole words only, one at a time. What lies outside of the blocks below is answered with a bus error,
as is a block that does not answer in time: one without a clock never does. The port takes no other
request before that answer has come.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from network.bus import Bus

from .gp import Access

__all__ = ["BLOCKS", "Window"]

#: First address and end: peripherals, system control, on-chip memory (UG585, table 4-1). The CPU's
#: private registers at F890_0000 cannot be reached from the fabric.
BLOCKS = ((0xE000_0000, 0xE030_0000), (0xF800_0000, 0xF810_0000), (0xFFFC_0000, 0x1_0000_0000))


class Window(wiring.Component):
    """Members: ``bus``, a slave; ``access``. An answer has to come within 2^``patience_bits``
    cycles."""

    def __init__(self, patience_bits: int = 12) -> None:
        self._patience_bits = patience_bits
        super().__init__({"bus": In(Bus()), "access": Out(Access())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus, request, answer = self.bus, self.access.request, self.access.answer
        patience, gone = Signal(self._patience_bits), Signal()
        # a register between the bus, which comes late, and the port
        address, write, data = Signal(32), Signal(), Signal(32)
        there = Cat((address >= first) if end == 1 << 32 else (address >= first) & (address < end)
                    for first, end in BLOCKS).any()
        m.d.comb += [
            request.payload.address.eq(address), request.payload.write.eq(write),
            self.access.beat.valid.eq(1), self.access.beat.payload.data.eq(data),
            self.access.beat.payload.strobe.eq(0xF),
        ]
        # whoever takes the bus next must not get the answer of one who has left
        m.d.sync += [bus.ack.eq(0), bus.err.eq(0), patience.eq(patience + 1),
                     gone.eq(gone | ~bus.cyc)]
        waits = bus.cyc & ~gone
        with m.FSM():
            with m.State("idle"):
                m.d.sync += [patience.eq(0), gone.eq(0), address.eq(Cat(bus.adr << 2)),
                             write.eq(bus.we), data.eq(bus.dat_w)]
                with m.If(bus.cyc & ~bus.ack & ~bus.err):
                    m.next = "look"
            with m.State("look"):
                m.next = "ask"
                with m.If(~there):
                    m.d.sync += bus.err.eq(waits)
                    m.next = "idle"
            with m.State("ask"):
                # a transaction before it may never end
                m.d.comb += request.valid.eq(~gone & ~patience.all())
                with m.If(request.valid & request.ready):
                    m.next = "asked"
                with m.Elif(~request.valid):
                    m.d.sync += bus.err.eq(waits)
                    m.next = "idle"
            with m.State("asked"):
                with m.If(answer.valid):
                    m.d.sync += [bus.dat_r.eq(answer.data), bus.ack.eq(~answer.error & waits),
                                 bus.err.eq(answer.error & waits)]
                    m.next = "idle"
                with m.Elif(patience.all()):
                    m.d.sync += bus.err.eq(waits)
                    m.next = "idle"
        return m
