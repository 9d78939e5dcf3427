"""Frames through the rings of the processing system's Ethernet controller: a model of it that
follows UG585 on one side, the streams of the network side on the other."""

from __future__ import annotations

import random

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from gp_slave import Slave
from ps import registers
from ps.gem import GEMReceiver, GEMTransmitter
from ps.gp import GP, Port
from ps_models import EthernetController, collect_frames, offer_frames, random_frames
from simulation import simulate

_BASE = 0xE000_B000


class _Dut(wiring.Component):
    """Receiver and transmitter on one port."""

    def __init__(self, patience_bits: int = 17) -> None:
        self.receiver = GEMReceiver()
        self.transmitter = GEMTransmitter(_BASE, patience_bits)
        super().__init__({"port": Out(GP()), "rx": self.receiver.signature.members["frame"],
                          "tx": self.transmitter.signature.members["frame"], "enable": In(1),
                          "idle": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver, m.submodules.transmitter = self.receiver, self.transmitter
        m.submodules.port = port = Port(2)
        wiring.connect(m, self.receiver.access, port.clients[0])
        wiring.connect(m, self.transmitter.access, port.clients[1])
        wiring.connect(m, port.port, wiring.flipped(self.port))
        wiring.connect(m, self.receiver.frame, wiring.flipped(self.rx))
        wiring.connect(m, wiring.flipped(self.tx), self.transmitter.frame)
        m.d.comb += [self.receiver.enable.eq(self.enable), self.transmitter.enable.eq(self.enable),
                     self.idle.eq(self.receiver.idle & self.transmitter.idle)]
        return m


def _bench(chance=0.8, **dut):
    dut = _Dut(**dut)
    slave = Slave(np.random.default_rng(9), chance)

    async def serve(ctx):
        await slave.run(ctx, dut.port)

    return dut, slave, EthernetController(slave), serve


@pytest.mark.parametrize("chance", [1.0, 0.5])
def test_frames_both_ways(chance):
    """More than the rings hold, while frames go the other way."""
    dut, _, controller, serve = _bench(chance)
    coming, going, host = random_frames(registers.RX_BUFFERS + 20, 1), random_frames(20, 2), []

    async def run(ctx):
        ctx.set(dut.enable, 1)
        waiting = list(coming)
        while len(host) < len(coming) or len(controller.sent) < len(going):
            if waiting and controller.receive(waiting[0]):
                waiting.pop(0)
            for _ in range(50):
                await ctx.tick()
        for _ in range(300):
            await ctx.tick()
        assert controller.has_all_buffers()

    async def send(ctx):
        await offer_frames(ctx, dut.tx, going, random.Random(5))

    async def collect(ctx):
        await collect_frames(ctx, dut.rx, host)

    simulate(dut, run, send, collect, serve)
    assert host == [(frame, 0) for frame in coming]
    assert controller.sent == going and controller.started == len(going)


def test_full_size_frames_come_faster_than_the_line():
    """At a gigabit a full frame takes 1,538 cycles with preamble and gap. The port takes 25 cycles
    to answer, as others measured of a memory port (shared/boards), and some of its own."""
    dut, slave, controller, serve = _bench(1.0)
    frames, host = [bytes([i]) * 1514 for i in range(3)], []
    for frame in frames:
        assert controller.receive(frame)
    took = []

    async def run(ctx):
        ctx.set(dut.enable, 1)
        cycles = 0
        while len(host) < len(frames):
            await ctx.tick()
            cycles += 1
        took.append(cycles)

    async def collect(ctx):
        await collect_frames(ctx, dut.rx, host)

    real = slave._read

    async def slow(ctx, port):
        for _ in range(25):
            await ctx.tick()
        await real(ctx, port)

    slave._read = slow
    simulate(dut, run, collect, serve)
    assert took[0] / len(frames) < 1538 and [frame for frame, _ in host] == frames


def test_parts_of_frames_and_wrong_lengths_are_passed_over():
    dut, _, controller, serve = _bench()
    good, host = random_frames(4, 3), []
    controller.receive(good[0])
    controller.receive(b"first part" * 9, flags=0b01)
    controller.receive(b"last part" * 9, flags=0b10)
    controller.receive(good[1])
    controller.receive(b"")
    controller.receive(bytes(1540))
    controller.receive(good[2])

    async def run(ctx):
        ctx.set(dut.enable, 1)
        while len(host) < 3:
            await ctx.tick()
        for _ in range(200):
            await ctx.tick()

    async def collect(ctx):
        await collect_frames(ctx, dut.rx, host)

    simulate(dut, run, collect, serve)
    assert host == [(frame, 0) for frame in good[:3]]
    assert controller.has_all_buffers()


def test_a_frame_that_cannot_be_read_is_marked():
    dut, slave, controller, serve = _bench()
    frames, host = random_frames(3, 4), []
    for frame in frames:
        controller.receive(frame)
    slave.failing = {registers.RX_FRAMES + registers.BUFFER_BYTES + 8}

    async def run(ctx):
        ctx.set(dut.enable, 1)
        while len(host) < 3:
            await ctx.tick()

    async def collect(ctx):
        await collect_frames(ctx, dut.rx, host)

    simulate(dut, run, collect, serve)
    assert [error for _, error in host] == [0, 1, 0]
    assert host[2][0] == frames[2]


def test_a_descriptor_that_cannot_be_read_is_looked_at_again():
    dut, slave, controller, serve = _bench()
    [frame], host = random_frames(1, 4), []
    slave.failing = {registers.RX_RING, registers.RX_RING + 4, registers.TX_RING + 4}

    async def run(ctx):
        ctx.set(dut.enable, 1)
        for _ in range(400):
            await ctx.tick()
        assert {kind for kind, _, _ in slave.log} == {"read"} and not controller.sent
        slave.failing = set()
        controller.receive(frame)
        while not host or not controller.sent:
            await ctx.tick()

    async def send(ctx):
        await offer_frames(ctx, dut.tx, [frame], random.Random(5))

    async def collect(ctx):
        await collect_frames(ctx, dut.rx, host)

    simulate(dut, run, send, collect, serve)
    assert host == [(frame, 0)] and controller.sent == [frame]


def test_without_a_link_frames_are_dropped_not_waited_for():
    dut, _, controller, serve = _bench(patience_bits=8)
    going = random_frames(registers.TX_BUFFERS + 3, 5)
    controller.holds = True

    async def run(ctx):
        ctx.set(dut.enable, 1)
        await offer_frames(ctx, dut.tx, going, random.Random(5))
        assert not controller.sent
        controller.holds = False
        controller.send()
        assert controller.sent == going[:registers.TX_BUFFERS]
        await offer_frames(ctx, dut.tx, going[:1], random.Random(5))
        while len(controller.sent) <= registers.TX_BUFFERS:
            await ctx.tick()

    simulate(dut, run, serve)
    assert controller.sent[-1] == going[0]


def test_it_starts_anew_with_the_rings():
    """While it is not enabled nothing is read, frames to send vanish, and both rings begin at
    their first buffers again."""
    dut, slave, controller, serve = _bench()
    frames, host = random_frames(6, 6), []

    async def run(ctx):
        await offer_frames(ctx, dut.tx, frames[:2], random.Random(1))
        assert not slave.log and ctx.get(dut.idle)
        ctx.set(dut.enable, 1)
        await ctx.tick()
        assert not ctx.get(dut.receiver.idle) and not ctx.get(dut.transmitter.idle)
        controller.receive(frames[0])
        await offer_frames(ctx, dut.tx, frames[1:2], random.Random(1))
        while len(host) < 1 or not controller.sent:
            await ctx.tick()
        ctx.set(dut.enable, 0)
        await ctx.tick().until(dut.idle)
        again = EthernetController(slave)
        ctx.set(dut.enable, 1)
        again.receive(frames[2])
        await offer_frames(ctx, dut.tx, frames[3:4], random.Random(1))
        while len(host) < 2 or not again.sent:
            await ctx.tick()
        assert again.sent == [frames[3]]

    async def collect(ctx):
        await collect_frames(ctx, dut.rx, host)

    simulate(dut, run, collect, serve)
    assert [frame for frame, _ in host] == [frames[0], frames[2]]
    assert controller.sent == [frames[1]]
