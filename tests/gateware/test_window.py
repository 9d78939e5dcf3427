"""The window on the processing system's registers: words there and back, errors for what is not
there, refuses, or never answers."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from gp_slave import Slave
from network.bus import Bus
from ps.gp import GP, Access, Port
from ps.window import Window
from ps_models import bus_cycle
from simulation import simulate


class _Dut(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"port": Out(GP()), "bus": In(Bus()), "other": In(Access())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.window = window = Window(patience_bits=8)
        m.submodules.port = port = Port(2)
        wiring.connect(m, window.access, port.clients[0])
        wiring.connect(m, wiring.flipped(self.other), port.clients[1])
        wiring.connect(m, port.port, wiring.flipped(self.port))
        wiring.connect(m, wiring.flipped(self.bus), window.bus)
        return m


def _run(bench, wants_all=False):
    dut = _Dut()
    slave = Slave(np.random.default_rng(1))

    async def run(ctx):
        await bench(ctx, dut, slave) if wants_all else await bench(ctx, dut.bus, slave)

    async def serve(ctx):
        await slave.run(ctx, dut.port)

    simulate(dut, run, serve)
    return slave


def test_words_there_and_back():
    async def bench(ctx, bus, slave):
        for i, address in enumerate((0xE000_0000, 0xE02F_FFFC, 0xF800_0000, 0xF80F_FFFC,
                                     0xFFFC_0000, 0xFFFF_FFFC)):
            assert (await bus_cycle(ctx, bus, address, 0x1234_0000 + i))[0] is not None
            assert slave.memory[address] == 0x1234_0000 + i
            assert (await bus_cycle(ctx, bus, address))[0] == 0x1234_0000 + i

    assert len(_run(bench).log) == 12


@pytest.mark.parametrize("address", [0xDFFF_FFFC, 0xE030_0000, 0xF7FF_FFFC, 0xF810_0000,
                                     0xF890_0000, 0xFFFB_FFFC, 0])
def test_nothing_is_asked_for_what_is_not_there(address):
    async def bench(ctx, bus, slave):
        for data in (None, 5):
            word, cycles = await bus_cycle(ctx, bus, address, data)
            assert word is None and cycles < 5

    assert _run(bench).log == []


def test_a_refusal_is_a_bus_error():
    async def bench(ctx, bus, slave):
        slave.failing = {0xE000_1000}
        assert (await bus_cycle(ctx, bus, 0xE000_1000))[0] is None
        assert (await bus_cycle(ctx, bus, 0xE000_1000, 1))[0] is None
        assert (await bus_cycle(ctx, bus, 0xE000_1004))[0] == 0xDEADBEEF

    _run(bench)


def test_what_never_answers_is_a_bus_error_and_its_answer_no_other_s():
    async def bench(ctx, bus, slave):
        slave.memory = {0xE000_1000: 1, 0xE000_1004: 2}
        slave.stalled = True
        for _ in range(3):  # also while the first answer is still owed
            word, cycles = await bus_cycle(ctx, bus, 0xE000_1000)
            assert word is None and cycles < 600
        slave.stalled = False
        for _ in range(100):
            await ctx.tick()
        assert (await bus_cycle(ctx, bus, 0xE000_1004))[0] == 2

    _run(bench)


def test_behind_a_client_that_is_never_answered():
    async def bench(ctx, dut, slave):
        slave.stalled = True
        ctx.set(dut.other.request.valid, 1)
        await ctx.tick().until(dut.other.request.ready)
        ctx.set(dut.other.request.valid, 0)
        word, cycles = await bus_cycle(ctx, dut.bus, 0xE000_1000)
        assert word is None and cycles < 600
        slave.stalled = False
        assert (await bus_cycle(ctx, dut.bus, 0xE000_1000))[0] == 0xDEADBEEF

    _run(bench, wants_all=True)


@pytest.mark.parametrize("after", range(1, 80, 3))
@pytest.mark.parametrize("address", [0xE000_1000, 0xDFFF_FFFC])
def test_whoever_leaves_takes_no_answer_from_the_next(address, after):
    """As the CPU does when it is reset in the middle of an access."""
    async def bench(ctx, bus, slave):
        slave.memory = {0xE000_1000: 1, 0xE000_1004: 2}
        ctx.set(bus.adr, address >> 2)
        ctx.set(bus.cyc, 1)
        for _ in range(after):
            await ctx.tick()
            if ctx.get(bus.ack) or ctx.get(bus.err):
                ctx.set(bus.cyc, 0)
                return
        ctx.set(bus.cyc, 0)
        await ctx.tick()
        assert (await bus_cycle(ctx, bus, 0xE000_1004))[0] == 2

    _run(bench)
