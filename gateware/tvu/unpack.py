"""Unpackers: one stream byte to five ternary digits, from base 3 or from two bits each."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .activations import DIGITS

__all__ = ["Unpacker"]


def _base3_rom() -> list[int]:
    """For each byte, bit ``d`` is set where digit d is +1 and bit ``5 + d`` where it is -1. 243 and above: zeros."""
    rom = []
    for byte in range(256):
        digits = [byte // 3**d % 3 - 1 if byte < 243 else 0 for d in range(DIGITS)]
        rom.append(sum((w == 1) << d | (w == -1) << (DIGITS + d) for d, w in enumerate(digits)))
    return rom


class Unpacker(wiring.Component):
    """Combinational. ``plus`` and ``minus`` have one bit per digit; with ``two_bit`` the fifth digit is 0."""

    def __init__(self) -> None:
        super().__init__({"byte": In(8), "two_bit": In(1), "plus": Out(DIGITS), "minus": Out(DIGITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.rom = rom = memory.Memory(shape=unsigned(2 * DIGITS), depth=256, init=_base3_rom())
        port = rom.read_port(domain="comb")
        pairs = [self.byte.word_select(d, 2) for d in range(4)]
        plus, minus = Signal(DIGITS), Signal(DIGITS)
        m.d.comb += [
            port.addr.eq(self.byte),
            plus.eq(Cat(pair == 2 for pair in pairs)), minus.eq(Cat(pair == 0 for pair in pairs)),
            self.plus.eq(Mux(self.two_bit, plus, port.data[:DIGITS])),
            self.minus.eq(Mux(self.two_bit, minus, port.data[DIGITS:])),
        ]
        return m
