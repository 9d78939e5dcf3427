"""The decoder, over every function id."""

from __future__ import annotations

from amaranth.sim import Simulator
from tvu.decoder import OPCODES, Decoder
from xtvu import isa


def test_decoder_over_all_function_ids():
    unit = Decoder()

    async def bench(ctx):
        for function_id in range(1024):
            ctx.set(unit.function_id, function_id)
            await ctx.delay(1e-9)
            ins = isa.by_function_id(function_id)
            assert ctx.get(unit.defined) == (ins is not None)
            assert ctx.get(unit.group) == function_id & 7
            if ins is not None:
                assert ctx.get(unit.opcode) == OPCODES[ins.name]

    sim = Simulator(unit)
    sim.add_testbench(bench)
    sim.run()
