"""Operands a and b of a row, two cycles after it was issued."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES

from .array import SUM_BITS
from .operation import Source

__all__ = ["Operands"]

_ROW = 32 * LANES


class Operands(wiring.Component):
    """Members: in the cycle in which a row is issued: ``issue``, ``eighth`` (which part of a word
    of bytes), ``odd`` and ``conflict`` (see Issue), ``word``, ``sums``; a cycle later ``read_data``
    of both banks; then ``a`` and ``b``. ``source``, ``b_word`` and ``from_dot`` hold during an
    operation."""

    def __init__(self) -> None:
        super().__init__({
            "source": In(Source), "b_word": In(1), "from_dot": In(1),
            "issue": In(1), "eighth": In(2), "odd": In(1), "conflict": In(1),
            "word": In(_ROW), "sums": In(SUM_BITS).array(LANES),
            "read_data": In(_ROW).array(2),
            "a": Out(_ROW), "b": Out(_ROW),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        issued, odd, conflicted = Signal(), Signal(), Signal()
        m.d.sync += [issued.eq(self.issue), odd.eq(self.odd), conflicted.eq(self.conflict)]
        # x is what was asked for, y what the other bank gave
        x, y, held = Signal(_ROW), Signal(_ROW), Signal(_ROW, reset_less=True)
        even_data, odd_data = self.read_data
        m.d.comb += [x.eq(Mux(odd, odd_data, even_data)), y.eq(Mux(odd, even_data, odd_data))]
        m.d.sync += held.eq(x)
        word, byte, dot = (Signal(_ROW, reset_less=True), Signal(8 * LANES, reset_less=True),
                           Signal(_ROW, reset_less=True))
        with m.If(self.issue):
            m.d.sync += [word.eq(self.word), byte.eq(self.word.word_select(self.eighth, 64)),
                         dot.eq(Cat(self._extended(s) for s in self.sums))]
        a, b = Signal(_ROW, reset_less=True), Signal(_ROW, reset_less=True)
        with m.If(issued):
            with m.Switch(self.source):
                with m.Case(Source.SCRATCH):
                    m.d.sync += a.eq(Mux(conflicted, held, x))
                with m.Case(Source.WORD):
                    m.d.sync += a.eq(word)
                with m.Case(Source.BYTES):
                    m.d.sync += a.eq(Cat(self._extended(byte.word_select(i, 8))
                                         for i in range(LANES)))
                with m.Case(Source.DOT):
                    m.d.sync += a.eq(dot)
            m.d.sync += b.eq(Mux(self.b_word, word, Mux(self.from_dot | conflicted, x, y)))
        m.d.comb += [self.a.eq(a), self.b.eq(b)]
        return m

    @staticmethod
    def _extended(value):
        """32 bits with its sign."""
        return Cat(value, value[-1].replicate(32 - len(value)))
