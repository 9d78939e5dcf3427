"""Dot products and column sums: takes stream words, drives the product array, hands on one result
per matrix row.

The pipeline never stalls: a word is taken only if the row that it ends is sure to find room in the
result queue.
"""

from collections.abc import Callable

from amaranth.hdl import Assert, Cat, Module, Mux, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import ACT_WORDS, MODES, SHARED_WORDS, VECTORS

from . import dsp
from .activations import ActivationWrite
from .array import LATENCY, ProductArray
from .collect import CollectedRow, DotResult
from .columns import Columns
from .float32 import delay
from .stream import PickedRow

__all__ = ["DotLanes"]

_RESULTS = 32


class DotLanes(wiring.Component):
    """Members: ``start`` latches ``words`` (stream words per row), ``mode``, ``rows``, ``picked``
    (rows are those of ``entry``) and ``columns`` (picked columns instead of rows); ``word`` and
    ``entry`` in; ``write`` to the activation memory; ``result`` out, one per row; ``column_row``
    out, the sums of columns; ``hungry`` while a word could be taken; ``awake`` and ``awake_fill``:
    the clocks of ``dot`` and ``fast``, and of ``fill``, must run.
    """

    def __init__(self, adder: Callable[..., None] = dsp.adder) -> None:
        self._adder = adder
        super().__init__({
            "start": In(1),
            "words": In(7), "mode": In(2), "rows": In(19), "picked": In(1), "columns": In(1),
            "word": In(stream.Signature(256)), "entry": In(stream.Signature(PickedRow)),
            "hungry": Out(1),
            "write": In(ActivationWrite()), "result": Out(stream.Signature(DotResult)),
            "column_row": Out(stream.Signature(CollectedRow)), "awake": Out(1),
            "awake_fill": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.array = array = ProductArray(self._adder)
        m.submodules.drain = drain = Columns(array)
        words, mode, rows = Signal(7), Signal(2), Signal(19)
        picked, columns, ending, fresh = Signal(), Signal(), Signal(), Signal()
        index, row = Signal(7), Signal(15)
        # The upper half of the activation memory holds column codes, one after the other.
        spread = Signal(range(ACT_WORDS), init=SHARED_WORDS)
        first, final = index == 0, index == words - 1
        credit = Signal(range(_RESULTS + 1), init=_RESULTS)
        take, mark, resting = Signal(), Signal(), Signal()
        entry = self.entry
        with m.If(picked):
            m.d.comb += self.hungry.eq(ending & ~(entry.valid & entry.payload.end))
        with m.Else():
            m.d.comb += self.hungry.eq(rows != 0)
        m.d.comb += [
            self.word.ready.eq(self.hungry & (credit != 0) & (~picked | entry.valid) & ~resting),
            take.eq(self.word.valid & self.word.ready),
            mark.eq(picked & ending & entry.valid & entry.payload.end & (credit != 0)),
            entry.ready.eq(mark | (picked & take & final)),
        ]
        # An accumulator takes two cycles, so a column of one word is followed by a rest.
        m.d.sync += resting.eq(take & columns & first & final)
        with m.If(self.start):
            m.d.sync += [
                words.eq(self.words), mode.eq(self.mode), rows.eq(Mux(self.picked, 0, self.rows)),
                index.eq(0),
                row.eq(0), picked.eq(self.picked), columns.eq(self.columns),
                ending.eq(self.picked), fresh.eq(1),
            ]
        with m.Elif(take):
            m.d.sync += index.eq(Mux(final, 0, index + 1))
            with m.If(final):
                m.d.sync += [row.eq(row + 1), fresh.eq(0), spread.eq((spread + 1) | SHARED_WORDS)]
                with m.If(~picked):
                    m.d.sync += rows.eq(rows - 1)
        with m.If(mark):
            m.d.sync += ending.eq(0)

        valids, marks, ends = [take], [mark], [((take & final) | mark) & ~columns]
        for _ in range(LATENCY):
            for stages, name in ((valids, "valid"), (marks, "marked"), (ends, "end")):
                stage = Signal(name=name)
                m.d.sync += stage.eq(stages[-1])
                stages.append(stage)
        last = delay(m, (rows == 1) & ~picked, LATENCY)
        row_late = delay(m, Mux(picked, entry.payload.row, row), LATENCY)
        m.d.comb += [self.awake.eq(Cat(valids).any() | drain.drain | array.read_columns),
                     self.awake_fill.eq(array.awake_fill)]

        m.d.dot += [
            array.word.eq(self.word.payload), array.address.eq(Mux(columns, spread, index)),
            array.place.eq(index),
            array.negative.eq(entry.payload.code < 0), array.fresh.eq(fresh),
        ]
        m.d.comb += [
            array.mode.eq(mode), array.columns.eq(columns), array.valid.eq(valids[1]),
            array.total_valid.eq(valids[LATENCY - 1]),
            array.first.eq(delay(m, first, LATENCY - 1)),
            array.select.eq(delay(m, index[(ACT_WORDS - 1).bit_length():], LATENCY - 1)),
            array.spread.eq(take & columns & first), array.spread_address.eq(spread),
            array.code.eq(entry.payload.code),
        ]
        wiring.connect(m, array.write, wiring.flipped(self.write))
        m.d.comb += [
            drain.start.eq(self.start & self.columns), drain.rows.eq(self.rows),
            drain.digits5.eq(self.mode == MODES["base3"]),
            drain.drain.eq(marks[-1] & columns), drain.empty.eq(fresh),
        ]
        wiring.connect(m, wiring.flipped(self.column_row), drain.row)

        m.submodules.results = results = fifo.SyncFIFOBuffered(
            width=len(self.result.payload.as_value()), depth=_RESULTS)
        result = Signal(DotResult)
        marker = marks[-1] & ends[-1]
        m.d.comb += [
            *(result.sums[v].eq(array.sums[v]) for v in range(VECTORS)),
            result.last.eq(last | marker), result.row.eq(row_late), result.data.eq(~marker),
            results.w_data.eq(result.as_value()), results.w_en.eq(ends[-1]),
            self.result.payload.as_value().eq(results.r_data), self.result.valid.eq(results.r_rdy),
            results.r_en.eq(self.result.ready),
        ]
        m.d.sync += [
            credit.eq(credit - ends[0] + (self.result.valid & self.result.ready)),
            Assert(~array.read_columns | ~Cat(valids).any(),
                   "columns are read while products are added"),
            Assert(credit + results.level + sum(ends[1:]) == _RESULTS,
                   "credits of the result queue went astray"),
        ]
        return m
