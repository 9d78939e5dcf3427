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
from ps.gp import GP, Port
from ps.window import Window
from simulation import simulate


class _Dut(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"port": Out(GP()), "bus": In(Bus())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.window = window = Window(patience_bits=8)
        m.submodules.port = port = Port(1)
        wiring.connect(m, window.access, port.clients[0])
        wiring.connect(m, port.port, wiring.flipped(self.port))
        wiring.connect(m, wiring.flipped(self.bus), window.bus)
        return m


async def _cycle(ctx, bus, address, data=None):
    """The word that was read, or None for an error, and how many cycles that took."""
    ctx.set(bus.adr, address >> 2)
    ctx.set(bus.we, int(data is not None))
    ctx.set(bus.dat_w, data or 0)
    ctx.set(bus.cyc, 1)
    cycles = 0
    while True:
        _, _, ack, err, word = await ctx.tick().sample(bus.ack, bus.err, bus.dat_r)
        cycles += 1
        if ack or err:
            assert not (ack and err)
            ctx.set(bus.cyc, 0)
            await ctx.tick()
            assert not ctx.get(bus.ack) and not ctx.get(bus.err)
            return (word if ack else None), cycles


def _run(bench, slave=None):
    dut = _Dut()
    slave = slave or Slave(np.random.default_rng(1))

    async def run(ctx):
        await bench(ctx, dut.bus, slave)

    async def serve(ctx):
        await slave.run(ctx, dut.port)

    simulate(dut, run, serve)
    return slave


def test_words_there_and_back():
    async def bench(ctx, bus, slave):
        for i, address in enumerate((0xE000_0000, 0xE02F_FFFC, 0xF800_0000, 0xF80F_FFFC,
                                     0xFFFC_0000, 0xFFFF_FFFC)):
            assert (await _cycle(ctx, bus, address, 0x1234_0000 + i))[0] is not None
            assert slave.memory[address] == 0x1234_0000 + i
            assert (await _cycle(ctx, bus, address))[0] == 0x1234_0000 + i

    assert len(_run(bench).log) == 12


@pytest.mark.parametrize("address", [0xDFFF_FFFC, 0xE030_0000, 0xF7FF_FFFC, 0xF810_0000,
                                     0xF890_0000, 0xFFFB_FFFC, 0])
def test_nothing_is_asked_for_what_is_not_there(address):
    async def bench(ctx, bus, slave):
        for data in (None, 5):
            word, cycles = await _cycle(ctx, bus, address, data)
            assert word is None and cycles < 5

    assert _run(bench).log == []


def test_a_refusal_is_a_bus_error():
    async def bench(ctx, bus, slave):
        slave.failing = {0xE000_1000}
        assert (await _cycle(ctx, bus, 0xE000_1000))[0] is None
        assert (await _cycle(ctx, bus, 0xE000_1000, 1))[0] is None
        assert (await _cycle(ctx, bus, 0xE000_1004))[0] == 0xDEADBEEF

    _run(bench)


def test_what_never_answers_is_a_bus_error_and_its_answer_no_other_s():
    async def bench(ctx, bus, slave):
        slave.memory = {0xE000_1000: 1, 0xE000_1004: 2}
        slave.stalled = True
        for _ in range(3):  # also while the first answer is still owed
            word, cycles = await _cycle(ctx, bus, 0xE000_1000)
            assert word is None and cycles < 600
        slave.stalled = False
        for _ in range(100):
            await ctx.tick()
        assert (await _cycle(ctx, bus, 0xE000_1004))[0] == 2

    _run(bench)
