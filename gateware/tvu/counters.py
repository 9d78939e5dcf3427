"""Performance counters, kept apart by section: one adder per counter, its registers in distributed
RAM."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from xtvu import isa

__all__ = ["STEP_BITS", "Counters"]

STEP_BITS = 5  # a burst of 16 words is requested at once


class Counters(wiring.Component):
    """Members: ``steps``, what to add to each counter (in the order of ``isa.COUNTERS``) of
    ``section``; ``address`` names the section whose ``values`` are read.
    """

    def __init__(self) -> None:
        count = len(isa.COUNTERS)
        super().__init__({"section": In(4), "steps": In(STEP_BITS).array(count), "address": In(4),
                          "values": Out(32).array(count)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for place, name in enumerate(isa.COUNTERS):
            m.submodules[name] = counter = memory.Memory(shape=unsigned(32), depth=isa.SECTIONS,
                                                         init=[])
            write, read, asked = (counter.write_port(), counter.read_port(domain="comb"),
                                  counter.read_port(domain="comb"))
            # a cycle late: adding takes a cycle of its own
            step = Signal(STEP_BITS, name=f"step_{name}")
            m.d.sync += step.eq(self.steps[place])
            m.d.comb += [
                read.addr.eq(self.section), write.addr.eq(self.section),
                write.data.eq(read.data + step), write.en.eq(1),
                asked.addr.eq(self.address), self.values[place].eq(asked.data),
            ]
        return m
