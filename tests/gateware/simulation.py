"""Amaranth's simulator for units of the TVU by themselves: their clocks, and a DSP slice."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, Module, Mux, Signal
from amaranth.sim import Simulator
from tvu import dsp

__all__ = ["simulate", "slice_model"]


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


def slice_model(m, name, domain, *, x, use_x, subtract, c, z, neighbour, p, cascade):
    """A DSP slice that Amaranth can simulate; test_dsp.py has the one that becomes hardware."""
    term, summand, minus, choice = Signal(48), Signal(48), Signal(), Signal(3)
    m.d[domain] += [term.eq(Mux(use_x, x, 0)), summand.eq(c), minus.eq(subtract), choice.eq(z)]
    start = Mux(choice == dsp.Z_C, summand, Mux(choice == dsp.Z_NEIGHBOUR, neighbour, 0))
    m.d[domain] += p.eq(Mux(minus, start - term, start + term))
    m.d.comb += cascade.eq(p)
