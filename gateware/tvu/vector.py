"""Vector unit: eight float32 lanes between sources (scratchpad, stream, dot products) and sinks.

Every operation takes the same way of fixed length: operands -> integer to float -> times scalar ->
times operand -> add -> post -> sink. What an operation does not need multiplies by one or adds
minus zero. Rows can follow each other every cycle (every second one for what is looked up) and
nothing stalls once a row is issued. The running sums of SUM and SUMSQ circulate in the add stage.

The scratchpad has two banks, of even and of odd rows: operands a and b are read together if one is
even and the other odd.
"""

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from xtvu.isa import LANES, VECTORS

from .activations import ActivationWrite
from .collect import CollectedRow
from .float32 import is_infinite
from .issue import Issue, Kind, Row
from .lane import ADDED, ADDS, LATENCY, MULTIPLIES, OPERANDS, SCALES, Lane
from .logic import choose
from .lookup import Lookups
from .maxima import Maxima
from .operands import Operands
from .operation import Add, Factor, Reduce, Sink, Source, VectorOp
from .queue import Queue
from .store import StoreRow
from .sums import RunningSums

__all__ = ["VectorUnit"]

_ROW = 32 * LANES
_STORE_DEPTH = 32


class VectorUnit(wiring.Component):
    """Members: ``start`` begins ``op``, which holds until it is done; ``done`` pulses when
    everything is written, ranked, or on its way to be stored; by then ``reduced`` has pulsed for
    each run that was reduced to ``value``; ``word`` in (stream words), ``hungry`` while one could
    be taken; ``dot`` in (collected rows); scratchpad ports, one read port per bank; write ports of
    activations and pick memory; ``row`` out to the store unit or the ranking, ``rows_wait`` while
    one is on its way there; ``overflow`` pulses on an infinite result.
    """

    def __init__(self) -> None:
        super().__init__({
            "start": In(1),
            "op": In(VectorOp),
            "done": Out(1), "reduced": Out(1), "value": Out(32), "overflow": Out(1),
            "word": In(stream.Signature(_ROW)), "hungry": Out(1),
            "dot": In(stream.Signature(CollectedRow)),
            "read_address": Out(12).array(2), "read_data": In(_ROW).array(2),
            "write_address": Out(13), "write_data": Out(_ROW), "write_mask": Out(LANES),
            "act": Out(ActivationWrite()), "codes": Out(8 * LANES), "pick_enable": Out(1),
            "pick_address": Out(11),
            "row": Out(stream.Signature(StoreRow)), "rows_wait": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kind = self._kind(m)
        m.submodules.issue = issue = Issue()
        m.submodules.operands = operands = Operands()
        m.submodules.sums = sums = RunningSums()
        m.submodules.lookups = lookups = Lookups()
        m.submodules.maxima = maxima = Maxima()
        lanes = [Lane() for _ in range(LANES)]
        for i, lane in enumerate(lanes):
            m.submodules[f"lane{i}"] = lane

        self._connect_issue(m, kind, issue, operands)
        valids, rows = self._beside(m, issue)
        self._connect_lanes(m, kind, operands, lanes, rows)
        self._connect_sums(m, kind, issue, sums, lanes, valids, rows)
        m.d.comb += [lookups.valid.eq(valids[ADDED]), lookups.sigmoid.eq(self.op.sigmoid)]
        for i, lane in enumerate(lanes):
            m.d.comb += [lookups.a[i].eq(lane.total), lane.found.eq(lookups.r[i])]
        self._sink(m, kind, lanes, valids[LATENCY], rows[LATENCY])
        m.d.comb += issue.room.eq(self._queue(m, kind, issue, lanes, valids, rows[LATENCY]))
        self._check(m, kind, operands, lanes, sums.ending, valids, rows)
        m.d.comb += [
            maxima.start.eq(self.start), maxima.magnitude.eq(self.op.reduce == Reduce.ABSMAX),
            maxima.valid.eq(valids[LATENCY]), maxima.last.eq(rows[LATENCY].last),
            maxima.mask.eq(rows[LATENCY].mask),
            *(value.eq(lane.r) for value, lane in zip(maxima.values, lanes, strict=True)),
        ]
        m.d.sync += [
            self.reduced.eq(Mux(kind.summing, sums.done,
                                (self.op.reduce != Reduce.NONE) & maxima.done)),
            self.value.eq(Mux(kind.summing, lanes[0].total, maxima.value)),
        ]
        self._end(m, Mux(kind.summing, sums.done,
                         ~(issue.active | Cat(valids).any() | maxima.busy)))
        return m

    def _kind(self, m: Module) -> data.View:
        op, kind = self.op, Signal(Kind)
        m.d.sync += [
            kind.from_dot.eq(op.source == Source.DOT),
            kind.two_reads.eq((op.source == Source.SCRATCH) & op.b_read),
            kind.to_act.eq(op.sink == Sink.ACTIVATIONS),
            kind.summing.eq(op.reduce == Reduce.SUM),
            kind.buffered.eq((op.sink == Sink.STORE) | (op.sink == Sink.RANK)),
            kind.needs_word.eq((op.source == Source.WORD) | (op.source == Source.BYTES)
                               | op.b_word),
        ]
        return kind

    def _connect_issue(self, m: Module, kind: data.View, issue: Issue, operands: Operands) -> None:
        connect(m, issue.dot, flipped(self.dot))
        m.d.comb += [
            issue.start.eq(self.start), issue.op.eq(self.op), issue.kind.eq(kind),
            issue.word_valid.eq(self.word.valid), self.word.ready.eq(issue.word_ready),
            self.hungry.eq(issue.hungry),
            *(self.read_address[bank].eq(issue.read_address[bank]) for bank in range(2)),
            operands.source.eq(self.op.source), operands.b_word.eq(self.op.b_word),
            operands.from_dot.eq(kind.from_dot), operands.issue.eq(issue.issue),
            operands.eighth.eq(issue.row.index), operands.odd.eq(issue.odd),
            operands.conflict.eq(issue.conflict), operands.word.eq(self.word.payload),
            *(operands.sums[i].eq(self.dot.payload.sums[i]) for i in range(LANES)),
            *(operands.read_data[bank].eq(self.read_data[bank]) for bank in range(2)),
        ]

    def _beside(self, m: Module, issue: Issue) -> tuple[list[Value], list[data.View]]:
        """By cycle since it was issued: whether a row is there, and what belongs to it."""
        valids: list[Value] = [issue.issue]
        rows = [issue.row]
        for _ in range(LATENCY):
            valid, row = Signal(name="valid"), Signal(Row, name="row", reset_less=True)
            m.d.sync += valid.eq(valids[-1])
            with m.If(valids[-1]):
                m.d.sync += row.eq(rows[-1])
            valids.append(valid)
            rows.append(row)
        return valids, rows

    def _connect_lanes(self, m: Module, kind: data.View, operands: Operands, lanes: list[Lane],
                       rows: list[data.View]) -> None:
        op = self.op
        scale = choose([op.factors[i] for i in range(VECTORS)], rows[SCALES].factor)
        addend = choose([op.addends[i] for i in range(VECTORS)], rows[ADDS].factor)
        for i, lane in enumerate(lanes):
            m.d.comb += [
                lane.a.eq(operands.a.word_select(i, 32)), lane.b.eq(operands.b.word_select(i, 32)),
                lane.integer.eq(self._integer(kind)),
                lane.scale.eq(Lane.scale_of(op.scale, scale)),
                lane.scalar.eq(Lane.scalar_of(op.add, addend)),
                lane.relu.eq(op.relu), lane.factor.eq(op.factor), lane.add.eq(op.add),
                lane.codes.eq(op.codes), lane.lookup.eq(op.lookup),
            ]

    def _integer(self, kind: data.View) -> Value:
        """Whether operand a is an integer."""
        return (self.op.source == Source.BYTES) | kind.from_dot | self.op.integer

    def _connect_sums(self, m: Module, kind: data.View, issue: Issue, sums: RunningSums,
                      lanes: list[Lane], valids: list[Value], rows: list[data.View]) -> None:
        m.d.comb += [
            sums.start.eq(self.start), sums.summing.eq(kind.summing), sums.issue.eq(issue.issue),
            sums.index.eq(issue.row.index), sums.valid.eq(valids[ADDS]),
            sums.mask.eq(rows[ADDS].mask),
        ]
        for i, lane in enumerate(lanes):
            m.d.comb += [
                sums.product[i].eq(lane.product), sums.summand[i].eq(lane.summand),
                sums.total[i].eq(lane.total),
                lane.augend.eq(sums.augend[i]), lane.addend.eq(sums.addend[i]),
            ]

    def _sink(self, m: Module, kind: data.View, lanes: list[Lane], valid: Value,
              row: data.View) -> None:
        """Scratchpad, activation memory and pick memory."""
        op = self.op
        codes = [Mux(op.mark, ~lane.r[31] & (lane.r[23:31] != 0), lane.r[:8]) for lane in lanes]
        m.d.comb += [
            self.write_address.eq(row.dst), self.write_data.eq(Cat(lane.r for lane in lanes)),
            self.write_mask.eq(Mux(valid & (op.sink == Sink.SCRATCH), row.mask, 0)),
            self.codes.eq(Cat(Mux(row.mask[i], code, 0) for i, code in enumerate(codes))),
            self.act.enable.eq(valid & kind.to_act), self.act.vector.eq(row.vector),
            self.act.address.eq(row.address), self.act.digit.eq(row.digit),
            self.act.quarter.eq(row.quarter),
            self.act.bytes.eq(op.bytes), self.act.codes.eq(self.codes),
            self.pick_enable.eq(valid & ((op.sink == Sink.PICK) | (op.mark & (row.vector == 0)))),
            self.pick_address.eq(row.index),
        ]

    def _queue(self, m: Module, kind: data.View, issue: Issue, lanes: list[Lane],
               valids: list[Value], row: data.View) -> Value:
        """Rows that leave; returns whether there is room for one that is issued now: a register,
        so there must be room for the one before it, too."""
        m.submodules.queue = queue = Queue(StoreRow, depth=_STORE_DEPTH)
        connect(m, queue.o, flipped(self.row))
        credit = Signal(range(_STORE_DEPTH + 1), init=_STORE_DEPTH)
        m.d.comb += [
            *(value.eq(lane.r) for value, lane in zip(queue.i.payload.values, lanes, strict=True)),
            queue.i.payload.mask.eq(row.mask), queue.i.payload.vector.eq(row.vector),
            queue.i.valid.eq(valids[LATENCY] & kind.buffered),
            self.rows_wait.eq(queue.level != 0),
        ]
        room = Signal(init=1)
        m.d.sync += room.eq(credit > 1)
        leaves = self.row.valid & self.row.ready
        was_busy, was = Signal(), Signal(Kind)
        m.d.sync += [
            was_busy.eq(issue.active | Cat(valids).any()), was.eq(kind),
            Assert(~was_busy | (kind == was), "the operation changes while rows are under way"),
            credit.eq(credit - (issue.issue & kind.buffered) + leaves),
            Assert(credit + queue.level + Mux(kind.buffered, sum(valids[1:]), 0) == _STORE_DEPTH,
                   "credits of the store queue went astray"),
            Assert(~self.start | ~(issue.active | Cat(valids).any()),
                   "an operation starts while rows of another are under way"),
        ]
        return room

    def _check(self, m: Module, kind: data.View, operands: Operands, lanes: list[Lane],
               sums_end: Value, valids: list[Value], rows: list[data.View]) -> None:
        """Whatever is infinite or no number, an operand or what comes of it, when it shows."""
        op = self.op
        takes_b = (op.factor == Factor.B) | (op.add == Add.B)
        integer = self._integer(kind)
        found = {
            OPERANDS: [(~integer & is_infinite(operands.a.word_select(i, 32)))
                       | (takes_b & is_infinite(operands.b.word_select(i, 32)))
                       for i in range(LANES)],
            MULTIPLIES: [is_infinite(lane.scaled) for lane in lanes],
            ADDS: [is_infinite(lane.product) for lane in lanes],
            ADDED: [is_infinite(lane.total) for lane in lanes],
            LATENCY: [(op.sink == Sink.SCRATCH) & is_infinite(lane.r) for lane in lanes],
        }
        events = [valids[cycle] & (Cat(which) & rows[cycle].mask).any()
                  for cycle, which in found.items()]
        events.append(sums_end & Cat(found[ADDED]).any())
        m.d.sync += self.overflow.eq(Cat(events).any())

    def _end(self, m: Module, all_out: Value) -> None:
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(all_out):
                    m.next = "DONE"
            with m.State("DONE"):
                with m.If((self.op.sink != Sink.RANK) | ~self.rows_wait):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
