"""The checksum unit by itself."""

from __future__ import annotations

import numpy as np
from simulation import offer, simulate, words_of
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
        await offer(ctx, unit.word, words_of(data.reshape(-1, 32)), rng, 0.5)
        for _ in range(20):
            if ctx.get(unit.done):
                break
            await ctx.tick()
        assert ctx.get(unit.done) and ctx.get(unit.value) == semantics.checksum(data)

    simulate(unit, bench)
