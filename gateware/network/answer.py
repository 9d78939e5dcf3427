"""The head of an answer whose rest is built: that of a datagram, then those of IP and Ethernet.

An answer goes where the question came from.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.datagram import MAGIC

from .frames import DATAGRAM_HEAD, SLOT_WORDS, Addresses, Kind, Outgoing, Word, swapped

__all__ = ["AnswerHead", "Question"]

_IP_FIRST, _IP_FRAGMENT, _IP_TTL = swapped(0x4500, 2), swapped(0x0000_4000, 4), 64
_ETHERTYPE = {Kind.ARP: swapped(0x0806, 2), Kind.ECHO: swapped(0x0800, 2)}
_ARP_ANSWER = (swapped(0x0001_0800, 4), swapped(0x0604_0002, 4))
_PROTOCOL = {Kind.ECHO: 1, Kind.DATAGRAM: 17}
_ETHERNET_BYTES = 14


class Question(data.Struct):
    """Who asked what: the sender's ``mac``, ``ip`` and ``ports`` as they lie in the frame; of a
    datagram, the words of its head that an answer repeats."""

    kind: Kind
    mac: 48
    ip: 32
    ports: 32
    token: 32
    sequence: 32
    address: 32


class AnswerHead(wiring.Component):
    """Members: ``start`` until ``done``: the rest of the answer to ``question`` is built, an IP
    packet of ``length`` bytes or a datagram with ``operation`` (the word of its head that also has
    flags or status, and the count); ``place``, ``word`` and ``write`` of the transmitter;
    ``send``."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        super().__init__({
            "start": In(1), "done": Out(1), "question": In(Question), "length": In(11),
            "operation": In(32),
            "place": Out(range(SLOT_WORDS)), "word": Out(32), "write": Out(1),
            "send": Out(stream.Signature(Outgoing)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        question = self.question
        datagram = question.kind == Kind.DATAGRAM
        length, step = Signal(11), Signal(range(Word.DATA))
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    length.eq(Mux(datagram, DATAGRAM_HEAD + (self.operation[16:] << 2),
                                  self.length)),
                    step.eq(Mux(datagram, Word.PAYLOAD, 0)),
                ]
                with m.If(self.start):
                    m.next = "SUM"
                    with m.If(datagram):
                        m.next = "DATAGRAM"
            with m.State("DATAGRAM"):
                words = Array([Const(MAGIC, 32), question.token, question.sequence, self.operation,
                               question.address])
                self._put(m, step, words[(step - Word.PAYLOAD)[:3]])
                m.d.sync += step.eq(step + 1)
                with m.If(step == Word.DATA - 1):
                    m.d.sync += step.eq(0)
                    m.next = "SUM"
            total = self._checksum(m, length)
            with m.State("HEAD"):
                ends = self._head(m, step, length, total)
                m.d.sync += step.eq(step + 1)
                with m.If(ends):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [
                    self.send.valid.eq(1), self.done.eq(self.send.ready),
                    # the CRC of a datagram comes on top
                    self.send.payload.length.eq(length + Mux(datagram, _ETHERNET_BYTES - 4,
                                                             _ETHERNET_BYTES)),
                    self.send.payload.datagram.eq(datagram),
                ]
                with m.If(self.send.ready):
                    m.next = "IDLE"
        return m

    def _put(self, m: Module, place: Value, word: Value) -> None:
        m.d.comb += [self.place.eq(place), self.word.eq(word), self.write.eq(1)]

    def _checksum(self, m: Module, length: Value) -> Value:
        """The checksum of the IP head, in three steps of which ARP makes nothing."""
        ip, own = self.question.ip, Const(swapped(self._addresses.ip, 4), 32)
        sums = [Signal(18, name=f"sum{i}") for i in range(3)]
        total = Signal(20)
        m.d.sync += [
            sums[0].eq(_IP_FIRST + (_IP_FRAGMENT >> 16) + self._size(length)),
            sums[1].eq(Cat(Const(_IP_TTL, 8), self._protocol()) + ip[:16] + ip[16:]),
            sums[2].eq(own[:16] + own[16:]),
        ]
        with m.State("SUM"):  # ``length`` is there; its sum follows
            m.next = "ADD"
        with m.State("ADD"):
            m.d.sync += total.eq(sums[0] + sums[1] + sums[2])
            m.next = "FOLD"
        for state, following in (("FOLD", "FOLD AGAIN"), ("FOLD AGAIN", "HEAD")):
            with m.State(state):
                m.d.sync += total.eq(total[:16] + total[16:])
                m.next = following
        return total

    def _protocol(self) -> Value:
        return Mux(self.question.kind == Kind.ECHO, Const(_PROTOCOL[Kind.ECHO], 8),
                   Const(_PROTOCOL[Kind.DATAGRAM], 8))

    @staticmethod
    def _size(length: Value) -> Value:
        """A length as it is stored."""
        return Cat(length[8:], Const(0, 5), length[:8])

    def _head(self, m: Module, step: Value, length: Value, total: Value) -> Value:
        """Writes the word at ``step``; whether it is the last. An echo has its own head of ICMP
        where others have UDP's."""
        question, own = self.question, self._addresses
        mac, ip = Const(swapped(own.mac, 6), 48), Const(swapped(own.ip, 4), 32)
        is_arp, is_echo = question.kind == Kind.ARP, question.kind == Kind.ECHO
        udp_size = (length - 20)[:11]
        ethernet = (Cat(Const(0, 16), question.mac[:16]), question.mac[16:], mac[:32],
                    Cat(mac[32:], Mux(is_arp, Const(_ETHERTYPE[Kind.ARP], 16),
                                      Const(_ETHERTYPE[Kind.ECHO], 16))))
        arp = (*_ARP_ANSWER, mac[:32], Cat(mac[32:], ip[:16]), Cat(ip[16:], question.mac[:16]),
               question.mac[16:], question.ip)
        internet = (Cat(Const(_IP_FIRST, 16), self._size(length)), _IP_FRAGMENT,
                    Cat(Const(_IP_TTL, 8), self._protocol(), ~total[:16]), ip, question.ip,
                    Cat(question.ports[16:], question.ports[:16]), self._size(udp_size))
        words = Array([*ethernet, *(Mux(is_arp, a, b) for a, b in zip(arp, internet, strict=True))])
        ends = (step == Word.PAYLOAD - 1) | ((step == Word.PORTS) & is_echo)
        self._put(m, step, words[step])
        with m.If((step == Word.PORTS) & is_echo):
            m.d.comb += self.write.eq(0)
        return ends
