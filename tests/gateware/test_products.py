"""Dot products with their collector, under random back-pressure, with slices at both clocks."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from simulation import accept, offer, simulate, slice_model, words_of, write_codes
from tvu.collect import Collector
from tvu.products import DotProducts
from xtvu import isa
from xtvu.layout import WEIGHTS_PER_WORD, pack_ternary


class _LanesAndCollector(wiring.Component):
    """The dot path from stream words to collected rows."""

    def __init__(self, dsp_clock):
        self.lanes, self.collector = DotProducts(slice_model, dsp_clock=dsp_clock), Collector()
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.lanes, m.submodules.collector = self.lanes, self.collector
        wiring.connect(m, self.lanes.result, self.collector.result)
        return m


@pytest.mark.parametrize("mode,vectors,chance,words,rows,sleep,share", [
    ("base3", 1, 0.4, 2,
     11, 0, None), ("2bit", 2, 1.0, 2, 11, 0, None), ("int8", 4, 0.3, 2, 11, 0, None),
    ("int8", 1, 1.0, 1, 61, 120, None),  # more rows than all queues hold, while nobody takes any
    # picked rows
    ("base3", 1, 0.5, 2,
     61, 0, 0.4), ("2bit", 8, 1.0, 1, 61, 120, 0.8), ("base3", 1, 1.0, 1, 16, 0, 0.0),
])
@pytest.mark.parametrize("dsp_clock", [2, 1])
def test_lanes_under_back_pressure(mode, vectors, chance, words, rows, sleep, share, dsp_clock):
    rng = np.random.default_rng(8)
    unit = _LanesAndCollector(dsp_clock)
    lanes, collector = unit.lanes, unit.collector
    per_word = {"base3": 160, "2bit": 128, "int8": 32}[mode]
    columns = words * per_word
    codes = rng.integers(-127, 128, (vectors, columns))
    if mode == "int8":
        matrix = rng.integers(-128, 128, (rows, columns))
        packed = matrix.astype(np.int8).view(np.uint8)
    else:
        matrix = rng.integers(-1, 2, (rows, columns))
        packed = pack_ternary(matrix.astype(np.int8), mode)
    places = np.arange(rows) if share is None else np.flatnonzero(rng.random(rows) < share)
    stream = packed.reshape(rows, words, 32)[places].reshape(-1, 32)
    want = np.zeros((vectors, rows), np.int64)
    want[:, places] = (codes @ matrix.T)[:, places]
    got, lasts = np.zeros((vectors, 64), np.int64), []

    async def feed(ctx):
        await write_codes(ctx, lanes.write, mode, codes)
        ctx.set(lanes.words, words)
        ctx.set(lanes.mode, isa.MODES[mode])
        ctx.set(collector.last_vector, vectors - 1)
        ctx.set(lanes.last_vector, vectors - 1)
        ctx.set(lanes.rows, rows)
        ctx.set(lanes.picked, int(share is not None))
        ctx.set(lanes.start, 1)
        await ctx.tick()
        ctx.set(lanes.start, 0)
        await offer(ctx, lanes.word, words_of(stream), rng, chance)
        for _ in range(400):
            await ctx.tick()
        assert not ctx.get(lanes.hungry)
        assert sum(lasts) == lasts[-1] == 1
        np.testing.assert_array_equal(got[:, :rows], want)

    async def entries(ctx):
        if share is not None:
            await offer(ctx, lanes.entry, [*({"row": place} for place in places.tolist()),
                                           {"end": 1}], rng, chance)

    async def sink(ctx):
        def take(row):
            for lane in range(8):
                if row.mask >> lane & 1:
                    got[row.vector, 8 * row.index + lane] = row.sums[lane]
            lasts.append(row.last)

        for _ in range(sleep):
            await ctx.tick()
        await accept(ctx, collector.row, take, rng, chance)

    simulate(unit, feed, sink, entries, dsp_clock=dsp_clock)


@pytest.mark.parametrize("dsp_clock", [2, 1])
@pytest.mark.parametrize("mode,words,rows,chance", [
    ("2bit", 3, 137, 1.0), ("base3", 1, 61, 1.0), ("base3", 2, 320, 0.4)])
def test_sums_of_columns(mode, words, rows, chance, dsp_clock):
    rng = np.random.default_rng(words)
    lanes = DotProducts(slice_model, dsp_clock=dsp_clock)
    count = 7
    matrix = rng.integers(-1, 2, (count, words * WEIGHTS_PER_WORD[mode]))
    packed = pack_ternary(matrix.astype(np.int8), mode).reshape(-1, 32)
    codes = rng.integers(-127, 128, count)
    got = {}

    async def feed(ctx):
        for name, value in (("words", words), ("mode", isa.MODES[mode]), ("rows", rows),
                            ("picked", 1), ("columns", 1), ("start", 1)):
            ctx.set(getattr(lanes, name), value)
        await ctx.tick()
        for name in ("start", "words", "rows", "picked", "columns"):
            ctx.set(getattr(lanes, name), 0)
        await offer(ctx, lanes.word, words_of(packed), rng, chance)
        for _ in range(800):
            await ctx.tick()
        assert got == dict(enumerate((codes @ matrix)[:rows].tolist()))

    async def entries(ctx):
        await offer(ctx, lanes.entry, [*({"code": code} for code in codes.tolist()), {"end": 1}],
                    rng)

    async def sink(ctx):
        def take(row):
            got.update((8 * row.index + lane, row.sums[lane]) for lane in range(8)
                       if row.mask >> lane & 1)

        await accept(ctx, lanes.column_row, take, rng, chance)

    simulate(lanes, feed, sink, entries, dsp_clock=dsp_clock)
