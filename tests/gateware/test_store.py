"""The store unit by itself, under random back-pressure."""

from __future__ import annotations

import numpy as np
import pytest
from simulation import offer, simulate
from tvu.store import StoreKind, StoreUnit
from xtvu.layout import physical_address


@pytest.mark.parametrize("chance", [1.0, 0.3])
@pytest.mark.parametrize("kind", [StoreKind.FLOAT, StoreKind.CODES, StoreKind.COLUMN])
def test_store_unit_writes_every_byte(kind, chance):
    rng = np.random.default_rng(4)
    unit = StoreUnit()
    address = 0x8000 + (45 if kind is StoreKind.COLUMN else 32)
    rows = [(rng.integers(0, 2**32, 8, np.uint32).tolist(), mask)
            for mask in (255, 255, 255, 0b11111)]
    want = {}
    for number, (values, mask) in enumerate(rows):
        for lane in range(8):
            if mask >> lane & 1:
                place = 8 * number + lane
                if kind is StoreKind.FLOAT:
                    for byte in range(4):
                        want[physical_address(address + 4 * place + byte)] = (values[lane] >> 8
                                * byte & 255)
                else:
                    step = 512 if kind is StoreKind.COLUMN else 1
                    want[physical_address(address + step * place)] = values[lane] & 255
    memory = {}

    async def feed(ctx):
        ctx.set(unit.address, address)
        ctx.set(unit.kind, kind)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        await offer(ctx, unit.row, [{"values": values, "mask": mask} for values, mask in rows], rng,
                    chance)
        for _ in range(2000):
            if ctx.get(unit.idle):
                break
            await ctx.tick()
        assert ctx.get(unit.idle) and memory == want

    async def ddr(ctx):
        addresses, data, answers = [], [], 0
        port = unit.port
        while True:
            ready = [rng.random() < chance for _ in range(3)]
            ctx.set(port.awready, int(ready[0]))
            ctx.set(port.wready, int(ready[1]))
            ctx.set(port.bvalid, int(answers > 0 and ready[2]))
            if ready[0] and ctx.get(port.awvalid):
                addresses.append(ctx.get(port.awaddr))
            if ready[1] and ctx.get(port.wvalid):
                data.append((ctx.get(port.wdata), ctx.get(port.wstrb)))
            if answers and ready[2] and ctx.get(port.bready):
                answers -= 1
            while addresses and data:
                where, (value, strobe) = addresses.pop(0), data.pop(0)
                for byte in range(8):
                    if strobe >> byte & 1:
                        memory[where + byte] = value >> 8 * byte & 255
                answers += 1
            await ctx.tick()

    simulate(unit, feed, ddr)
