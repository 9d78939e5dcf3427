"""Does what sound frames ask, one after another, and builds the answers.

An answer takes its addresses from the question and is never longer. Words move one at a time
between the frame and the bus, or DDR (direct.py); every access ends, be it by a time limit.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from tvu.axi import WriteBeat
from xtvu.datagram import FLAGS, MAGIC, MOST_WORDS, OPERATIONS, RECENT_WORDS, STATE, STATUS

from .answer import AnswerHead
from .bus import Bus, Memory
from .claim import Requests
from .direct import BLOCK_BITS, DirectWriter
from .frames import (
    DATAGRAM_HEAD,
    HEAD_BYTES,
    SLOT_WORDS,
    Addresses,
    Kind,
    Outgoing,
    Packet,
    Word,
    swapped,
)

__all__ = ["Engine"]

# Bits of the cycles that the bus has to answer; its own, longer limit ends in an answer that looks
# like any other. A row of the CPU's stores may keep it busy for some thousand.
_PATIENCE = 16
# packet and record head
_ETHERBONE_MAGIC, _ETHERBONE_SIZES, _RECORD_BYTES = swapped(0x4E6F, 2), 0x44, 12
_ALL = (1 << 32) - 1


def _bytes_swapped(word: Value) -> Value:
    return Cat(word[24:32], word[16:24], word[8:16], word[0:8])


class Engine(wiring.Component):
    """Members: ``packet`` in, with ``address`` and ``word`` of its slot; ``tx_address``,
    ``tx_word``, ``tx_write`` and ``send`` of the transmitter; ``bus``; ``beat`` to DDR, where
    ``owed`` answers are still to come and ``failed`` is one that is an error; ``claim``; ``state``:
    words of STATE; blocks of 4 KB of DDR that nobody may write, from ``protect_first`` to before
    ``protect_end``; ``refused`` pulses for requests that somebody else made, or that have no sense.
    """

    def __init__(self, addresses: Addresses, memory: Memory) -> None:
        self._memory = memory
        self._answer_head, self._writer = AnswerHead(addresses), DirectWriter(memory)
        super().__init__({
            "packet": In(stream.Signature(Packet)), "address": Out(range(SLOT_WORDS)),
            "word": In(32),
            "tx_address": Out(range(SLOT_WORDS)), "tx_word": Out(32), "tx_write": Out(1),
            "send": Out(stream.Signature(Outgoing)),
            "bus": Out(Bus()),
            "beat": Out(stream.Signature(WriteBeat)), "owed": In(6), "failed": In(1),
            "claim": Out(Requests()), "state": In(32 * len(STATE)), "protect_first": In(18),
            "protect_end": In(19), "refused": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.answer, m.submodules.writer = self._answer_head, self._writer
        wiring.connect(m, self._answer_head.send, wiring.flipped(self.send))
        wiring.connect(m, self._writer.beat, wiring.flipped(self.beat))
        self._registers(m)
        with m.FSM():
            self._read_head(m)
            self._echo(m)
            self._etherbone(m)
            self._datagram(m)
            self._read(m)
            self._write(m)
            self._data(m)
            self._list(m)
            self._answer(m)
        return m

    def _registers(self, m: Module) -> None:
        # of the frame: ``word`` is the one at the cursor
        self._cursor, self._next = Signal(range(SLOT_WORDS)), Signal(range(SLOT_WORDS))
        self._mac, self._ports = Signal(48), Signal(32)
        # of the packet, as the queue that it waits in is slow
        self._kind, self._packet_length = Signal(Kind), Signal(11)
        # first words of the UDP payload
        self._head = Array(Signal(32, name=f"head{i}") for i in range(Word.DATA - Word.PAYLOAD))
        self._target, self._final = Signal(32), Signal(32)  # on the bus
        # of the answer; words to go; one of them
        self._place, self._left, self._value = Signal(range(SLOT_WORDS)), Signal(9), Signal(32)
        self._status, self._length = Signal(8), Signal(11)  # of the answer; its IP packet's
        self._etherbone_record = Signal()  # bytes of words are the other way round there
        self._reads = Signal(8)  # that follow the writes of such a record
        self._late, waited = Signal(), Signal(_PATIENCE)  # the bus is
        # What the bus says is looked at from registers, so ``cyc`` must not be up a cycle longer.
        bus, self._asks, self._acked, failed = self.bus, Signal(), Signal(), Signal()
        self._read_data = Signal.like(bus.dat_r)
        m.d.comb += [bus.cyc.eq(self._asks & ~self._acked & ~failed),
                     self._late.eq(waited.all() | failed)]
        m.d.sync += [self._acked.eq(bus.cyc & bus.ack), failed.eq(bus.cyc & bus.err),
                     self._read_data.eq(bus.dat_r),
                     waited.eq(Mux(bus.cyc & ~bus.ack, waited + 1, 0))]
        claim, (_, token, sequence, operation, _) = self.claim, self._head
        self._operation, self._flags, self._count = operation[:8], operation[8:16], operation[16:]
        m.d.comb += [
            self._next.eq(self._cursor), self.address.eq(self._next),
            claim.host.port.eq(self._ports[:16]),
            claim.host.token.eq(Mux(self._etherbone_record, 0, token)),
            claim.sequence.eq(sequence), claim.status.eq(self._status),
            claim.take_over.eq((self._flags & FLAGS["TAKE_OVER"]) != 0),
            self.bus.adr.eq(self._target[2:]), self.bus.dat_w.eq(self._swap(self.word)),
        ]
        head = self._answer_head
        self._built, word, write = Signal.like(head.place), Signal.like(head.word), Signal()
        self._word, self._write_word = word, write
        m.d.sync += [
            self._cursor.eq(self._next), self._packet_length.eq(self.packet.payload.length),
            # a part that puts nothing says zero
            self.tx_address.eq(self._built | head.place), self.tx_word.eq(word | head.word),
            self.tx_write.eq(write | head.write),
        ]
        mapped, writable = Signal(), Signal()
        block = self._target[BLOCK_BITS:30]
        protected = (self._memory.ddr.holds(self._target) & (block >= self.protect_first)
                     & (block < self.protect_end))
        m.d.comb += [
            mapped.eq(Cat(region.holds(self._target) for region in self._memory.regions).any()
                      & (self._target[:2] == 0)),
            writable.eq(Cat(region.holds(self._target)
                            for region in self._memory.regions if region.writable).any()
                        & (self._target[:2] == 0)),
        ]
        self._mapped, self._writable, self._protected = mapped, writable, protected

    def _swap(self, word: Value) -> Value:
        """A word of the bus as it lies in the frame, or the other way."""
        return Mux(self._etherbone_record, _bytes_swapped(word), word)

    def _fetch(self, m: Module) -> None:
        """Moves the cursor on."""
        m.d.comb += self._next.eq(self._cursor + 1)

    def _access(self, m: Module, write: int) -> Value:
        """Drives the bus, from registers, until it answers or is given up; whether it answers
        now."""
        answered = Signal(name="answered")
        m.d.comb += answered.eq(self._asks & self._acked)
        m.d.sync += [self._asks.eq(~answered & ~self._late), self.bus.we.eq(write)]
        return answered

    def _put(self, m: Module, place: Value | int, word: Value | int) -> None:
        m.d.comb += [self._built.eq(place), self._word.eq(word), self._write_word.eq(1)]

    def _refuse(self, m: Module, status: str) -> None:
        """An answer that is nothing but a status."""
        m.d.sync += [self._status.eq(STATUS[status]), self._count.eq(0)]
        m.next = "ANSWER"

    # -- the head of the frame ---------------------------------------------------------------------

    def _read_head(self, m: Module) -> None:
        packet = self.packet.payload
        with m.State("IDLE"):
            m.d.comb += self._next.eq(Word.MAC_LOW)
            m.d.sync += [self._status.eq(STATUS["OK"]),
                         self._etherbone_record.eq(packet.kind == Kind.ETHERBONE),
                         self._kind.eq(packet.kind)]
            with m.If(self.packet.valid & self.send.ready):
                m.next = "HEAD"
        with m.State("HEAD"):
            self._fetch(m)
            ip = self.claim.host.ip
            with m.Switch(self._cursor):
                with m.Case(Word.MAC_LOW):
                    m.d.sync += self._mac[:32].eq(self.word)
                with m.Case(Word.MAC_HIGH):
                    m.d.sync += self._mac[32:].eq(self.word[:16])
                with m.Case(Word.SOURCE):
                    # in an ARP frame, whose addresses lie elsewhere, half of the word
                    m.d.sync += ip.eq(Mux(self._kind == Kind.ARP, self.word[16:], self.word))
                with m.Case(Word.DESTINATION):
                    with m.If(self._kind == Kind.ARP):
                        m.d.sync += ip[16:].eq(self.word[:16])
                with m.Case(Word.PORTS):
                    m.d.sync += self._ports.eq(self.word)
                for place in range(Word.PAYLOAD, Word.DATA):
                    with m.Case(place):
                        m.d.sync += self._head[place - Word.PAYLOAD].eq(self.word)
            with m.If(self._cursor == Word.DATA - 1):
                m.next = "KIND"
        with m.State("KIND"):
            with m.Switch(self._kind):
                with m.Case(Kind.ARP):
                    m.d.sync += self._length.eq(HEAD_BYTES)
                    m.next = "ANSWER"
                with m.Case(Kind.ECHO):
                    m.d.comb += self._next.eq(Word.PORTS)
                    m.next = "ECHO"
                with m.Case(Kind.ETHERBONE):
                    m.next = "ETHERBONE"
                with m.Case(Kind.DATAGRAM):
                    m.next = "DATAGRAM"

    def _echo(self, m: Module) -> None:
        """The same again, as an answer: type 0 for 8, and a checksum as much larger (in whose sum
        the order of bytes is free)."""
        with m.State("ECHO"):
            self._fetch(m)
            total, last = Signal(17), Signal.like(self._cursor)
            m.d.comb += total.eq(self.word[16:] + 8)
            m.d.sync += last.eq((self._packet_length + 15) >> 2)
            first = Cat(Const(0, 16), (total[:16] + total[16])[:16])
            self._put(m, self._cursor, Mux(self._cursor == Word.PORTS, first, self.word))
            m.d.sync += self._length.eq(self._packet_length)
            with m.If(self._cursor == last):
                m.next = "ANSWER"

    # -- Etherbone 1.0: a probe, or a packet of one record of whole words --------------------------

    def _etherbone(self, m: Module) -> None:
        head, padding, record, first, _ = self._head
        length = self._packet_length
        reads, writes = record[24:], record[16:24]
        size = Signal(12)
        m.d.comb += size.eq(HEAD_BYTES + _RECORD_BYTES
                            + 4 * (reads + writes + (reads != 0) + (writes != 0)))
        known = ((head[:16] == _ETHERBONE_MAGIC) & (head[24:] == _ETHERBONE_SIZES)
                 & (head[20:24] == 1))
        probe, answer = head[16], head[17]
        # The head stands there a cycle before it is looked at.
        is_probe, is_record = Signal(), Signal()
        m.d.sync += [
            is_probe.eq(known & probe & ~answer
                        & ((length == HEAD_BYTES + 8) | (length == HEAD_BYTES + 12))),
            is_record.eq(known & ~probe & ~answer & (record[:4] == 0) & (record[5:16] == 0x0F << 3)
                         & (length == size) & ((reads != 0) | (writes != 0))),
        ]
        with m.State("ETHERBONE"):
            m.d.comb += self._next.eq(Word.FIRST + 1)
            m.d.sync += [self._target.eq(_bytes_swapped(first)),
                         self._final.eq(_bytes_swapped(first) + ((writes - 1) << 2)),
                         self._left.eq(writes),
                         self._reads.eq(reads), self._place.eq(Word.FIRST + 1)]
            with m.If(is_probe):
                m.d.sync += [self._length.eq(length), self._reads.eq(0)]
                m.next = "PROBED"
            with m.Elif(is_record):
                m.next = "ENTER"
            with m.Else():
                m.next = "REFUSED"
        with m.State("PROBED"):
            self._put(m, Word.PAYLOAD, Cat(head[:16], Const(2, 2), head[18:]))
            m.next = "PROBED PADDING"
        with m.State("PROBED PADDING"):
            self._put(m, Word.PAYLOAD + 1, padding)
            m.next = "PROBED REST"
        with m.State("PROBED REST"):
            self._put(m, Word.PAYLOAD + 2, 0)
            m.next = "ANSWER"
        with m.State("ENTER"):
            m.d.comb += self.claim.enter.eq(1)
            with m.If(self._left == 0):  # whatever the claim says: the memory is not to wait for it
                m.d.comb += self._next.eq(Word.FIRST)
            with m.If(self.claim.ready):
                m.next = "REFUSED"
                with m.If(self.claim.granted):
                    m.next = "WRITE"
                    with m.If(self._left == 0):
                        m.next = "RECORD READS"
        with m.State("RECORD READS"):  # at the cursor is the address for the answer
            m.d.sync += [self._left.eq(self._reads),
                         self._length.eq(HEAD_BYTES + _RECORD_BYTES + 4 + (self._reads << 2))]
            m.next = "DONE"
            with m.If(self._reads != 0):
                self._fetch(m)
                self._put(m, Word.FIRST, self.word)
                m.next = "RECORD HEAD"
        with m.State("RECORD HEAD"):
            self._put(m, Word.RECORD, Cat(Const(0x0F00, 16), self._reads, Const(0, 8)))
            m.next = "READ"
        with m.State("RECORD DONE"):
            self._put(m, Word.PAYLOAD, head)
            m.next = "RECORD PADDING"
        with m.State("RECORD PADDING"):
            self._put(m, Word.PAYLOAD + 1, padding)
            m.next = "ANSWER"

    # -- datagrams ---------------------------------------------------------------------------------

    def _datagram(self, m: Module) -> None:
        claim, (magic, _, sequence, _, address) = self.claim, self._head
        count, stale, is_datagram = self._count, Signal(32), Signal()
        # The head stands there a cycle before it is looked at.
        m.d.sync += [
            # negative if a WRITE of a later sequence number was done
            stale.eq(sequence - claim.last),
            is_datagram.eq((magic == MAGIC) & (count <= MOST_WORDS)
                           & (self._packet_length == DATAGRAM_HEAD + (count << 2))),
        ]
        with m.State("DATAGRAM"):
            m.d.sync += [self._left.eq(count), self._place.eq(Word.DATA), self._target.eq(address),
                         self._final.eq(address + ((count - 1) << 2))]
            m.next = "REFUSED"
            with m.If(is_datagram):
                m.next = "ALLOWED"
                with m.If(self._operation == OPERATIONS["CLAIM"]):
                    m.next = "CLAIM"
        with m.State("CLAIM"):
            m.d.comb += claim.claim.eq(count == len(STATE))
            with m.If(count != len(STATE)):
                self._refuse(m, "BAD")
            with m.Elif(claim.ready):
                m.d.sync += self._status.eq(Mux(claim.granted, STATUS["OK"],
                                                Mux(claim.free, STATUS["FREE"], STATUS["HELD"])))
                m.next = "STATE"
        with m.State("ALLOWED"):
            m.d.comb += claim.touch.eq(claim.holder)
            with m.If(~claim.holder):
                m.d.comb += self.refused.eq(1)
                self._refuse(m, "HELD")
                m.d.sync += self._status.eq(Mux(claim.free, STATUS["FREE"], STATUS["HELD"]))
            with m.Elif(claim.ready):
                with m.Switch(self._operation):
                    with m.Case(OPERATIONS["RELEASE"]):
                        m.d.comb += [claim.leave.eq(1), claim.touch.eq(0)]
                        self._refuse(m, "OK")
                    with m.Case(OPERATIONS["READ"]):
                        m.next = "ANSWER"
                        with m.If(count != 0):
                            m.next = "READ"
                    with m.Case(OPERATIONS["WRITE"]):
                        with m.If((count == 0) | (address[:2] != 0)):
                            self._refuse(m, "BAD")
                        with m.Elif(stale == 0):
                            self._refuse(m, "OK")
                            m.d.sync += self._status.eq(claim.last_status)
                        with m.Elif(stale[-1]):
                            m.next = "DONE"
                        with m.Else():
                            m.next = "WRITE"
                    with m.Case(OPERATIONS["DATA"]):
                        with m.If((count == 0) | count[0] | (address[:3] != 0)):
                            self._refuse(m, "BAD")
                        with m.Elif(stale[-1]):
                            m.next = "DONE"
                        with m.Else():
                            m.next = "DATA"
                    with m.Default():
                        self._refuse(m, "BAD")

    # -- words from the bus, and to it -------------------------------------------------------------

    def _read(self, m: Module) -> None:
        with m.State("READ"):
            self._fetch(m)
            m.d.sync += self._target.eq(self._swap(self.word))
            m.next = "READ MAP"
        with m.State("READ MAP"):
            m.d.sync += self._value.eq(_ALL)
            m.next = "READ BUS"
            with m.If(self._status == STATUS["STUCK"]):  # one time limit is enough for a frame
                m.next = "READ STORE"
            with m.Elif(~self._mapped):
                m.d.sync += self._status.eq(STATUS["UNMAPPED"])
                m.next = "READ STORE"
        with m.State("READ BUS"):
            answered = self._access(m, 0)
            with m.If(self._late):
                m.d.sync += self._status.eq(STATUS["STUCK"])
                m.next = "READ STORE"
            with m.Elif(answered):
                m.d.sync += self._value.eq(self._read_data)
                m.next = "READ STORE"
        with m.State("READ STORE"):
            self._put(m, self._place, self._swap(self._value))
            m.d.sync += [self._place.eq(self._place + 1), self._left.eq(self._left - 1)]
            m.next = "READ"
            with m.If(self._left == 1):
                m.next = "ANSWER"
                with m.If(self._etherbone_record):
                    m.next = "RECORD DONE"

    def _write(self, m: Module) -> None:
        """Both ends are looked at before anything is written; no region ends between them that is
        not as good as another."""
        with m.State("WRITE"):
            m.d.sync += [self._target.eq(self._final), self._final.eq(self._target)]
            self._check(m, "WRITE MAP", "WRITTEN")
        with m.State("WRITE MAP"):
            m.d.sync += self._target.eq(self._final)
            self._check(m, "WRITE BUS", "WRITTEN")
        with m.State("WRITE BUS"):
            answered = self._access(m, 1)
            with m.If(self._late):
                m.d.sync += self._status.eq(STATUS["STUCK"])
                m.next = "WRITTEN"
            with m.Elif(answered):
                self._fetch(m)
                m.d.sync += [self._target.eq(self._target + 4), self._left.eq(self._left - 1)]
                with m.If(self._left == 1):
                    m.next = "WRITTEN"
        behind = Signal.like(self._cursor)
        m.d.sync += behind.eq(Word.FIRST + 1 + self._head[Word.RECORD - Word.PAYLOAD][16:24])
        with m.State("WRITTEN"):
            with m.If(self._etherbone_record):
                # also what was not written is behind the cursor now
                m.d.comb += self._next.eq(behind)
                m.next = "RECORD READS"
            with m.Else():
                m.d.comb += self.claim.done.eq(1)
                with m.If(self.claim.ready):
                    m.d.sync += self._count.eq(0)
                    m.next = "ANSWER"

    def _check(self, m: Module, good: str, bad: str) -> None:
        m.next = good
        with m.If(~self._writable):
            m.d.sync += self._status.eq(STATUS["UNMAPPED"])
            m.next = bad
        with m.Elif(self._protected):
            m.d.sync += self._status.eq(STATUS["PROTECTED"])
            m.next = bad

    # -- words to DDR ------------------------------------------------------------------------------

    def _data(self, m: Module) -> None:
        writer = self._writer
        m.d.comb += [
            writer.target.eq(self._target), writer.final.eq(self._final),
            writer.count.eq(self._left), writer.word.eq(self.word),
            writer.owed.eq(self.owed), writer.failed.eq(self.failed),
            writer.protect_first.eq(self.protect_first), writer.protect_end.eq(self.protect_end),
        ]
        with m.State("DATA"):
            m.d.comb += writer.start.eq(1)
            with m.If(writer.fetch):
                self._fetch(m)
            with m.If(writer.done):
                with m.If(writer.status != STATUS["OK"]):
                    m.d.sync += [self._status.eq(writer.status), self._count.eq(0)]
                    m.next = "ANSWER"
                with m.Else():
                    m.d.comb += self.claim.arrived.eq(1)
                    m.next = "DONE"
                    with m.If((self._flags & FLAGS["ANSWER"]) != 0):
                        m.next = "RECENT"

    # -- answers -----------------------------------------------------------------------------------

    def _list(self, m: Module) -> None:
        """Lists of a fixed length as an answer's data: words of STATE, or the DATA that arrived."""
        index = Signal(range(RECENT_WORDS))
        m.d.comb += self.claim.index.eq(index)
        for state, words, count in (("STATE", self.state.word_select(index, 32), len(STATE)),
                                    ("RECENT", self.claim.recent, RECENT_WORDS)):
            with m.State(state):
                self._put(m, Word.DATA + index, words)
                m.d.sync += index.eq(index + 1)
                with m.If(index == count - 1):
                    m.d.sync += [index.eq(0), self._count.eq(count)]
                    m.next = "ANSWER"

    def _answer(self, m: Module) -> None:
        head, question = self._answer_head, self._answer_head.question
        _, token, sequence, _, address = self._head
        m.d.comb += [
            question.kind.eq(self._kind), question.mac.eq(self._mac),
            question.ip.eq(self.claim.host.ip), question.ports.eq(self._ports),
            question.token.eq(token), question.sequence.eq(sequence), question.address.eq(address),
            head.length.eq(self._length),
            head.operation.eq(Cat(self._operation, self._status, self._count)),
        ]
        with m.State("ANSWER"):
            m.d.comb += head.start.eq(1)
            with m.If(head.done):
                m.next = "DONE"
        with m.State("REFUSED"):
            m.d.comb += self.refused.eq(1)
            m.next = "DONE"
        with m.State("DONE"):
            m.d.comb += self.packet.ready.eq(1)
            m.next = "IDLE"
