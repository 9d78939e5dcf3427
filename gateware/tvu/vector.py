"""Vector unit: eight float32 lanes between sources (scratchpad, stream, dot products) and sinks.

Every operation takes the same way of fixed length: operands -> integer to float -> multiply -> add -> post -> sink.
What an operation does not need passes by in delay registers, so rows can follow each other every cycle and nothing
stalls once a row is issued. The running sums of SUM and SUMSQ circulate in the add stage.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES
from xtvu.semantics import SLOTS

from .collect import CollectedRow
from .config import TVUConfig
from .float32 import FloatAdd, FloatExp2, FloatMultiply, FloatToInt8, IntToFloat, delay, float_key
from .store import StoreRow

__all__ = ["Multiply", "Add", "Reduce", "Sink", "Source", "VectorOp", "VectorUnit"]

_ROW = 32 * LANES
_LATENCY = 2 + IntToFloat.LATENCY + FloatMultiply.LATENCY + FloatAdd.LATENCY + FloatExp2.LATENCY
_STORE_DEPTH = 32


class Source(enum.Enum, shape=2):
    """Where operand a comes from."""

    SCRATCH = 0
    WORD = 1  # float32 from the stream
    BYTES = 2  # int8 from the stream
    DOT = 3


class Multiply(enum.Enum, shape=2):
    """Second factor."""

    NONE = 0
    SCALAR = 1
    B = 2
    SELF = 3


class Add(enum.Enum, shape=2):
    """Second summand."""

    NONE = 0
    SCALAR = 1
    B = 2
    RUNNING = 3


class Sink(enum.Enum, shape=2):
    """Where results go."""

    NONE = 0
    SCRATCH = 1
    ACTIVATIONS = 2
    STORE = 3


class Reduce(enum.Enum, shape=2):
    """What is reduced over the results."""

    NONE = 0
    MAX = 1
    ABSMAX = 2
    SUM = 3


class VectorOp(data.Struct):
    """A vector operation, scalars already read.

    ``b_read``: operand b comes from the scratchpad; ``b_word``: from the stream. ``factors`` are the scalar factor per
    activation vector (element 0 but for DOT), ``addend`` the scalar summand.
    """

    source: Source
    b_read: 1
    b_word: 1
    relu: 1
    multiply: Multiply
    add: Add
    exp2: 1
    codes: 1
    sink: Sink
    reduce: Reduce
    digits5: 1
    vector: 2
    dst: 12
    a: 12
    b: 12
    count: 15
    stride: 12
    factors: data.ArrayLayout(32, 4)
    addend: 32


class _Row(data.Struct):
    """What travels beside a row through the pipeline."""

    dst: 12
    mask: LANES
    index: 12
    vector: 2
    address: 6
    digit: 3
    quarter: 2


class VectorUnit(wiring.Component):
    """Members: ``start`` takes ``op``; ``done`` pulses when everything is written, with ``value`` and ``index`` of a
    reduction; ``word`` in (stream words), ``wants_word`` while one could be taken; ``dot`` in (collected rows);
    scratchpad ports; activation write port; ``row`` out to the store unit; ``overflow`` pulses on an infinite result.
    """

    def __init__(self, config: TVUConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1), "op": In(VectorOp), "done": Out(1), "value": Out(32), "index": Out(15), "overflow": Out(1),
            "word": In(stream.Signature(_ROW)), "wants_word": Out(1),
            "dot": In(stream.Signature(CollectedRow)),
            "read_address": Out(12), "read_data": In(_ROW),
            "write_address": Out(12), "write_data": Out(_ROW), "write_mask": Out(LANES),
            "act_enable": Out(1), "act_vector": Out(2), "act_address": Out(6), "act_digit": Out(3), "act_quarter": Out(2),
            "act_codes": Out(8 * LANES),
            "row": Out(stream.Signature(StoreRow)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        op = Signal(VectorOp)
        active, issue = Signal(), Signal()

        # -- issue -----------------------------------------------------------------------------------------------
        index, rows_left, lanes_left = Signal(12), Signal(13), Signal(16)
        second = Signal()  # second cycle of an operation with two scratchpad operands
        group_dst, row_dst = Signal(12), Signal(12)
        act = Signal(_Row)  # only address, digit and quarter are used
        from_dot = op.source == Source.DOT
        two_reads = (op.source == Source.SCRATCH) & op.b_read
        to_act = op.sink == Sink.ACTIVATIONS
        summing = op.reduce == Reduce.SUM
        word_end = (act.quarter == 3) & (act.digit == Mux(op.digits5, 4, 3))
        ended = Signal()
        with m.If(from_dot):
            m.d.comb += ended.eq(self.dot.payload.last)
        with m.Elif(to_act):
            m.d.comb += ended.eq((rows_left <= 1) & word_end)
        with m.Elif(summing):
            m.d.comb += ended.eq((rows_left <= 1) & (index >= SLOTS - 1))
        with m.Else():
            m.d.comb += ended.eq(rows_left <= 1)

        needs_word = (op.source == Source.WORD) | (op.source == Source.BYTES) | op.b_word
        credit = Signal(range(_STORE_DEPTH + 1), init=_STORE_DEPTH)
        ready = (~needs_word | self.word.valid) & (~from_dot | self.dot.valid) & ((op.sink != Sink.STORE) | (credit != 0))
        first_read = active & two_reads & ~second
        m.d.comb += [
            issue.eq(active & ready & (~two_reads | second)),
            self.wants_word.eq(active & needs_word),
            self.word.ready.eq(issue & needs_word & ((op.source != Source.BYTES) | (index[:2] == 3))),
            self.dot.ready.eq(issue & from_dot),
        ]
        dot_vector = self.dot.payload.vector
        with m.If(from_dot):
            m.d.comb += row_dst.eq(group_dst)
        with m.Else():
            m.d.comb += row_dst.eq(op.dst + index)
        m.d.comb += self.read_address.eq(Mux(from_dot, row_dst, Mux(two_reads & second, op.b + index, op.a + index)))

        control = Signal(_Row)
        mask = Signal(LANES)
        with m.If(lanes_left >= LANES):
            m.d.comb += mask.eq(~0)
        with m.Else():
            m.d.comb += mask.eq((1 << lanes_left[:3]) - 1)
        m.d.comb += [
            control.dst.eq(row_dst), control.mask.eq(Mux(from_dot, self.dot.payload.mask, mask)),
            control.index.eq(index), control.vector.eq(Mux(from_dot, dot_vector, op.vector)),
            control.address.eq(act.address), control.digit.eq(act.digit), control.quarter.eq(act.quarter),
        ]
        first_row = Signal(12)  # dst of the current group of DOT rows, vector 0
        m.d.sync += second.eq(first_read)
        with m.If(self.start):
            m.d.sync += [
                op.eq(self.op), active.eq(1), index.eq(0), second.eq(0), act.eq(0),
                lanes_left.eq(self.op.count), rows_left.eq((self.op.count + LANES - 1) >> 3),
                group_dst.eq(self.op.dst), first_row.eq(self.op.dst),
            ]
        with m.Elif(issue):
            m.d.sync += [
                index.eq(index + 1), rows_left.eq(Mux(rows_left == 0, 0, rows_left - 1)),
                lanes_left.eq(Mux(lanes_left < LANES, 0, lanes_left - LANES)),
                act.quarter.eq(act.quarter + 1),
            ]
            with m.If(act.quarter == 3):
                m.d.sync += [act.digit.eq(Mux(word_end, 0, act.digit + 1)), act.address.eq(act.address + word_end)]
            # Collected rows come vector by vector; the next group of eight starts again at vector 0.
            with m.If(dot_vector == op.vector):
                m.d.sync += [group_dst.eq(first_row + 1), first_row.eq(first_row + 1)]
            with m.Else():
                m.d.sync += group_dst.eq(group_dst + op.stride)
            with m.If(ended):
                m.d.sync += active.eq(0)

        # -- beside the data -----------------------------------------------------------------------------------
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

        # -- operands: cycle 1 selects, cycle 2 holds ---------------------------------------------------------------
        held = Signal(_ROW, reset_less=True)
        word1 = Signal(_ROW, reset_less=True)
        byte1 = Signal(64, reset_less=True)
        dot1 = Signal(_ROW, reset_less=True)
        m.d.sync += held.eq(self.read_data)
        with m.If(issue):
            m.d.sync += [
                word1.eq(self.word.payload), byte1.eq(self.word.payload.word_select(index[:2], 64)),
                dot1.eq(self.dot.payload.sums.as_value()),
            ]
        a2, b2 = Signal(_ROW, reset_less=True), Signal(_ROW, reset_less=True)
        with m.If(valids[1]):
            with m.Switch(op.source):
                with m.Case(Source.SCRATCH):
                    m.d.sync += a2.eq(Mux(two_reads, held, self.read_data))
                with m.Case(Source.WORD):
                    m.d.sync += a2.eq(word1)
                with m.Case(Source.BYTES):
                    extended = [byte1.word_select(i, 8) for i in range(LANES)]
                    m.d.sync += a2.eq(Cat(Cat(byte, byte[7].replicate(24)) for byte in extended))
                with m.Case(Source.DOT):
                    m.d.sync += a2.eq(dot1)
            m.d.sync += b2.eq(Mux(op.b_word, word1, self.read_data))

        # -- lanes -----------------------------------------------------------------------------------------------
        at_multiply = 2 + IntToFloat.LATENCY
        at_add = at_multiply + FloatMultiply.LATENCY
        integer = (op.source == Source.BYTES) | from_dot
        factor = Signal(32)
        m.d.comb += factor.eq(Array(op.factors[i] for i in range(4))[Mux(from_dot, beside(at_multiply).vector, 0)])

        adders, summands, results = [], [], []
        for i in range(LANES):
            m.submodules[f"int_to_float{i}"] = int_to_float = IntToFloat()
            m.submodules[f"multiply{i}"] = multiply = FloatMultiply()
            m.submodules[f"add{i}"] = adder = FloatAdd()
            m.submodules[f"exp2_{i}"] = exp2 = FloatExp2()
            m.submodules[f"to_int8_{i}"] = to_int8 = FloatToInt8()
            a, b = a2.word_select(i, 32), b2.word_select(i, 32)

            m.d.comb += int_to_float.a.eq(a)
            x = Signal(32, name=f"x{i}")
            loaded = Mux(integer, int_to_float.r, delay(m, a, IntToFloat.LATENCY))
            m.d.comb += x.eq(Mux(op.relu & loaded[31], 0, loaded))
            b_multiply = delay(m, b, IntToFloat.LATENCY)
            m.d.comb += multiply.a.eq(x)
            with m.Switch(op.multiply):
                with m.Case(Multiply.B):
                    m.d.comb += multiply.b.eq(b_multiply)
                with m.Case(Multiply.SELF):
                    m.d.comb += multiply.b.eq(x)
                with m.Default():
                    m.d.comb += multiply.b.eq(factor)

            product = Signal(32, name=f"product{i}")
            m.d.comb += product.eq(Mux(op.multiply == Multiply.NONE, delay(m, x, FloatMultiply.LATENCY), multiply.r))
            b_add = delay(m, b_multiply, FloatMultiply.LATENCY)
            summand = Signal(32, name=f"summand{i}")
            m.d.comb += summand.eq(Mux(op.add == Add.B, b_add, op.addend))
            total = Signal(32, name=f"total{i}")
            m.d.comb += total.eq(Mux(op.add == Add.NONE, delay(m, product, FloatAdd.LATENCY), adder.r))
            m.d.comb += [exp2.a.eq(total), to_int8.a.eq(total)]
            adders.append(adder)
            summands.append((product, summand))

            result = Signal(32, name=f"result{i}")
            code = delay(m, to_int8.r, FloatExp2.LATENCY - FloatToInt8.LATENCY)
            plain = delay(m, total, FloatExp2.LATENCY)
            m.d.comb += result.eq(Mux(op.codes, code, Mux(op.exp2, exp2.r, plain)))
            results.append(result)

        # -- running sums ------------------------------------------------------------------------------------------
        # The adder's results of the last cycles; age 0 is the one coming out now.
        ages = [[adder.r for adder in adders]]
        for _ in range(SLOTS // 2):
            older = [Signal(32, name="older", reset_less=True) for _ in adders]
            m.d.sync += [new.eq(old) for new, old in zip(older, ages[-1], strict=True)]
            ages.append(older)
        lag = SLOTS - FloatAdd.LATENCY
        # Phase 0 is accumulation; 1 to 3 fold the slots, 4 to 6 the lanes. ``place`` counts within a phase.
        phase_in, place_in, tagged_in = Signal(3), Signal(3), Signal()
        tags = [(tagged_in, phase_in, place_in)]
        for _ in range(FloatAdd.LATENCY):
            staged_tag = (Signal(name="tagged"), Signal(3, name="phase"), Signal(3, name="place"))
            m.d.sync += [new.eq(old) for new, old in zip(staged_tag, tags[-1], strict=True)]
            tags.append(staged_tag)
        tagged, phase, place = tags[-1]

        issued = Signal(13)
        with m.If(self.start):
            m.d.sync += issued.eq(0)
        with m.Elif(valids[at_add]):
            m.d.sync += issued.eq(issued + 1)
        total_rows = Signal(13)
        with m.If(issue):
            m.d.sync += total_rows.eq(index + 1)
        # While rows are being issued, total_rows runs SLOTS + 1 rows ahead of the adder, so only the last ones get tagged.
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
                tagged_in.eq(issued + SLOTS >= total_rows), phase_in.eq(0), place_in.eq(issued + SLOTS - total_rows),
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
                    adder.b.eq(Mux(issued >= SLOTS, ages[lag][i], 0)),
                ]
        sum_done = tagged & (phase == 6)

        # -- sinks -----------------------------------------------------------------------------------------------
        out_valid, out = valids[_LATENCY], beside(_LATENCY)
        m.d.comb += [
            self.write_address.eq(out.dst), self.write_data.eq(Cat(results)),
            self.write_mask.eq(Mux(out_valid & (op.sink == Sink.SCRATCH), out.mask, 0)),
            self.act_enable.eq(out_valid & to_act), self.act_vector.eq(out.vector), self.act_address.eq(out.address),
            self.act_digit.eq(out.digit), self.act_quarter.eq(out.quarter),
            self.act_codes.eq(Cat(Mux(out.mask[i], results[i][:8], 0) for i in range(LANES))),
            self.overflow.eq(out_valid & (op.sink == Sink.SCRATCH)
                             & Cat(out.mask[i] & (results[i][23:31] == 255) for i in range(LANES)).any()),
        ]
        m.submodules.store_queue = queue = fifo.SyncFIFOBuffered(width=_ROW + LANES, depth=_STORE_DEPTH)
        m.d.comb += [
            queue.w_data.eq(Cat(results, out.mask)), queue.w_en.eq(out_valid & (op.sink == Sink.STORE)),
            self.row.payload.as_value().eq(queue.r_data), self.row.valid.eq(queue.r_rdy), queue.r_en.eq(self.row.ready),
        ]
        leaves = self.row.valid & self.row.ready
        m.d.sync += credit.eq(credit - (issue & (op.sink == Sink.STORE)) + leaves)

        # -- maxima ------------------------------------------------------------------------------------------------
        keys = [Signal(32, name=f"key{i}") for i in range(LANES)]
        indices = [Signal(15, name=f"index{i}") for i in range(LANES)]
        folding = Signal(range(4))
        with m.If(self.start):
            for i in range(LANES):
                m.d.sync += [keys[i].eq(0), indices[i].eq(0)]
        with m.Elif(out_valid):
            for i in range(LANES):
                key = float_key(Mux(op.reduce == Reduce.ABSMAX, results[i] & 0x7FFFFFFF, results[i]))
                with m.If(out.mask[i] & (key > keys[i])):
                    m.d.sync += [keys[i].eq(key), indices[i].eq(Cat(Const(i, 3), out.index))]
        with m.Elif(folding != 0):
            with m.Switch(folding):
                for step, distance in ((1, 4), (2, 2), (3, 1)):
                    with m.Case(step):
                        for i in range(distance):
                            other = i + distance
                            with m.If((keys[other] > keys[i])
                                      | ((keys[other] == keys[i]) & (indices[other] < indices[i]))):
                                m.d.sync += [keys[i].eq(keys[other]), indices[i].eq(indices[other])]

        # -- end -------------------------------------------------------------------------------------------------
        total = Signal(32)
        with m.If(sum_done):
            m.d.sync += total.eq(adders[0].r)
        m.d.comb += [
            self.index.eq(indices[0]),
            self.value.eq(Mux(summing, total, Mux(keys[0][31], keys[0] & 0x7FFFFFFF, ~keys[0]))),
        ]
        in_flight = Cat(valids).any()
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(~active & ~in_flight):
                    with m.Switch(op.reduce):
                        with m.Case(Reduce.SUM):
                            with m.If(sum_done):
                                m.next = "DONE"
                        with m.Case(Reduce.MAX, Reduce.ABSMAX):
                            m.d.sync += folding.eq(1)
                            m.next = "FOLD"
                        with m.Default():
                            m.next = "DONE"
            with m.State("FOLD"):
                m.d.sync += folding.eq(folding + 1)
                with m.If(folding == 3):
                    m.next = "DONE"
            with m.State("DONE"):
                with m.If((op.sink != Sink.STORE) | ~self.row.valid):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m
