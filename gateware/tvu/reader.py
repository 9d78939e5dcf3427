"""DMA readers: stream descriptors in, one 32-byte stream word per clock out.

A generator splits descriptors into bursts that stay inside a 512-byte block; the same burst goes to
all four ports, each of which holds 8 bytes of every word (``xtvu.layout``). Bursts are requested as
far ahead as the port FIFOs can hold the answers, so latency costs nothing once a stream flows, and
the next descriptor follows without a gap.

A picked stream fetches only rows whose code in the pick memory is not zero. A scanner finds them,
eight per clock, and tells the consumer which they are.
"""

from amaranth.hdl import Assert, Cat, Const, Module, Mux, ResetSignal, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import PORTS, AXIRead, ReadPort, physical
from .config import TVUConfig
from .logic import choose
from .queue import Queue

__all__ = ["BURST_WORDS", "PickedRow", "StreamDescriptor", "StreamReader", "TICKET_BITS"]

BURST_WORDS = 16
TICKET_BITS = 16  # of the counters of stores and picks that descriptors wait for
_WORD_ADDRESS_BITS = 27
_ENTRIES = 64  # picked rows between fetching and consuming


class StreamDescriptor(data.Struct):
    """What to fetch: ``rows`` runs of ``words`` stream words, ``stride`` blocks of 512 bytes apart.

    ``address`` is the linear address divided by 32. With ``fence`` the fetch waits until ``ticket``
    stores are complete; with ``picked``, ``rows`` are groups of eight, ``stride`` does not count,
    ``ticket`` is the number of picks to wait for, and ``fence`` takes all rows for picked.
    """

    address: _WORD_ADDRESS_BITS
    words: 24
    rows: 12
    stride: 12
    fence: 1
    picked: 1
    ticket: TICKET_BITS


class PickedRow(data.Struct):
    """A row of a picked stream and its code, or the ``end`` of the rows."""

    row: 15
    code: signed(8)
    end: 1


class StreamReader(wiring.Component):
    """Four AXI read masters behind one descriptor queue.

    Members: ``descriptor`` in; ``word`` out (256 bits); ``port0`` to ``port3``; ``completed``
    (stores completed, modulo 2^16, for fences) and ``picks`` (PICKs completed, likewise);
    ``pick_address`` and ``pick_data`` (8 codes, a cycle later) read the pick memory; ``entry`` out;
    ``error`` pulses on an AXI error response; ``bad`` pulses on a descriptor without words;
    ``requested`` (words in the burst requested this cycle); ``active`` while anything is queued, in
    flight or buffered; ``quiet`` while no port owes a beat.
    """

    def __init__(self, config: TVUConfig) -> None:
        self.config = config
        super().__init__({
            "descriptor": In(stream.Signature(StreamDescriptor)),
            "word": Out(stream.Signature(256)),
            **{f"port{i}": Out(AXIRead()) for i in range(PORTS)},
            "completed": In(TICKET_BITS), "picks": In(TICKET_BITS),
            "pick_address": Out(11), "pick_data": In(64), "entry": Out(stream.Signature(PickedRow)),
            "error": Out(1), "bad": Out(1), "requested": Out(5), "active": Out(1), "quiet": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = self.config.port_fifo_depth
        m.submodules.queue = queue = Queue(StreamDescriptor, depth=self.config.stream_queue_depth)
        wiring.connect(m, wiring.flipped(self.descriptor), queue.i)
        head = queue.o.payload

        running = Signal()
        address, row_address = Signal(_WORD_ADDRESS_BITS), Signal(_WORD_ADDRESS_BITS)
        left, words, rows, stride = Signal(24), Signal(24), Signal(12), Signal(12)
        reserved = Signal(range(depth + 1))

        to_block_end, length, short, last_beat = Signal(5), Signal(5), Signal(), Signal(4)
        # faster than subtracting and comparing
        fits = Cat(left[:5] <= BURST_WORDS - place for place in range(BURST_WORDS))
        m.d.comb += [
            to_block_end.eq(BURST_WORDS - address[:4]),
            short.eq((left[5:] == 0) & choose(list(fits), address[:4])),
            length.eq(Mux(short, left[:5], to_block_end)),
            # one less, as a table: faster than a subtraction
            last_beat.eq(Mux(short, choose([Const((low - 1) % BURST_WORDS, 4)
                                            for low in range(BURST_WORDS)], left[:4]),
                             ~address[:4])),
        ]

        room = Signal()  # for the burst after the one that may just be issued
        m.d.sync += room.eq(reserved <= depth - 2 * BURST_WORDS)
        issue, taken = Signal(), Signal()
        ports = []
        for i in range(PORTS):
            m.submodules[f"port{i}"] = port = ReadPort(depth)
            wiring.connect(m, port.port, wiring.flipped(getattr(self, f"port{i}")))
            m.d.comb += [
                port.burst.payload.address.eq(physical(Cat(Const(0, 3), Const(i, 2), address))),
                port.burst.payload.length.eq(last_beat), port.burst.valid.eq(issue),
            ]
            ports.append(port)
        m.d.comb += issue.eq(running & room & Cat(port.free for port in ports).all())

        # -- picked rows: the scanner's current group and what is left of it -----------------------
        m.submodules.entries = entries = Queue(PickedRow, depth=_ENTRIES)
        wiring.connect(m, entries.o, wiring.flipped(self.entry))
        entry = entries.i.payload
        picking, loaded, everything = Signal(), Signal(), Signal()
        codes, open_rows, group, group_address = (Signal(64), Signal(8), Signal(12),
                                                  Signal(_WORD_ADDRESS_BITS))
        next_group, groups = Signal(12), Signal(12)
        lane, pick = Signal(3), Signal()
        for i in reversed(range(8)):
            with m.If(open_rows[i]):
                m.d.comb += lane.eq(i)
        rest = open_rows & ~(1 << lane)
        advance = Signal()
        offset = (Mux(lane[0],
                      words[:8],
                      0) + Mux(lane[1], words[:8] << 1, 0) + Mux(lane[2], words[:8] << 2, 0))
        m.d.comb += [
            entry.row.eq(Cat(lane, group)), entry.code.eq(codes.word_select(lane, 8)),
            self.pick_address.eq(next_group),
            advance.eq(picking
                       & loaded
                       & (next_group != groups) & ((open_rows == 0) | (pick & (rest == 0)))),
        ]
        with m.If(picking):
            m.d.sync += loaded.eq(1)  # the memory has answered
        with m.If(advance):
            m.d.sync += [
                loaded.eq(0), codes.eq(self.pick_data),
                open_rows.eq(Cat(everything | self.pick_data.word_select(i, 8).any()
                                 for i in range(8))),
                group.eq(next_group),
                next_group.eq(next_group + 1), group_address.eq(group_address + (words[:8] << 3)),
            ]
        with m.Elif(pick):
            m.d.sync += open_rows.eq(rest)

        waiting = Mux(head.picked, (self.picks - head.ticket)[:TICKET_BITS].as_signed() < 0,
                      head.fence & ((self.completed - head.ticket)[:TICKET_BITS].as_signed() < 0))
        load = Signal()
        last_of_row = issue & short
        last_burst = last_of_row & (rows == 1) & ~picking
        with m.If(((~running & ~picking) | last_burst) & queue.o.valid & ~waiting):
            m.d.comb += [load.eq(1), queue.o.ready.eq(1)]
        with m.If(picking & (~running | last_of_row) & entries.i.ready):
            with m.If(open_rows != 0):
                m.d.comb += [pick.eq(1), entries.i.valid.eq(1)]
            with m.Elif(loaded & (next_group == groups)):
                m.d.comb += [entry.end.eq(1), entries.i.valid.eq(1)]
                m.d.sync += picking.eq(0)
        with m.If(load):
            empty = (head.words == 0) | (head.rows == 0)
            m.d.comb += self.bad.eq(empty)
            m.d.sync += [
                running.eq(~empty & ~head.picked), address.eq(head.address),
                row_address.eq(head.address),
                left.eq(head.words),
                words.eq(head.words), rows.eq(head.rows), stride.eq(head.stride),
                picking.eq(head.picked), loaded.eq(0), open_rows.eq(0), next_group.eq(0),
                groups.eq(Mux(empty, 0, head.rows)), everything.eq(head.fence),
                group_address.eq(head.address - (head.words[:8] << 3)),
            ]
        with m.Elif(pick):
            m.d.sync += [address.eq(group_address + offset), left.eq(words), running.eq(1)]
        with m.Elif(issue):
            # a burst that does not end a row ends its block: left - (16 - place in the block)
            m.d.sync += [address.eq(Cat(Const(0, 4), address[4:] + 1)),
                         left.eq(left + Cat(address[:4], Const(-1, 20)))]
            with m.If(picking & last_of_row):
                m.d.sync += running.eq(0)
            with m.Elif(last_of_row):
                next_row = row_address + (stride << 4)
                m.d.sync += [
                    rows.eq(rows - 1),
                    left.eq(words), address.eq(next_row), row_address.eq(next_row),
                    running.eq(rows != 1),
                ]

        m.d.comb += [taken.eq(self.word.valid & self.word.ready),
                     self.requested.eq(Mux(issue, length, 0))]
        m.d.sync += reserved.eq(reserved + Mux(issue, length, 0) - taken)

        buffers, resetting = [], ResetSignal("sync", allow_reset_less=True)
        for i, port in enumerate(ports):
            m.submodules[f"buffer{i}"] = buffer = Queue(64, depth=depth)
            m.d.comb += [buffer.i.payload.eq(port.data), buffer.i.valid.eq(port.valid),
                         buffer.o.ready.eq(taken)]
            m.d.sync += [
                Assert(resetting | ~port.valid | buffer.i.ready, "a beat came to a full port FIFO"),
                Assert(resetting | (reserved == port.owed + buffer.level),
                       "words under way are not those that room is reserved for"),
            ]
            buffers.append(buffer)
        m.d.sync += [
            Assert(~issue | Cat(port.burst.ready for port in ports).all(),
                   "a burst came to a full port"),
            Assert(reserved <= depth, "more words are under way than the port FIFOs hold"),
            Assert(~issue | (address[:4] + length <= BURST_WORDS),
                   "a burst leaves its block of 512 bytes"),
            Assert(~running | ((left != 0) & (words != 0)), "a stream without words runs"),
            Assert(~picking | (words != 0) | ((open_rows == 0) & (next_group == groups)),
                   "rows without words are picked"),
        ]
        m.d.comb += [
            self.word.payload.eq(Cat(b.o.payload for b in buffers)),
            self.word.valid.eq(Cat(b.o.valid for b in buffers).all()),
            self.error.eq(Cat(port.error for port in ports).any()),
            self.quiet.eq(Cat(port.owed == 0 for port in ports).all()),
            self.active.eq(running | picking | (queue.level != 0) | (reserved != 0)),
        ]
        return m
