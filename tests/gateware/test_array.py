"""The product array by itself: dot products and column sums of words that follow one another with
and without gaps, with slices at both clocks."""

from __future__ import annotations

import numpy as np
import pytest
from simulation import simulate, slice_model, write_codes
from tvu.array import ProductArray
from xtvu import isa
from xtvu.layout import WEIGHTS_PER_WORD, pack_ternary

_WORDS = 2  # of a row
_COLUMN_WORDS = 3  # so many that columns can follow one another


def _matrix(rng, mode, rows, words):
    columns = words * WEIGHTS_PER_WORD[mode]
    if mode == "int8":
        matrix = rng.integers(-128, 128, (rows, columns))
        return matrix, matrix.astype(np.int8).view(np.uint8)
    matrix = rng.integers(-1, 2, (rows, columns))
    return matrix, pack_ternary(matrix.astype(np.int8), mode)


class _Later:
    """Values that signals get some cycles later."""

    def __init__(self):
        self._at = {}

    def add(self, cycles, signal, value):
        self._at.setdefault(cycles, []).append((signal, value))

    async def tick(self, ctx, resting, sampled):
        """A cycle; what ``sampled`` is at its end."""
        for signal in resting:
            ctx.set(signal, 0)
        for signal, value in self._at.pop(0, ()):
            ctx.set(signal, value)
        self._at = {cycles - 1: values for cycles, values in self._at.items()}
        return (await ctx.tick().sample(*sampled))[2:]


@pytest.mark.parametrize("dsp_clock", [2, 1])
@pytest.mark.parametrize("mode,vectors", [("base3", 8), ("base3", 1), ("2bit", 5), ("int8", 4)])
def test_dot_products(mode, vectors, dsp_clock):
    rng = np.random.default_rng(vectors)
    array = ProductArray(slice_model, dsp_clock=dsp_clock)
    rows = 5
    matrix, packed = _matrix(rng, mode, rows, _WORDS)
    codes = rng.integers(-127, 128, (vectors, matrix.shape[1]))
    want = matrix @ codes.T
    both = dsp_clock == 2 or mode == "int8" or vectors > 4
    passes = 2 if dsp_clock == 1 and both else 1
    got = []

    async def bench(ctx):
        await write_codes(ctx, array.write, mode, codes)
        ctx.set(array.mode, isa.MODES[mode])
        ctx.set(array.both, int(both))
        await ctx.tick().repeat(3)
        later, read = _Later(), set()
        cycle = 0
        for row in range(rows):
            for word in range(_WORDS):
                while rng.random() > (0.5 if row % 2 else 1.0):
                    await step(ctx, later, read, cycle)
                    cycle += 1
                data = packed.reshape(rows, _WORDS, 32)[row, word]
                for second in range(passes):
                    for signal, value in ((array.word, int.from_bytes(data.tobytes(), "little")),
                                          (array.address, word), (array.valid, 1),
                                          (array.pass2, second)):
                        later.add(0, signal, value)
                    late = array.latency - array.ahead - 1
                    later.add(late, array.total_valid, 1)
                    later.add(late, array.first, int(word == 0))
                    if word == _WORDS - 1 and second == passes - 1:
                        read.add(cycle + array.latency - 1)
                    await step(ctx, later, read, cycle)
                    cycle += 1
        for _ in range(array.latency + 3):
            await step(ctx, later, read, cycle)
            cycle += 1
        np.testing.assert_array_equal(np.array(got)[:, :vectors], want)

    async def step(ctx, later, read, cycle):
        sums = await later.tick(ctx, (array.valid, array.total_valid, array.first),
                                [array.sums[v] for v in range(isa.VECTORS)])
        if cycle in read:
            got.append(sums)

    simulate(array, bench, dsp_clock=dsp_clock)


@pytest.mark.parametrize("dsp_clock", [2, 1])
@pytest.mark.parametrize("mode", ["base3", "2bit"])
def test_sums_of_columns(mode, dsp_clock):
    rng = np.random.default_rng(3)
    array = ProductArray(slice_model, dsp_clock=dsp_clock)
    matrix, packed = _matrix(rng, mode, 6, _COLUMN_WORDS)
    packed = packed.reshape(len(matrix), _COLUMN_WORDS, 32)
    per_word = WEIGHTS_PER_WORD[mode]

    async def one(ctx, codes):
        """Adds up columns; what was there before does not count."""
        spread = isa.SHARED_WORDS
        for column, code in enumerate(codes.tolist()):
            for word in range(_COLUMN_WORDS):
                ctx.set(array.spread, int(word == 0))
                ctx.set(array.spread_address, spread)
                ctx.set(array.code, code)
                await ctx.tick()
                ctx.set(array.spread, 0)
                ctx.set(array.word, int.from_bytes(packed[column, word].tobytes(), "little"))
                for name, value in (("address", spread), ("slot", word), ("valid", 1),
                                    ("negative", int(code < 0)), ("fresh", int(column == 0))):
                    ctx.set(getattr(array, name), value)
            spread = (spread + 1) | isa.SHARED_WORDS
        await ctx.tick()
        ctx.set(array.valid, 0)
        await ctx.tick().repeat(array.latency)
        ctx.set(array.read_columns, 1)
        sums = []
        for slot in range(_COLUMN_WORDS):
            ctx.set(array.read_slot, slot)
            await ctx.tick().repeat(array.settling)
            await ctx.delay(1e-9)
            sums += [ctx.get(array.column_sum(e % 32, e // 32)) for e in range(per_word)]
        ctx.set(array.read_columns, 0)
        await ctx.tick().repeat(3)
        assert sums == (codes @ matrix[:len(codes)]).tolist()

    async def bench(ctx):
        ctx.set(array.mode, isa.MODES[mode])
        ctx.set(array.both, int(dsp_clock == 2))
        ctx.set(array.columns, 1)
        await ctx.tick().repeat(3)
        for count in (len(matrix), 1):
            await one(ctx, rng.integers(-127, 128, count))

    simulate(array, bench, dsp_clock=dsp_clock)
