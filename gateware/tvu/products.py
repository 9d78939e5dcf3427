"""Dot products and column sums: takes stream words, drives the product array, hands on one result
per matrix row.

The pipeline never stalls: a word is taken only if the row that it ends is sure to find room in the
result queue.
"""

from collections.abc import Callable

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, Value
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
    """Members: ``start`` latches ``words`` (stream words per row), ``first`` (word of the
    activations that the first of them meets), ``mode``, ``last_vector`` (the
    number of the last one), ``rows``, ``picked`` (rows are those of ``entry``) and ``columns``
    (picked columns instead of rows); ``word`` and ``entry`` in; ``write`` to the activation memory;
    ``result`` out, one per row; ``column_row`` out, the sums of columns; ``hungry`` while a word
    could be taken; ``awake`` and ``awake_fill``: the clocks of ``dot`` and ``fast``, and of
    ``fill``, must run.
    """

    def __init__(self, adder: Callable[..., None] = dsp.adder, *, dsp_clock: int = 2) -> None:
        self._adder, self._dsp_clock = adder, dsp_clock
        super().__init__({
            "start": In(1),
            "first": In(5), "words": In(7), "mode": In(2), "last_vector": In(3), "rows": In(19),
            "picked": In(1), "columns": In(1),
            "word": In(stream.Signature(256)), "entry": In(stream.Signature(PickedRow)),
            "hungry": Out(1),
            "write": In(ActivationWrite()), "result": Out(stream.Signature(DotResult)),
            "column_row": Out(stream.Signature(CollectedRow)), "awake": Out(1),
            "awake_fill": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.array = self._array = ProductArray(self._adder, dsp_clock=self._dsp_clock)
        m.submodules.drain = self._drain = Columns(self._array)
        # of the operation; ``ending``: the end of the picked rows is still to come
        self._last_word, self._mode, self._rows = Signal(7), Signal(2), Signal(19)
        self._picked, self._columns, self._ending = Signal(), Signal(), Signal()
        # of the word that comes next; whether it is of the first column
        self._index, self._row, self._fresh = Signal(7), Signal(15), Signal()
        self._first, self._begins = Signal(5), Signal()  # where a row begins; whether one does
        # The upper half of the activation memory holds column codes, one after the other.
        self._spread = Signal(range(ACT_WORDS), init=SHARED_WORDS)
        # Whether words have two passes of a cycle each, and which one enters the array.
        self._both, self._pass2 = Signal(), Signal()
        self._final = self._index == self._last_word
        room = Signal(init=1)  # for a row, after the one that may just be ending
        enter, take, close = Signal(), Signal(), Signal()
        self._accept(m, room, enter, take, close)
        self._step(m, enter, take, close)
        ends, closed = self._follow(m, enter, take, close)
        credit = self._queue(m, ends, closed)
        m.d.sync += room.eq(credit > 1)
        return m

    def _accept(self, m: Module, room: Value, enter: Signal, take: Signal, close: Signal) -> None:
        """Which word enters the array and is taken, and when the end of the picked rows is."""
        rest = Signal(_COLUMN_TURN - 1)  # cycles until the next column may come, a bit each
        may_enter, entry = Signal(), self.entry
        ends = entry.valid & entry.payload.end
        with m.If(self._picked):
            m.d.comb += self.hungry.eq(self._ending & ~ends)
        with m.Else():
            m.d.comb += self.hungry.eq(self._rows != 0)
        m.d.comb += [
            may_enter.eq(self.hungry & room & (~self._picked | entry.valid) & ~rest[0]),
            enter.eq(self.word.valid & may_enter),
            self.word.ready.eq(may_enter & (self._pass2 | ~self._both)),
            take.eq(self.word.valid & self.word.ready),
            close.eq(self._picked & self._ending & ends & room),
            entry.ready.eq(close | (self._picked & take & self._final)),
        ]
        m.d.sync += rest.eq(rest >> 1)
        for n in range(1, _COLUMN_TURN):
            with m.If(take & self._columns & self._final & (self._last_word == n - 1)):
                m.d.sync += rest.eq((1 << _rests(n, self._dsp_clock)) - 1)

    def _step(self, m: Module, enter: Value, take: Value, close: Value) -> None:
        """From word to word, and from one operation to the next."""
        if self._dsp_clock == 1:
            with m.If(enter):
                m.d.sync += self._pass2.eq(self._both & ~self._pass2)
            with m.If(self.start):
                m.d.sync += self._both.eq((self.mode == MODES["int8"])
                                          | (self.last_vector >= TOKENS))
        with m.If(self.start):
            m.d.sync += [
                self._last_word.eq(self.words + self.first - 1), self._mode.eq(self.mode),
                self._rows.eq(Mux(self.picked, 0, self.rows)), self._picked.eq(self.picked),
                self._columns.eq(self.columns), self._ending.eq(self.picked),
                self._index.eq(self.first), self._first.eq(self.first), self._begins.eq(1),
                self._row.eq(0), self._fresh.eq(1),
            ]
        with m.Elif(take):
            m.d.sync += [self._index.eq(Mux(self._final, self._first, self._index + 1)),
                         self._begins.eq(self._final)]
            with m.If(self._final):
                m.d.sync += [self._row.eq(self._row + 1), self._fresh.eq(0),
                             self._spread.eq((self._spread + 1) | SHARED_WORDS)]
                with m.If(~self._picked):
                    m.d.sync += self._rows.eq(self._rows - 1)
        with m.If(close):
            m.d.sync += self._ending.eq(0)

    def _follow(self, m: Module, enter: Value, take: Value,
                close: Value) -> tuple[list[Value], Value]:
        """Follows words through the array. Returns by cycle whether a row's result or the end of
        the picked rows is there, and for the last cycle whether it is that end."""
        array, drain, latency = self._array, self._drain, self._array.latency
        valids, closes = [enter], [close]
        ends: list[Value] = [((take & self._final) | close) & ~self._columns]
        for _ in range(latency):
            for stages, name in ((valids, "valid"), (closes, "closing"), (ends, "end")):
                stage = Signal(name=name)
                m.d.sync += stage.eq(stages[-1])
                stages.append(stage)
        m.d.sync += Assert(~array.read_columns | ~Cat(valids).any(),
                           "columns are read while products are added")
        self._feed(m, valids)
        m.d.comb += [
            self.awake.eq(Cat(valids).any() | drain.drain | array.read_columns),
            self.awake_fill.eq(array.awake_fill),
            array.spread.eq(take & self._columns & self._begins),
            array.spread_address.eq(self._spread),
            array.code.eq(self.entry.payload.code),
            drain.start.eq(self.start & self.columns), drain.rows.eq(self.rows),
            drain.digits5.eq(self.mode == MODES["base3"]),
            drain.drain.eq(closes[-1] & self._columns), drain.empty.eq(self._fresh),
        ]
        wiring.connect(m, array.write, wiring.flipped(self.write))
        wiring.connect(m, wiring.flipped(self.column_row), drain.row)
        return ends, closes[-1] & ends[-1]

    def _feed(self, m: Module, valids: list[Value]) -> None:
        """A word and what the array has to know of it, when it enters and when its sums are
        added."""
        array = self._array
        m.d.dot += [
            array.word.eq(self.word.payload),
            array.address.eq(Mux(self._columns, self._spread, self._index)),
            array.slot.eq(self._index), array.negative.eq(self.entry.payload.code < 0),
            array.fresh.eq(self._fresh), array.pass2.eq(self._pass2),
        ]
        late = array.latency - array.ahead
        m.d.comb += [
            array.mode.eq(self._mode), array.columns.eq(self._columns),
            array.both.eq(self._both if self._dsp_clock == 1 else 1),
            array.valid.eq(valids[1]), array.total_valid.eq(valids[late]),
            array.first.eq(delay(m, self._begins, late)),
            array.select.eq(delay(m, self._index[(ACT_WORDS - 1).bit_length():], late)),
        ]

    def _queue(self, m: Module, ends: list[Value], closing: Value) -> Value:
        """Results wait to be taken; returns for how many more there is room, of those not yet on
        their way."""
        array = self._array
        m.submodules.results = results = Queue(DotResult, depth=_RESULTS)
        wiring.connect(m, results.o, wiring.flipped(self.result))
        result, credit = results.i.payload, Signal(range(_RESULTS + 1), init=_RESULTS)
        last = delay(m, (self._rows == 1) & ~self._picked, array.latency)
        row = delay(m, Mux(self._picked, self.entry.payload.row, self._row), array.latency)
        m.d.comb += [
            *(result.sums[v].eq(array.sums[v]) for v in range(VECTORS)),
            result.last.eq(last | closing), result.row.eq(row), result.data.eq(~closing),
            results.i.valid.eq(ends[-1]),
        ]
        m.d.sync += [
            credit.eq(credit - ends[0] + (self.result.valid & self.result.ready)),
            Assert(credit + results.level + sum(ends[1:]) == _RESULTS,
                   "credits of the result queue went astray"),
        ]
        return credit
