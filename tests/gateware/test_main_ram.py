"""The CPU's way to DDR: words, bytes and bursts as on any Wishbone memory, a line in one AXI burst,
and a master that goes away in the middle of one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from gp_slave import Slave
from ps.gp import GP, Port
from ps.main_ram import LINE_WORDS, BurstBus, MainRam
from ps_models import ram_beat, ram_burst
from simulation import simulate

_BASE = 0x4000_0000  # on the bus; 0 on the port


class _Dut(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"port": Out(GP()), "bus": In(BurstBus())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.ram = ram = MainRam(30)
        m.submodules.port = port = Port(1)
        wiring.connect(m, ram.access, port.clients[0])
        wiring.connect(m, port.port, wiring.flipped(self.port))
        wiring.connect(m, wiring.flipped(self.bus), ram.bus)
        return m


async def _single(ctx, bus, address, data=None, select=0xF):
    result = await ram_beat(ctx, bus, address, 0, data, select)
    ctx.set(bus.cyc, 0)
    return result


def _run(bench, chance=0.6):
    dut, slave = _Dut(), Slave(np.random.default_rng(1), chance)
    for i in range(4096):
        slave.memory[0x10_0000 + 4 * i] = 0x5000_0000 + i

    async def run(ctx):
        await bench(ctx, dut.bus, slave)

    async def serve(ctx):
        await slave.run(ctx, dut.port)

    simulate(dut, run, serve)
    return slave


def _words(first, count):
    return [0x5000_0000 + first + i for i in range(count)]


@pytest.mark.parametrize("chance", [1.0, 0.4])
def test_any_accesses_in_any_order(chance):
    async def bench(ctx, bus, slave):
        rng, memory = random.Random(7), dict(slave.memory)
        for _ in range(150):
            address = 0x10_0000 + 4 * rng.randrange(64)
            match rng.randrange(4):
                case 0:
                    assert await _single(ctx, bus, address) == memory[address]
                case 1:
                    select, data = rng.randrange(1, 16), rng.randrange(1 << 32)
                    assert await _single(ctx, bus, address, data, select) == ""
                    mask = sum(0xFF << 8 * i for i in range(4) if select >> i & 1)
                    memory[address] = memory[address] & ~mask | data & mask
                case 2:
                    line = address & ~31
                    assert await ram_burst(ctx, bus, line, LINE_WORDS) == [
                        memory[line + 4 * i] for i in range(LINE_WORDS)]
                case 3:  # ends before the line does
                    count = rng.randrange(1, LINE_WORDS - address // 4 % LINE_WORDS + 1)
                    assert await ram_burst(ctx, bus, address, count) == [
                        memory[address + 4 * i] for i in range(count)]
            for _ in range(rng.randrange(3)):
                await ctx.tick()
        assert {a: slave.memory[a] for a in memory} == memory

    _run(bench, chance)


def test_a_line_is_one_burst():
    async def bench(ctx, bus, slave):
        assert await ram_burst(ctx, bus, 0x10_0040, 8) == _words(16, 8)
        assert [(kind, at, len(words)) for kind, at, words in slave.log] == [
            ("read", 0x10_0040, 8)]
        assert await _single(ctx, bus, 0x10_0044) == _words(17, 1)[0]
        assert len(slave.log[-1][2]) == 1
        assert await ram_burst(ctx, bus, 0x10_004C, 2) == _words(19, 2)
        for _ in range(100):
            await ctx.tick()
        assert len(slave.log[-1][2]) == 5  # to the end of the line, not beyond

    _run(bench)


def test_a_write_is_acknowledged_when_memory_has_it():
    async def bench(ctx, bus, slave):
        assert await _single(ctx, bus, 0x10_0000, 77) == ""
        assert slave.log[-1][:2] == ("write", 0x10_0000)

    _run(bench, 0.1)


def test_errors_of_the_port_are_bus_errors():
    async def bench(ctx, bus, slave):
        slave.failing = {0x10_0008}
        assert await _single(ctx, bus, 0x10_0008) is None
        assert await _single(ctx, bus, 0x10_0008, 5) is None
        assert await ram_burst(ctx, bus, 0x10_0000, 8) == [*_words(0, 2), None, *_words(3, 5)]
        assert await _single(ctx, bus, 0x10_000C) == _words(3, 1)[0]

    _run(bench)


@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("write_first", [True, False])
def test_a_master_that_goes_away(taken, gap, write_first):
    """After a burst that was begun, another master's word is its own, with and without a pause,
    and what memory holds now."""
    async def bench(ctx, bus, slave):
        for i in range(taken):
            assert await ram_beat(ctx, bus, 0x10_0000 + 4 * i, 2) == _words(i, 1)[0]
        ctx.set(bus.adr, (_BASE + 0x10_0000 + 4 * taken) >> 2)
        ctx.set(bus.stb, 1)
        ctx.set(bus.cyc, 1)
        ctx.set(bus.cti, 2)
        ctx.set(bus.we, 0)
        for _ in range(4):
            await ctx.tick()
        ctx.set(bus.cyc, int(not gap))
        for _ in range(gap):
            await ctx.tick()
        if write_first:
            assert await _single(ctx, bus, 0x10_0100, 9) == ""
        if gap:  # the word that the burst would have given next
            slave.memory[0x10_0000 + 4 * taken] = 5
            assert await _single(ctx, bus, 0x10_0000 + 4 * taken) == 5
        assert await _single(ctx, bus, 0x10_0200) == _words(128, 1)[0]
        assert slave.memory[0x10_0100] == (9 if write_first else _words(64, 1)[0])

    _run(bench, 1.0 if taken else 0.2)
