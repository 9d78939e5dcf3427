"""Small pieces of logic that many units use."""

from __future__ import annotations

import re
from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal
from amaranth.hdl._ast import Value  # the base class has no public home in Amaranth 0.5

__all__ = ["KEPT", "choose", "delay", "leading_zeros"]


#: Attributes of a register that must not become one with another of the same value.
KEPT = {"keep": "true"}


def delay(m: Module, value: Value, cycles: int, domain: str = "sync", *,
          plain: bool = False) -> Value:
    """``value``, ``cycles`` cycles later. Without reset, so that it can become shift-register LUTs,
    whose outputs are slow; ``plain`` keeps it in flip-flops, and apart from others that hold the
    same."""
    name = re.sub(r"(_\d+)+$", "", value.name) if isinstance(value, Signal) else "delayed"
    for cycle in range(1, cycles + 1):
        stage = Signal.like(value, name=f"{name}_{cycle}", reset_less=True,
                            attrs=KEPT if plain else {})
        m.d[domain] += stage.eq(value)
        value = stage
    return value


def choose(values: Sequence[Value], index: Value) -> Value:
    """``values[index]`` as a tree of two-to-one multiplexers, which map better than what an Array
    becomes."""
    if len(values) == 1:
        return values[0]
    half = 1 << (len(values) - 1).bit_length() - 1
    bit = half.bit_length() - 1
    return Mux(index[bit], choose(values[half:], index[:bit]), choose(values[:half], index[:bit]))


def leading_zeros(m: Module, value: Value) -> Signal:
    """Number of zero bits above the highest one of ``value``; its width if it is zero.
    Combinational."""
    width = len(value)
    count = Signal(range(width + 1), name="leading_zeros")
    m.d.comb += count.eq(width)
    for bit in range(width):
        with m.If(value[bit]):
            m.d.comb += count.eq(width - 1 - bit)
    return count
