"""The ranking alone: the largest of random rows, ties and infinities among them, with gaps."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator
from tvu.rank import Ranking
from xtvu.isa import LANES


def _wanted(values: np.ndarray, base: int, keep: int) -> set[int]:
    """Numbers of the ``keep`` largest; of equal ones those with the smaller numbers. -0 is less
    than +0, as the order of the bits has it."""
    bits = values.view(np.uint32).astype(np.int64)
    keys = np.where(bits >> 31, ~bits & 0xFFFFFFFF, bits | 0x80000000)
    order = np.lexsort((np.arange(values.size), -keys))
    return set((order[:keep] + base).tolist())


@pytest.mark.parametrize("levels,rows,base", [(1, 3, 0), (2, 1, 7), (4, 24, 1000), (6, 40, 5)])
def test_the_largest_are_kept(levels, rows, base):
    rng = np.random.default_rng(levels)
    values = rng.standard_normal(rows * LANES).astype(np.float32)
    values[rng.random(values.size) < 0.3] = np.float32(0.5)  # ties
    values[rng.random(values.size) < 0.05] = np.float32(-0.0)
    values[-1] = np.float32(np.inf)
    last_mask = (1 << 5) - 1  # three elements of the last row do not count
    kept, counted = {}, values[:rows * LANES - 3]

    unit = Ranking()

    async def control(ctx):
        ctx.set(unit.levels, levels)
        ctx.set(unit.clear, 1)
        await ctx.tick()
        ctx.set(unit.clear, 0)
        await ctx.tick().repeat(300)
        ctx.set(unit.base, base)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        for row in range(rows):
            await ctx.tick().repeat(int(rng.integers(1, 4)))
            part = values[row * LANES:(row + 1) * LANES].view(np.uint32).tolist()
            ctx.set(unit.row.payload,
                    {"values": part, "mask": last_mask if row == rows - 1 else (1 << LANES) - 1})
            ctx.set(unit.row.valid, 1)
            await ctx.tick().until(unit.row.ready)
            ctx.set(unit.row.valid, 0)
        while not ctx.get(unit.idle):
            await ctx.tick()
        for entry in range(1, 1 << levels):
            ctx.set(unit.peek, entry)
            await ctx.tick()
            kept[entry] = ctx.get(unit.number)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(control)
    simulator.run()
    numbers = [number for number in kept.values() if number != 0xFFFFFFFF]
    assert len(numbers) == len(set(numbers)) == min(len(kept), counted.size)
    assert set(numbers) == _wanted(counted, base, len(kept))
