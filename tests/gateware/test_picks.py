"""The scanner of the pick memory: every row whose code is not zero, in order, and then the end."""

from __future__ import annotations

import numpy as np
import pytest
from simulation import simulate
from tvu.picks import PickScanner


@pytest.mark.parametrize("chance", [1.0, 0.3])
@pytest.mark.parametrize("groups,share,everything", [
    (9, 0.3, 0), (9, 0.02, 0), (5, 1.0, 0), (4, 0.0, 0), (3, 0.4, 1), (0, 1.0, 1), (1, 0.2, 0),
])
def test_rows_come_in_order(groups, share, everything, chance):
    rng = np.random.default_rng(groups)
    unit = PickScanner()
    codes = rng.integers(1, 128, 8 * 16) * rng.choice([-1, 1], 8 * 16)
    codes *= rng.random(codes.size) < share
    base, words, got = 0x7FF_FF00, 17, []

    async def memory(ctx):
        while True:
            address = ctx.get(unit.pick_address) % 16
            await ctx.tick()
            group = codes[8 * address:8 * address + 8].astype(np.int8)
            ctx.set(unit.pick_data, int.from_bytes(group.tobytes(), "little"))

    async def bench(ctx):
        for _ in range(2):  # a second scan begins anew
            got.clear()
            for name, value in (("groups", groups), ("words", words), ("address", base),
                                ("everything", everything), ("start", 1)):
                ctx.set(getattr(unit, name), value)
            await ctx.tick()
            for name in ("start", "groups", "words", "address", "everything"):
                ctx.set(getattr(unit, name), 0)
            assert ctx.get(unit.busy)
            cycles = 0
            while not (got and got[-1] is None):
                ctx.set(unit.row.ready, int(rng.random() < chance))
                _, _, valid, ready, row = await ctx.tick().sample(unit.row.valid, unit.row.ready,
                                                                  unit.row.payload)
                if valid and ready:
                    got.append(None if row.entry.end else (row.entry.row, row.entry.code,
                                                           row.address))
                cycles += 1
            assert not ctx.get(unit.busy)
            if share == chance == 1:  # one row a cycle, once the first codes are there
                assert cycles <= 8 * groups + 4
            rows = range(8 * groups) if everything else np.flatnonzero(codes[:8 * groups])
            assert got == [(row, codes[row], (base + words * row) % 2**27) for row in rows] + [None]

    simulate(unit, bench, memory)
