"""The processing system's UART as a pair of byte streams, so that the SoC's UART does not know
where its bytes come from.

The controller's status is read as long as there is something to do, and every 64 cycles otherwise.
At 921,600 baud a byte comes every 1,356 cycles, and 64 of them wait.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .gp import Access
from .registers import UART, UART_STATUS

__all__ = ["UARTPort"]

_PAUSE = 64  # cycles between two looks


class UARTPort(wiring.Component):
    """Members: ``sink``: bytes to send; ``source``: bytes that came; ``access`` to the registers at
    ``base``."""

    def __init__(self, base: int) -> None:
        self._base = base
        super().__init__({
            "sink": In(stream.Signature(8)), "source": Out(stream.Signature(8)),
            "access": Out(Access()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        request, answer = self.access.request, self.access.answer
        pause, full = Signal(range(_PAUSE)), Signal()
        fifo, status = self._base + UART["fifo"], self._base + UART["status"]
        m.d.comb += [
            self.access.beat.payload.data.eq(self.sink.payload),
            self.access.beat.payload.strobe.eq(0xF), self.access.beat.valid.eq(1),
        ]
        with m.If(self.source.ready):
            m.d.sync += self.source.valid.eq(0)
        with m.FSM():
            with m.State("wait"):
                m.d.sync += pause.eq(pause - 1)
                with m.If(self.sink.valid | (pause == 0)):
                    m.next = "look"
            with m.State("look"):
                m.d.comb += [request.valid.eq(1), request.payload.address.eq(status)]
                with m.If(request.ready):
                    m.next = "looked"
            with m.State("looked"):
                with m.If(answer.valid):
                    m.d.sync += [full.eq(answer.data[UART_STATUS["tx_full"]]),
                                 pause.eq(_PAUSE - 1)]
                    m.next = "wait"
                    with m.If(answer.error):
                        pass
                    with m.Elif(~answer.data[UART_STATUS["rx_empty"]] & ~self.source.valid):
                        m.next = "take"
                    with m.Elif(self.sink.valid & ~answer.data[UART_STATUS["tx_full"]]):
                        m.next = "put"
            with m.State("take"):
                m.d.comb += [request.valid.eq(1), request.payload.address.eq(fifo)]
                with m.If(request.ready):
                    m.next = "taken"
            with m.State("taken"):
                with m.If(answer.valid):
                    m.d.sync += [self.source.payload.eq(answer.data[:8]),
                                 self.source.valid.eq(~answer.error)]
                    m.next = "wait"
                    with m.If(self.sink.valid & ~full & ~answer.error):
                        m.next = "put"
                    with m.Else():
                        m.d.sync += pause.eq(0)  # there may be more
            with m.State("put"):
                m.d.comb += [request.valid.eq(1), request.payload.address.eq(fifo),
                             request.payload.write.eq(1)]
                with m.If(request.ready):
                    m.next = "sent"
            with m.State("sent"):
                with m.If(answer.valid):
                    m.d.comb += self.sink.ready.eq(1)
                    m.next = "wait"
        return m
