"""The way out: sends frames that were built in memory, without a gap, padded to Ethernet's least
length, a datagram with its CRC."""

from amaranth.hdl import Assert, Cat, Module, Mux, Signal
from amaranth.lib import fifo, memory, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ETHERNET
from amaranth.lib.wiring import In, Out

from .frames import SLOT_WORDS, Byte, Outgoing, Word

__all__ = ["Transmitter"]

_SLOTS = 2
_LEAST = 60  # bytes of a frame
_PAYLOAD = 4 * Word.PAYLOAD - 2


class Transmitter(wiring.Component):
    """Members: ``address``, ``word``, ``write``: builds a frame; ``send`` queues it, and is ready
    if there is room to build one; ``frame`` out."""

    def __init__(self) -> None:
        super().__init__({
            "address": In(range(SLOT_WORDS)), "word": In(32), "write": In(1),
            "send": In(stream.Signature(Outgoing)), "frame": Out(stream.Signature(Byte)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.slots = slots = memory.Memory(shape=32, depth=_SLOTS * SLOT_WORDS, init=[])
        m.submodules.queue = queue = fifo.SyncFIFO(width=len(self.send.payload.as_value()),
                                                   depth=_SLOTS)
        m.submodules.crc = crc = CRC32_ETHERNET(data_width=8).create()
        write, read = slots.write_port(), slots.read_port()
        write_slot, read_slot = Signal(range(_SLOTS)), Signal(range(_SLOTS))
        place, following = Signal(11), Signal(11)  # of the byte that is sent, and of the next
        busy, moves = Signal(), Signal()
        waiting, sent = Outgoing(queue.r_data), Signal(Outgoing)
        whole = Signal(11)
        byte, payload = Signal(8), Signal()
        m.d.comb += [
            write.addr.eq(Cat(self.address, write_slot)), write.data.eq(self.word),
            write.en.eq(self.write),
            queue.w_data.eq(self.send.payload.as_value()), queue.w_en.eq(self.send.valid),
            self.send.ready.eq(queue.w_rdy),
            payload.eq(sent.datagram & (place >= _PAYLOAD) & (place < sent.length)),
            byte.eq(Mux(place < sent.length, read.data.word_select((place + 2)[:2], 8),
                        Mux(sent.datagram, crc.crc.word_select((place - sent.length)[:2], 8), 0))),
            self.frame.valid.eq(busy), self.frame.payload.data.eq(byte),
            self.frame.payload.last.eq(place == whole - 1),
            moves.eq(busy & self.frame.ready), following.eq(Mux(moves, place + 1, place)),
            read.addr.eq(Cat(((following + 2) >> 2)[:9], read_slot)),
            crc.start.eq(~busy), crc.data.eq(byte), crc.valid.eq(moves & payload),
        ]
        m.d.sync += [
            place.eq(following), write_slot.eq(write_slot + (self.send.valid & self.send.ready)),
            Assert(~self.write | self.send.ready, "a frame was built without room"),
        ]
        with m.If(~busy):
            m.d.sync += [
                busy.eq(queue.r_rdy), sent.eq(waiting),
                whole.eq(Mux(waiting.datagram, waiting.length + 4,
                             Mux(waiting.length < _LEAST, _LEAST, waiting.length))),
            ]
        with m.Elif(moves & self.frame.payload.last):
            m.d.comb += queue.r_en.eq(1)
            m.d.sync += [busy.eq(0), place.eq(0), read_slot.eq(read_slot + 1)]
        return m
