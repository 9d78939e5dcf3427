"""Does what sound frames ask, one after another, and builds the answers.

An answer takes its addresses from the question and is never longer. Words move one at a time
between the frame, the bus, and DDR (through an HP port of its own); every access ends, be it by a
time limit.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from tvu.axi import WriteBeat
from xtvu.datagram import FLAGS, MAGIC, MOST_WORDS, OPERATIONS, RECENT_WORDS, STATE, STATUS

from .bus import Bus, Memory
from .claim import Requests
from .frames import SLOT_WORDS, Addresses, Kind, Outgoing, Packet, Word, swapped

__all__ = ["Engine"]

_PATIENCE = 16  # bits of the cycles that DDR has to answer
# ... and the bus, whose own, longer limit ends in an answer that looks like any other. A row of the
# CPU's stores may keep it busy for some thousand.
_BUS_PATIENCE = 16
_FIRST_DDR = 0x10_0000  # HP ports do not reach the megabyte below
_IP_FIRST, _IP_FRAGMENT, _IP_TTL = swapped(0x4500, 2), swapped(0x0000_4000, 4), 64
_ETHERTYPE = {Kind.ARP: swapped(0x0806, 2), Kind.ECHO: swapped(0x0800, 2)}
_ARP_ANSWER = (swapped(0x0001_0800, 4), swapped(0x0604_0002, 4))
_HEAD_BYTES = 28  # of IP and UDP
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
        self._addresses, self._memory = addresses, memory
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
        self._kind = Signal(Kind)  # of the packet, as the queue that it waits in is slow
        # first words of the UDP payload
        self._head = Array(Signal(32, name=f"head{i}") for i in range(Word.DATA - Word.PAYLOAD))
        self._target, self._final = Signal(32), Signal(32)  # on the bus
        # of the answer; words to go; one of them
        self._place, self._left, self._value = Signal(range(SLOT_WORDS)), Signal(9), Signal(32)
        self._status, self._length = Signal(8), Signal(11)  # of the answer; its IP packet's
        self._etherbone_record = Signal()  # bytes of words are the other way round there
        self._reads = Signal(8)  # that follow the writes of such a record
        self._patience, self._failed = Signal(_PATIENCE), Signal()  # with DDR
        self._late, waited = Signal(), Signal(_BUS_PATIENCE)  # the bus is
        m.d.comb += self._late.eq(waited.all() | (self.bus.cyc & self.bus.err))
        m.d.sync += waited.eq(Mux(self.bus.cyc & ~self.bus.ack, waited + 1, 0))
        with m.If(self.failed):
            m.d.sync += self._failed.eq(1)
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
        m.d.sync += self._cursor.eq(self._next)
        mapped, writable = Signal(), Signal()
        block = self._target[12:30]
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
        bus, answered = self.bus, Signal(name="answered")
        m.d.comb += answered.eq(bus.cyc & bus.ack)
        m.d.sync += [bus.cyc.eq(~answered & ~self._late), bus.we.eq(write)]
        return answered

    def _put(self, m: Module, place: Value | int, word: Value | int) -> None:
        m.d.comb += [self.tx_address.eq(place), self.tx_word.eq(word), self.tx_write.eq(1)]

    def _refuse(self, m: Module, status: str) -> None:
        """An answer that is nothing but a status."""
        m.d.sync += [self._status.eq(STATUS[status]), self._count.eq(0)]
        m.next = "LENGTH"

    # -- the head of the frame ---------------------------------------------------------------------

    def _read_head(self, m: Module) -> None:
        packet = self.packet.payload
        with m.State("IDLE"):
            m.d.comb += self._next.eq(Word.MAC_LOW)
            m.d.sync += [self._status.eq(STATUS["OK"]),
                         self._etherbone_record.eq(packet.kind == Kind.ETHERBONE),
                         self._kind.eq(packet.kind),
                         self._patience.eq(-1)]
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
                    m.d.sync += ip.eq(Mux(packet.kind == Kind.ARP, self.word[16:], self.word))
                with m.Case(Word.DESTINATION):
                    with m.If(packet.kind == Kind.ARP):
                        m.d.sync += ip[16:].eq(self.word[:16])
                with m.Case(Word.PORTS):
                    m.d.sync += self._ports.eq(self.word)
                for place in range(Word.PAYLOAD, Word.DATA):
                    with m.Case(place):
                        m.d.sync += self._head[place - Word.PAYLOAD].eq(self.word)
            with m.If(self._cursor == Word.DATA - 1):
                m.next = "KIND"
        with m.State("KIND"):
            with m.Switch(packet.kind):
                with m.Case(Kind.ARP):
                    m.d.sync += self._length.eq(_HEAD_BYTES)
                    m.next = "HEADER"
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
            length = self.packet.payload.length
            total = Signal(17)
            m.d.comb += total.eq(self.word[16:] + 8)
            first = Cat(Const(0, 16), (total[:16] + total[16])[:16])
            self._put(m, self._cursor, Mux(self._cursor == Word.PORTS, first, self.word))
            m.d.sync += self._length.eq(length)
            with m.If(self._cursor == (length + 15) >> 2):
                m.next = "SUM"

    # -- Etherbone 1.0: a probe, or a packet of one record of whole words --------------------------

    def _etherbone(self, m: Module) -> None:
        head, padding, record, first, _ = self._head
        length = self.packet.payload.length
        reads, writes = record[24:], record[16:24]
        size = Signal(12)
        m.d.comb += size.eq(_HEAD_BYTES + _RECORD_BYTES
                            + 4 * (reads + writes + (reads != 0) + (writes != 0)))
        known = ((head[:16] == _ETHERBONE_MAGIC) & (head[24:] == _ETHERBONE_SIZES)
                 & (head[20:24] == 1))
        probe, answer = head[16], head[17]
        with m.State("ETHERBONE"):
            m.d.comb += self._next.eq(Word.FIRST + 1)
            m.d.sync += [self._target.eq(_bytes_swapped(first)),
                         self._final.eq(_bytes_swapped(first) + ((writes - 1) << 2)),
                         self._left.eq(writes),
                         self._reads.eq(reads), self._place.eq(Word.FIRST + 1)]
            with m.If(known & probe
                      & ~answer & ((length == _HEAD_BYTES + 8) | (length == _HEAD_BYTES + 12))):
                m.d.sync += [self._length.eq(length), self._reads.eq(0)]
                m.next = "PROBED"
            with m.Elif(known & ~probe & ~answer & (record[:4] == 0) & (record[5:16] == 0x0F << 3)
                        & (length == size)
                        & ((reads != 0) | (writes != 0))):
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
            m.next = "SUM"
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
                         self._length.eq(_HEAD_BYTES + _RECORD_BYTES + 4 + (self._reads << 2))]
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
            m.next = "SUM"

    # -- datagrams ---------------------------------------------------------------------------------

    def _datagram(self, m: Module) -> None:
        claim, (magic, _, sequence, _, address) = self.claim, self._head
        count, length = self._count, self.packet.payload.length
        stale = Signal(32)
        # negative if a WRITE of a later sequence number was done
        m.d.comb += stale.eq(sequence - claim.last)
        with m.State("DATAGRAM"):
            m.d.sync += [self._left.eq(count), self._place.eq(Word.DATA), self._target.eq(address),
                         self._final.eq(address + ((count - 1) << 2))]
            m.next = "REFUSED"
            size = _HEAD_BYTES + 4 * (Word.DATA - Word.PAYLOAD + 1) + (count << 2)
            with m.If((magic == MAGIC) & (count <= MOST_WORDS) & (length == size)):
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
                        m.next = "LENGTH"
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
        bus = self.bus
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
                m.d.sync += self._value.eq(bus.dat_r)
                m.next = "READ STORE"
        with m.State("READ STORE"):
            self._put(m, self._place, self._swap(self._value))
            m.d.sync += [self._place.eq(self._place + 1), self._left.eq(self._left - 1)]
            m.next = "READ"
            with m.If(self._left == 1):
                m.next = "LENGTH"
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
        with m.State("WRITTEN"):
            with m.If(self._etherbone_record):
                # also what was not written is behind the cursor now
                m.d.comb += self._next.eq(Word.FIRST + 1
                                          + self._head[Word.RECORD - Word.PAYLOAD][16:24])
                m.next = "RECORD READS"
            with m.Else():
                m.d.comb += self.claim.done.eq(1)
                with m.If(self.claim.ready):
                    m.d.sync += self._count.eq(0)
                    m.next = "LENGTH"

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
        beat, base = self.beat, self._memory.ddr.base
        m.d.comb += [beat.payload.address.eq(self._target - base),
                     beat.payload.data.eq(Cat(self._value, self.word)),
                     beat.payload.strobe.eq(0xFF)]
        with m.State("DATA"):
            m.d.sync += [self._target.eq(self._final + base), self._final.eq(self._target + base),
                         self._failed.eq(0)]
            m.next = "DATA END"
            with m.If((self._target >= self._memory.ddr.size) | (self._target < _FIRST_DDR)
                      | (self._final >= self._memory.ddr.size)):
                self._refuse(m, "UNMAPPED")
            with m.Elif(self.owed != 0):
                self._refuse(m, "STUCK")
        with m.State("DATA END"):
            m.d.sync += self._target.eq(self._final)
            m.next = "DATA START"
            with m.If(self._protected):
                self._refuse(m, "PROTECTED")
        with m.State("DATA START"):
            m.next = "DATA LOW"
            with m.If(self._protected):
                self._refuse(m, "PROTECTED")
        with m.State("DATA LOW"):
            self._fetch(m)
            m.d.sync += self._value.eq(self.word)
            m.next = "DATA HIGH"
        with m.State("DATA HIGH"):
            m.d.comb += beat.valid.eq(1)
            with m.If(beat.ready):
                self._fetch(m)
                m.d.sync += [self._target.eq(self._target + 8), self._left.eq(self._left - 2)]
                m.next = "DATA LOW"
                with m.If(self._left == 2):
                    m.next = "DATA WAIT"
            with m.Else():
                self._wait(m)
        with m.State("DATA WAIT"):
            with m.If(self.owed == 0):
                with m.If(self._failed):
                    self._refuse(m, "STUCK")
                with m.Else():
                    m.d.comb += self.claim.arrived.eq(1)
                    m.next = "DONE"
                    with m.If((self._flags & FLAGS["ANSWER"]) != 0):
                        m.next = "RECENT"
            with m.Else():
                self._wait(m)

    def _wait(self, m: Module) -> None:
        """For DDR, which is given up at some point; the next DATA is refused until it has answered
        what it owes."""
        m.d.sync += self._patience.eq(self._patience - 1)
        with m.If(self._patience == 0):
            self._refuse(m, "STUCK")

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
                    m.next = "LENGTH"

    def _answer(self, m: Module) -> None:
        """Head of an answer whose rest is built: that of a datagram, then those of IP and
        Ethernet."""
        kind, own, ip = self._kind, self._addresses, self.claim.host.ip
        own_mac, own_ip = Const(swapped(own.mac, 6), 48), Const(swapped(own.ip, 4), 32)
        _, token, sequence, _, address = self._head
        step, total = Signal(range(Word.PAYLOAD)), Signal(20)
        length = self._length
        protocol = Signal(8)
        m.d.comb += protocol.eq(Mux(kind == Kind.ECHO, 1, 17))
        with m.State("LENGTH"):
            m.d.sync += [length.eq(_HEAD_BYTES + 4 * (Word.DATA - Word.PAYLOAD + 1)
                                   + (self._count << 2)), self._place.eq(Word.PAYLOAD)]
            m.next = "DATAGRAM HEAD"
        with m.State("DATAGRAM HEAD"):
            operation = Cat(self._operation, self._status, self._count)
            words = Array([Const(MAGIC, 32), token, sequence, operation, address])
            self._put(m, self._place, words[(self._place - Word.PAYLOAD)[:3]])
            m.d.sync += self._place.eq(self._place + 1)
            with m.If(self._place == Word.DATA - 1):
                m.next = "SUM"
        with m.State("SUM"):
            size = Cat(length[8:], Const(0, 5), length[:8])
            m.d.sync += total.eq(_IP_FIRST + size + (_IP_FRAGMENT >> 16)
                                 + Cat(Const(_IP_TTL, 8), protocol) + ip[:16] + ip[16:]
                                 + own_ip[:16] + own_ip[16:])
            m.next = "FOLD"
        with m.State("FOLD"):
            m.d.sync += total.eq(total[:16] + total[16:])
            m.next = "FOLD AGAIN"
        with m.State("FOLD AGAIN"):
            m.d.sync += total.eq(total[:16] + total[16:])
            m.next = "HEADER"
        with m.State("HEADER"):
            udp_size = (length - 20)[:11]
            m.d.sync += step.eq(step + 1)
            arp = (*_ARP_ANSWER,
                   own_mac[:32], Cat(own_mac[32:], own_ip[:16]), Cat(own_ip[16:], self._mac[:16]),
                   self._mac[16:], ip)
            internet = (Cat(Const(_IP_FIRST, 16), size), _IP_FRAGMENT,
                        Cat(Const(_IP_TTL, 8), protocol, ~total[:16]), own_ip, ip,
                        Cat(self._ports[16:],
                            self._ports[:16]),
                        Cat(udp_size[8:], Const(0, 5), udp_size[:8], Const(0, 16)))
            ethernet = (Cat(Const(0, 16), self._mac[:16]), self._mac[16:], own_mac[:32],
                        Cat(own_mac[32:],
                            Mux(kind == Kind.ARP,
                                _ETHERTYPE[Kind.ARP], _ETHERTYPE[Kind.ECHO])[:16]))
            words = Array([*ethernet,
                           *(Mux(kind == Kind.ARP,
                                 a, b) for a, b in zip(arp, internet, strict=True))])
            self._put(m, step, words[step])
            with m.If((step == Word.PORTS) & (kind == Kind.ECHO)):  # where its own head is already
                m.d.comb += self.tx_write.eq(0)
            with m.If((step == Word.PAYLOAD - 1) | (step == Word.PORTS) & (kind == Kind.ECHO)):
                m.d.sync += step.eq(0)
                m.next = "SEND"
        with m.State("SEND"):
            m.d.comb += [self.send.valid.eq(1), self.send.payload.length.eq(length + 14),
                         self.send.payload.datagram.eq(kind == Kind.DATAGRAM)]
            with m.If(kind == Kind.DATAGRAM):  # the CRC comes on top
                m.d.comb += self.send.payload.length.eq(length + 10)
            with m.If(self.send.ready):
                m.next = "DONE"
        with m.State("REFUSED"):
            m.d.comb += self.refused.eq(1)
            m.next = "DONE"
        with m.State("DONE"):
            m.d.comb += self.packet.ready.eq(1)
            m.next = "IDLE"
