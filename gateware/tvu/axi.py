"""AXI3 channels of a Zynq HP port, as far as the TVU uses them: 64-bit data, INCR bursts, one ID.

What AXI has begun it must end, and a Zynq's HP port that is left alone in the middle of a burst
answers nobody until the whole processing system is reset. So the last stage before each port lies
in a domain of its own, ``axi``, which no reset reaches: it keeps an address up until it is taken
and counts what is owed. After a reset the rest of the unit starts when nothing is owed.
"""

from amaranth.hdl import Assert, Cat, Const, DomainRenamer, Module, Signal, Value, signed
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.layout import ADDRESS_BITS, PORTS

from .logic import choose

__all__ = ["AXIRead", "AXIWrite", "Burst", "PORTS", "ReadPort", "WriteBeat", "WritePort",
           "physical"]

_OPEN_WRITES = 32
_WAITING_BURSTS = 4


def physical(linear: Value) -> Value:
    """The DDR address of the byte at a linear address (``layout.physical_address``)."""
    return Cat(linear[bit] for bit in ADDRESS_BITS)


class AXIRead(wiring.Signature):
    """Read address and read data channel, as seen by the master. ``arlen`` is the number of beats
    minus one."""

    def __init__(self) -> None:
        super().__init__({
            "araddr": Out(32), "arlen": Out(4), "arvalid": Out(1), "arready": In(1),
            "rdata": In(64), "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1),
        })


class AXIWrite(wiring.Signature):
    """Write channels, as seen by the master; every write is a single beat."""

    def __init__(self) -> None:
        super().__init__({
            "awaddr": Out(32), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(64), "wstrb": Out(8), "wvalid": Out(1), "wready": In(1),
            "bresp": In(2), "bvalid": In(1), "bready": Out(1),
        })


class Burst(data.Struct):
    """A read: byte ``address`` and number of beats minus one."""

    address: 32
    length: 4


class WriteBeat(data.Struct):
    """A write of one beat: byte ``address``, ``data``, and which bytes of it (``strobe``)."""

    address: 32
    data: 64
    strobe: 8


class ReadPort(wiring.Component):
    """Members: ``burst`` in; ``free``, from a register: there is room for a burst, after the one
    that may just have come; ``port``; ``valid`` and ``data``: a beat has come, which has to be
    taken at once (whoever asks for a burst has room for it); ``error`` pulses for a beat that is an
    AXI error response; ``owed``: how many beats are still to come, also those of a burst that no
    one has taken yet. ``beats`` can be owed at most.
    """

    def __init__(self, beats: int) -> None:
        super().__init__({
            "burst": In(stream.Signature(Burst)), "port": Out(AXIRead()),
            "free": Out(1, init=1),
            "valid": Out(1), "data": Out(64), "error": Out(1), "owed": Out(range(beats + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        port, burst = self.port, self.burst
        width = len(burst.payload.as_value())
        m.submodules.queue = queue = DomainRenamer("axi")(
            fifo.SyncFIFOBuffered(width=width, depth=_WAITING_BURSTS))
        asked = data.View(Burst, queue.r_data)
        m.d.comb += [
            queue.w_data.eq(burst.payload.as_value()), queue.w_en.eq(burst.valid),
            burst.ready.eq(queue.w_rdy),
            port.araddr.eq(asked.address), port.arlen.eq(asked.length),
            port.arvalid.eq(queue.r_rdy), queue.r_en.eq(port.arready),
            port.rready.eq(1), self.valid.eq(port.rvalid), self.data.eq(port.rdata),
            self.error.eq(port.rvalid & (port.rresp != 0)),
        ]
        m.d.axi += [
            self.owed.eq(self.owed + self._change(burst)),
            self.free.eq(queue.level <= _WAITING_BURSTS - 3),
            Assert(~self.free | (queue.level <= _WAITING_BURSTS - 2), "a port is not free"),
            Assert(~port.rvalid | (self.owed != 0), "a beat came that nobody asked for"),
        ]
        return m

    def _change(self, burst: stream.Interface) -> Value:
        """Beats that are owed more from now on, as a table: faster than two additions."""
        lengths = 1 << len(burst.payload.length)
        changes = [Const(taken * (length + 1) - came, signed(6))
                   for taken in range(2) for came in range(2) for length in range(lengths)]
        return choose(changes, Cat(burst.payload.length, self.port.rvalid,
                                   burst.valid & burst.ready)).as_signed()


class WritePort(wiring.Component):
    """Members: ``beat`` in; ``port``; ``error`` pulses on an AXI error response; ``owed``: how many
    answers are still to come."""

    def __init__(self) -> None:
        super().__init__({
            "beat": In(stream.Signature(WriteBeat)), "port": Out(AXIWrite()), "error": Out(1),
            "owed": Out(range(_OPEN_WRITES + 1))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        port, beat = self.port, self.beat
        answered, start = Signal(), Signal()
        m.d.comb += [
            beat.ready.eq((~port.awvalid | port.awready) & (~port.wvalid | port.wready)
                          & (self.owed != _OPEN_WRITES)),
            start.eq(beat.valid & beat.ready), answered.eq(port.bvalid & port.bready),
            port.bready.eq(1),
            self.error.eq(answered & (port.bresp != 0)),
        ]
        with m.If(port.awready):
            m.d.axi += port.awvalid.eq(0)
        with m.If(port.wready):
            m.d.axi += port.wvalid.eq(0)
        with m.If(start):
            m.d.axi += [
                port.awaddr.eq(beat.payload.address), port.awvalid.eq(1),
                port.wdata.eq(beat.payload.data), port.wstrb.eq(beat.payload.strobe),
                port.wvalid.eq(1),
            ]
        m.d.axi += [
            self.owed.eq(self.owed + start - answered),
            Assert(~answered | (self.owed != 0), "a write was answered that nobody asked for"),
        ]
        return m
