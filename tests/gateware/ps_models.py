"""What stands around the gateware of the processing system in its tests: models of the UART and of
the Ethernet controller on memory (gp_slave.Slave), frames, and cycles of both buses."""

from __future__ import annotations

import random

from gp_slave import Slave
from ps import registers

__all__ = ["EthernetController", "UARTController", "bus_cycle", "collect_frames", "random_frames",
           "offer_frames", "ram_beat", "ram_burst"]

_GEM = 0xE000_B000
_STATUS, _FIFO = 0xE000_102C, 0xE000_1030  # UG585: Channel_sts_reg0, TX_RX_FIFO0
_DEPTH = 64
_RAM = 0x4000_0000  # on the bus; 0 on the port


class UARTController:
    """FIFOs of 64 bytes on either side; status as UG585 has it."""

    def __init__(self, slave: Slave) -> None:
        self.received, self.sent = [], []
        self.waiting = []  # to be sent
        slave.on_read = {_STATUS: self._status, _FIFO: self._take}
        slave.on_write = {_FIFO: self._put}

    def _status(self) -> int:
        return ((not self.received) << 1 | (len(self.received) >= _DEPTH) << 2
                | (not self.waiting) << 3 | (len(self.waiting) >= _DEPTH) << 4)

    def _take(self) -> int:
        assert self.received, "read from an empty FIFO"
        return self.received.pop(0) | 0xABCDEF00

    def _put(self, word: int) -> None:
        assert len(self.waiting) < _DEPTH, "written to a full FIFO"
        self.waiting.append(word)


class EthernetController:
    """The controller's side of the rings, in the memory of ``slave``. Both rings are set up as the
    firmware does."""

    def __init__(self, slave: Slave) -> None:
        self.memory, self.sent, self.started = slave.memory, [], 0
        self._rx = self._tx = 0
        self.holds = False  # it sends nothing
        slave.on_write = {_GEM: self._start}
        self._fresh = {registers.RX_RING + 8 * i: registers.RX_FRAMES + registers.BUFFER_BYTES * i
                       | (i == registers.RX_BUFFERS - 1) << 1 for i in range(registers.RX_BUFFERS)}
        self.memory.update(self._fresh)
        for i in range(registers.TX_BUFFERS):
            self.memory[registers.TX_RING + 8 * i + 4] = (
                1 << 31 | (i == registers.TX_BUFFERS - 1) << 30)

    def _start(self, word: int) -> None:
        assert word == 0b10_0001_1100  # start transmission, MDIO, transmitter, receiver
        self.started += 1
        self.send()

    def send(self) -> None:
        """All frames from the place where it stands, up to one that is not its own."""
        while not self.holds:
            place = registers.TX_RING + 8 * self._tx
            told = self.memory[place + 4]
            if told >> 31:
                return
            assert told >> 15 & 1 and not told & 0x3FFF_4000 & ~0x8000
            self.sent.append(self._bytes(self.memory[place], told & 0x3FFF))
            self.memory[place + 4] = told | 1 << 31
            self._tx = 0 if told >> 30 & 1 else self._tx + 1

    def _bytes(self, address: int, length: int) -> bytes:
        words = [self.memory[address + 4 * i] for i in range((length + 3) // 4)]
        return b"".join(word.to_bytes(4, "little") for word in words)[:length]

    def has_all_buffers(self) -> bool:
        """Every descriptor of the receiver's ring is again what it was when it was set up."""
        return {place: self.memory[place] for place in self._fresh} == self._fresh

    def receive(self, frame: bytes, flags: int = 0b11) -> bool:
        """False: there was no buffer, and the frame is lost."""
        place = registers.RX_RING + 8 * self._rx
        first = self.memory[place]
        if first & 1:
            return False
        padded = frame + bytes(-len(frame) % 4)
        for i in range(len(padded) // 4):
            self.memory[(first & ~3) + 4 * i] = int.from_bytes(padded[4 * i:4 * i + 4], "little")
        self.memory[place + 4] = len(frame) | flags << 14
        self.memory[place] = first | 1
        self._rx = 0 if first >> 1 & 1 else self._rx + 1
        return True


def random_frames(count: int, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    sizes = [60, 61, 62, 63, 64, 65, 1514, 1536, 128, 1]
    return [rng.randbytes(sizes[i] if i < len(sizes) else rng.randrange(60, 400))
            for i in range(count)]


async def collect_frames(ctx, rx, into):
    """Frames as (bytes, error); asserts the pause behind each."""
    frame, after = bytearray(), False
    while True:
        _, _, valid, data, last, error = await ctx.tick().sample(
            rx.valid, rx.payload.data, rx.payload.last, rx.payload.error)
        assert not (valid and after), "no pause behind a frame"
        after = False
        if valid:
            frame.append(data)
            assert last or not error
            if last:
                into.append((bytes(frame), error))
                frame, after = bytearray(), True


async def offer_frames(ctx, tx, all_frames, rng):
    for frame in all_frames:
        for i, byte in enumerate(frame):
            while rng.random() < 0.1:
                await ctx.tick()
            ctx.set(tx.payload, {"data": byte, "last": i == len(frame) - 1, "error": 0})
            ctx.set(tx.valid, 1)
            await ctx.tick().until(tx.ready)
            ctx.set(tx.valid, 0)


async def bus_cycle(ctx, bus, address, data=None):
    """The word that was read, or None for an error, and how many cycles that took."""
    ctx.set(bus.adr, address >> 2)
    ctx.set(bus.we, int(data is not None))
    ctx.set(bus.dat_w, data or 0)
    ctx.set(bus.cyc, 1)
    cycles = 0
    while True:
        _, _, ack, err, word = await ctx.tick().sample(bus.ack, bus.err, bus.dat_r)
        cycles += 1
        if ack or err:
            assert not (ack and err)
            ctx.set(bus.cyc, 0)
            await ctx.tick()
            assert not ctx.get(bus.ack) and not ctx.get(bus.err)
            return (word if ack else None), cycles


async def ram_beat(ctx, bus, address, cti=0, data=None, select=0xF):
    """The word, None for an error, "" for a write that was done. Leaves ``cyc`` up."""
    ctx.set(bus.adr, (_RAM + address) >> 2)
    ctx.set(bus.we, int(data is not None))
    ctx.set(bus.dat_w, data or 0)
    ctx.set(bus.sel, select)
    ctx.set(bus.cti, cti)
    ctx.set(bus.cyc, 1)
    ctx.set(bus.stb, 1)
    while True:
        _, _, ack, err, word = await ctx.tick().sample(bus.ack, bus.err, bus.dat_r)
        assert not (ack and err)
        if ack or err:
            ctx.set(bus.stb, 0)
            return None if err else "" if data is not None else word


async def ram_burst(ctx, bus, address, count, last=7):
    words = [await ram_beat(ctx, bus, address + 4 * i, last if i == count - 1 else 2)
             for i in range(count)]
    ctx.set(bus.cyc, 0)
    return words
