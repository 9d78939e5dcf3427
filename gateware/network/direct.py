"""DATA: words of a frame to DDR through an HP port of its own, past the bus."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from tvu.axi import WriteBeat
from xtvu.datagram import STATUS

from .bus import Memory

__all__ = ["BLOCK_BITS", "DirectWriter"]

BLOCK_BITS = 12  # of the blocks of DDR that can be protected
_PATIENCE = 16  # bits of the cycles that DDR has to answer
_FIRST = 0x10_0000  # HP ports do not reach the megabyte below


class DirectWriter(wiring.Component):
    """Members: ``start`` until ``done``, which comes with a ``status``: writes ``count`` words, an
    even number, from the one at the frame's cursor on, to ``target`` up to ``final``, the last
    one's address, both counted from the beginning of DDR; ``word`` at the cursor, which ``fetch``
    moves on; ``beat``; ``owed`` and ``failed`` of the port; ``protect_first`` and ``protect_end``:
    blocks that nobody may write.

    All is looked at before anything is written. Done is what DDR has answered.
    """

    def __init__(self, memory: Memory) -> None:
        self._size = memory.ddr.size
        super().__init__({
            "start": In(1), "done": Out(1), "status": Out(8),
            "target": In(32), "final": In(32), "count": In(9),
            "word": In(32), "fetch": Out(1),
            "beat": Out(stream.Signature(WriteBeat)), "owed": In(6), "failed": In(1),
            "protect_first": In(18), "protect_end": In(19),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat = self.beat
        address, left, low = Signal(32), Signal(9), Signal(32)
        patience, failed = Signal(_PATIENCE), Signal()
        block = address[BLOCK_BITS:30]
        protected = (block >= self.protect_first) & (block < self.protect_end)
        m.d.comb += [beat.payload.address.eq(address), beat.payload.data.eq(Cat(low, self.word)),
                     beat.payload.strobe.eq(0xFF)]
        with m.If(self.failed):
            m.d.sync += failed.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [address.eq(self.final), left.eq(self.count), patience.eq(-1)]
                with m.If(self.start):
                    m.d.sync += failed.eq(0)
                    m.next = "END"
            with m.State("END"):
                m.d.sync += address.eq(self.target)
                m.next = "START"
                with m.If((address >= self._size) | (self.target >= self._size)
                          | (self.target < _FIRST)):
                    self._end(m, "UNMAPPED")
                with m.Elif(self.owed != 0):
                    self._end(m, "STUCK")
                with m.Elif(protected):
                    self._end(m, "PROTECTED")
            with m.State("START"):
                m.next = "LOW"
                with m.If(protected):
                    self._end(m, "PROTECTED")
            with m.State("LOW"):
                m.d.comb += self.fetch.eq(1)
                m.d.sync += low.eq(self.word)
                m.next = "HIGH"
            with m.State("HIGH"):
                m.d.comb += [beat.valid.eq(1), self.fetch.eq(beat.ready)]
                with m.If(beat.ready):
                    m.d.sync += [address.eq(address + 8), left.eq(left - 2)]
                    m.next = "LOW"
                    with m.If(left == 2):
                        m.next = "WAIT"
                with m.Else():
                    self._wait(m, patience)
            with m.State("WAIT"):
                with m.If(self.owed != 0):
                    self._wait(m, patience)
                with m.Elif(failed):
                    self._end(m, "STUCK")
                with m.Else():
                    self._end(m, "OK")
        return m

    def _end(self, m: Module, status: str) -> None:
        m.d.comb += [self.done.eq(1), self.status.eq(STATUS[status])]
        m.next = "IDLE"

    def _wait(self, m: Module, patience: Value) -> None:
        """For DDR, which is given up at some point; the next DATA is refused until it has answered
        what it owes."""
        m.d.sync += patience.eq(patience - 1)
        with m.If(patience == 0):
            self._end(m, "STUCK")
