"""Which row an operation of the vector unit works on next, where its operands are and where its
result goes."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES, VECTORS
from xtvu.semantics import SLOTS

from .collect import CollectedRow
from .logic import choose
from .operation import Source, VectorOp

__all__ = ["Issue", "Kind", "Row"]


class Kind(data.Struct):
    """What an operation asks of the parts of the unit: operand a is a row of dot products; a and b
    are both read from the scratchpad; results are codes of activations; they go to the queue of
    rows that leave; they are summed; words of the stream are needed."""

    from_dot: 1
    two_reads: 1
    to_act: 1
    buffered: 1
    summing: 1
    needs_word: 1


class Row(data.Struct):
    """What travels beside a row through the pipeline: its row of the scratchpad, ``dst``, or its
    place among the activations, ``vector`` to ``quarter``; which elements count; its number; whose
    scalars apply; whether its run ends."""

    dst: 13
    mask: LANES
    index: 12
    vector: 3
    factor: 3
    address: 7
    digit: 3
    quarter: 2
    last: 1


class _Place(data.Struct):
    """Where eight codes go in the activation memory."""

    vector: 3
    address: 7
    digit: 3
    quarter: 2


class Issue(wiring.Component):
    """Members: ``start`` begins ``op``, which holds until it is done; from the next cycle on
    ``kind`` is what it asks for; ``word_valid``, ``word_ready`` and ``hungry`` of the stream,
    whose payload is taken elsewhere; ``dot``: rows of dot products; ``room`` for a row that leaves;
    ``issue`` pulses for every ``row``; ``active`` while some are left. ``read_address`` is of both
    banks of the scratchpad; ``odd``: operand a, or that of two in one bank whose turn it is, lies
    in the bank of odd rows; ``conflict``: a and b lie in one bank and are read one after the other.
    """

    def __init__(self) -> None:
        super().__init__({
            "start": In(1), "op": In(VectorOp), "kind": In(Kind),
            "word_valid": In(1), "word_ready": Out(1), "hungry": Out(1),
            "dot": In(stream.Signature(CollectedRow)), "room": In(1),
            "issue": Out(1), "row": Out(Row), "active": Out(1),
            "read_address": Out(12).array(2), "odd": Out(1), "conflict": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        op, kind = self.op, self.kind
        index, rows_left, elements_left = Signal(12), Signal(13), Signal(16)
        place = Signal(_Place)
        word_end = ((place.quarter == 3)
                    & (place.digit == Mux(op.bytes, 0, Mux(op.digits5, 4, 3))))
        ended = Signal()  # the last row of a run
        with m.If(kind.from_dot):
            m.d.comb += ended.eq(self.dot.payload.last)
        with m.Elif(kind.to_act):
            m.d.comb += ended.eq((rows_left <= 1) & word_end)
        with m.Elif(kind.summing):
            m.d.comb += ended.eq((rows_left <= 1) & (index >= SLOTS - 1))
        with m.Else():
            m.d.comb += ended.eq(rows_left <= 1)

        run = self._advance(m, ended, index, rows_left, elements_left, place, word_end)
        mask = Signal(LANES)
        with m.If(elements_left >= LANES):
            m.d.comb += mask.eq(~0)
        with m.Else():
            m.d.comb += mask.eq((1 << elements_left[:3]) - 1)
        dot, row = self.dot.payload, self.row
        m.d.comb += [
            row.mask.eq(Mux(kind.from_dot, dot.mask, mask)),
            row.index.eq(Mux(kind.from_dot, dot.index, index)),
            row.vector.eq(Mux(kind.from_dot, dot.vector, place.vector)),
            row.factor.eq(Mux(kind.from_dot, dot.vector, Mux(op.step, run, 0))),
            row.last.eq(ended), row.address.eq(place.address), row.digit.eq(place.digit),
            row.quarter.eq(place.quarter),
        ]
        return m

    def _advance(self, m: Module, ended: Value, index: Signal, rows_left: Signal,
                 elements_left: Signal, place: data.View, word_end: Value) -> Value:
        """Counts rows and runs; returns the number of the run."""
        op, kind = self.op, self.kind
        runs_left, run = Signal(6), Signal(3)
        a_base, b_base, dst_base = Signal(13), Signal(13), Signal(13)
        row_count = (op.count + LANES - 1) >> 3
        self._places(m, index, a_base, b_base, dst_base)
        with m.If(self.start):
            m.d.sync += [
                self.active.eq(1), index.eq(0), place.eq(0), place.vector.eq(op.vector),
                elements_left.eq(op.count), rows_left.eq(row_count),
                runs_left.eq(op.runs), run.eq(0),
                a_base.eq(op.a), b_base.eq(op.b), dst_base.eq(op.dst),
            ]
        with m.Elif(self.issue):
            m.d.sync += [
                index.eq(index + 1), rows_left.eq(Mux(rows_left == 0, 0, rows_left - 1)),
                elements_left.eq(Mux(elements_left < LANES, 0, elements_left - LANES)),
                place.quarter.eq(place.quarter + 1),
            ]
            with m.If(place.quarter == 3):
                m.d.sync += [place.digit.eq(Mux(word_end, 0, place.digit + 1)),
                             place.address.eq(place.address + word_end)]
            with m.If(ended):
                with m.If(kind.from_dot | (runs_left <= 1)):
                    m.d.sync += self.active.eq(0)
                with m.Else():
                    m.d.sync += [
                        index.eq(0), elements_left.eq(op.count), rows_left.eq(row_count),
                        runs_left.eq(runs_left - 1), run.eq(run + 1),
                        place.address.eq(0), place.digit.eq(0), place.quarter.eq(0),
                        place.vector.eq(place.vector + op.step_dst[:3]),
                        a_base.eq(a_base + op.step_a), b_base.eq(b_base + op.step_b),
                        dst_base.eq(dst_base + op.step_dst),
                    ]
        return run

    def _places(self, m: Module, index: Value, a_base: Value, b_base: Value,
                dst_base: Value) -> None:
        """Rows of the scratchpad, and when a row can be issued."""
        op, kind, dot = self.op, self.kind, self.dot.payload
        # Where each activation vector's results start, as sums: a multiplication would take a DSP
        # slice.
        starts = [Signal(13, name=f"start{v}") for v in range(VECTORS)]
        for v, start in enumerate(starts):
            multiple = sum((op.stride << bit for bit in range(3) if v >> bit & 1), Value.cast(0))
            m.d.sync += start.eq(op.dst + multiple)
        a, b = Signal(13), Signal(13)
        with m.If(kind.from_dot):
            m.d.comb += [self.row.dst.eq(choose(starts, dot.vector) + dot.index),
                         a.eq(Mux(op.b_dst, self.row.dst, op.b + dot.index))]
        with m.Else():
            m.d.comb += [self.row.dst.eq(dst_base + index), a.eq(a_base + index),
                         b.eq(b_base + index)]
        # b's turn, of two in one bank; a row's upper lanes are looked up
        second, resting = Signal(), Signal()
        # but for a word of the stream, which may depend on whether it is taken here
        ready = Signal()
        m.d.comb += ready.eq(self.active & ~resting & (~self.conflict | second)
                             & (~kind.from_dot | self.dot.valid) & (~kind.buffered | self.room))
        m.d.sync += [second.eq(~self.start & self.active & self.conflict & ~second),
                     resting.eq(self.issue & op.lookup)]
        x = Mux(second, b, a)
        m.d.comb += [
            self.conflict.eq(kind.two_reads & (a_base[0] == b_base[0])),
            self.issue.eq(ready & (~kind.needs_word | self.word_valid)),
            self.hungry.eq(self.active & kind.needs_word),
            self.word_ready.eq(ready & kind.needs_word
                               & ((op.source != Source.BYTES) | (index[:2] == 3))),
            # as issue, which may wait for more
            self.dot.ready.eq(self.active & kind.from_dot & ~resting
                              & (~kind.buffered | self.room)),
            self.odd.eq(x[0]),
            self.read_address[0].eq(Mux(x[0], b, x)[1:]),
            self.read_address[1].eq(Mux(x[0], x, b)[1:]),
        ]
