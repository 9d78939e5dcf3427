"""Amaranth's simulator for units of the TVU by themselves: their clocks, streams under random
back-pressure, codes for the activation memory, and a DSP slice."""

from __future__ import annotations

import numpy as np
from amaranth.hdl import ClockDomain, Module, Mux, Signal
from amaranth.sim import Simulator
from tvu import dsp
from xtvu.layout import WEIGHTS_PER_WORD

__all__ = ["accept", "offer", "simulate", "slice_model", "words_of", "write_codes"]


def simulate(unit, *benches, dsp_clock=0):
    """``dsp_clock``: of the unit's product array, if it has one."""
    top = Module()
    top.submodules.unit = unit
    for name in ("axi", *(("dot", "fast", "fill") if dsp_clock else ())):
        top.domains += ClockDomain(name, reset_less=True)
    sim = Simulator(top)
    sim.add_clock(1e-6, phase=0.5e-6)
    sim.add_clock(1e-6, phase=0.5e-6, domain="axi", if_exists=True)
    if dsp_clock:
        for name in ("dot", "fill"):
            sim.add_clock(1e-6, phase=0.5e-6, domain=name)
        sim.add_clock(1e-6 / dsp_clock, phase=0.5e-6, domain="fast")
    for bench in benches:
        sim.add_testbench(bench, background=bench is not benches[0])
    sim.run()


async def offer(ctx, stream, payloads, rng, chance=1.0):
    """Sends all payloads; in each cycle one begins with a ``chance``."""
    for payload in payloads:
        while rng.random() > chance:
            await ctx.tick()
        ctx.set(stream.payload, payload)
        ctx.set(stream.valid, 1)
        await ctx.tick().until(stream.ready)
        ctx.set(stream.valid, 0)


async def accept(ctx, stream, take, rng, chance=1.0):
    """Calls ``take`` with every payload, for ever; each cycle is ready with a ``chance``."""
    while True:
        ready = rng.random() < chance
        ctx.set(stream.ready, int(ready))
        if ready and ctx.get(stream.valid):
            take(ctx.get(stream.payload))
        await ctx.tick()


def words_of(data):
    """uint8 [n, 32] as payloads of stream words."""
    return [int.from_bytes(word.tobytes(), "little") for word in data]


async def write_codes(ctx, write, mode, codes):
    """Writes whole words of codes, int [vectors, elements], through an ActivationWrite."""
    per_word = WEIGHTS_PER_WORD[mode]
    ctx.set(write.enable, 1)
    ctx.set(write.bytes, int(mode == "int8"))
    for vector, values in enumerate(codes):
        for place, eight in enumerate(values.reshape(-1, 8)):
            word, within = divmod(place, per_word // 8)
            ctx.set(write.vector, vector)
            ctx.set(write.address, word)
            ctx.set(write.digit, within // 4)
            ctx.set(write.quarter, within % 4)
            ctx.set(write.codes, int.from_bytes(eight.astype(np.int8).tobytes(), "little"))
            await ctx.tick()
    ctx.set(write.enable, 0)


def slice_model(m, name, domain, *, x, use_x, subtract, c, z, neighbour, p, cascade):
    """A DSP slice that Amaranth can simulate; test_dsp.py has the one that becomes hardware."""
    term, summand, minus, choice = Signal(48), Signal(48), Signal(), Signal(3)
    m.d[domain] += [term.eq(Mux(use_x, x, 0)), summand.eq(c), minus.eq(subtract), choice.eq(z)]
    start = Mux(choice == dsp.Z_C, summand, Mux(choice == dsp.Z_NEIGHBOUR, neighbour, 0))
    m.d[domain] += p.eq(Mux(minus, start - term, start + term))
    m.d.comb += cascade.eq(p)
