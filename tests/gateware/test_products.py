"""Dot products with their collector, under random back-pressure, with slices at both clocks."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from simulation import simulate, slice_model
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
        layout = per_word
        for v in range(vectors):
            padded = np.zeros(-(-columns // layout) * layout, np.int64)
            padded[:columns] = codes[v]
            for row, group in enumerate(padded.reshape(-1, 8)):
                place = row % (layout // 8)
                ctx.set(lanes.write.enable, 1)
                ctx.set(lanes.write.vector, v)
                ctx.set(lanes.write.bytes, int(mode == "int8"))
                ctx.set(lanes.write.address, row // (layout // 8))
                ctx.set(lanes.write.digit, place // 4)
                ctx.set(lanes.write.quarter, place % 4)
                ctx.set(lanes.write.codes, sum(int(c & 255) << 8 * i for i, c in enumerate(group)))
                await ctx.tick()
        ctx.set(lanes.write.enable, 0)
        ctx.set(lanes.words, words)
        ctx.set(lanes.mode, isa.MODES[mode])
        ctx.set(collector.last_vector, vectors - 1)
        ctx.set(lanes.last_vector, vectors - 1)
        ctx.set(lanes.rows, rows)
        ctx.set(lanes.picked, int(share is not None))
        ctx.set(lanes.start, 1)
        await ctx.tick()
        ctx.set(lanes.start, 0)
        for word in stream:
            while rng.random() > chance:
                await ctx.tick()
            ctx.set(lanes.word.payload, int.from_bytes(word.tobytes(), "little"))
            ctx.set(lanes.word.valid, 1)
            await ctx.tick().until(lanes.word.ready)
            ctx.set(lanes.word.valid, 0)
        for _ in range(400):
            await ctx.tick()
        assert not ctx.get(lanes.hungry)
        assert sum(lasts) == lasts[-1] == 1
        np.testing.assert_array_equal(got[:, :rows], want)

    async def entries(ctx):
        for place in [*places.tolist(), None] if share is not None else []:
            ctx.set(lanes.entry.payload, {"end": 1} if place is None else {"row": place})
            while rng.random() > chance:
                await ctx.tick()
            ctx.set(lanes.entry.valid, 1)
            await ctx.tick().until(lanes.entry.ready)
            ctx.set(lanes.entry.valid, 0)

    async def sink(ctx):
        for _ in range(sleep):
            await ctx.tick()
        while True:
            ready = rng.random() < chance
            ctx.set(collector.row.ready, int(ready))
            if ready and ctx.get(collector.row.valid):
                row = ctx.get(collector.row.payload)
                for lane in range(8):
                    if row.mask >> lane & 1:
                        got[row.vector, 8 * row.index + lane] = row.sums[lane]
                lasts.append(row.last)
            await ctx.tick()

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
        for word in packed:
            while rng.random() > chance:
                await ctx.tick()
            ctx.set(lanes.word.payload, int.from_bytes(word.tobytes(), "little"))
            ctx.set(lanes.word.valid, 1)
            await ctx.tick().until(lanes.word.ready)
            ctx.set(lanes.word.valid, 0)
        for _ in range(800):
            await ctx.tick()
        assert got == dict(enumerate((codes @ matrix)[:rows].tolist()))

    async def entries(ctx):
        for code in [*codes.tolist(), None]:
            ctx.set(lanes.entry.payload, {"end": 1} if code is None else {"code": code})
            ctx.set(lanes.entry.valid, 1)
            await ctx.tick().until(lanes.entry.ready)
            ctx.set(lanes.entry.valid, 0)

    async def sink(ctx):
        while True:
            ctx.set(lanes.column_row.ready, int(rng.random() < chance))
            _, _, valid, ready, row = await ctx.tick().sample(
                lanes.column_row.valid, lanes.column_row.ready, lanes.column_row.payload)
            if valid and ready:
                got.update((8 * row.index + lane, row.sums[lane]) for lane in range(8)
                           if row.mask >> lane & 1)

    simulate(lanes, feed, sink, entries, dsp_clock=dsp_clock)
