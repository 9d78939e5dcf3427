"""Column accumulator: picked columns of a ternary matrix, times their codes, added up in one accumulator per output.

A stream word holds 160 (base-3) or 128 outputs of one column; each of its 32 byte lanes adds five terms to five of its
accumulators, which lie in distributed RAM at the word's place in the column and are read, added to and written in one
cycle. At the end they leave eight outputs at a time.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import COLUMN_WORDS, LANES, WORD_BYTES

from .activations import DIGITS
from .collect import CollectedRow

__all__ = ["Columns"]

_SUM_BITS = 24  # 16,384 columns times 128 need 22
_QUARTERS = WORD_BYTES // LANES


class Columns(wiring.Component):
    """Accumulators in clock domain ``cols``; everything else in ``sync``.

    Members: ``plus``, ``minus`` (5 bits per lane) with ``valid``, ``index`` (word of the column), ``code`` and ``first`` (of the
    operation); ``start`` takes ``rows`` and ``digits5``; ``drain`` starts the results on their way, and ``empty`` says then that
    there was no column; ``row`` out.
    """

    def __init__(self) -> None:
        super().__init__({
            "plus": In(DIGITS * WORD_BYTES), "minus": In(DIGITS * WORD_BYTES), "valid": In(1), "index": In(range(COLUMN_WORDS)),
            "code": In(signed(8)), "first": In(1),
            "start": In(1), "rows": In(15), "digits5": In(1), "drain": In(1), "empty": In(1),
            "row": Out(stream.Signature(CollectedRow)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word, digit, quarter, group = Signal(range(COLUMN_WORDS)), Signal(3), Signal(range(_QUARTERS)), Signal(12)
        left, digits5, draining, empty = Signal(15), Signal(), Signal(), Signal()

        lanes = []
        for lane in range(WORD_BYTES):
            m.submodules[f"sums{lane}"] = sums = memory.Memory(shape=unsigned(DIGITS * _SUM_BITS), depth=COLUMN_WORDS, init=[])
            write, read = sums.write_port(domain="cols"), sums.read_port(domain="comb")
            added = []
            for place in range(DIGITS):
                bit = lane * DIGITS + place
                term = Mux(self.plus[bit], self.code, Mux(self.minus[bit], -self.code, 0))
                old = read.data.word_select(place, _SUM_BITS).as_signed()
                total = Signal(signed(_SUM_BITS), name=f"total{lane}_{place}")
                m.d.comb += total.eq(Mux(self.first, 0, old) + term)
                added.append(total)
            m.d.comb += [
                read.addr.eq(Mux(draining, word, self.index)), write.addr.eq(self.index), write.en.eq(self.valid),
                write.data.eq(Cat(added)),
            ]
            lanes.append(read.data)

        row, free = self.row, Signal()
        m.d.comb += free.eq(~row.valid | row.ready)
        with m.If(self.start):
            m.d.sync += [left.eq(self.rows), digits5.eq(self.digits5), word.eq(0), digit.eq(0), quarter.eq(0), group.eq(0)]
        with m.If(self.drain):
            m.d.sync += [draining.eq(1), empty.eq(self.empty)]
        with m.If(free):
            m.d.sync += row.valid.eq(draining)
        with m.If(draining & free):
            with m.Switch(Cat(quarter, digit)):
                for d in range(DIGITS):
                    for q in range(_QUARTERS):
                        with m.Case(d * _QUARTERS + q):
                            for i in range(LANES):
                                value = lanes[q * LANES + i].word_select(d, _SUM_BITS).as_signed()
                                m.d.sync += row.payload.sums[i].eq(Mux(empty, 0, value))
            m.d.sync += [
                row.payload.group.eq(group), row.payload.vector.eq(0), row.payload.last.eq(left <= LANES),
                row.payload.mask.eq(Mux(left < LANES, (1 << left[:3]) - 1, ~0)),
                left.eq(left - LANES), group.eq(group + 1), quarter.eq(quarter + 1),
            ]
            with m.If(quarter == _QUARTERS - 1):
                m.d.sync += digit.eq(digit + 1)
                with m.If(digit == Mux(digits5, 4, 3)):
                    m.d.sync += [digit.eq(0), word.eq(word + 1)]
            with m.If(left <= LANES):
                m.d.sync += draining.eq(0)
        return m
