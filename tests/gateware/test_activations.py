"""The activation memory against a plain array: what is written where, and what a position reads."""

from __future__ import annotations

import numpy as np
import pytest
from simulation import simulate
from tvu.activations import BANDS, CHAINS, DIGITS, POSITIONS, TOKENS, Activations
from xtvu.isa import ACT_WORDS, LANES, SHARED_WORDS, WORD_BYTES


def _write(memory, vector, address, digit, quarter, whole, codes):
    """``memory``: [word, byte lane, digit, token], as codes."""
    lanes = slice(LANES * quarter, LANES * (quarter + 1))
    if whole:
        vector, address = vector + address // ACT_WORDS, address % ACT_WORDS
        memory[address, lanes, :4, vector] = codes[:, None]
    else:
        memory[address + SHARED_WORDS * (vector >= TOKENS), lanes, digit, vector % TOKENS] = codes


def _random_write(rng):
    whole = bool(rng.random() < 0.3)
    vector = int(rng.integers(0, 4 if whole else 8))
    most = (4 - vector) * ACT_WORDS if whole else SHARED_WORDS if vector >= 4 else ACT_WORDS
    address = int(rng.integers(0, min(most, 128)))
    return vector, address, int(rng.integers(0, DIGITS)), int(rng.integers(0, 4)), whole


@pytest.mark.parametrize("seed", range(2))
def test_codes_are_read_where_they_were_written(seed):
    rng = np.random.default_rng(seed)
    unit = Activations()
    memory = np.zeros((ACT_WORDS, WORD_BYTES, DIGITS, TOKENS), np.int64)

    async def bench(ctx):
        for _ in range(300):
            vector, address, digit, quarter, whole = _random_write(rng)
            codes = rng.integers(-127, 128, LANES)
            _write(memory, vector, address, digit, quarter, whole, codes)
            for name, value in (("vector", vector), ("address", address), ("digit", digit),
                                ("quarter", quarter), ("bytes", int(whole)), ("enable", 1)):
                ctx.set(getattr(unit.write, name), value)
            ctx.set(unit.write.codes, int.from_bytes(codes.astype(np.int8).tobytes(), "little"))
            await ctx.tick()
            ctx.set(unit.write.enable, 0)
            if rng.random() < 0.5:
                await ctx.tick()
        for slot in (7, 31):  # the codes of columns go to every place of a word
            code = int(rng.integers(-127, 128))
            memory[slot] = -128
            memory[slot, :, :, 0] = abs(code) - 128
            ctx.set(unit.spread, 1)
            ctx.set(unit.spread_address, slot)
            ctx.set(unit.code, code)
            await ctx.tick()
            ctx.set(unit.spread, 0)
        await ctx.tick().repeat(2)
        for word in range(ACT_WORDS):
            for b, chains in enumerate(BANDS):
                for p in range(POSITIONS):
                    # each position of each band has an address of its own
                    at = (word + 3 * p + b) % ACT_WORDS
                    ctx.set(unit.read_address[b][p], at)
                    await ctx.delay(1e-9)
                    for chain in chains:
                        read = ctx.get(unit.codes(p, chain)).to_bytes(TOKENS, "little")
                        want = memory[at, p + POSITIONS * (chain % 2), chain // 2] + 128
                        assert [*read] == want.tolist(), (at, b, p, chain)

    simulate(unit, bench, dsp_clock=2)


def test_every_chain_is_in_one_band():
    assert [chain for band in BANDS for chain in band] == [*range(CHAINS)]
