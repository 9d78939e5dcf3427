"""The sequencer alone: what each instruction's operands become, wherever the table has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator
from tvu.decoder import OPCODES
from tvu.sequencer import Sequencer
from xtvu import isa

#: What may not be any number, so that the instruction is carried out.
_FITTING = {
    "n": lambda rng: 32 * int(rng.integers(1, 11)), "addr": lambda rng: 32 * int(rng.integers(1e6)),
    "words": lambda rng: int(rng.integers(1, 16)), "rows": lambda rng: int(rng.integers(1, 1000)),
    "mode": lambda rng: int(rng.integers(2)), "s": lambda rng: int(rng.integers(1, 24)),
    "t": lambda rng: int(rng.integers(1, 32)),
    "levels": lambda rng: int(rng.integers(1, isa.RANK_LEVELS + 1)),
}
_DOTS = ("DOT", "DOTA", "COLS")


def _shuffled(rng, ins):
    """The instruction with its operands somewhere else."""
    while True:
        free, fields = [0, 0], []
        for place in rng.permutation(len(ins.fields)):
            field = ins.fields[place]
            room = [word for word in range(2) if free[word] + field.width <= 32]
            if not room:
                break
            word = int(rng.choice(room))
            fields.append(replace(field, source=word + 1, lo=free[word]))
            free[word] += field.width
        else:
            return replace(ins, fields=tuple(fields))


def _value(number):
    """What scalar register ``number`` holds."""
    return int(np.float32(number + 0.5).view(np.uint32)) if number else 0


class _Bench:
    """Gives instructions to a sequencer and plays the units it starts."""

    def __init__(self, table):
        self.unit, self._table = Sequencer(), table

    def run(self, script):
        simulator = Simulator(self.unit)
        simulator.add_clock(1e-6)

        async def bench(ctx):
            await script(self, ctx)

        simulator.add_testbench(bench)
        simulator.run()

    async def give(self, ctx, name, **operands):
        rs1, rs2 = self._table[name].pack(**operands)
        ctx.set(self.unit.instruction.payload, {"opcode": OPCODES[name], "rs1": rs1, "rs2": rs2})
        ctx.set(self.unit.instruction.valid, 1)
        await ctx.tick().until(self.unit.instruction.ready)
        ctx.set(self.unit.instruction.valid, 0)

    async def wait_for(self, ctx, signal):
        for _ in range(60):
            if ctx.get(signal):
                return
            await ctx.tick()
        raise AssertionError("it never came")

    async def pulse(self, ctx, signal):
        ctx.set(signal, 1)
        await ctx.tick()
        ctx.set(signal, 0)

    async def scalar(self, ctx, number):
        ctx.set(self.unit.peek_address, number)
        await ctx.delay(1e-9)
        return ctx.get(self.unit.peek_data)


@pytest.mark.parametrize("seed", range(4))
def test_every_operand_arrives(seed, monkeypatch):
    """Seed 0: the table as it is. Others: the operands of each instruction in places of its own."""
    rng = np.random.default_rng(seed)
    table = {ins.name: _shuffled(rng, ins) if seed and ins.group > isa.STREAM else ins
             for ins in isa.INSTRUCTIONS}
    isa.check(tuple(table.values()))
    monkeypatch.setattr(isa, "by_name", table.__getitem__)
    tried = []

    async def script(bench, ctx):
        unit = bench.unit
        for signal in (unit.row_free, unit.rank.idle, unit.row.ready):
            ctx.set(signal, 1)
        for number in range(1, isa.SCALARS):
            await bench.give(ctx, "SSET", d=number, value=_value(number))
        for ins in table.values():
            if ins.group in (isa.CONTROL, isa.STREAM) or ins.name in ("REP", "EPI", "SSET"):
                continue
            operands = {f.name: _FITTING.get(f.name, lambda rng, f=f: int(rng.integers(f.mask + 1)))
                        (rng) for f in ins.fields}
            operands |= {"vector": int(rng.integers(4))} if "vector" in operands else {}
            await bench.give(ctx, ins.name, **operands)
            await _carried_out(bench, ctx, ins, operands)
            tried.append(ins.name)
            await ctx.tick().repeat(3)

    _Bench(table).run(script)
    assert len(tried) == sum(ins.group > isa.STREAM for ins in isa.INSTRUCTIONS) - 3


async def _carried_out(bench, ctx, ins, operands):
    unit = bench.unit
    if ins.name == "SECTION":
        await ctx.tick().repeat(5)
        assert ctx.get(unit.section) == operands["section"]
    elif ins.name == "RANK":
        await bench.wait_for(ctx, unit.rank.clear)
        assert ctx.get(unit.rank.levels) == operands["levels"]
    elif ins.name == "CHECK":
        await bench.wait_for(ctx, unit.check.start)
        assert ctx.get(unit.check.words) == operands["words"]
        await ctx.tick()
        await _result(bench, ctx, unit.check.value, unit.check.done, operands["t"])
    elif ins.name == "STORES":
        await bench.wait_for(ctx, unit.store.start)
        assert ctx.get(unit.store.address) == operands["addr"]
        await bench.wait_for(ctx, unit.row.valid)
        assert ctx.get(unit.row.payload) == await bench.scalar(ctx, operands["s"])
    elif ins.group == isa.SCALAR:
        a, b = [await bench.scalar(ctx, operands.get(name, 0)) for name in "ab"]
        await bench.wait_for(ctx, unit.scalar.start)
        assert ctx.get(unit.scalar.a) == a
        assert "b" not in operands or ctx.get(unit.scalar.b) == b
        await ctx.tick()
        await _result(bench, ctx, unit.scalar.r, unit.scalar.done, operands["d"])
    else:
        await bench.wait_for(ctx, unit.vector.start)
        await _vector(bench, ctx, ins, operands)


async def _result(bench, ctx, value, done, register):
    """A unit's result comes into the register that was named."""
    ctx.set(value, 0x42280000 + register)
    await bench.pulse(ctx, done)
    await ctx.tick().repeat(3)
    assert await bench.scalar(ctx, register) == (0x42280000 + register if register else 0)


async def _vector(bench, ctx, ins, operands):
    unit = bench.unit
    op = {name: ctx.get(unit.vector.op[name])
          for name in ("dst", "a", "b", "count", "stride", "vector")}
    names = {"n": "count"} if ins.name not in _DOTS else {"dst": "dst", "stride": "stride"}
    names |= {name: name for name in ("dst", "a", "b", "vector")}
    for name in operands.keys() & names.keys():
        assert op[names[name]] == operands[name], (ins.name, name)
    for name in operands.keys() & {"words", "mode", "last_vector", "rows"}:
        assert ctx.get(getattr(unit.dot, name)) == operands[name], (ins.name, name)
    if "addr" in operands:
        assert ctx.get(unit.store.start) and ctx.get(unit.store.address) == operands["addr"]
    step = operands.get("step_s", 0)
    for vector in range(operands.get("last_vector", 0) + 1):
        for name, values in (("s", unit.vector.op.factors), ("c", unit.vector.op.addends)):
            if name in operands:
                want = await bench.scalar(ctx, operands[name] + step * vector)
                assert ctx.get(values[vector]) == want, (ins.name, name, vector)
    await ctx.tick()
    if "t" in operands:
        ctx.set(unit.vector.value, 0x41200000)
        await bench.pulse(ctx, unit.vector.reduced)
    await bench.pulse(ctx, unit.vector.done)
    await ctx.tick()
    if "t" in operands:
        assert await bench.scalar(ctx, operands["t"]) == 0x41200000
