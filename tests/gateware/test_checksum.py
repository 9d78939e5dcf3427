"""The checksum unit by itself."""

from __future__ import annotations

import numpy as np
from simulation import simulate
from tvu.checksum import Checksum
from xtvu import semantics


def test_checksum_with_gaps():
    rng = np.random.default_rng(9)
    unit = Checksum()
    data = rng.integers(0, 256, 32 * 21).astype(np.uint8)

    async def bench(ctx):
        ctx.set(unit.words, 21)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        for word in data.reshape(-1, 32):
            while rng.random() > 0.5:
                await ctx.tick()
            ctx.set(unit.word.payload, int.from_bytes(word.tobytes(), "little"))
            ctx.set(unit.word.valid, 1)
            await ctx.tick().until(unit.word.ready)
            ctx.set(unit.word.valid, 0)
        for _ in range(20):
            if ctx.get(unit.done):
                break
            await ctx.tick()
        assert ctx.get(unit.done) and ctx.get(unit.value) == semantics.checksum(data)

    simulate(unit, bench)
