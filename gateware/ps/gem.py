"""The processing system's Ethernet controller (GEM) as a pair of frame streams, so that the network
side does not know where its frames come from.

The controller moves frames between the line and rings of buffers in on-chip memory; what is here
walks these rings from the other side. A descriptor is two words (UG585, "Gigabit Ethernet
Controller"). For a frame that came: address, a bit that wraps the ring, and a bit ``used`` that the
controller sets; then length, and whether it is all of a frame. For one to send: address; then
length, ``last``, ``wrap``, and a bit ``used`` that the controller sets when it is gone. The
firmware sets both rings up before it raises ``enable``.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from network.frames import Byte
from tvu.queue import Queue

from . import registers
from .gp import Access

__all__ = ["GEMReceiver", "GEMTransmitter"]

_PAUSE = 64  # cycles between two looks at a descriptor
_BURST = 16  # words
_USED, _WRAP = 0, 1  # bits of the first word of a descriptor of the receiver's
_WHOLE = (14, 15)  # and of its second: first and last part of a frame
_LAST, _TX_WRAP, _SENT = 15, 30, 31  # bits of the second word of the transmitter's


class _Word(data.Struct):
    """Bytes of a frame: ``count`` + 1 of them, with ``last`` the last ones; ``error``: it could not
    be read."""

    data: 32
    count: 2
    last: 1
    error: 1


class _Ring:
    """A place in a ring, with the addresses of its descriptor and its buffer."""

    def __init__(self, name: str, ring: int, frames: int, count: int) -> None:
        self._first = frames
        self.index = Signal(range(count), name=f"{name}_index")
        self.frame = Signal(32, name=f"{name}_frame", init=frames)
        self.descriptor = Const(ring, 32) + (self.index << 3)
        self.wraps = self.index == count - 1

    def reset(self) -> list:
        return [self.index.eq(0), self.frame.eq(self._first)]

    def advance(self) -> list:
        return [self.index.eq(self.index + 1),
                self.frame.eq(Mux(self.wraps, self._first,
                                  self.frame + registers.BUFFER_BYTES))]


class GEMReceiver(wiring.Component):
    """Members: ``frame`` out, with a pause behind each; ``access``; ``enable``; ``idle``: it is not
    enabled and nothing is under way, so the rings may be set up."""

    def __init__(self) -> None:
        super().__init__({
            "frame": Out(stream.Signature(Byte, always_ready=True)), "access": Out(Access()),
            "enable": In(1), "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = Queue(_Word, depth=2 * _BURST)
        request, answer = self.access.request, self.access.answer
        ring = _Ring("rx", registers.RX_RING, registers.RX_FRAMES, registers.RX_BUFFERS)
        pause, used, second = Signal(range(_PAUSE)), Signal(), Signal()
        length, place, bad = Signal(13), Signal(13), Signal()  # bytes
        address = ring.frame + place
        left = Signal(13)  # words that are still to come, less one
        whole = Cat(answer.data[bit] for bit in _WHOLE).all()
        word = words.i.payload
        m.d.comb += [
            self.access.beat.valid.eq(1), self.access.beat.payload.strobe.eq(0xF),
            self.access.beat.payload.data.eq(ring.frame | (ring.wraps << _WRAP)),
            left.eq((length - 1 - place) >> 2),
            word.data.eq(answer.data), word.last.eq(left == 0), word.error.eq(bad | answer.error),
            word.count.eq(Mux(left == 0, length - 1, 3)),
        ]
        with m.FSM():
            with m.State("wait"):
                m.d.comb += self.idle.eq(~self.enable)
                m.d.sync += pause.eq(pause + 1)
                with m.If(~self.enable):
                    m.d.sync += ring.reset()
                with m.Elif(pause == 0):
                    m.next = "look"
            with m.State("look"):
                m.d.comb += [request.valid.eq(1), request.payload.address.eq(ring.descriptor),
                             request.payload.length.eq(1)]
                m.d.sync += [second.eq(0), place.eq(0), bad.eq(0), pause.eq(1)]
                with m.If(request.ready):
                    m.next = "looked"
            with m.State("looked"):
                with m.If(answer.valid):
                    m.d.sync += [second.eq(1), bad.eq(bad | answer.error)]
                    with m.If(~second):
                        m.d.sync += used.eq(answer.data[_USED])
                    with m.Else():
                        m.d.sync += length.eq(answer.data)
                    with m.If(answer.last):
                        m.next = "wait"
                        with m.If(used & ~bad & ~answer.error):
                            fits = ((answer.data[:13] != 0)
                                    & (answer.data[:13] <= registers.BUFFER_BYTES))
                            m.next = "free"
                            with m.If(whole & fits):
                                m.next = "fetch"
            with m.State("fetch"):
                m.d.comb += [request.valid.eq(words.level <= _BURST),
                             request.payload.address.eq(address),
                             request.payload.length.eq(Mux(left < _BURST, left, _BURST - 1))]
                with m.If(request.valid & request.ready):
                    m.next = "fetching"
            with m.State("fetching"):
                m.d.comb += words.i.valid.eq(answer.valid)
                with m.If(answer.valid):
                    m.d.sync += [place.eq(place + 4), bad.eq(bad | answer.error)]
                    with m.If(answer.last):
                        m.next = "fetch"
                        with m.If(word.last):
                            m.next = "free"
            with m.State("free"):
                m.d.comb += [request.valid.eq(1), request.payload.address.eq(ring.descriptor),
                             request.payload.write.eq(1)]
                with m.If(request.ready):
                    m.next = "freed"
            with m.State("freed"):
                with m.If(answer.valid):
                    m.d.sync += [ring.advance(), pause.eq(0)]  # there may be more
                    m.next = "wait"
        self._send(m, words)
        return m

    def _send(self, m: Module, words: Queue) -> None:
        """Words to bytes."""
        byte, rest, word = Signal(2), Signal(), words.o.payload
        last = word.last & (byte == word.count)
        m.d.comb += [
            self.frame.valid.eq(words.o.valid & ~rest),
            self.frame.payload.data.eq(word.data.word_select(byte, 8)),
            self.frame.payload.last.eq(last), self.frame.payload.error.eq(last & word.error),
            words.o.ready.eq(~rest & (byte == word.count)),
        ]
        m.d.sync += rest.eq(self.frame.valid & last)
        with m.If(self.frame.valid):
            m.d.sync += byte.eq(Mux(byte == word.count, 0, byte + 1))


class GEMTransmitter(wiring.Component):
    """Members: ``frame`` in; ``access``; ``enable`` and ``idle`` as above. The controller's
    registers are at ``base``. A frame for which no buffer is free within 2^``patience_bits`` cycles
    is dropped, as without a link it would wait for ever."""

    def __init__(self, base: int, patience_bits: int = 17) -> None:
        self._base, self._patience_bits = base, patience_bits
        super().__init__({
            "frame": In(stream.Signature(Byte)), "access": Out(Access()), "enable": In(1),
            "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = Queue(32, depth=_BURST)
        request, answer, beat = self.access.request, self.access.answer, self.access.beat
        ring = _Ring("tx", registers.TX_RING, registers.TX_FRAMES, registers.TX_BUFFERS)
        start = sum(1 << registers.GEM_CONTROL[name] for name in ("rx", "tx", "mdio", "start"))
        length, written, count = Signal(11), Signal(11), Signal(5)  # bytes, bytes, words
        pending, ended, second = Signal(32), Signal(), Signal()
        patience = Signal(self._patience_bits + 1)
        byte = self.frame.payload
        m.d.comb += [
            beat.payload.strobe.eq(0xF), words.o.ready.eq(0),
            words.i.payload.eq(pending),
        ]
        with m.FSM():
            with m.State("wait"):
                m.d.comb += self.idle.eq(~self.enable)
                m.d.sync += [length.eq(0), written.eq(0), ended.eq(0), patience.eq(0)]
                with m.If(~self.enable):
                    m.d.sync += ring.reset()
                    m.d.comb += self.frame.ready.eq(1)  # nobody is there
                with m.Elif(self.frame.valid):
                    m.next = "look"
            with m.State("look"):
                m.d.comb += [request.valid.eq(1), request.payload.address.eq(ring.descriptor | 4)]
                m.d.sync += patience.eq(patience + 1)
                with m.If(request.ready):
                    m.next = "looked"
            with m.State("looked"):
                m.d.sync += patience.eq(patience + 1)
                with m.If(answer.valid):
                    m.next = "look"
                    with m.If(answer.data[_SENT] & ~answer.error):
                        m.next = "gather"
                    with m.Elif(patience[-1]):
                        m.next = "drop"
            with m.State("drop"):
                m.d.comb += self.frame.ready.eq(1)
                with m.If(self.frame.valid & byte.last):
                    m.next = "wait"
            with m.State("gather"):
                m.d.comb += self.frame.ready.eq(1)
                with m.If(self.frame.valid):
                    m.d.sync += [length.eq(length + 1), ended.eq(byte.last),
                                 pending.word_select(length[:2], 8).eq(byte.data)]
                    with m.If(byte.last | (length[:2] == 3)):
                        m.next = "push"
            with m.State("push"):
                m.d.comb += words.i.valid.eq(1)
                m.d.sync += count.eq(count + 1)
                m.next = "gather"
                with m.If(ended | (count == _BURST - 1)):
                    m.next = "write"
            with m.State("write"):
                m.d.comb += [request.valid.eq(1), request.payload.write.eq(1),
                             request.payload.address.eq(ring.frame + written),
                             request.payload.length.eq(count - 1)]
                with m.If(request.ready):
                    m.next = "writing"
            with m.State("writing"):
                m.d.comb += [beat.valid.eq(words.o.valid), words.o.ready.eq(beat.ready),
                             beat.payload.data.eq(words.o.payload)]
                with m.If(answer.valid):
                    m.d.sync += [written.eq(written + 4 * _BURST), count.eq(0), second.eq(0)]
                    m.next = "gather"
                    with m.If(ended):
                        m.next = "describe"
            with m.State("describe"):
                m.d.comb += [request.valid.eq(1), request.payload.write.eq(1),
                             request.payload.address.eq(ring.descriptor),
                             request.payload.length.eq(1)]
                with m.If(request.ready):
                    m.next = "described"
            with m.State("described"):
                told = length | (1 << _LAST) | (ring.wraps << _TX_WRAP)
                m.d.comb += [beat.valid.eq(1), beat.payload.data.eq(Mux(second, told, ring.frame))]
                with m.If(beat.ready):
                    m.d.sync += second.eq(1)
                with m.If(answer.valid):
                    m.next = "start"
            with m.State("start"):
                m.d.comb += [request.valid.eq(1), request.payload.write.eq(1),
                             request.payload.address.eq(self._base + registers.GEM["net_ctrl"])]
                with m.If(request.ready):
                    m.next = "started"
            with m.State("started"):
                m.d.comb += [beat.valid.eq(1), beat.payload.data.eq(start)]
                with m.If(answer.valid):
                    m.d.sync += ring.advance()
                    m.next = "wait"
        return m
