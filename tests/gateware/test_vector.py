"""The vector unit alone, with random gaps on its stream inputs and random back-pressure on its
store output."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator
from simulation import accept, offer
from tvu.operation import Add, Factor, Sink, Source
from tvu.vector import VectorUnit
from xtvu import semantics


def _bits(values):
    return np.asarray(values, np.float32).view(np.uint32).tolist()


def _pack(words):
    return sum(w << 32 * i for i, w in enumerate(words))


@pytest.mark.parametrize("chance", [1.0, 0.35])
@pytest.mark.parametrize("case", ["word", "bytes", "dot", "store"])
def test_random_back_pressure(case, chance):
    rng = np.random.default_rng(11)
    unit = VectorUnit()
    rows = 24
    scratch = rng.standard_normal((64, 8)).astype(np.float32)
    before = scratch.copy()
    words = rng.standard_normal((rows, 8)).astype(np.float32)
    sums = rng.integers(-10000, 10000, (rows, 8))
    codes = rng.integers(-128, 128, (rows // 4, 32)).astype(np.int8)
    factor = np.float32(0.37)
    op = {"count": 8 * rows, "dst": 32, "a": 0, "b": 4, "runs": 1,
          "factors": [int(factor.view(np.uint32))] * 4}
    op |= {
        "word": {"source": Source.SCRATCH, "b_word": 1, "factor": Factor.B, "sink": Sink.SCRATCH},
        "bytes": {"source": Source.BYTES, "scale": 1, "sink": Sink.SCRATCH},
        "dot": {"source": Source.DOT, "b_read": 1, "b_dst": 1, "scale": 1, "add": Add.B,
                "sink": Sink.SCRATCH},
        "store": {"source": Source.SCRATCH, "sink": Sink.STORE},
    }[case]
    stored = []
    done = []

    async def control(ctx):
        ctx.set(unit.op, op)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        for _ in range(3000):
            if ctx.get(unit.done):
                done.append(True)
                break
            await ctx.tick()
        while ctx.get(unit.rows_wait):  # what is to be stored may leave later
            await ctx.tick()

    async def memory(ctx):
        while True:
            addresses = [2 * ctx.get(unit.read_address[bank]) + bank for bank in range(2)]
            mask = ctx.get(unit.write_mask)
            where, data = ctx.get(unit.write_address), ctx.get(unit.write_data)
            await ctx.tick()
            for lane in range(8):
                if mask >> lane & 1:
                    scratch[where % 64,
                            lane] = np.uint32(data >> 32 * lane & 0xFFFFFFFF).view(np.float32)
            for bank, address in enumerate(addresses):
                ctx.set(unit.read_data[bank], _pack(_bits(scratch[address % 64])))

    async def words_in(ctx):
        payloads = ([int.from_bytes(c.tobytes(), "little") for c in codes] if case == "bytes"
                    else [_pack(_bits(w)) for w in words])
        await offer(ctx, unit.word, payloads, rng, chance)

    async def dot_in(ctx):
        await offer(ctx, unit.dot, [
            {"sums": sums[row].tolist(), "index": row, "vector": 0, "mask": 255,
             "last": int(row == rows - 1)} for row in range(rows)], rng, chance)

    async def rows_out(ctx):
        await accept(ctx, unit.row, lambda row: stored.append(list(row.values)), rng, chance)

    sim = Simulator(unit)
    sim.add_clock(1e-6)
    sim.add_testbench(control)
    # memory last: what it is asked for depends on what the others offer in the same cycle
    for bench in (*({"dot": (dot_in,), "store": (rows_out,)}.get(case, (words_in,))), memory):
        sim.add_testbench(bench, background=True)
    sim.run()

    assert done, "the operation never ended"
    a = before[:rows]
    if case == "store":
        assert stored == [_bits(row) for row in a]
        return
    want = {
        "word": lambda: semantics.multiply(a, words),
        "bytes": lambda: semantics.multiply(codes.reshape(rows, 8).astype(np.float32), factor),
        "dot": lambda: semantics.add(semantics.multiply(sums.astype(np.float32), factor),
                                     before[32:32 + rows]),
    }[case]()
    np.testing.assert_array_equal(scratch[32:32 + rows].view(np.uint32), want.view(np.uint32))
