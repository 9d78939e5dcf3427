"""DMA readers: stream descriptors in, one 32-byte stream word per clock out.

A descriptor is split into bursts that stay inside a 512-byte block; the same burst goes to all four
ports, each of which holds 8 bytes of every word (``xtvu.layout``). Bursts are requested as far
ahead as the port FIFOs can hold the answers, so latency costs nothing once a stream flows. A burst
is measured in one cycle and requested in the next; only bursts of a single word arrive faster.
"""

from amaranth.hdl import Assert, Cat, Const, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .axi import PORTS, AXIRead, ReadPort, physical
from .config import TVUConfig
from .descriptor import TICKET_BITS, Ports, StreamDescriptor
from .logic import choose
from .picks import WORD_ADDRESS_BITS, PickedRow, PickScanner
from .queue import Queue

__all__ = ["BURST_WORDS", "StreamReader"]

BURST_WORDS = 16
_APART_BIT = 26  # of an address: 64 MB
_ENTRIES = 64  # picked rows between fetching and consuming


class _Measured(data.Struct):
    """The next burst: of which ports it asks; ``length`` in words, one less for the port; whether
    it ends its row."""

    valid: 1
    asks: PORTS
    ends: 1
    length: 5
    last_beat: 4


class StreamReader(wiring.Component):
    """Four AXI read masters behind one descriptor queue.

    Members: ``descriptor`` in; ``ports``, how ports are used; ``word`` out (256 bits); ``port0`` to
    ``port3``; ``completed``
    (stores completed, modulo 2^16, for fences) and ``picks`` (PICKs completed, likewise);
    ``pick_address`` and ``pick_data`` (8 codes, a cycle later) read the pick memory; ``entry`` out;
    ``error`` pulses on an AXI error response; ``bad`` pulses on a descriptor without words;
    ``requested`` (words in the burst requested this cycle); ``active`` while anything is queued, in
    flight or buffered; ``quiet`` while no port owes a beat.
    """

    def __init__(self, config: TVUConfig) -> None:
        self.config = config
        super().__init__({
            "descriptor": In(stream.Signature(StreamDescriptor)), "ports": In(Ports),
            "word": Out(stream.Signature(256)),
            **{f"port{i}": Out(AXIRead()) for i in range(PORTS)},
            "completed": In(TICKET_BITS), "picks": In(TICKET_BITS),
            "pick_address": Out(11), "pick_data": In(64), "entry": Out(stream.Signature(PickedRow)),
            "error": Out(1), "bad": Out(1), "requested": Out(5), "active": Out(1), "quiet": Out(1),
        })
        # proofs look at these
        self.measured = Signal(_Measured, name="burst")
        self.read_ports = [ReadPort(config.port_fifo_depth) for _ in range(PORTS)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = self._queue = Queue(StreamDescriptor,
                                                 depth=self.config.stream_queue_depth)
        wiring.connect(m, wiring.flipped(self.descriptor), self._queue.i)
        m.submodules.scanner = self._scanner = PickScanner()
        self._running = Signal()  # a row is being requested
        self._address, self._left = Signal(WORD_ADDRESS_BITS), Signal(24)  # what is left of it
        self._issue, self._may_issue = Signal(), Signal()
        burst = self._measure(m)
        free = self._walk(m, burst.ends)
        self._hand_over_picks(m, free)

        ports = self.read_ports
        for i, port in enumerate(ports):
            m.submodules[f"port{i}"] = port
            wiring.connect(m, port.port, wiring.flipped(getattr(self, f"port{i}")))
            place = physical(Cat(Const(0, 3), Const(i, 2), self._address))
            m.d.comb += [
                port.burst.payload.address.eq(
                    place ^ (Mux(self.ports.apart, i, 0) << _APART_BIT)),
                port.burst.payload.length.eq(burst.last_beat),
                port.burst.valid.eq(burst.asks[i] & self._may_issue),
            ]
        reserved = self._reserve(m, ports, burst)
        self._buffer(m, ports, reserved)
        m.d.comb += [
            self.error.eq(Cat(port.error for port in ports).any()),
            self.quiet.eq(Cat(port.owed == 0 for port in ports).all()),
            self.active.eq(self._running | self._scanner.busy | (self._queue.level != 0)
                           | (reserved != 0)),
        ]
        return m

    def _measure(self, m: Module) -> data.View:
        """The next burst, a cycle after where it starts and what is left of its row."""
        burst, offset, left = self.measured, self._address[:4], self._left
        ends = Signal()
        # faster than subtracting and comparing
        fits = Cat(left[:5] <= BURST_WORDS - start for start in range(BURST_WORDS))
        m.d.comb += ends.eq((left[5:] == 0) & choose(list(fits), offset))
        m.d.sync += [
            burst.valid.eq(self._running & ~self._issue), burst.ends.eq(ends),
            burst.asks.eq(Mux(self._running & ~self._issue, self.ports.mask, 0)),
            burst.length.eq(Mux(ends, left[:5], (BURST_WORDS - offset)[:5])),
            # one less, as a table: faster than a subtraction
            burst.last_beat.eq(Mux(ends, choose([Const((low - 1) % BURST_WORDS, 4)
                                                 for low in range(BURST_WORDS)], left[:4]),
                                   ~offset)),
            Assert(~burst.valid | self._running, "a burst is measured of no row"),
            Assert(~burst.valid | ((burst.ends == ends) & (burst.length == Mux(
                ends, left[:5], (BURST_WORDS - offset)[:5]))), "another burst was measured"),
            Assert(~self._issue | (offset + burst.length <= BURST_WORDS),
                   "a burst leaves its block of 512 bytes"),
        ]
        return burst

    def _walk(self, m: Module, ends: Value) -> Value:
        """From burst to burst, row to row, and descriptor to descriptor; returns whether another
        row may begin."""
        running, address, left, scanner = (self._running, self._address, self._left,
                                           self._scanner)
        head, picked = self._queue.o.payload, scanner.row.payload
        row_address = Signal(WORD_ADDRESS_BITS)
        words, rows, stride = Signal(24), Signal(12), Signal(12)
        load, empty = Signal(), (head.words == 0) | (head.rows == 0)
        waiting = Mux(head.picked, (self.picks - head.ticket)[:TICKET_BITS].as_signed() < 0,
                      head.fence & ((self.completed - head.ticket)[:TICKET_BITS].as_signed() < 0))
        free = Signal()
        m.d.comb += [
            free.eq(~running | (self._issue & ends & (scanner.busy | (rows == 1)))),
            load.eq(free & ~scanner.busy & self._queue.o.valid & ~waiting),
            self._queue.o.ready.eq(load), self.bad.eq(load & empty),
            scanner.start.eq(load & head.picked), scanner.address.eq(head.address),
            scanner.groups.eq(Mux(empty, 0, head.rows)), scanner.words.eq(head.words),
            scanner.everything.eq(head.everything),
        ]
        with m.If(load):
            m.d.sync += [
                running.eq(~empty & ~head.picked), address.eq(head.address),
                row_address.eq(head.address), left.eq(head.words), words.eq(head.words),
                rows.eq(head.rows), stride.eq(head.stride),
            ]
        with m.Elif(scanner.row.valid & scanner.row.ready):
            m.d.sync += [running.eq(~picked.entry.end), address.eq(picked.address), left.eq(words)]
        with m.Elif(self._issue & ends):
            next_row = row_address + (stride << 4)
            m.d.sync += [
                rows.eq(rows - 1), left.eq(words), address.eq(next_row), row_address.eq(next_row),
                running.eq(~scanner.busy & (rows != 1)),
            ]
        with m.Elif(self._issue):
            # a burst that does not end a row ends its block: left - (16 - offset in the block)
            m.d.sync += [address.eq(Cat(Const(0, 4), address[4:] + 1)),
                         left.eq(left + Cat(address[:4], Const(-1, 20)))]
        m.d.sync += [
            Assert(~running | ((left != 0) & (words != 0)), "a stream without words runs"),
            Assert(~scanner.busy | scanner.over | (words != 0), "rows without words are picked"),
        ]
        return free

    def _hand_over_picks(self, m: Module, free: Value) -> None:
        """A picked row is requested, and its entry goes to who takes the words."""
        scanner = self._scanner
        m.submodules.entries = entries = Queue(PickedRow, depth=_ENTRIES)
        wiring.connect(m, entries.o, wiring.flipped(self.entry))
        m.d.comb += [
            self.pick_address.eq(scanner.pick_address), scanner.pick_data.eq(self.pick_data),
            entries.i.payload.eq(scanner.row.payload.entry),
            entries.i.valid.eq(scanner.row.valid & free),
            scanner.row.ready.eq(entries.i.ready & free),
        ]

    def _reserve(self, m: Module, ports: list[ReadPort], burst: data.View) -> Signal:
        """A burst is issued if there is room for its words; returns for how many there is none
        left."""
        depth, taken = self.config.port_fifo_depth, self.word.valid & self.word.ready
        reserved, room = Signal(range(depth + 1)), Signal()
        # blocks under way beside which another one may be asked for
        blocks = (self.ports.bursts - 1)[:exact_log2(depth // BURST_WORDS)]
        m.d.comb += [
            self._may_issue.eq(room & Cat(port.free for port in ports).all()),
            self._issue.eq(burst.valid & self._may_issue),
            self.requested.eq(Mux(self._issue, burst.length, 0)),
        ]
        m.d.sync += [
            # bursts do not follow cycle by cycle
            room.eq(reserved <= Cat(Const(0, exact_log2(BURST_WORDS)), blocks)),
            reserved.eq(reserved + self.requested - taken),
            Assert(~self._issue | Cat(port.burst.ready for port in ports).all(),
                   "a burst came to a full port"),
            Assert(reserved <= depth, "more words are under way than the port FIFOs hold"),
        ]
        return reserved

    def _buffer(self, m: Module, ports: list[ReadPort], reserved: Value) -> None:
        """Beats wait until all four of a word are there. Where no burst is asked of a port, some
        beat is taken for its own with each of the first port that is."""
        resetting = ResetSignal("sync", allow_reset_less=True)
        buffers = [Queue(64, depth=self.config.port_fifo_depth) for _ in ports]
        mask, first, owed = self.ports.mask, Signal(), Signal.like(ports[0].owed)
        for port, used in reversed(list(zip(ports, mask, strict=True))):
            with m.If(used):
                m.d.comb += [first.eq(port.valid), owed.eq(port.owed)]
        for i, (port, buffer) in enumerate(zip(ports, buffers, strict=True)):
            m.submodules[f"buffer{i}"] = buffer
            m.d.comb += [buffer.i.payload.eq(port.data),
                         buffer.i.valid.eq(Mux(mask[i], port.valid, first)),
                         buffer.o.ready.eq(self.word.valid & self.word.ready)]
            m.d.sync += [
                Assert(resetting | ~buffer.i.valid | buffer.i.ready,
                       "a beat came to a full port FIFO"),
                Assert(resetting | mask[i] | ~port.burst.valid,
                       "a burst is asked of a port that is not in use"),
                Assert(resetting
                       | (reserved == Mux(mask[i], port.owed, owed) + buffer.level),
                       "words under way are not those that room is reserved for"),
            ]
        m.d.comb += [
            self.word.payload.eq(Cat(buffer.o.payload for buffer in buffers)),
            self.word.valid.eq(Cat(buffer.o.valid for buffer in buffers).all()),
        ]
