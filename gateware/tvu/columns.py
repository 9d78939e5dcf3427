"""Drain of the column sums: eight outputs at a time leave the product array's accumulators as
results."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import COLUMN_WORDS, LANES, WORD_BYTES

from .activations import DIGITS
from .array import ProductArray
from .collect import CollectedRow
from .logic import choose

__all__ = ["Columns"]

_QUARTERS = WORD_BYTES // LANES


class Columns(wiring.Component):
    """Members: ``start`` takes ``rows`` and ``digits5``; ``drain`` starts the results on their way,
    and ``empty`` says then that there was no column; ``row`` out. Reads the accumulators of
    ``array``.
    """

    def __init__(self, array: ProductArray) -> None:
        self._array = array
        super().__init__({
            "start": In(1), "rows": In(15), "digits5": In(1), "drain": In(1), "empty": In(1),
            "row": Out(stream.Signature(CollectedRow)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        array = self._array
        word, digit, quarter, index = (Signal(range(COLUMN_WORDS)), Signal(3),
                                       Signal(range(_QUARTERS)), Signal(12))
        left, digits5, draining, empty = Signal(15), Signal(), Signal(), Signal()
        row, free, moves = self.row, Signal(), Signal()  # ``moves``: another slot is named
        settling = Signal(array.settling)  # until what was named shows, a bit per cycle
        settled = settling == 0
        m.d.sync += settling.eq(Mux(moves, ~0, settling >> 1))
        m.d.comb += [free.eq(~row.valid | row.ready), array.read_columns.eq(draining),
                     array.read_slot.eq(word)]
        with m.If(self.start):
            m.d.sync += [left.eq(self.rows), digits5.eq(self.digits5), word.eq(0), digit.eq(0),
                         quarter.eq(0), index.eq(0)]
        with m.If(self.drain):
            m.d.comb += moves.eq(1)
            m.d.sync += [draining.eq(1), empty.eq(self.empty)]
        with m.If(free):
            m.d.sync += row.valid.eq(draining & settled)
        with m.If(draining & settled & free):
            for i in range(LANES):
                choices = [choose([array.column_sum(q * LANES + i, d) for q in range(_QUARTERS)],
                                  quarter) for d in range(DIGITS)]
                m.d.sync += row.payload.sums[i].eq(Mux(empty, 0, choose(choices, digit)))
            m.d.sync += [
                row.payload.index.eq(index), row.payload.vector.eq(0),
                row.payload.last.eq(left <= LANES),
                row.payload.mask.eq(Mux(left < LANES, (1 << left[:3]) - 1, ~0)),
                left.eq(left - LANES), index.eq(index + 1), quarter.eq(quarter + 1),
            ]
            with m.If(quarter == _QUARTERS - 1):
                m.d.sync += digit.eq(digit + 1)
                with m.If(digit == Mux(digits5, 4, 3)):
                    m.d.comb += moves.eq(1)
                    m.d.sync += [digit.eq(0), word.eq(word + 1)]
            with m.If(left <= LANES):
                m.d.sync += draining.eq(0)
        return m
