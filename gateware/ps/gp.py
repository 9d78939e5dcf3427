"""A general-purpose AXI3 port of the processing system (S_AXI_GP0, S_AXI_GP1), shared by several
clients that take turns, one transaction at a time.

What AXI has begun it must end, whatever is reset meanwhile (see tvu/axi.py): the port lies in
domain ``axi``, which no reset reaches, and ends the transaction of a client that is gone with beats
that write nothing. Its outputs are registers. Which signals there are: UG585, "AXI_GP Interfaces".
"""

from amaranth.hdl import Array, Assert, Module, Mux, ResetSignal, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Access", "Answer", "Beat", "GP", "Port", "Request"]


class GP(wiring.Signature):
    """The channels of the port, as seen by the master: INCR bursts of whole 32-bit words, one ID,
    secure accesses. ``arlen`` and ``awlen`` are numbers of beats minus one."""

    def __init__(self) -> None:
        super().__init__({
            "araddr": Out(32), "arlen": Out(4), "arvalid": Out(1), "arready": In(1),
            "rdata": In(32), "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1),
            "awaddr": Out(32), "awlen": Out(4), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(32), "wstrb": Out(4), "wlast": Out(1), "wvalid": Out(1), "wready": In(1),
            "bresp": In(2), "bvalid": In(1), "bready": Out(1),
        })


class Request(data.Struct):
    """A read, or a ``write``, of ``length`` + 1 words from byte ``address`` on. It must not cross a
    boundary of 4 KB."""

    address: 32
    length: 4
    write: 1


class Beat(data.Struct):
    """A word to write, and which bytes of it."""

    data: 32
    strobe: 4


class Answer(data.Struct):
    """A word that was read, the last one with ``last``, or that a write was done, with ``last`` as
    well; ``error``: the processing system refused. It has to be taken at once."""

    valid: 1
    data: 32
    last: 1
    error: 1


class Access(wiring.Signature):
    """What a client has of the port. Beats follow a write request; an answer that comes while no
    request of this client was taken is not for it."""

    def __init__(self) -> None:
        super().__init__({"request": Out(stream.Signature(Request)),
                          "beat": Out(stream.Signature(Beat)), "answer": In(Answer)})


class Port(wiring.Component):
    """Members: ``port``; ``clients``, who are served in turn."""

    def __init__(self, clients: int) -> None:
        self._count = clients
        super().__init__({"port": Out(GP()), "clients": In(Access()).array(clients)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        port = self.port
        served, busy, orphan = Signal(range(max(2, self._count))), Signal(), Signal()
        asked = Signal(Request)
        left, writes = Signal(5), Signal()  # beats to write
        beat = Array(client.beat for client in self.clients)[served]
        done, moves = Signal(), Signal()
        error = Mux(asked.write, port.bresp != 0, port.rresp != 0)
        m.d.comb += [
            port.araddr.eq(asked.address), port.arlen.eq(asked.length), port.rready.eq(1),
            port.awaddr.eq(asked.address), port.awlen.eq(asked.length), port.bready.eq(1),
            moves.eq(writes & (beat.valid | orphan) & (~port.wvalid | port.wready)),
            done.eq((port.rvalid & port.rlast) | port.bvalid),
        ]
        for i, client in enumerate(self.clients):
            mine = busy & ~orphan & (served == i)
            m.d.comb += [
                client.beat.ready.eq(mine & moves),
                client.answer.valid.eq(mine & (port.rvalid | port.bvalid)),
                client.answer.data.eq(port.rdata), client.answer.last.eq(done),
                client.answer.error.eq(error),
            ]
        with m.If(port.arready):
            m.d.axi += port.arvalid.eq(0)
        with m.If(port.awready):
            m.d.axi += port.awvalid.eq(0)
        with m.If(moves):
            m.d.axi += [
                left.eq(left - 1), writes.eq(left != 1),
                port.wvalid.eq(1), port.wlast.eq(left == 1), port.wdata.eq(beat.payload.data),
                port.wstrb.eq(Mux(orphan, 0, beat.payload.strobe)),
            ]
        with m.Elif(port.wready):
            m.d.axi += port.wvalid.eq(0)
        with m.If(done):
            m.d.axi += busy.eq(0)
        with m.If(ResetSignal("sync", allow_reset_less=True)):
            m.d.axi += orphan.eq(1)
        with m.Elif(~busy):
            m.d.axi += orphan.eq(0)
            self._choose(m, served, busy, asked, left, writes)
        m.d.axi += [
            Assert(~port.rvalid | (busy & ~asked.write), "a word came that nobody asked for"),
            Assert(~port.bvalid | (busy & asked.write & ~writes), "a write was answered too early"),
        ]
        return m

    def _choose(self, m: Module, served: Signal, busy: Signal, asked: data.View, left: Signal,
                writes: Signal) -> None:
        """Begins a transaction of the first client behind the last one that wants something."""
        with m.Switch(served):
            for last in range(self._count):
                with m.Case(last):
                    order = [(last + 1 + i) % self._count for i in range(self._count)]
                    for place, i in enumerate(order):
                        request = self.clients[i].request
                        with (m.If if place == 0 else m.Elif)(request.valid):
                            m.d.comb += request.ready.eq(1)
                            m.d.axi += [
                                busy.eq(1), served.eq(i), asked.eq(request.payload),
                                left.eq(request.payload.length + 1),
                                writes.eq(request.payload.write),
                                self.port.arvalid.eq(~request.payload.write),
                                self.port.awvalid.eq(request.payload.write),
                            ]
