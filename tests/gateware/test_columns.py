"""The drain of the column sums, from accumulators that show only when they have settled."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from simulation import simulate
from tvu.columns import Columns
from xtvu.isa import COLUMN_WORDS, LANES, WORD_BYTES

_UNSETTLED = -99


class _Accumulators(wiring.Component):
    """What Columns reads of a product array; lane, digit and slot make the sum."""

    def __init__(self, settling):
        self.settling = settling
        self._sums = {}
        super().__init__({"read_columns": In(1), "read_slot": In(range(COLUMN_WORDS))})

    def column_sum(self, lane, digit):
        return self._sums.setdefault((lane, digit), Signal(signed(24), name=f"s{lane}_{digit}"))

    @staticmethod
    def value(slot, lane, digit):
        return 1000 * slot + 32 * digit + lane - 7000

    def elaborate(self, platform):
        m = Module()
        slots, reads = [self.read_slot], [self.read_columns]
        for _ in range(self.settling):
            slot, read = Signal.like(self.read_slot), Signal()
            m.d.sync += [slot.eq(slots[-1]), read.eq(reads[-1])]
            slots.append(slot)
            reads.append(read)
        same = [read & (slot == slots[-1]) for slot, read in zip(slots, reads, strict=True)]
        shown = Signal()
        m.d.comb += shown.eq(sum(same) == len(same))
        for (lane, digit), signal in self._sums.items():
            m.d.comb += signal.eq(Mux(shown, self.value(slots[-1], lane, digit), _UNSETTLED))
        return m


class _Bench(wiring.Component):
    def __init__(self, settling):
        self.array = _Accumulators(settling)
        self.columns = Columns(self.array)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.columns, m.submodules.array = self.columns, self.array
        return m


@pytest.mark.parametrize("settling", [1, 2])
@pytest.mark.parametrize("digits5", [0, 1])
@pytest.mark.parametrize("rows,chance,empty", [
    (8, 1.0, 0), (5, 1.0, 0), (160, 1.0, 0), (161, 0.4, 0), (347, 0.5, 0), (24, 1.0, 1)])
def test_rows_come_in_order(rows, chance, empty, digits5, settling):
    rng = np.random.default_rng(rows)
    unit = _Bench(settling)
    drain, per_word = unit.columns, WORD_BYTES * (5 if digits5 else 4)
    want = [0 if empty else _Accumulators.value(e // per_word, e % WORD_BYTES,
                                                e % per_word // WORD_BYTES) for e in range(rows)]

    async def bench(ctx):
        for _ in range(2):  # the second drain begins anew
            got, indices, last = [], [], False
            for name, value in (("rows", rows), ("digits5", digits5), ("start", 1)):
                ctx.set(getattr(drain, name), value)
            await ctx.tick()
            for name, value in (("start", 0), ("rows", 0), ("drain", 1), ("empty", empty)):
                ctx.set(getattr(drain, name), value)
            await ctx.tick()
            ctx.set(drain.drain, 0)
            ctx.set(drain.empty, 0)
            while not last:
                ctx.set(drain.row.ready, int(rng.random() < chance))
                _, _, valid, ready, row = await ctx.tick().sample(
                    drain.row.valid, drain.row.ready, drain.row.payload)
                if valid and ready:
                    got += [row.sums[i] for i in range(LANES) if row.mask >> i & 1]
                    indices.append(row.index)
                    last = row.last
            assert got == want
            assert indices == [*range(-(-rows // LANES))]
            ctx.set(drain.row.ready, 1)
            await ctx.tick().repeat(4)
            assert not ctx.get(drain.row.valid), "rows behind the last one"

    simulate(unit, bench)
