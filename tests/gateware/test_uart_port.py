"""The processing system's UART behind its streams: every byte once and in order, both ways, with
full and empty FIFOs."""

from __future__ import annotations

import random

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from gp_slave import Slave
from ps import registers
from ps.gp import GP, Port
from ps.uart import UARTPort
from ps_models import UARTController
from simulation import accept, offer, simulate

_BASE = registers.UART_BASES[1]
_STATUS = 0xE000_102C
_DEPTH = 64  # of both FIFOs


class _Dut(wiring.Component):
    def __init__(self) -> None:
        self.uart = UARTPort(_BASE)
        super().__init__({"port": Out(GP()),
                          **{name: self.uart.signature.members[name]
                             for name in ("sink", "source")}})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.uart = self.uart
        m.submodules.port = port = Port(1)
        wiring.connect(m, self.uart.access, port.clients[0])
        wiring.connect(m, port.port, wiring.flipped(self.port))
        for name in ("sink", "source"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(self.uart, name))
        return m


@pytest.mark.parametrize("chance", [1.0, 0.3])
def test_bytes_both_ways(chance):
    dut, rng = _Dut(), random.Random(3)
    slave = Slave(np.random.default_rng(3), 0.7)
    controller = UARTController(slave)
    out = [rng.randrange(256) for _ in range(150)]
    into = [rng.randrange(256) for _ in range(150)]
    line, host = list(into), []

    async def the_line(ctx):
        """Slower than the port: both FIFOs fill."""
        while len(controller.sent) < len(out) or len(host) < len(into):
            for _ in range(rng.randrange(60)):
                await ctx.tick()
            if controller.waiting:
                controller.sent.append(controller.waiting.pop(0))
            while line and len(controller.received) < _DEPTH and rng.random() < 0.7:
                controller.received.append(line.pop(0))

    async def send(ctx):
        await offer(ctx, dut.sink, out, rng, chance)

    async def receive(ctx):
        await accept(ctx, dut.source, host.append, rng, chance)

    async def serve(ctx):
        await slave.run(ctx, dut.port)

    simulate(dut, the_line, send, receive, serve)
    assert controller.sent == out
    assert host == into


def test_a_refused_access_loses_nothing_else():
    dut, slave = _Dut(), Slave(np.random.default_rng(4))
    controller, host = UARTController(slave), []
    controller.received = [1, 2, 3]

    async def run(ctx):
        slave.failing = {_STATUS}
        for _ in range(400):
            await ctx.tick()
        assert controller.received == [1, 2, 3] and not host
        slave.failing = set()
        for _ in range(400):
            await ctx.tick()

    async def receive(ctx):
        await accept(ctx, dut.source, host.append, random.Random(1))

    async def serve(ctx):
        await slave.run(ctx, dut.port)

    simulate(dut, run, receive, serve)
    assert host == [1, 2, 3]


def test_it_rests_when_there_is_nothing_to_do():
    """A look at the status every 64 cycles and some, so that the port is free for others."""
    dut, slave = _Dut(), Slave(np.random.default_rng(4), 1.0)
    UARTController(slave)

    async def run(ctx):
        for _ in range(2000):
            await ctx.tick()

    async def serve(ctx):
        await slave.run(ctx, dut.port)

    simulate(dut, run, serve)
    assert {entry[:2] for entry in slave.log} == {("read", _STATUS)}
    assert 20 <= len(slave.log) <= 31
