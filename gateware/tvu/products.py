"""Dot products and column sums: takes stream words, drives the product array, hands on one result
per matrix row.

The pipeline never stalls: a word is taken only if the row that it ends is sure to find room in the
result queue.
"""

from collections.abc import Callable

from amaranth.hdl import Assert, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import ACT_WORDS, MODES, SHARED_WORDS, VECTORS

from . import dsp
from .activations import TOKENS, ActivationWrite
from .array import ProductArray
from .collect import CollectedRow, DotResult
from .columns import Columns
from .logic import delay
from .picks import PickedRow
from .queue import Queue

__all__ = ["DotProducts"]

_RESULTS = 32
_COLUMN_TURN = 3  # fast cycles from reading a column's accumulator to what was added in it


def _rests(words: int, dsp_clock: int) -> int:
    """Cycles between two columns of ``words`` words."""
    return max(0, -(-_COLUMN_TURN // dsp_clock) - words)


class DotProducts(wiring.Component):
    """Members: ``start`` latches ``words`` (stream words per row), ``mode``, ``vectors`` (their
    number minus one), ``rows``, ``picked`` (rows are those of ``entry``) and ``columns`` (picked
    columns instead of rows); ``word`` and ``entry`` in; ``write`` to the activation memory;
    ``result`` out, one per row; ``column_row`` out, the sums of columns; ``hungry`` while a word
    could be taken; ``awake`` and ``awake_fill``: the clocks of ``dot`` and ``fast``, and of
    ``fill``, must run.
    """

    def __init__(self, adder: Callable[..., None] = dsp.adder, *, dsp_clock: int = 2) -> None:
        self._adder, self._dsp_clock = adder, dsp_clock
        super().__init__({
            "start": In(1),
            "words": In(7), "mode": In(2), "vectors": In(3), "rows": In(19), "picked": In(1),
            "columns": In(1),
            "word": In(stream.Signature(256)), "entry": In(stream.Signature(PickedRow)),
            "hungry": Out(1),
            "write": In(ActivationWrite()), "result": Out(stream.Signature(DotResult)),
            "column_row": Out(stream.Signature(CollectedRow)), "awake": Out(1),
            "awake_fill": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.array = array = ProductArray(self._adder, dsp_clock=self._dsp_clock)
        m.submodules.drain = drain = Columns(array)
        latency = array.latency
        last_word, mode, rows = Signal(7), Signal(2), Signal(19)
        picked, columns, ending, fresh = Signal(), Signal(), Signal(), Signal()
        index, row = Signal(7), Signal(15)
        # The upper half of the activation memory holds column codes, one after the other.
        spread = Signal(range(ACT_WORDS), init=SHARED_WORDS)
        first, final = index == 0, index == last_word
        # Whether words have two passes of a cycle each, and which one enters the array.
        both, pass2 = Signal(), Signal()
        credit = Signal(range(_RESULTS + 1), init=_RESULTS)
        room = Signal(init=1)  # for a row, after the one that may just be ending
        m.d.sync += room.eq(credit > 1)
        may_enter, enter, take, mark = Signal(), Signal(), Signal(), Signal()
        rest = Signal(_COLUMN_TURN - 1)  # cycles until the next column may come, a bit each
        entry = self.entry
        with m.If(picked):
            m.d.comb += self.hungry.eq(ending & ~(entry.valid & entry.payload.end))
        with m.Else():
            m.d.comb += self.hungry.eq(rows != 0)
        m.d.comb += [
            may_enter.eq(self.hungry & room & (~picked | entry.valid) & ~rest[0]),
            enter.eq(self.word.valid & may_enter),
            self.word.ready.eq(may_enter & (pass2 | ~both)),
            take.eq(self.word.valid & self.word.ready),
            mark.eq(picked & ending & entry.valid & entry.payload.end & room),
            entry.ready.eq(mark | (picked & take & final)),
        ]
        m.d.sync += rest.eq(rest >> 1)
        for n in range(1, _COLUMN_TURN):
            with m.If(take & columns & final & (last_word == n - 1)):
                m.d.sync += rest.eq((1 << _rests(n, self._dsp_clock)) - 1)
        if self._dsp_clock == 1:
            with m.If(enter):
                m.d.sync += pass2.eq(both & ~pass2)
            with m.If(self.start):
                m.d.sync += both.eq((self.mode == MODES["int8"]) | (self.vectors >= TOKENS))
        with m.If(self.start):
            m.d.sync += [
                last_word.eq(self.words - 1), mode.eq(self.mode), index.eq(0),
                rows.eq(Mux(self.picked, 0, self.rows)),
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

        valids, marks, ends = [enter], [mark], [((take & final) | mark) & ~columns]
        for _ in range(latency):
            for stages, name in ((valids, "valid"), (marks, "marked"), (ends, "end")):
                stage = Signal(name=name)
                m.d.sync += stage.eq(stages[-1])
                stages.append(stage)
        last = delay(m, (rows == 1) & ~picked, latency)
        row_late = delay(m, Mux(picked, entry.payload.row, row), latency)
        m.d.comb += [self.awake.eq(Cat(valids).any() | drain.drain | array.read_columns),
                     self.awake_fill.eq(array.awake_fill)]

        m.d.dot += [
            array.word.eq(self.word.payload), array.address.eq(Mux(columns, spread, index)),
            array.place.eq(index),
            array.negative.eq(entry.payload.code < 0), array.fresh.eq(fresh),
            array.pass2.eq(pass2),
        ]
        m.d.comb += [
            array.mode.eq(mode), array.columns.eq(columns),
            array.both.eq(both if self._dsp_clock == 1 else 1),
            array.valid.eq(valids[1]),
            array.total_valid.eq(valids[latency - array.ahead]),
            array.first.eq(delay(m, first, latency - array.ahead)),
            array.select.eq(delay(m, index[(ACT_WORDS - 1).bit_length():],
                                  latency - array.ahead)),
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

        m.submodules.results = results = Queue(DotResult, depth=_RESULTS)
        wiring.connect(m, results.o, wiring.flipped(self.result))
        result = results.i.payload
        marker = marks[-1] & ends[-1]
        m.d.comb += [
            *(result.sums[v].eq(array.sums[v]) for v in range(VECTORS)),
            result.last.eq(last | marker), result.row.eq(row_late), result.data.eq(~marker),
            results.i.valid.eq(ends[-1]),
        ]
        m.d.sync += [
            credit.eq(credit - ends[0] + (self.result.valid & self.result.ready)),
            Assert(~array.read_columns | ~Cat(valids).any(),
                   "columns are read while products are added"),
            Assert(credit + results.level + sum(ends[1:]) == _RESULTS,
                   "credits of the result queue went astray"),
        ]
        return m
