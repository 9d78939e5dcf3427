"""Vector unit: eight float32 lanes between sources (scratchpad, stream, dot products) and sinks.

Every operation takes the same way of fixed length: operands -> integer to float -> times scalar ->
times operand -> add -> post -> sink. What an operation does not need multiplies by one or adds
minus zero. Rows can follow each other every cycle (every second one for powers of two) and nothing
stalls once a row is issued. The running sums of SUM and SUMSQ circulate in the add stage.

The scratchpad has two banks, of even and of odd rows: operands a and b are read together if one is
even and the other odd.
"""

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, enum, fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES, VECTORS
from xtvu.semantics import SLOTS

from .activations import ActivationWrite
from .collect import CollectedRow
from .float32 import (
    FloatAdd,
    FloatExp2,
    FloatMultiply,
    FloatToInt8,
    IntToFloat,
    choose,
    delay,
    float_key,
)
from .store import StoreRow

__all__ = ["Add", "Factor", "Reduce", "Sink", "Source", "VectorOp", "VectorUnit"]

_ROW = 32 * LANES
_POST = FloatExp2.LATENCY + 1  # a row's powers take two cycles
_LATENCY = 2 + IntToFloat.LATENCY + 2 * FloatMultiply.LATENCY + FloatAdd.LATENCY + _POST
_ONE, _MINUS_ZERO = 0x3F800000, 0x80000000
_STORE_DEPTH = 32


class Source(enum.Enum, shape=2):
    """Where operand a comes from."""

    SCRATCH = 0
    WORD = 1  # float32 from the stream
    BYTES = 2  # int8 from the stream
    DOT = 3


class Factor(enum.Enum, shape=2):
    """Second factor, after the scalar one."""

    NONE = 0
    B = 1
    SELF = 2


class Add(enum.Enum, shape=2):
    """Second summand."""

    NONE = 0
    SCALAR = 1  # subtracted
    B = 2
    RUNNING = 3


class Sink(enum.Enum, shape=3):
    """Where results go."""

    NONE = 0
    SCRATCH = 1
    ACTIVATIONS = 2
    PICK = 3
    STORE = 4
    RANK = 5


class Reduce(enum.Enum, shape=2):
    """What is reduced over the results."""

    NONE = 0
    MAX = 1
    ABSMAX = 2
    SUM = 3


class VectorOp(data.Struct):
    """A vector operation, scalars already read.

    ``b_read``: operand b comes from the scratchpad; ``b_word``: from the stream; ``b_dst``: b is
    what dst holds. ``scale``: the scalar factor applies; ``relu``: negative values become zero
    after it. ``factors`` and ``addends`` are the scalars per activation vector (DOT) or group
    (``step``), else element 0 of them. ``mark``: positive results are marked in the pick memory.
    Rows come in ``groups`` of ``count`` elements; ``step_dst``, ``step_a`` and ``step_b`` lie
    between their starts.
    """

    source: Source
    b_read: 1
    b_word: 1
    b_dst: 1
    scale: 1
    relu: 1
    factor: Factor
    add: Add
    exp2: 1
    codes: 1
    mark: 1
    sink: Sink
    reduce: Reduce
    digits5: 1
    bytes: 1
    vector: 3
    dst: 13
    a: 13
    b: 13
    count: 15
    stride: 13
    groups: 6
    step: 1
    step_dst: 13
    step_a: 13
    step_b: 13
    factors: data.ArrayLayout(32, VECTORS)
    addends: data.ArrayLayout(32, VECTORS)


class _Row(data.Struct):
    """What travels beside a row through the pipeline."""

    dst: 13
    mask: LANES
    index: 12
    vector: 3
    factor: 3
    address: 7
    digit: 3
    quarter: 2
    last: 1


class VectorUnit(wiring.Component):
    """Members: ``start`` begins ``op``, which holds until it is done; ``done`` pulses when
    everything is written, ranked, or on its way to be stored; before, ``reduced`` pulses for each
    group that was reduced to ``value``; ``word`` in (stream words), ``wants_word`` while one could
    be taken; ``dot`` in (collected rows); scratchpad ports, one read port per bank; write ports of
    activations and pick memory; ``row`` out to the store unit or the ranking, ``rows_wait`` while
    one is on its way there; ``overflow`` pulses on an infinite result.
    """

    def __init__(self) -> None:
        super().__init__({
            "start": In(1),
            "op": In(VectorOp),
            "done": Out(1), "reduced": Out(1), "value": Out(32), "overflow": Out(1),
            "word": In(stream.Signature(_ROW)), "wants_word": Out(1),
            "dot": In(stream.Signature(CollectedRow)),
            "read_address": Out(12).array(2), "read_data": In(_ROW).array(2),
            "write_address": Out(13), "write_data": Out(_ROW), "write_mask": Out(LANES),
            "act": Out(ActivationWrite()), "codes": Out(8 * LANES), "pick_enable": Out(1),
            "pick_address": Out(11),
            "row": Out(stream.Signature(StoreRow)), "rows_wait": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        op = self.op
        active, issue = Signal(), Signal()

        # -- issue ---------------------------------------------------------------------------------
        index, rows_left, lanes_left = Signal(12), Signal(13), Signal(16)
        groups_left, group = Signal(6), Signal(3)
        a_base, b_base, dst_base = Signal(13), Signal(13), Signal(13)
        second = Signal()  # second cycle of an operation whose operands lie in one bank
        act = Signal(_Row)  # only address, digit, quarter and vector are used
        from_dot, two_reads, to_act, buffered, summing, needs_word = (
            Signal(name=name)
            for name in ("from_dot", "two_reads", "to_act", "buffered", "summing", "needs_word"))
        m.d.sync += [
            from_dot.eq(op.source == Source.DOT),
            two_reads.eq((op.source == Source.SCRATCH) & op.b_read),
            to_act.eq(op.sink == Sink.ACTIVATIONS), summing.eq(op.reduce == Reduce.SUM),
            buffered.eq((op.sink == Sink.STORE) | (op.sink == Sink.RANK)),
            needs_word.eq((op.source == Source.WORD) | (op.source == Source.BYTES) | op.b_word),
        ]
        word_end = (act.quarter == 3) & (act.digit == Mux(op.bytes, 0, Mux(op.digits5, 4, 3)))
        ended = Signal()  # the last row of a group
        with m.If(from_dot):
            m.d.comb += ended.eq(self.dot.payload.last)
        with m.Elif(to_act):
            m.d.comb += ended.eq((rows_left <= 1) & word_end)
        with m.Elif(summing):
            m.d.comb += ended.eq((rows_left <= 1) & (index >= SLOTS - 1))
        with m.Else():
            m.d.comb += ended.eq(rows_left <= 1)

        # Where each activation vector's results start.
        starts = [Signal(13, name=f"start{v}") for v in range(VECTORS)]
        twice = op.stride << 1
        for v, start in enumerate(starts):  # as sums: a multiplication would take a DSP slice
            multiple = ((op.stride if v & 1 else 0) + (twice if v & 2 else 0)
                        + (twice << 1 if v & 4 else 0))
            m.d.sync += start.eq(op.dst + multiple)
        dot_vector, dot_group = self.dot.payload.vector, self.dot.payload.group
        row_dst, row_a, row_b = Signal(13), Signal(13), Signal(13)
        with m.If(from_dot):
            m.d.comb += [row_dst.eq(choose(starts, dot_vector) + dot_group),
                         row_a.eq(Mux(op.b_dst, row_dst, op.b + dot_group))]
        with m.Else():
            m.d.comb += [row_dst.eq(dst_base + index), row_a.eq(a_base + index),
                         row_b.eq(b_base + index)]
        conflict = Signal()
        m.d.comb += conflict.eq(two_reads & (a_base[0] == b_base[0]))

        credit = Signal(range(_STORE_DEPTH + 1), init=_STORE_DEPTH)
        resting = Signal()
        ready = (~resting & (~needs_word | self.word.valid) & (~from_dot | self.dot.valid)
                 & (~buffered | (credit != 0)))
        first_read = active & conflict & ~second
        m.d.sync += resting.eq(issue & op.exp2)
        m.d.comb += [
            issue.eq(active & ready & (~conflict | second)),
            self.wants_word.eq(active & needs_word),
            self.word.ready.eq(issue & needs_word
                               & ((op.source != Source.BYTES) | (index[:2] == 3))),
            # as issue, which may wait for more
            self.dot.ready.eq(active & from_dot & ~resting & (~buffered | (credit != 0))),
        ]
        row_x = Mux(second, row_b, row_a)
        m.d.comb += [
            self.read_address[0].eq(Mux(row_x[0], row_b, row_x)[1:]),
            self.read_address[1].eq(Mux(row_x[0], row_x, row_b)[1:]),
        ]

        control = Signal(_Row)
        mask = Signal(LANES)
        with m.If(lanes_left >= LANES):
            m.d.comb += mask.eq(~0)
        with m.Else():
            m.d.comb += mask.eq((1 << lanes_left[:3]) - 1)
        m.d.comb += [
            control.dst.eq(row_dst), control.mask.eq(Mux(from_dot, self.dot.payload.mask, mask)),
            control.index.eq(Mux(from_dot, dot_group, index)),
            control.vector.eq(Mux(from_dot, dot_vector, act.vector)),
            control.factor.eq(Mux(from_dot, dot_vector, Mux(op.step, group, 0))),
            control.last.eq(ended), control.address.eq(act.address), control.digit.eq(act.digit),
            control.quarter.eq(act.quarter),
        ]
        row_count = (op.count + LANES - 1) >> 3
        m.d.sync += second.eq(first_read)
        with m.If(self.start):
            m.d.sync += [
                active.eq(1), index.eq(0), second.eq(0), act.eq(0), act.vector.eq(op.vector),
                lanes_left.eq(op.count), rows_left.eq(row_count),
                groups_left.eq(op.groups), group.eq(0), a_base.eq(op.a),
                b_base.eq(op.b), dst_base.eq(op.dst),
            ]
        with m.Elif(issue):
            m.d.sync += [
                index.eq(index + 1), rows_left.eq(Mux(rows_left == 0, 0, rows_left - 1)),
                lanes_left.eq(Mux(lanes_left < LANES, 0, lanes_left - LANES)),
                act.quarter.eq(act.quarter + 1),
            ]
            with m.If(act.quarter == 3):
                m.d.sync += [act.digit.eq(Mux(word_end, 0, act.digit + 1)),
                             act.address.eq(act.address + word_end)]
            with m.If(ended):
                with m.If(from_dot | (groups_left <= 1)):
                    m.d.sync += active.eq(0)
                with m.Else():
                    m.d.sync += [
                        index.eq(0), lanes_left.eq(op.count), rows_left.eq(row_count),
                        groups_left.eq(groups_left - 1),
                        group.eq(group + 1), act.address.eq(0), act.digit.eq(0), act.quarter.eq(0),
                        act.vector.eq(act.vector + op.step_dst[:3]),
                        a_base.eq(a_base + op.step_a), b_base.eq(b_base + op.step_b),
                        dst_base.eq(dst_base + op.step_dst),
                    ]

        # -- beside the data -----------------------------------------------------------------------
        valids, controls = [issue], [control.as_value()]
        for _ in range(_LATENCY):
            valid = Signal(name="valid")
            staged = Signal(len(controls[-1]), name="control", reset_less=True)
            m.d.sync += valid.eq(valids[-1])
            with m.If(valids[-1]):
                m.d.sync += staged.eq(controls[-1])
            valids.append(valid)
            controls.append(staged)

        def beside(cycle: int) -> data.View:
            return data.View(_Row, controls[cycle])

        # -- operands: cycle 1 selects, cycle 2 holds ----------------------------------------------
        # x is what row_x named; y is what the other bank gave.
        held = Signal(_ROW, reset_less=True)
        odd, conflicted = Signal(), Signal()
        m.d.sync += [odd.eq(row_x[0]), conflicted.eq(conflict)]
        x_data, y_data = Signal(_ROW), Signal(_ROW)
        m.d.comb += [
            x_data.eq(Mux(odd, self.read_data[1], self.read_data[0])),
            y_data.eq(Mux(odd, self.read_data[0], self.read_data[1])),
        ]
        word1 = Signal(_ROW, reset_less=True)
        byte1 = Signal(64, reset_less=True)
        dot1 = Signal(_ROW, reset_less=True)
        m.d.sync += held.eq(x_data)
        with m.If(issue):
            m.d.sync += [
                word1.eq(self.word.payload), byte1.eq(self.word.payload.word_select(index[:2], 64)),
                dot1.eq(Cat(Cat(x,
                                x[-1].replicate(32
                                                - len(x)))
                            for x in (self.dot.payload.sums[i] for i in range(LANES)))),
            ]
        a2, b2 = Signal(_ROW, reset_less=True), Signal(_ROW, reset_less=True)
        with m.If(valids[1]):
            with m.Switch(op.source):
                with m.Case(Source.SCRATCH):
                    m.d.sync += a2.eq(Mux(conflicted, held, x_data))
                with m.Case(Source.WORD):
                    m.d.sync += a2.eq(word1)
                with m.Case(Source.BYTES):
                    extended = [byte1.word_select(i, 8) for i in range(LANES)]
                    m.d.sync += a2.eq(Cat(Cat(byte, byte[7].replicate(24)) for byte in extended))
                with m.Case(Source.DOT):
                    m.d.sync += a2.eq(dot1)
            m.d.sync += b2.eq(Mux(op.b_word, word1, Mux(from_dot | conflicted, x_data, y_data)))

        # -- lanes ---------------------------------------------------------------------------------
        at_multiply = 2 + IntToFloat.LATENCY
        at_add = at_multiply + 2 * FloatMultiply.LATENCY
        integer = (op.source == Source.BYTES) | from_dot
        factor, addend, scalar_summand = Signal(32), Signal(32), Signal(32)
        m.d.comb += [
            factor.eq(Mux(op.scale,
                          choose([op.factors[i]
                                  for i in range(VECTORS)], beside(at_multiply).factor), _ONE)),
            addend.eq(choose([op.addends[i] for i in range(VECTORS)], beside(at_add).factor)),
            scalar_summand.eq(Mux(op.add == Add.SCALAR, Cat(addend[:31], ~addend[31]),
                                  _MINUS_ZERO)),
        ]

        adders, summands, results = [], [], []
        # Whatever is infinite or no number, an operand or what comes of it, by the cycle in which
        # it shows.
        takes_b = (op.factor == Factor.B) | (op.add == Add.B)
        scaled, multiplied, added = (at_multiply + FloatMultiply.LATENCY, at_add,
                                     at_add + FloatAdd.LATENCY)
        infinite: dict[int, list[Value]] = {cycle: [] for cycle in (2, scaled, multiplied, added)}

        def is_infinite(value: Value) -> Value:
            return value[23:31] == 255

        powers = [Signal(32, name=f"power{i}") for i in range(LANES)]
        for i in range(LANES):
            m.submodules[f"int_to_float{i}"] = int_to_float = IntToFloat()
            m.submodules[f"scale{i}"] = scale = FloatMultiply()
            m.submodules[f"multiply{i}"] = multiply = FloatMultiply()
            m.submodules[f"add{i}"] = adder = FloatAdd()
            m.submodules[f"to_int8_{i}"] = to_int8 = FloatToInt8()
            a, b = a2.word_select(i, 32), b2.word_select(i, 32)

            m.d.comb += int_to_float.a.eq(a[:IntToFloat.WIDTH])
            loaded = Signal(32, name=f"loaded{i}")
            m.d.comb += [
                loaded.eq(Mux(integer, int_to_float.r, delay(m, a, IntToFloat.LATENCY))),
                scale.a.eq(loaded), scale.b.eq(factor),
            ]
            x = Signal(32, name=f"x{i}")
            m.d.comb += x.eq(Mux(op.relu & scale.r[31], 0, scale.r))
            b_multiply = delay(m, b, IntToFloat.LATENCY + FloatMultiply.LATENCY)
            b_add = delay(m, b_multiply, FloatMultiply.LATENCY)
            summand = Signal(32, name=f"summand{i}")
            m.d.comb += [
                multiply.a.eq(x),
                multiply.b.eq(Mux(op.factor == Factor.NONE, _ONE,
                                  Mux(op.factor == Factor.SELF, x, b_multiply))),
                summand.eq(Mux(op.add == Add.B, b_add, scalar_summand)), to_int8.a.eq(adder.r),
            ]
            infinite[2].append((~integer & is_infinite(a)) | (takes_b & is_infinite(b)))
            for cycle, value in ((scaled, scale.r), (multiplied, multiply.r), (added, adder.r)):
                infinite[cycle].append(is_infinite(value))
            adders.append(adder)
            summands.append((multiply.r, summand))

            code = delay(m, to_int8.r, _POST - FloatToInt8.LATENCY)
            results.append(Mux(op.codes, code, Mux(op.exp2, powers[i], delay(m, adder.r, _POST))))

        # -- powers: four units, the lower lanes of a row first, the upper ones in the next cycle --
        at_post = at_add + FloatAdd.LATENCY
        for i in range(LANES // 2):
            m.submodules[f"exp2_{i}"] = exp2 = FloatExp2()
            m.d.comb += [
                exp2.a.eq(Mux(valids[at_post], adders[i].r, delay(m, adders[i + LANES // 2].r, 1))),
                powers[i].eq(delay(m, exp2.r, 1)), powers[i + LANES // 2].eq(exp2.r),
            ]

        # -- running sums --------------------------------------------------------------------------
        # The adder's results of the last cycles; age 0 is the one coming out now.
        ages = [[adder.r for adder in adders]]
        for _ in range(SLOTS // 2):
            older = [Signal(32, name="older", reset_less=True) for _ in adders]
            m.d.sync += [new.eq(old) for new, old in zip(older, ages[-1], strict=True)]
            ages.append(older)
        lag = SLOTS - FloatAdd.LATENCY
        # Phase 0 is accumulation; 1 to 3 fold the slots, 4 to 6 the lanes. ``place`` counts within
        # a phase.
        phase_in, place_in, tagged_in = Signal(3), Signal(3), Signal()
        tags = [(tagged_in, phase_in, place_in)]
        for _ in range(FloatAdd.LATENCY):
            staged_tag = (Signal(name="tagged"), Signal(3, name="phase"), Signal(3, name="place"))
            m.d.sync += [new.eq(old) for new, old in zip(staged_tag, tags[-1], strict=True)]
            tags.append(staged_tag)
        tagged, phase, place = tags[-1]

        issued, filled = Signal(13), Signal()  # ``filled``: every slot has been started
        with m.If(self.start):
            m.d.sync += [issued.eq(0), filled.eq(0)]
        with m.Elif(valids[at_add]):
            m.d.sync += [issued.eq(issued + 1), filled.eq(filled | (issued == SLOTS - 1))]
        total_rows = Signal(13)
        with m.If(issue):
            m.d.sync += total_rows.eq(index + 1)
        # While rows are being issued, total_rows runs SLOTS + 1 rows ahead of the adder, so only
        # the last ones get tagged.
        fold = Signal()
        half = Signal(range(5))
        fold_lanes = Signal(2)
        with m.If(tagged):
            with m.Switch(phase):
                with m.Case(0):
                    m.d.comb += [fold.eq(place >= 4), half.eq(4)]
                with m.Case(1):
                    m.d.comb += [fold.eq(place >= 2), half.eq(2)]
                with m.Case(2):
                    m.d.comb += [fold.eq(place >= 1), half.eq(1)]
                with m.Case(3, 4, 5):
                    m.d.comb += [fold.eq(1), fold_lanes.eq(phase - 2)]
        with m.If(fold):
            m.d.comb += [tagged_in.eq(1), phase_in.eq(phase + 1), place_in.eq(place - half)]
        with m.Elif(summing & valids[at_add]):
            m.d.comb += [
                tagged_in.eq(issued + SLOTS >= total_rows), phase_in.eq(0),
                place_in.eq(issued + SLOTS - total_rows),
            ]
        for i, adder in enumerate(adders):
            product, summand = summands[i]
            m.d.comb += [adder.a.eq(product), adder.b.eq(summand)]
            with m.If(fold):
                m.d.comb += adder.a.eq(adder.r)
                with m.Switch(Cat(half[:3], fold_lanes)):
                    for age in (4, 2, 1):
                        with m.Case(age):
                            m.d.comb += adder.b.eq(ages[age][i])
                    for step, distance in ((1, 4), (2, 2), (3, 1)):
                        with m.Case(step << 3):
                            m.d.comb += adder.b.eq(adders[i ^ distance].r)
            with m.Elif(summing):
                m.d.comb += [
                    adder.a.eq(Mux(beside(at_add).mask[i], product, 0)),
                    adder.b.eq(Mux(filled, ages[lag][i], 0)),
                ]
        sum_done = tagged & (phase == 6)

        # -- sinks ---------------------------------------------------------------------------------
        out_valid, out = valids[_LATENCY], beside(_LATENCY)
        m.d.comb += [
            self.write_address.eq(out.dst), self.write_data.eq(Cat(results)),
            self.write_mask.eq(Mux(out_valid & (op.sink == Sink.SCRATCH), out.mask, 0)),
            self.act.enable.eq(out_valid & to_act), self.act.vector.eq(out.vector),
            self.act.address.eq(out.address),
            self.act.digit.eq(out.digit), self.act.quarter.eq(out.quarter),
            self.act.bytes.eq(op.bytes), self.act.codes.eq(self.codes),
            self.pick_enable.eq(out_valid
                                & ((op.sink == Sink.PICK) | (op.mark & (out.vector == 0)))),
            self.pick_address.eq(out.index),
            self.codes.eq(Cat(
                Mux(out.mask[i],
                    Mux(op.mark,
                        ~results[i][31]
                        & (results[i][23:31] != 0), results[i][:8]), 0) for i in range(LANES))),
        ]
        infinite[_LATENCY] = [(op.sink == Sink.SCRATCH) & is_infinite(result) for result in results]
        events = [valids[cycle] & (Cat(found) & beside(cycle).mask).any()
                  for cycle, found in infinite.items()]
        events.append(tagged & Cat(infinite[added]).any())  # sums of running sums
        m.d.sync += self.overflow.eq(Cat(events).any())
        m.submodules.store_queue = queue = fifo.SyncFIFOBuffered(width=_ROW + LANES,
                depth=_STORE_DEPTH)
        m.d.comb += [
            queue.w_data.eq(Cat(results, out.mask)), queue.w_en.eq(out_valid & buffered),
            self.row.payload.as_value().eq(queue.r_data), self.row.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.row.ready),
            self.rows_wait.eq(queue.level != 0),
        ]
        leaves = self.row.valid & self.row.ready
        m.d.sync += [
            credit.eq(credit - (issue & buffered) + leaves),
            Assert(credit + queue.level + Mux(buffered, sum(valids[1:]), 0) == _STORE_DEPTH,
                   "credits of the store queue went astray"),
            Assert(~self.start
                   | ~(active
                       | Cat(valids).any()),
                   "an operation starts while rows of another are under way"),
        ]

        # -- maxima: kept per lane, folded in three steps when a group ends ------------------------
        taken, ends, opening = Signal(), Signal(), Signal(init=1)
        keys, kept = ([Signal(32, name=f"key{i}") for i in range(LANES)],
                      [Signal(32, name=f"kept{i}") for i in range(LANES)])
        m.d.sync += [taken.eq(out_valid), ends.eq(out_valid & out.last)]
        for i in range(LANES):
            key = float_key(Cat(results[i][:31], results[i][31] & (op.reduce != Reduce.ABSMAX)))
            m.d.sync += keys[i].eq(Mux(out.mask[i], key, 0))
            with m.If(taken & (opening | (keys[i] > kept[i]))):
                m.d.sync += kept[i].eq(keys[i])
        with m.If(self.start):
            m.d.sync += opening.eq(1)
        with m.Elif(taken):
            m.d.sync += opening.eq(ends)
        stage, folds = kept, [out_valid & out.last, ends]
        while len(stage) > 1:
            half = len(stage) // 2
            folded = [Signal(32, name=f"folded{half}_{i}") for i in range(half)]
            m.d.sync += [new.eq(Mux(b > a, b, a))
                         for new, a, b in zip(folded, stage[:half], stage[half:], strict=True)]
            stage = folded
        for step in range(LANES.bit_length()):
            valid = Signal(name=f"fold{step}")
            m.d.sync += valid.eq(folds[-1])
            folds.append(valid)
        largest = stage[0]

        # -- end -----------------------------------------------------------------------------------
        m.d.comb += [
            self.reduced.eq(Mux(summing, sum_done, (op.reduce != Reduce.NONE) & folds[-1])),
            self.value.eq(Mux(summing, adders[0].r,
                              Mux(largest[31], largest & 0x7FFFFFFF, ~largest))),
        ]
        in_flight = Cat(valids, folds).any()
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(Mux(summing, sum_done, ~active & ~in_flight)):
                    m.next = "DONE"
            with m.State("DONE"):
                with m.If((op.sink != Sink.RANK) | ~self.rows_wait):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m
