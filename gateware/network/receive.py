"""The way in: a frame counts only once its last byte has come and everything about it is right.

Checked are the addresses, lengths and checksums of Ethernet, ARP, IP, ICMP and UDP, and the CRC of
a datagram. What is not right leaves no trace but a count. Nobody waits: a frame that finds no free
slot is lost and counted, as on any wire.
"""

from amaranth.hdl import Assert, Cat, Module, Mux, Signal
from amaranth.lib import fifo, memory, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ETHERNET
from amaranth.lib.wiring import In, Out
from xtvu.datagram import ETHERBONE_PORT, PORT

from .frames import SLOT_WORDS, Addresses, Byte, Kind, Packet

__all__ = ["SLOTS", "Receiver", "Sum"]

SLOTS = 4
_ENDLESS = 1519  # bytes that no frame has
# first bytes of the IP head, its addresses, what IP carries, and what UDP carries
_IP, _FROM, _BODY, _PAYLOAD = 14, 26, 34, 42
_ARP_BYTES, _LEAST = 42, 28  # of an ARP frame; of an IP packet with a UDP or ICMP head
_UDP = 17


class Sum(wiring.Component):
    """The Internet's checksum (RFC 1071): 16-bit words whose bytes come one by one, the high one
    first, or at once with ``wide``. ``right``: everything since ``clear`` comes to 0xffff."""

    def __init__(self) -> None:
        super().__init__({"clear": In(1), "add": In(1), "odd": In(1), "byte": In(8), "wide": In(1),
                          "word": In(16), "right": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total, carry = Signal(16), Signal()
        summand = Mux(self.wide, self.word, Mux(self.odd, self.byte, self.byte << 8))
        m.d.comb += self.right.eq(Mux(carry, total == 0xFFFE, total == 0xFFFF))
        with m.If(self.clear):
            m.d.sync += Cat(total, carry).eq(0)
        with m.Elif(self.add | self.wide):
            m.d.sync += Cat(total, carry).eq(total + summand + carry)
        return m


def _expected(addresses: Addresses) -> dict[str, dict[int, tuple[int, int]]]:
    """For each thing that a frame may be: bytes that it then has, as place: (value, mask)."""
    def there(place: int, number: int, count: int) -> dict[int, tuple[int, int]]:
        return {place + i: (value, 0xFF) for i, value in enumerate(number.to_bytes(count, "big"))}

    return {
        "own": there(0, addresses.mac, 6),
        "broadcast": there(0, (1 << 48) - 1, 6),
        # a request for this address
        "arp": there(12, 0x0806_0001_0800_0604_0001, 10) | there(38, addresses.ip, 4),
        # whole, no options
        "ip": there(12, 0x0800_45, 3) | {16: (0, 0xF8), 20: (0, 0xBF), 21: (0, 0xFF)}
        | there(30, addresses.ip, 4),
        "icmp": there(23, 1, 1) | there(34, 0x0800, 2),  # an echo request
        "udp": there(23, _UDP, 1),
        "etherbone": there(36, ETHERBONE_PORT, 2),
        "datagram": there(36, PORT, 2),
    }


class Receiver(wiring.Component):
    """Members: ``frame`` in, with a pause of a cycle at least behind each; ``packet``: a frame that
    waits, whose slot is free again when it is taken; ``address`` of a word in that slot, which is
    ``word`` a cycle later; pulses for a frame that was ``malformed`` though sent to this board, or
    lost because it was ``crowded``."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        super().__init__({
            "frame": In(stream.Signature(Byte, always_ready=True)),
            "packet": Out(stream.Signature(Packet)),
            "address": In(range(SLOT_WORDS)), "word": Out(32), "malformed": Out(1),
            "crowded": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._place, self._judge = Signal(11), Signal()
        self._length = Signal(11)  # of the IP packet
        wrong = self._compare(m)
        self._store(m, self._sound(m, wrong), wrong)
        return m

    def _compare(self, m: Module) -> dict[str, Signal]:
        """What the frame cannot be any more, by name."""
        valid, byte = self.frame.valid, self.frame.payload.data
        wrong = {}
        for name, table in _expected(self._addresses).items():
            flag, value, mask = (Signal(name=f"not_{name}"), Signal(8, name=f"{name}_value"),
                                 Signal(8, name=f"{name}_mask"))
            with m.Switch(self._place):
                for place, (wanted, bits) in table.items():
                    with m.Case(place):
                        m.d.comb += [value.eq(wanted), mask.eq(bits)]
            with m.If(self._judge):
                m.d.sync += flag.eq(0)
            with m.Elif(valid & (((byte ^ value) & mask) != 0)):
                m.d.sync += flag.eq(1)
            wrong[name] = flag
        return wrong

    def _sound(self, m: Module, wrong: dict[str, Signal]) -> dict[Kind, Signal]:
        """In the cycle of the judgement: whether the frame is of a kind, and whole."""
        valid, byte, place, length = (self.frame.valid, self.frame.payload.data, self._place,
                                      self._length)
        m.submodules.head_sum = head = Sum()
        m.submodules.body_sum = body = Sum()
        m.submodules.crc = crc = CRC32_ETHERNET(data_width=8).create()
        damaged, summed, size_differs, end = Signal(), Signal(), Signal(), Signal(12)
        size = (length - 20)[:11]  # of the UDP packet
        udp = ~wrong["udp"] & ~wrong["ip"]
        inside = valid & (place < end)
        m.d.comb += [
            end.eq(length + _IP),
            head.clear.eq(self._judge), head.odd.eq(place[0]), head.byte.eq(byte),
            head.add.eq(valid & (place >= _IP) & (place < _BODY)),
            body.clear.eq(self._judge), body.odd.eq(place[0]), body.byte.eq(byte),
            body.add.eq(inside & ((place >= _BODY) | udp & (place >= _FROM))),
            # what UDP sums up of the IP head beside the addresses: protocol and UDP length
            body.wide.eq(valid & udp & (place == 24)), body.word.eq(size + _UDP),
            crc.start.eq(self._judge), crc.data.eq(byte),
            crc.valid.eq(inside & (place >= _PAYLOAD)),
        ]
        with m.If(self._judge):
            m.d.sync += [damaged.eq(0), summed.eq(0), size_differs.eq(0), length.eq(0)]
        with m.Elif(valid):
            with m.Switch(place):
                with m.Case(16):
                    m.d.sync += length[8:].eq(byte)
                with m.Case(17):
                    m.d.sync += length[:8].eq(byte)
                with m.Case(38):
                    m.d.sync += size_differs.eq(byte != size[8:])
                with m.Case(39):
                    m.d.sync += size_differs.eq(size_differs | (byte != size[:8]))
                with m.Case(40, 41):
                    m.d.sync += summed.eq(summed | (byte != 0))  # without a checksum it is zero
                with m.Case(_ENDLESS):
                    m.d.sync += damaged.eq(1)
            with m.If(self.frame.payload.last & self.frame.payload.error):
                m.d.sync += damaged.eq(1)

        whole_ip = (~damaged & ~wrong["own"] & ~wrong["ip"] & (length >= _LEAST) & (place >= end)
                    & head.right)
        whole_udp = whole_ip & ~wrong["udp"] & ~size_differs & (~summed | body.right)
        sound = {kind: Signal(name=f"sound_{kind.name.lower()}") for kind in Kind}
        m.d.comb += [
            sound[Kind.ARP].eq(~damaged & ~wrong["arp"] & ~(wrong["own"] & wrong["broadcast"])
                               & (place >= _ARP_BYTES)),
            sound[Kind.ECHO].eq(whole_ip & ~wrong["icmp"] & body.right),
            sound[Kind.ETHERBONE].eq(whole_udp & ~wrong["etherbone"]),
            sound[Kind.DATAGRAM].eq(whole_udp & ~wrong["datagram"] & (length[:2] == 0)
                                    & crc.match_detected),
        ]
        return sound

    def _store(self, m: Module, sound: dict[Kind, Signal], wrong: dict[str, Signal]) -> None:
        valid, byte, place, judge = (self.frame.valid, self.frame.payload.data, self._place,
                                     self._judge)
        m.submodules.slots = slots = memory.Memory(shape=32, depth=SLOTS * SLOT_WORDS, init=[])
        m.submodules.packets = packets = fifo.SyncFIFO(width=len(self.packet.payload.as_value()),
                                                       depth=SLOTS)
        write, read = slots.write_port(granularity=8), slots.read_port()
        write_slot, read_slot, used, lost = (Signal(range(SLOTS)), Signal(range(SLOTS)),
                                             Signal(range(SLOTS + 1)), Signal())
        commit, taken, good, crowded = Signal(), Signal(), Signal(), Signal()
        found = Packet(packets.w_data)
        stored = Signal(11)
        m.d.comb += [
            stored.eq(place + 2), crowded.eq(Mux(place == 0, used == SLOTS, lost)),
            write.addr.eq(Cat(stored[2:], write_slot)), write.data.eq(byte.replicate(4)),
            write.en.eq(Mux(valid & ~crowded & (place < _ENDLESS), 1 << stored[:2], 0)),
            read.addr.eq(Cat(self.address, read_slot)), self.word.eq(read.data),
            good.eq(Cat(*sound.values()).any()), commit.eq(judge & good & ~lost),
            taken.eq(self.packet.valid & self.packet.ready),
            self.malformed.eq(judge & ~good & ~wrong["own"]), self.crowded.eq(judge & good & lost),
            found.length.eq(self._length), packets.w_en.eq(commit),
            self.packet.payload.eq(packets.r_data), self.packet.valid.eq(packets.r_rdy),
            packets.r_en.eq(self.packet.ready),
        ]
        for kind, signal in sound.items():
            with m.If(signal):
                m.d.comb += found.kind.eq(kind)
        with m.If(valid):
            m.d.sync += [place.eq(Mux(place == _ENDLESS, place, place + 1)), lost.eq(crowded)]
        with m.If(judge):
            m.d.sync += place.eq(0)
        m.d.sync += [
            judge.eq(valid & self.frame.payload.last), write_slot.eq(write_slot + commit),
            read_slot.eq(read_slot + taken),
            used.eq(used + commit - taken),
            Assert(~(judge & valid), "a frame began without a pause behind the one before"),
            Assert(~commit | (used != SLOTS), "a frame was stored without a slot"),
        ]
