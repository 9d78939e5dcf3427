"""A general-purpose AXI port of the processing system, as a model: memory behind it, random delays,
and the rules of AXI3 checked."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Slave"]

_OKAY, _SLVERR = 0, 2


@dataclass
class Slave:
    """``memory``: words by address, 0xDEADBEEF where nothing was written; ``on_read`` and
    ``on_write`` replace it for the addresses that they are called for. ``failing``: addresses that
    answer with an error. ``log``: finished transactions, ("read" or "write", address, words)."""

    rng: np.random.Generator
    chance: float = 0.5  # that a channel moves in a cycle
    memory: dict[int, int] = field(default_factory=dict)
    on_read: dict[int, object] = field(default_factory=dict)
    on_write: dict[int, object] = field(default_factory=dict)
    failing: set[int] = field(default_factory=set)
    log: list[tuple[str, int, list[int]]] = field(default_factory=list)
    stalled: bool = False

    def _moves(self) -> bool:
        return not self.stalled and self.rng.random() < self.chance

    async def run(self, ctx, port):
        """Serves ``port`` for ever; a bench that runs in the background."""
        while True:
            if ctx.get(port.arvalid):
                await self._read(ctx, port)
            elif ctx.get(port.awvalid):
                await self._write(ctx, port)
            else:
                assert not ctx.get(port.wvalid), "data without an address"
                await ctx.tick()

    async def _take(self, ctx, valid, ready, *stable):
        """Takes what stands at a channel after a while; it has to stay what it is until then."""
        before = [ctx.get(signal) for signal in stable]
        while True:
            assert ctx.get(valid), "valid fell before ready"
            assert [ctx.get(signal) for signal in stable] == before, "changed while it waited"
            moves = self._moves()
            ctx.set(ready, int(moves))
            await ctx.tick()
            ctx.set(ready, 0)
            if moves:
                return before

    async def _give(self, ctx, valid, ready):
        while not self._moves():
            await ctx.tick()
        ctx.set(valid, 1)
        await ctx.tick().until(ready)
        ctx.set(valid, 0)

    def _check(self, address, length):
        assert address % 4 == 0, "not aligned"
        assert (address & 0xFFF) + 4 * (length + 1) <= 0x1000, "across 4 KB"
        assert length == 0 or address >= 0xFFFC_0000 or address < 0x4000_0000, "burst to a register"

    async def _read(self, ctx, port):
        address, length = await self._take(ctx, port.arvalid, port.arready, port.araddr, port.arlen)
        self._check(address, length)
        words = []
        for i in range(length + 1):
            place = address + 4 * i
            read = self.on_read.get(place)
            # an answer with an error may hold anything
            words.append(0xFFFF_FFFF if place in self.failing else read() if read
                         else self.memory.get(place, 0xDEADBEEF))
            ctx.set(port.rdata, words[-1])
            ctx.set(port.rresp, _SLVERR if place in self.failing else _OKAY)
            ctx.set(port.rlast, int(i == length))
            await self._give(ctx, port.rvalid, port.rready)
        self.log.append(("read", address, words))

    async def _write(self, ctx, port):
        address, length = await self._take(ctx, port.awvalid, port.awready, port.awaddr, port.awlen)
        self._check(address, length)
        words, failed = [], False
        for i in range(length + 1):
            while not ctx.get(port.wvalid):
                await ctx.tick()
            data, strobe, last = await self._take(ctx, port.wvalid, port.wready, port.wdata,
                                                  port.wstrb, port.wlast)
            assert last == (i == length), "last is wrong"
            place = address + 4 * i
            failed |= place in self.failing
            self._store(place, data, strobe)
            words.append(data if strobe == 0xF else None)
        ctx.set(port.bresp, _SLVERR if failed else _OKAY)
        await self._give(ctx, port.bvalid, port.bready)
        self.log.append(("write", address, words))

    def _store(self, place, data, strobe):
        write = self.on_write.get(place)
        if write:
            assert strobe == 0xF
            write(data)
            return
        word = self.memory.get(place, 0xDEADBEEF)
        for byte in range(4):
            if strobe >> byte & 1:
                word = word & ~(0xFF << 8 * byte) | data & 0xFF << 8 * byte
        if strobe:
            self.memory[place] = word
