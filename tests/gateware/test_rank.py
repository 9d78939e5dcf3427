"""The ranking alone: the largest of random rows, ties and infinities among them, with gaps, for
several vectors at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from amaranth.sim import Simulator
from tvu.rank import Ranking
from xtvu.isa import LANES, VECTORS


def _wanted(values: np.ndarray, base: int, keep: int) -> set[int]:
    """Numbers of the ``keep`` largest; of equal ones those with the smaller numbers. -0 is less
    than +0, as the order of the bits has it."""
    bits = values.view(np.uint32).astype(np.int64)
    keys = np.where(bits >> 31, ~bits & 0xFFFFFFFF, bits | 0x80000000)
    order = np.lexsort((np.arange(values.size), -keys))
    return set((order[:keep] + base).tolist())


@pytest.mark.parametrize("levels,rows,base,vectors", [
    (1, 3, 0, 1), (2, 1, 7, 8), (4, 24, 1000, 3), (6, 40, 5, 1), (6, 20, 2000, 8),
])
def test_the_largest_are_kept(levels, rows, base, vectors):
    rng = np.random.default_rng(levels)
    values = rng.standard_normal((vectors, rows * LANES)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.float32(0.5)  # ties
    values[rng.random(values.shape) < 0.05] = np.float32(-0.0)
    values[:, -1] = np.float32(np.inf)
    last_mask = (1 << 5) - 1  # three elements of the last row do not count
    counted = values[:, :rows * LANES - 3]
    kept = [set() for _ in range(VECTORS)]
    unit = Ranking()

    async def control(ctx):
        for _ in range(2):  # what the first time leaves behind is gone
            await run(ctx)

    async def run(ctx):
        ctx.set(unit.levels, levels)
        ctx.set(unit.clear, 1)
        await ctx.tick()
        ctx.set(unit.clear, 0)
        await ctx.tick().until(unit.idle)
        ctx.set(unit.base, base)
        ctx.set(unit.last_vector, vectors - 1)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        ctx.set(unit.base, 0)
        ctx.set(unit.last_vector, 0)
        for row, vector in itertools.product(range(rows), range(vectors)):
            if pause := int(rng.integers(0, 4)):
                await ctx.tick().repeat(pause)
            part = values[vector, row * LANES:(row + 1) * LANES].view(np.uint32).tolist()
            ctx.set(unit.row.payload,
                    {"values": part, "vector": vector,
                     "mask": last_mask if row == rows - 1 else (1 << LANES) - 1})
            ctx.set(unit.row.valid, 1)
            await ctx.tick().until(unit.row.ready)
            ctx.set(unit.row.valid, 0)
        await ctx.tick().until(unit.idle)
        for vector in range(VECTORS):
            kept[vector] = set()
            for entry in range(1, 1 << levels):
                ctx.set(unit.peek, entry)
                ctx.set(unit.peek_vector, vector)
                await ctx.tick()
                number = ctx.get(unit.number)
                assert number == 0xFFFFFFFF or number not in kept[vector]
                kept[vector].add(number)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(control)
    simulator.run()
    keep = (1 << levels) - 1
    for vector, numbers in enumerate(kept):
        if vector >= vectors:
            assert numbers == {0xFFFFFFFF}
            continue
        assert (0xFFFFFFFF in numbers) == (keep > counted.shape[1])
        assert numbers - {0xFFFFFFFF} == _wanted(counted[vector], base, keep)
