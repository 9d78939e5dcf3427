"""The parts together on their two ports: traffic of all of them at once, and the Verilog."""

from __future__ import annotations

import random

import numpy as np
from gp_slave import Slave
from ps import registers
from ps.processing_system import ProcessingSystem, generate
from ps_models import (
    EthernetController,
    UARTController,
    bus_cycle,
    collect_frames,
    offer_frames,
    ram_burst,
    random_frames,
)
from simulation import accept, offer, simulate


def test_all_at_once():
    """Frames both ways, bytes both ways, registers and cache lines."""
    dut, rng = ProcessingSystem(), random.Random(1)
    registers_, memory = (Slave(np.random.default_rng(i), 0.8) for i in (1, 2))
    uart = UARTController(registers_)
    reads, writes = dict(registers_.on_read), dict(registers_.on_write)
    gem = EthernetController(registers_)
    registers_.on_read, registers_.on_write = reads, writes | registers_.on_write
    memory.memory = {0x10_0000 + 4 * i: i for i in range(8)}
    coming, going, host, typed = random_frames(4, 1), random_frames(4, 2), [], []
    uart.received = list(b"hello")
    counted = []

    async def cpu(ctx):
        ctx.set(dut.enable, 1)
        for frame in coming:
            assert gem.receive(frame)
        while len(host) < 4 or len(gem.sent) < 4 or len(typed) < 5 or len(uart.waiting) < 5:
            address = registers.OCM + 0x3_F000 + 4 * len(counted)
            assert (await bus_cycle(ctx, dut.window, address, len(counted)))[0] is not None
            assert (await bus_cycle(ctx, dut.window, address))[0] == len(counted)
            assert await ram_burst(ctx, dut.ram, 0x10_0000, 8) == list(range(8))
            counted.append(address)
        ctx.set(dut.enable, 0)
        await ctx.tick().until(dut.idle)

    async def send(ctx):
        await offer_frames(ctx, dut.tx, going, rng)

    async def collect(ctx):
        await collect_frames(ctx, dut.rx, host)

    async def type_(ctx):
        await offer(ctx, dut.uart_tx, list(b"world"), rng)

    async def read(ctx):
        await accept(ctx, dut.uart_rx, typed.append, rng)

    async def serve(ctx):
        await registers_.run(ctx, dut.gp0)

    async def serve_memory(ctx):
        await memory.run(ctx, dut.gp1)

    simulate(dut, cpu, send, collect, type_, read, serve, serve_memory)
    assert [frame for frame, _ in host] == coming and gem.sent == going
    assert bytes(typed) == b"hello" and bytes(uart.waiting) == b"world" and len(counted) > 3


def test_it_is_not_idle_in_the_middle_of_a_frame_to_send():
    dut, slave = ProcessingSystem(), Slave(np.random.default_rng(1), 1.0)
    gem = EthernetController(slave)

    async def run(ctx):
        ctx.set(dut.enable, 1)
        ctx.set(dut.tx.payload, {"data": 1, "last": 0, "error": 0})
        ctx.set(dut.tx.valid, 1)
        for _ in range(3):
            await ctx.tick().until(dut.tx.ready)
        ctx.set(dut.tx.valid, 0)
        ctx.set(dut.enable, 0)
        for _ in range(200):
            await ctx.tick()
            assert not ctx.get(dut.idle)
        ctx.set(dut.tx.payload, {"data": 2, "last": 1, "error": 0})
        ctx.set(dut.tx.valid, 1)
        await ctx.tick().until(dut.tx.ready)
        ctx.set(dut.tx.valid, 0)
        await ctx.tick().until(dut.idle)

    async def serve(ctx):
        await slave.run(ctx, dut.gp0)

    simulate(dut, run, serve)
    assert gem.sent == [bytes([1, 1, 1, 2])]


def test_the_verilog_is_the_same_each_time(tmp_path):
    texts = []
    for name in ("one.v", "other.v"):
        generate(tmp_path / name)
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    header = texts[0][texts[0].index("\nmodule processing_system("):].split(";")[0]
    names = set(header.partition("(")[2].strip(")").replace(",", " ").split())
    assert {"gp0_araddr", "gp1_wlast", "uart_tx_payload", "rx_valid", "window_err", "ram_cti",
            "enable", "idle"} <= names
    assert "rx_ready" not in names
