"""The network side by itself: what it lets in, against a reading of the same frames in Python, and
what it does of it."""

from __future__ import annotations

import os
import secrets
import struct

import numpy as np
import pytest
from amaranth.hdl import ClockDomain, ClockSignal, Module
from amaranth.sim import Simulator
from frames import (
    HOST_IP,
    HOST_MAC,
    SOC_IP,
    SOC_MAC,
    arp,
    checksum,
    echo,
    etherbone_read,
    etherbone_write,
    ip,
    sound,
    udp,
)
from network.bus import Memory, Region
from network.claim import Claim
from network.frames import Addresses, Kind
from network.receive import SLOTS, Receiver
from network.verilog import Network
from xtvu.datagram import (
    ETHERBONE_PORT,
    FLAGS,
    OPERATIONS,
    PORT,
    SILENCE,
    SOURCES,
    STATE,
    STATUS,
    Datagram,
)

SEED = int(os.environ.get("BITNET_SEED") or secrets.randbits(20))
ADDRESSES = Addresses(int.from_bytes(SOC_MAC, "big"), int.from_bytes(SOC_IP, "big"))
DDR, ROM, BOX = (Region(0x4000_0000, 1 << 30), Region(0, 0x8000, writable=False),
                 Region(0x9000_0000, 0x4000))
MEMORY = Memory((ROM, DDR, BOX), DDR)


def _simulate(unit, bench, *background):
    m = Module()
    m.domains.sync, m.domains.axi = ClockDomain("sync"), ClockDomain("axi", reset_less=True)
    m.d.comb += ClockSignal("axi").eq(ClockSignal("sync"))
    m.submodules.unit = unit
    sim = Simulator(m)
    sim.add_clock(1e-6)
    for other in background:
        sim.add_testbench(other, background=True)
    sim.add_testbench(bench)
    sim.run()


async def _send(ctx, stream, frame, damaged=False, pause=1):
    for place, byte in enumerate(frame):
        last = place == len(frame) - 1
        ctx.set(stream.payload, {"data": byte, "last": last, "error": last and damaged})
        ctx.set(stream.valid, 1)
        await ctx.tick()
    ctx.set(stream.valid, 0)
    if pause:
        await ctx.tick().repeat(pause)


# -- what is let in --------------------------------------------------------------------------------


def _random_frame(rng):
    """A sound frame of some kind, and often something wrong with it."""
    payload = rng.bytes(int(rng.integers(0, 60)))
    words = Datagram(1, 2,
                     3, 0, 4, rng.integers(0, 2**32, int(rng.integers(0, 9))).tolist()).encode()
    choice = int(rng.integers(8))
    frame = [lambda: arp(), lambda: echo(payload), lambda: udp(payload, ETHERBONE_PORT),
             lambda: udp(words, PORT),
             lambda: udp(words, PORT, summed=False), lambda: udp(words + payload, PORT),
             lambda: udp(payload, int(rng.integers(1, 2000))),
             lambda: ip(int(rng.integers(256)), payload)][choice]()
    wrong = int(rng.integers(8))
    if wrong == 0:  # any byte, the heads rather than the rest
        place = int(rng.integers(min(len(frame), 60 if rng.random() < 0.8 else len(frame))))
        frame = (frame[:place] + bytes([frame[place] ^ 1 << int(rng.integers(8))])
                 + frame[place + 1:])
    elif wrong == 1:
        frame = frame[:int(rng.integers(1, len(frame)))]
    elif wrong == 2:
        frame += rng.bytes(int(rng.integers(1, 40)))
    elif wrong == 3:  # a length or a fragment, with a right checksum
        place = int(rng.choice([16, 17, 20, 21, 38, 39]))
        frame = frame[:place] + rng.bytes(1) + frame[place + 1:]
        if frame[12:14] == b"\x08\x00":
            frame = (frame[:24]
                     + struct.pack(">H",
                                   checksum(frame[14:24] + bytes(2) + frame[26:34])) + frame[26:])
    elif wrong == 4:
        frame = rng.bytes(int(rng.integers(1, 100)))
    return frame, bool(rng.random() < 0.05)


def _long(length):
    """A frame of 58 bytes that claims another length, everything else being right, without a sum
    over what is not there."""
    frame = bytearray(udp(bytes(16), ETHERBONE_PORT, summed=False))
    frame[16:18] = struct.pack(">H", length)
    frame[38:40] = struct.pack(">H", length - 20)
    frame[24:26] = struct.pack(">H", checksum(bytes(frame[14:24]) + bytes(2) + bytes(frame[26:34])))
    return bytes(frame)


_CASES = {
    "longest": (echo(bytes(1472)), False), "too long": (echo(bytes(1480)), False),
    "endless": (SOC_MAC + bytes(3000), False),
    "broadcast ip": (b"\xff" * 6 + echo(b"x")[6:], False),
    "arp for another": (arp(HOST_IP), False), "arp answer": (arp(SOC_IP, 2), False),
    "arp to own": (SOC_MAC + arp()[6:], False), "echo answer": (echo(b"x", 0), False),
    "one byte": (b"\x10", False),
    "damaged": (echo(b"x"),
                True), "another's address": (ip(17, udp(b"", PORT)[34:42], target=HOST_IP), False),
    **{f"length {n}": (_long(n), False) for n in (29, 1501, 2033, 2034, 2040, 2047, 2048)},
    "fragment": (ip(17, udp(b"", PORT)[34:42], fragment=0x2000), False),
    "last fragment": (ip(1, echo(b"")[34:42], fragment=0x0001), False),
}


def test_what_is_let_in():
    """Frames of every kind, whole and spoilt, one pause of a cycle apart: taken for what they are,
    stored byte for byte, or dropped."""
    print(f"BITNET_SEED={SEED}")
    rng = np.random.default_rng(SEED)
    frames = [*_CASES.values(), *(_random_frame(rng) for _ in range(400))]
    wanted = [sound(*frame) for frame in frames]
    assert {"arp", "echo", "etherbone", "datagram", None} <= set(wanted)
    unit, found, lost = Receiver(ADDRESSES), [], []

    async def take(ctx):
        while True:
            await ctx.tick()
            if not ctx.get(unit.packet.valid):
                continue
            kind, length, words = (ctx.get(unit.packet.payload.kind),
                                   ctx.get(unit.packet.payload.length), [])
            size = 42 if kind == Kind.ARP else 14 + length
            for place in range((size + 5) // 4):
                ctx.set(unit.address, place)
                await ctx.tick()
                words.append(ctx.get(unit.word))
            found.append((kind.name.lower(), struct.pack(f"<{len(words)}I", *words)[2:2 + size]))
            ctx.set(unit.packet.ready, 1)
            await ctx.tick()
            ctx.set(unit.packet.ready, 0)

    async def bench(ctx):
        for number, (frame, damaged) in enumerate(frames):
            before = ctx.get(unit.packet.valid)
            await _send(ctx, unit.frame, frame, damaged, pause=0)
            lost.append(ctx.get(unit.malformed))
            await ctx.tick()
            # the reader is slower than a run of the shortest frames
            await ctx.tick().repeat(400 if number % 3 == 0 or len(frame) > 400 or before else 40)
        await ctx.tick().repeat(2000)

    _simulate(unit, bench, take)
    good = [(kind, frame) for kind, (frame, _) in zip(wanted, frames, strict=True) if kind]
    assert [kind for kind, _ in found] == [kind for kind, _ in good]
    for (_, there), (_, frame) in zip(found, good, strict=True):
        assert frame.startswith(there)
    # counted is what was meant for this board
    for (frame, _), kind, counted in zip(frames, wanted, lost, strict=True):
        assert bool(counted) == (kind is None and SOC_MAC.startswith(frame[:6])), frame.hex()


def test_frames_that_find_no_room_are_counted():
    unit, counts = Receiver(ADDRESSES), []

    async def bench(ctx):
        for _ in range(SLOTS + 3):
            await _send(ctx, unit.frame, echo(b"hello"), pause=0)
            counts.append(ctx.get(unit.crowded))
            await ctx.tick()
        for left in range(SLOTS):
            assert ctx.get(unit.packet.valid), left
            ctx.set(unit.packet.ready, 1)
            await ctx.tick()
        ctx.set(unit.packet.ready, 0)
        assert not ctx.get(unit.packet.valid)
        await _send(ctx, unit.frame, echo(b"hello"))
        await ctx.tick()
        assert ctx.get(unit.packet.valid)

    _simulate(unit, bench)
    assert counts == [0] * SLOTS + [1] * 3


# -- what is done of it ----------------------------------------------------------------------------


class _Board:
    """The network side with a bus and a memory port; ``words`` of the bus by address. ``error``:
    bus addresses that answer with one."""

    def __init__(self, seed=1):
        self.unit = Network(ADDRESSES, MEMORY)
        self.words, self.beats, self.error, self.accesses = {}, {}, set(), 0
        self.silent, self.frozen, self.failing, self.token, self.sequence = (False, False, False,
                5, 0)
        self.answers: list[bytes] = []
        self._rng = np.random.default_rng(seed)

    async def bus(self, ctx):
        bus = self.unit.bus
        while True:
            await ctx.tick()
            ctx.set(bus.ack, 0)
            ctx.set(bus.err, 0)
            if not ctx.get(bus.cyc) or self.silent:
                continue
            await ctx.tick().repeat(int(self._rng.integers(1, 6)))
            address, self.accesses = 4 * ctx.get(bus.adr), self.accesses + 1
            if address in self.error:
                ctx.set(bus.err, 1)
            else:
                if ctx.get(bus.we):
                    self.words[address] = ctx.get(bus.dat_w)
                ctx.set(bus.dat_r, self.words.get(address, 0))
                ctx.set(bus.ack, 1)
            await ctx.tick()
            ctx.set(bus.ack, 0)
            ctx.set(bus.err, 0)
            assert not ctx.get(bus.cyc), "a slave would take it for another access"

    async def memory(self, ctx):
        axi, owed = self.unit.axi, []
        while True:
            ready = not self.frozen and self._rng.random() < 0.7
            ctx.set(axi.awready, ready)
            ctx.set(axi.wready, ready)
            answer = not self.frozen and bool(owed) and self._rng.random() < 0.5
            ctx.set(axi.bvalid, answer)
            ctx.set(axi.bresp, 2 * self.failing)
            if ready and ctx.get(axi.awvalid) and ctx.get(axi.wvalid):
                assert ctx.get(axi.wstrb) == 0xFF
                owed.append((ctx.get(axi.awaddr), ctx.get(axi.wdata)))
                self.beats[owed[-1][0]] = owed[-1][1]
            if answer:
                owed.pop(0)
            await ctx.tick()

    async def receive(self, ctx):
        tx, frame = self.unit.tx, bytearray()
        ctx.set(tx.ready, 1)
        while True:
            if ctx.get(tx.valid):
                frame.append(ctx.get(tx.payload.data))
                if ctx.get(tx.payload.last):
                    self.answers.append(bytes(frame))
                    frame = bytearray()
            elif frame:
                raise AssertionError("a frame with a gap")
            await ctx.tick()

    def run(self, bench):
        async def whole(ctx):
            ctx.set(self.unit.second, 1 << 30)
            await ctx.tick().repeat(4)
            await bench(ctx)

        _simulate(self.unit, whole, self.bus, self.memory, self.receive)

    async def ask(self, ctx, frame, cycles=6000):
        """The answer to a frame, or None."""
        before = len(self.answers)
        await _send(ctx, self.unit.rx, frame)
        for _ in range(cycles // 50):
            await ctx.tick().repeat(50)
            if len(self.answers) > before:
                assert len(self.answers) == before + 1
                return self.answers[-1]
        return None

    async def datagram(self, ctx, operation, flags=0, address=0, data=(), sequence=None,
                       token=None, cycles=6000):
        """The answer as (status, data), or None."""
        self.sequence += 1
        question = Datagram(token or self.token, self.sequence if sequence is None else sequence,
                            OPERATIONS[operation],
                            FLAGS[flags] if flags else 0, address, list(data))
        raw = await self.ask(ctx, udp(question.encode(), PORT), cycles)
        if raw is None:
            return None
        assert sound_answer(raw) == "udp" and raw[34:38] == struct.pack(">HH", PORT, 5000)
        answer = Datagram.decode(raw[42:14 + struct.unpack_from(">H", raw, 16)[0]])
        assert (answer.token, answer.sequence, answer.operation, answer.address) == (
            question.token, question.sequence, question.operation, address)
        assert len(answer.data) <= max(len(question.data), 0)
        return answer.flags, answer.data

    async def claim(self, ctx):
        status, state = await self.datagram(ctx, "CLAIM", data=[0] * len(STATE))
        assert status == STATUS["OK"]
        return dict(zip(STATE, state, strict=True))


def sound_answer(frame, host=HOST_IP):
    """Checks the heads of an answer by hand; which protocol it is."""
    assert frame[:12] == HOST_MAC + SOC_MAC and len(frame) >= 60
    assert (frame[12:15] == b"\x08\x00\x45" and not checksum(frame[14:34])
            and frame[26:34] == SOC_IP + host and frame[22] == 64)
    length = struct.unpack_from(">H", frame, 16)[0]
    assert len(frame) == max(60, 14 + length)
    if frame[23] == 1:
        assert not checksum(frame[34:14 + length])
        return "icmp"
    assert frame[23] == 17 and struct.unpack_from(">H", frame, 38)[0] == length - 20
    return "udp"


def test_arp_and_echo():
    board = _Board()

    async def bench(ctx):
        answer = await board.ask(ctx, arp())
        head = HOST_MAC + SOC_MAC + bytes.fromhex("08060001080006040002")
        assert answer == (head + SOC_MAC + SOC_IP + HOST_MAC + HOST_IP).ljust(60, b"\0")
        for size in (0, 1, 2, 3, 56, 57, 1000, 1472):
            payload = np.random.default_rng(size).bytes(size)
            answer = await board.ask(ctx, echo(payload))
            assert (sound_answer(answer) == "icmp" and answer[34] == 0
                    and answer[38:42 + size] == echo(payload)[38:42 + size])
        # a head in whose sum the carry of a carry counts
        host = next(bytes([10, 128, high, low]) for high in range(256) for low in range(256)
                    if _carries_twice(bytes([10, 128, high, low])))
        assert sound_answer(await board.ask(ctx, echo(b"", source=host)), host) == "icmp"

    board.run(bench)


def _carries_twice(host):
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 0, 0x4000, 64, 1, 0, SOC_IP, host)
    total = sum(struct.unpack("<10H", head))
    return (total & 0xFFFF) + (total >> 16) > 0xFFFF


def test_words_are_read_and_written_once():
    board = _Board()

    async def bench(ctx):
        await board.claim(ctx)
        for count in (1, 2, 40, 360):
            values = np.random.default_rng(count).integers(0, 2**32, count).tolist()
            assert (await board.datagram(ctx, "WRITE", address=BOX.base, data=values,
                                         cycles=12_000) == (0, []))
            addresses = [BOX.base + 4 * i for i in range(count)]
            assert [board.words[a] for a in addresses] == values
            assert (await board.datagram(ctx, "READ", data=addresses[::-1], cycles=12_000)
                    == (0, values[::-1]))
        sequence = board.sequence + 1
        assert await board.datagram(ctx, "WRITE", address=BOX.base, data=[1]) == (0, [])
        assert (await board.datagram(ctx, "WRITE", address=BOX.base, data=[2], sequence=sequence)
                == (0, []))
        assert await board.datagram(ctx, "WRITE", address=BOX.base, data=[3],
                                    sequence=sequence - 1, cycles=500) is None
        assert board.words[BOX.base] == 1
        ctx.set(board.unit.second, 100)
        await ctx.tick().repeat(350)
        ctx.set(board.unit.second, 1 << 30)
        assert ctx.get(board.unit.state.seconds_silent) >= 3
        assert await board.datagram(ctx, "READ", data=[]) == (0, [])
        assert ctx.get(board.unit.state.seconds_silent) == 0

    board.run(bench)


def test_what_cannot_be_reached():
    """Refused at once, without the bus; a write of which one end cannot be written is not done at
    all."""
    board = _Board()

    async def bench(ctx):
        await board.claim(ctx)
        ctx.set(board.unit.protect_first, 0x200)
        ctx.set(board.unit.protect_end, 0x300)
        status, values = await board.datagram(ctx, "READ",
                                              data=[0x2000_0000,
                                                    BOX.base, BOX.base + 2, 0xFFFF_FFFC, 0x8000])
        assert status == STATUS["UNMAPPED"] and values == [0xFFFFFFFF, 0, *[0xFFFFFFFF] * 3]
        accesses = board.accesses
        for address, count, why in ((0x2000_0000, 1, "UNMAPPED"), (0, 1, "UNMAPPED"),
                                    (BOX.base + BOX.size - 4, 2, "UNMAPPED"),
                                    (BOX.base - 4, 2,
                                     "UNMAPPED"), (DDR.base + 0x20_0000, 1, "PROTECTED"),
                                    (DDR.base + 0x1F_FFFC,
                                     2, "PROTECTED"), (DDR.base + 0x2F_FFFC, 2, "PROTECTED"),
                                    (BOX.base + 1, 1, "BAD"), (BOX.base, 0, "BAD"),
                                    (DDR.base + DDR.size - 4, 3, "UNMAPPED")):
            assert await board.datagram(ctx, "WRITE", address=address,
                                        data=[7] * count) == (STATUS[why], []), hex(address)
            # and a repetition says the same
            assert (await board.datagram(ctx, "WRITE", address=address, data=[7] * count,
                                         sequence=board.sequence) == (STATUS[why], []))
        for address, count, why in ((0x1F_FFF8, 4, "PROTECTED"), (0x20_0000, 2, "PROTECTED"),
                                    (0x2F_FFF8, 2, "PROTECTED"),
                                    (0x2F_FFF8, 4, "PROTECTED"), (0xF_FFF8, 2, "UNMAPPED"),
                                    ((1 << 30) - 8, 4, "UNMAPPED"), (0xFFFF_FFF8, 4, "UNMAPPED"),
                                    (0x10_0004, 2, "BAD"),
                                    (0x10_0000, 3, "BAD"), (0x10_0000, 0, "BAD")):
            assert await board.datagram(ctx, "DATA", address=address,
                                        data=[7] * count) == (STATUS[why], []), hex(address)
        assert board.accesses == accesses and not board.beats
        for address in (0x1F_FFF8, 0x30_0000, 0x10_0000, (1 << 30) - 8):
            # nobody asked for an answer
            assert await board.datagram(ctx, "DATA", address=address, data=[1, 2],
                                        cycles=500) is None
            assert board.beats[address] == 2 << 32 | 1

    board.run(bench)


def test_data_is_listed_and_old_data_passed_over():
    board = _Board()

    async def bench(ctx):
        await board.claim(ctx)
        sequences = [100, 102, 101, *range(200, 230)]
        for number, sequence in enumerate(sequences):
            body = [sequence, 0] * int(1 + number % 3)
            answer = await board.datagram(ctx, "DATA", "ANSWER", 0x10_0000 + 64 * number,
                                          body + [0] * (16 - len(body)), sequence)
            recent = (sequences[number::-1] + [0] * 16)[:16]
            assert answer == (0, recent) and board.beats[0x10_0000 + 64 * number] == sequence
        await board.datagram(ctx, "WRITE", address=BOX.base, data=[1], sequence=300)
        assert await board.datagram(ctx, "DATA", "ANSWER", 0x10_0000, [9] * 16, sequence=299,
                                    cycles=1000) is None
        assert board.beats[0x10_0000] == 100
        assert ((await board.datagram(ctx, "DATA", "ANSWER", 0x10_0000, [9] * 16, sequence=301))[0]
                == 0)

    board.run(bench)


def test_memory_and_bus_that_do_not_answer():
    """Each request ends; what was begun is not mixed up with what comes later; and all is well when
    they are back."""
    board = _Board()

    async def bench(ctx):
        await board.claim(ctx)
        board.error = {BOX.base + 8}
        status, values = await board.datagram(ctx, "READ", data=[BOX.base, BOX.base + 8, BOX.base])
        assert status == STATUS["STUCK"] and values == [0, 0xFFFFFFFF, 0xFFFFFFFF]
        assert (await board.datagram(ctx, "WRITE", address=BOX.base, data=[1] * 4)
                == (STATUS["STUCK"], []))
        board.error, board.silent = set(), True  # nor an error
        status, values = await board.datagram(ctx, "READ", data=[BOX.base, 0x2000_0000, BOX.base],
                                              cycles=80_000)
        assert status == STATUS["STUCK"] and values == [0xFFFFFFFF] * 3
        assert (await board.datagram(ctx, "WRITE", address=BOX.base, data=[1] * 4, cycles=80_000)
                == (STATUS["STUCK"], []))
        board.silent = False
        assert await board.datagram(ctx, "WRITE", address=BOX.base, data=[1] * 4) == (0, [])
        board.frozen = True
        assert (await board.datagram(ctx, "DATA", "ANSWER", 0x10_0000, [1] * 16, cycles=80_000)
                == (STATUS["STUCK"], []))
        # at once: it still owes
        assert (await board.datagram(ctx, "DATA", "ANSWER", 0x10_0000, [2] * 16)
                == (STATUS["STUCK"], []))
        assert await board.datagram(ctx, "READ", data=[BOX.base]) == (0, [1])
        board.frozen = False
        await ctx.tick().repeat(200)
        assert (await board.datagram(ctx, "DATA", "ANSWER", 0x10_0000, [3] * 16))[0] == 0
        assert all(board.beats[0x10_0000 + 8 * i] == 3 << 32 | 3 for i in range(8))
        board.failing = True
        assert (await board.datagram(ctx, "DATA", "ANSWER", 0x10_0000, [4] * 16)
                == (STATUS["STUCK"], []))
        board.failing = False
        assert (await board.datagram(ctx, "DATA", "ANSWER", 0x10_0000, [5] * 16))[0] == 0

    board.run(bench)


@pytest.mark.parametrize("change", ["magic", "count", "long", "short"])
def test_datagrams_that_contradict_themselves_get_no_answer(change):
    board = _Board()

    async def bench(ctx):
        await board.claim(ctx)
        words = [0xB17E11A9, board.token, 9, OPERATIONS["READ"] | 2 << 16, 0, BOX.base, BOX.base]
        if change == "magic":
            words[0] ^= 1
        elif change == "count":
            words[3] += 1 << 16
        elif change == "long":
            words.append(BOX.base)
        else:
            words = words[:4]
        raw = struct.pack(f"<{len(words)}I", *words)
        import zlib
        assert await board.ask(ctx, udp(raw + struct.pack("<I", zlib.crc32(raw)), PORT),
                               600) is None
        assert ctx.get(board.unit.refused) == 1
        assert await board.datagram(ctx, "READ", data=[BOX.base]) == (0, [0])

    board.run(bench)


def test_etherbone():
    """A record of writes, of reads, or of both; answers to reads only; what is not one whole record
    of words is dropped."""
    board = _Board()
    read, write = (etherbone_read(BOX.base, BOX.base + 4),
                   etherbone_write(BOX.base, 0x01020304, 0x11121314))
    both = (write[:8]
            + bytes([0, 15, 1, 2])
            + struct.pack(">IIIII", BOX.base + 4, 99, 0x77, BOX.base, BOX.base + 4))

    async def bench(ctx):
        async def ask(payload, cycles=2000):
            raw = await board.ask(ctx, udp(payload, ETHERBONE_PORT), cycles)
            if raw is None:
                return None
            assert sound_answer(raw) == "udp"
            return raw[42:14 + struct.unpack_from(">H", raw, 16)[0]]

        assert (await ask(write, 400) is None
                and board.words == {BOX.base: 0x01020304, BOX.base + 4: 0x11121314})
        assert (await ask(read) == read[:8] + bytes([0, 15, 2, 0])
                + struct.pack(">III", 0x1234, 0x01020304, 0x11121314))
        assert (await ask(both) == both[:8] + bytes([0, 15, 2, 0])
                + struct.pack(">III", 0x77, 0x01020304, 99))
        assert (await ask(etherbone_read(0x2000_0000)) == read[:8] + bytes([0, 15, 1, 0])
                + struct.pack(">II", 0x1234, 0xFFFFFFFF))
        many = [BOX.base + 4 * (i % 2) for i in range(255)]
        assert len(await ask(etherbone_read(*many), 12_000)) == 16 + 4 * 255
        probe = bytes.fromhex("4e6f114400000000")
        for padding in (b"", bytes(4)):
            assert await ask(probe + padding) == bytes.fromhex("4e6f124400000000") + padding
        before = dict(board.words)
        for bad in (read[:8], read[:7], b"", write[:12], read + b"xyz", read + bytes(4),
                    read + read[8:], b"\x4e\x70" + read[2:],
                    read[:3] + b"\x88" + read[4:], read[:8] + b"\x01" + read[9:],
                    read[:8] + b"\xff" + read[9:],
                    read[:9] + b"\x07" + read[10:],
                    read[:10] + b"\x01" + read[11:], write[:10] + b"\xff" + write[11:],
                    write[:11] + b"\x01" + write[12:], probe + bytes(1),
                    probe[:2] + b"\x13" + probe[3:], read[:2] + b"\x20" + read[3:]):
            assert await ask(bad, 600) is None, bad.hex()
        assert board.words == before and ctx.get(board.unit.state.source) == SOURCES["network"]
        assert await ask(etherbone_write(0, 1), 400) is None and board.words == before  # ROM
        # the same host may go on with datagrams, and then use both; another may not
        await board.claim(ctx)
        assert (await ask(read) is not None and await board.datagram(ctx, "READ", data=[BOX.base])
                == (0, [0x01020304]))
        assert await board.ask(ctx, udp(read, ETHERBONE_PORT, source=bytes([192, 168, 1, 8])),
                               600) is None
        strange = etherbone_write(BOX.base, 5)
        assert await board.ask(ctx, udp(strange, ETHERBONE_PORT, source=bytes([192, 168, 1, 8])),
                               600) is None
        assert board.words == before

    board.run(bench)


# -- the claim -------------------------------------------------------------------------------------


class _Rules:
    """The claim, read out of xtvu/datagram.py."""

    def __init__(self):
        self.source, self.host, self.token, self.claims, self.silent, self.changes = (0, None, 0,
                0, 0, 0)

    def second(self):
        self.silent += 1
        if self.silent >= SILENCE:
            self.source = 0

    def take(self, source, host, token):
        self.claims = self.claims + 1 if self.token else token & 0xFFFF
        self.source, self.host, self.token, self.silent, self.changes = (source, host, token, 0,
                self.changes + 1)

    def network(self, what, ip_address, port, token, take_over):
        """Whether it is granted, or done."""
        free, mine = (self.source == 0,
                      self.source == 1
                      and (ip_address, port) == self.host and token == self.token != 0)
        same_ip = self.source == 1 and self.host[0] == ip_address
        if what == "claim":
            if (not token
                or not (free or take_over or token == self.token or (same_ip and self.token == 0))):
                return False
            if not free and token == self.token:
                self.source, self.host, self.silent = 1, (ip_address, port), 0
            else:
                self.take(1, (ip_address, port), token)
            return True
        if what == "enter":
            if free:
                self.take(1, (ip_address, port), 0)
            elif same_ip:
                self.silent = 0
            return free or same_ip
        if mine and what == "touch":
            self.silent = 0
        if mine and what == "leave":
            self.source = 0
        return mine

    def uart(self, what, token, take_over):
        if what == "leave":
            self.source = 0 if self.source == 2 else self.source
        elif self.source == 2 and token == self.token:
            self.silent = 0
        elif self.source == 0 or take_over:
            self.take(2, (0, 0), token)


_ASKED = {"claim": 0.3, "enter": 0.1, "touch": 0.25, "leave": 0.05, "second": 0.1, "uart": 0.18,
          "uart leave": 0.02}


def test_the_claim_follows_its_rules():
    """Random requests of three hosts and the UART, and seconds that pass."""
    print(f"BITNET_SEED={SEED}")
    rng, unit, rules = np.random.default_rng(SEED), Claim(), _Rules()

    async def bench(ctx):
        ctx.set(unit.second, 1 << 31)
        for number in range(3000):
            ctx.set(unit.network.sequence, number)
            asked = str(rng.choice(list(_ASKED), p=list(_ASKED.values())))
            host = int(rng.integers(1, 4))
            token, take_over = (0
                                if asked == "enter"
                                else int(rng.choice([0, 10 + host, 10 + host, 20])),
                                bool(rng.random() < 0.1))
            request = unit.network
            ctx.set(request.host.ip, host // 2)
            ctx.set(request.host.port, host)
            ctx.set(request.host.token, token)
            ctx.set(request.take_over, take_over)
            await ctx.tick().repeat(2)
            if asked == "second":
                for _ in range(int(rng.choice([1, 29, 30]))):
                    ctx.set(unit.second, 0)
                    await ctx.tick()
                    rules.second()
                ctx.set(unit.second, 1 << 31)
            elif asked.startswith("uart"):
                signal = unit.uart_leave if asked == "uart leave" else unit.uart_claim
                ctx.set(unit.uart_token, 30 + host)
                ctx.set(unit.uart_take_over, take_over)
                ctx.set(signal, 1)
                assert not ctx.get(request.ready)
                await ctx.tick()
                ctx.set(signal, 0)
                rules.uart("leave" if asked == "uart leave" else "claim", 30 + host, take_over)
            else:
                mine = rules.network("", host // 2, host, token, False)
                assert bool(ctx.get(request.holder)) == mine
                if asked in ("claim", "enter") or mine:
                    ctx.set(getattr(request, asked), 1)
                    granted = bool(ctx.get(request.granted))
                    await ctx.tick()
                    ctx.set(getattr(request, asked), 0)
                    done = rules.network(asked, host // 2, host, token, take_over)
                    assert done == (granted if asked in ("claim", "enter") else mine)
            state = unit.state
            assert (ctx.get(state.source), ctx.get(state.claims)) == (rules.source,
                    rules.claims % 65536), asked
            if rules.source:
                assert ((ctx.get(state.ip), ctx.get(state.port)) == rules.host
                        and ctx.get(state.seconds_silent) == rules.silent)

    _simulate(unit, bench)
    assert rules.changes > 100


def test_an_old_claim_that_comes_again_takes_nothing():
    """A copy of a CLAIM, with TAKE_OVER or not, after its host has gone: nobody is locked out, and
    nobody loses the board."""
    board = _Board()
    nobody = [0] * len(STATE)

    async def bench(ctx):
        for sequence in (100, 105):
            assert ((await board.datagram(ctx, "CLAIM", "TAKE_OVER", data=nobody, token=5,
                                          sequence=sequence))[0] == STATUS["OK"])
        await board.datagram(ctx, "WRITE", address=BOX.base, data=[1], token=5, sequence=110)
        assert (await board.datagram(ctx, "RELEASE", token=5, sequence=120)) == (0, [])
        for sequence in (105, 115):  # before what it did last, and before it left
            status, _ = await board.datagram(ctx, "CLAIM", "TAKE_OVER", data=nobody, token=5,
                                             sequence=sequence)
            assert status == STATUS["FREE"] and ctx.get(board.unit.state.source) == 0
        status, state = await board.datagram(ctx, "CLAIM", data=nobody, token=6, sequence=7)
        assert status == STATUS["OK"]
        for flag in (None, "TAKE_OVER"):
            status, found = await board.datagram(ctx, "CLAIM", flag, data=nobody, token=5,
                                                 sequence=105)
            assert status == STATUS["HELD"] and found == state
        assert await board.datagram(ctx, "READ", data=[BOX.base], token=6, sequence=8) == (0, [1])
        # but the first host itself may come back
        assert ((await board.datagram(ctx, "CLAIM", "TAKE_OVER", data=nobody, token=5,
                                      sequence=121))[0] == STATUS["OK"])

    board.run(bench)
