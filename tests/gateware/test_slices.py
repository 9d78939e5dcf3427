"""The register stages at the memory ports: everything comes through, in order, one each cycle, and
whatever is reset."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import wiring
from ps.slices import WRITERS, Slices
from simulation import simulate
from tvu.axi import PORTS

_READERS = [f"read{i}" for i in range(PORTS)]
_CHANNELS = ([(name, "ar", ("addr", "len")) for name in _READERS]
             + [(name, channel, fields) for name in WRITERS
                for channel, fields in (("aw", ("addr",)), ("w", ("data", "strb")))])
_ANSWERS = ([(name, "r", ("data", "resp", "last")) for name in _READERS]
            + [(name, "b", ("resp",)) for name in WRITERS])


class _Reset(wiring.Component):
    """The slices, with a reset that a bench can raise."""

    def __init__(self) -> None:
        self.slices, self.reset = Slices(), Signal()
        super().__init__({})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.slices = ResetInserter(self.reset)(self.slices)
        m.d.sync += Signal(name="beat").eq(1)  # the benches go by this domain
        return m


def _random(rng, signals):
    return [rng.getrandbits(len(signal)) for signal in signals]


def _pins(interface, channel, fields):
    return [getattr(interface, channel + field) for field in fields]


async def _stable(ctx, valid, ready, payload, rng, chance, taken):
    """The port's side of a request: what stands there stays until it is taken."""
    before = None
    while True:
        moves = rng.random() < chance
        ctx.set(ready, int(moves))
        _, _, stands, *values = await ctx.tick().sample(valid, *payload)
        assert before is None or (stands and values == before), "it changed while it waited"
        before = values if stands and not moves else None
        if stands and moves:
            taken.append(values)


@pytest.mark.parametrize("name, channel, fields", _CHANNELS)
@pytest.mark.parametrize("chance", [0.5, 1.0])
def test_requests(name, channel, fields, chance):
    dut, rng = _Reset(), random.Random(f"{name}{channel}{chance}")
    master, port = getattr(dut.slices, name), getattr(dut.slices, f"hp_{name}")
    payload = _pins(master, channel, fields)
    sent, taken = [_random(rng, payload) for _ in range(200)], []

    async def run(ctx):
        cycles = 0
        for i, values in enumerate(sent):
            while rng.random() > chance:
                await ctx.tick()
            for signal, value in zip(payload, values, strict=True):
                ctx.set(signal, value)
            ctx.set(getattr(master, channel + "valid"), 1)
            ctx.set(dut.reset, int(i % 50 == 25))
            while True:
                cycles += 1
                _, _, ready = await ctx.tick().sample(getattr(master, channel + "ready"))
                if ready:
                    break
            ctx.set(getattr(master, channel + "valid"), 0)
        for _ in range(40):
            await ctx.tick()
        assert taken == sent
        assert chance < 1 or cycles < len(sent) + 5, "one each cycle"

    async def slave(ctx):
        await _stable(ctx, getattr(port, channel + "valid"), getattr(port, channel + "ready"),
                      _pins(port, channel, fields), rng, chance, taken)

    simulate(dut, run, slave)


@pytest.mark.parametrize("name, channel, fields", _ANSWERS)
def test_answers(name, channel, fields):
    """A cycle later, whole; the port is never made to wait."""
    dut, rng = _Reset(), random.Random(f"{name}{channel}")
    master, port = getattr(dut.slices, name), getattr(dut.slices, f"hp_{name}")
    pins, ours = (_pins(side, channel, (*fields, "valid")) for side in (port, master))

    async def run(ctx):
        before = [0] * len(pins)
        for i in range(200):
            values = _random(rng, pins)
            for signal, value in zip(pins, values, strict=True):
                ctx.set(signal, value)
            ctx.set(dut.reset, int(i % 50 == 25))
            _, _, ready, *seen = await ctx.tick().sample(getattr(port, channel + "ready"), *ours)
            assert ready and (i == 0 or seen == before)
            before = values

    simulate(dut, run)
