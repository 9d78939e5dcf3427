"""DMA readers: stream descriptors in, one 32-byte stream word per clock out.

A generator splits descriptors into bursts that stay inside a 512-byte block; the same burst goes to all four ports,
each of which holds 8 bytes of every word (``xtvu.layout``). Bursts are requested as far ahead as the port FIFOs can
hold the answers, so latency costs nothing once a stream flows, and the next descriptor follows without a gap.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import PORTS, AXIRead
from .config import TVUConfig

__all__ = ["BURST_WORDS", "StreamDescriptor", "StreamReader"]

BURST_WORDS = 16
_WORD_ADDRESS_BITS = 27


class StreamDescriptor(data.Struct):
    """What to fetch: ``rows`` runs of ``words`` stream words, ``stride`` blocks of 512 bytes apart.

    ``address`` is the linear address divided by 32. With ``fence`` the fetch waits until ``ticket`` stores are complete.
    """

    address: _WORD_ADDRESS_BITS
    words: 24
    rows: 12
    stride: 12
    fence: 1
    ticket: 8


class StreamReader(wiring.Component):
    """Four AXI read masters behind one descriptor queue.

    Members: ``descriptor`` in; ``word`` out (256 bits); ``port0`` to ``port3``; ``completed`` (stores completed,
    modulo 256, for fences); ``error`` pulses on an AXI error response; ``bad`` pulses on a descriptor without words;
    ``requested`` (words in the burst requested this cycle); ``active`` while anything is queued, in flight or buffered.
    """

    def __init__(self, config: TVUConfig) -> None:
        self.config = config
        super().__init__({
            "descriptor": In(stream.Signature(StreamDescriptor)),
            "word": Out(stream.Signature(256)),
            **{f"port{i}": Out(AXIRead()) for i in range(PORTS)},
            "completed": In(8), "error": Out(1), "bad": Out(1), "requested": Out(5), "active": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = self.config.port_fifo_depth
        ports = [getattr(self, f"port{i}") for i in range(PORTS)]

        m.submodules.queue = queue = fifo.SyncFIFOBuffered(
            width=len(self.descriptor.payload.as_value()), depth=self.config.stream_queue_depth)
        head = data.View(StreamDescriptor, queue.r_data)
        m.d.comb += [
            queue.w_data.eq(self.descriptor.payload.as_value()), queue.w_en.eq(self.descriptor.valid),
            self.descriptor.ready.eq(queue.w_rdy),
        ]

        running = Signal()
        address, row_address = Signal(_WORD_ADDRESS_BITS), Signal(_WORD_ADDRESS_BITS)
        left, words, rows, stride = Signal(24), Signal(24), Signal(12), Signal(12)
        reserved = Signal(range(depth + 1))

        to_block_end = Signal(5)
        length = Signal(5)
        m.d.comb += [
            to_block_end.eq(BURST_WORDS - address[:4]),
            length.eq(Mux(left < to_block_end, left, to_block_end)),
        ]

        room = reserved + length <= depth
        issue, taken = Signal(), Signal()
        address_queues = []
        for i, port in enumerate(ports):
            m.submodules[f"address_queue{i}"] = addresses = fifo.SyncFIFOBuffered(width=36, depth=4)
            physical = Cat(Const(0, 3), address[:4], Const(i, 2), address[4:])
            m.d.comb += [
                addresses.w_data.eq(Cat(physical, (length - 1)[:4])), addresses.w_en.eq(issue),
                Cat(port.araddr, port.arlen).eq(addresses.r_data),
                port.arvalid.eq(addresses.r_rdy), addresses.r_en.eq(port.arready),
            ]
            address_queues.append(addresses)
        m.d.comb += issue.eq(running & room & Cat(q.w_rdy for q in address_queues).all())

        fenced = head.fence & ((self.completed - head.ticket)[:8].as_signed() < 0)
        load = Signal()
        last_burst = issue & (left == length) & (rows == 1)
        with m.If((~running | last_burst) & queue.r_rdy & ~fenced):
            m.d.comb += [load.eq(1), queue.r_en.eq(1)]
        with m.If(load):
            empty = (head.words == 0) | (head.rows == 0)
            m.d.comb += self.bad.eq(empty)
            m.d.sync += [
                running.eq(~empty), address.eq(head.address), row_address.eq(head.address),
                left.eq(head.words), words.eq(head.words), rows.eq(head.rows), stride.eq(head.stride),
            ]
        with m.Elif(issue):
            m.d.sync += [address.eq(address + length), left.eq(left - length)]
            with m.If(left == length):
                next_row = row_address + (stride << 4)
                m.d.sync += [
                    rows.eq(rows - 1), left.eq(words), address.eq(next_row), row_address.eq(next_row),
                    running.eq(rows != 1),
                ]

        m.d.comb += [taken.eq(self.word.valid & self.word.ready), self.requested.eq(Mux(issue, length, 0))]
        m.d.sync += reserved.eq(reserved + Mux(issue, length, 0) - taken)

        buffers, errors = [], []
        for i, port in enumerate(ports):
            m.submodules[f"buffer{i}"] = buffer = fifo.SyncFIFOBuffered(width=64, depth=depth)
            m.d.comb += [
                buffer.w_data.eq(port.rdata), buffer.w_en.eq(port.rvalid), port.rready.eq(buffer.w_rdy),
                buffer.r_en.eq(taken),
            ]
            buffers.append(buffer)
            errors.append(port.rvalid & port.rready & (port.rresp != 0))
        m.d.comb += [
            self.word.payload.eq(Cat(b.r_data for b in buffers)),
            self.word.valid.eq(Cat(b.r_rdy for b in buffers).all()),
            self.error.eq(Cat(errors).any()),
            self.active.eq(running | (queue.level != 0) | (reserved != 0)),
        ]
        return m
