"""Sequencer: takes queued instructions in order, resolves scalars, and runs them on the units.

Also holds the scalar registers and the REP and EPI prefixes. One operation runs at a time; the DMA
readers work ahead of it, rows of a store leave behind it, and scalar operations wait in a queue of
their own until their results are needed.
"""

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu import isa

from .decoder import OPCODE_BITS, OPCODES, operand
from .operation import Add, Factor, Reduce, Sink, Source, VectorOp
from .scalar import ScalarFunction
from .store import StoreKind

__all__ = ["QueuedInstruction", "Sequencer"]

#: How each vector or row-storing instruction sets up the vector unit; what is not named is 0.
_RECIPES: dict[str, dict[str, object]] = {
    "MULS": {"scale": 1, "sink": Sink.SCRATCH},
    "MULV": {"scale": 1, "factor": Factor.B, "b_read": 1, "sink": Sink.SCRATCH},
    "MULM": {"scale": 1, "factor": Factor.B, "b_word": 1, "sink": Sink.SCRATCH},
    "ADDV": {"add": Add.B, "b_read": 1, "sink": Sink.SCRATCH},
    "AXPYM": {"scale": 1, "add": Add.B, "b_word": 1, "sink": Sink.SCRATCH},
    "AXPY": {"scale": 1, "add": Add.B, "b_read": 1, "sink": Sink.SCRATCH},
    "EXP2": {"scale": 1, "add": Add.SCALAR, "exp2": 1, "sink": Sink.SCRATCH},
    "LOADF": {"source": Source.WORD, "sink": Sink.SCRATCH},
    "LOADB": {"source": Source.BYTES, "scale": 1, "sink": Sink.SCRATCH},
    "SUM": {"add": Add.RUNNING, "reduce": Reduce.SUM},
    "SUMSQ": {"factor": Factor.SELF, "add": Add.RUNNING, "reduce": Reduce.SUM},
    "MAX": {"reduce": Reduce.MAX},
    "ABSMAX": {"reduce": Reduce.ABSMAX},
    "QUANT5": {"scale": 1, "codes": 1, "digits5": 1, "sink": Sink.ACTIVATIONS},
    "QUANT4": {"scale": 1, "codes": 1, "sink": Sink.ACTIVATIONS},
    "QUANT8": {"scale": 1, "codes": 1, "bytes": 1, "sink": Sink.ACTIVATIONS},
    "PICK": {"scale": 1, "codes": 1, "sink": Sink.PICK},
    "DOT": {"source": Source.DOT, "scale": 1, "sink": Sink.SCRATCH},
    "DOTA": {"source": Source.DOT, "scale": 1, "add": Add.B, "b_read": 1, "b_dst": 1,
             "sink": Sink.SCRATCH},
    "COLS": {"source": Source.DOT, "scale": 1, "add": Add.B, "b_read": 1, "b_dst": 1,
             "sink": Sink.SCRATCH},
    "STOREF": {"sink": Sink.STORE},
    "STOREQ": {"scale": 1, "codes": 1, "sink": Sink.STORE},
    "STOREQT": {"scale": 1, "codes": 1, "sink": Sink.STORE},
}
#: Vector operations that REP runs as one: groups of rows that differ in their places only.
_GROUPED = ("MULS", "MULV", "ADDV", "AXPY", "EXP2", "QUANT5", "QUANT4", "QUANT8", "MAX", "ABSMAX")
#: Those of them that write scratchpad rows, and those that read b from there: their runs must not
#: depend on each other.
_ROWS, _READ_B = ("MULS", "MULV", "ADDV", "AXPY", "EXP2"), ("MULV", "ADDV", "AXPY")
_PREFIXES = ("REP", "EPI")
_DOTS = ("DOT", "DOTA", "COLS")
_SCALAR_QUEUE_DEPTH = 8
_REGISTER_BITS = (isa.SCALARS - 1).bit_length()
_MAX_ROWS = 32768  # that DotLanes and Collector count
_STORE_KINDS = {"STOREF": StoreKind.FLOAT, "STOREQ": StoreKind.CODES, "STOREQT": StoreKind.COLUMN,
                "STORES": StoreKind.SCALAR}
_SCALAR_FUNCTIONS = {
    "SADD": ScalarFunction.ADD, "SMUL": ScalarFunction.MULTIPLY, "SDIV": ScalarFunction.DIVIDE,
    "SSQRT": ScalarFunction.SQRT, "SMAX": ScalarFunction.MAXIMUM,
}


class QueuedInstruction(data.Struct):
    """An instruction on its way through the queue."""

    opcode: OPCODE_BITS
    rs1: 32
    rs2: 32


class _Scalar(data.Struct):
    """A scalar operation on its way to the scalar unit, operands already read."""

    function: ScalarFunction
    target: 5
    a: 32
    b: 32


def _with(*fields: str, registers: bool | None = None) -> dict[str, str]:
    """The instructions that have an operand of one of these names, and its name; only those whose
    operand is a scalar register, or is none."""
    return {ins.name: f.name
            for ins in isa.INSTRUCTIONS if ins.group > isa.STREAM and ins.name not in _PREFIXES
            for f in ins.fields
            if f.name in fields and registers in (None, f.width == _REGISTER_BITS)}


#: The roles of operands, and what each instruction calls them.
_DST = _with("dst", "vector")
_A, _FIRST_SCALAR = _with("a", registers=False), _with("s", "a", registers=True)
_B, _SECOND_SCALAR = _with("b", registers=False), _with("c", "b", registers=True)
_TARGET = _with("t", "d")


class Sequencer(wiring.Component):
    """Members: ``instruction`` in; the units' start and done lines; ``peek_address`` and
    ``peek_data`` read a scalar register from outside; ``row_free``: no row is on its way from the
    vector unit; ``busy``; ``complete`` pulses per instruction; ``store_complete`` per instruction
    of the STORE group, whose last rows may still be leaving then, and ``pick_complete`` per one
    that wrote the pick memory; ``bad`` pulses on an instruction that is refused; ``overflow`` on an
    infinite scalar, read or written; ``section`` is what counters count for.
    """

    def __init__(self) -> None:
        super().__init__({
            "instruction": In(stream.Signature(QueuedInstruction)),
            "peek_address": In(5), "peek_data": Out(32),
            "busy": Out(1),
            "complete": Out(1), "store_complete": Out(1), "pick_complete": Out(1), "bad": Out(1),
            "overflow": Out(1), "section": Out(4),
            "vector_start": Out(1), "vector_op": Out(VectorOp), "vector_done": In(1),
            "vector_reduced": In(1), "vector_value": In(32),
            "dot_start": Out(1),
            "dot_words": Out(7), "dot_mode": Out(2), "dot_vectors": Out(3), "dot_rows": Out(19),
            "dot_picked": Out(1),
            "dot_columns": Out(1),
            "rank_clear": Out(1), "rank_levels": Out(4), "rank_start": Out(1),
            "rank_base": Out(20), "rank_idle": In(1),
            "check_start": Out(1),
            "check_words": Out(24), "check_done": In(1), "check_value": In(32),
            "scalar_start": Out(1),
            "scalar_function": Out(ScalarFunction), "scalar_a": Out(32), "scalar_b": Out(32),
            "scalar_done": In(1), "scalar_value": In(32),
            "store_start": Out(1), "store_address": Out(32), "store_kind": Out(StoreKind),
            "store_scalar": Out(32), "store_scalar_valid": Out(1), "store_scalar_ready": In(1),
            "row_free": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.registers = registers = memory.Memory(shape=unsigned(32), depth=isa.SCALARS,
                                                           init=[])
        write = registers.write_port()
        read_a, read_b, peek = (registers.read_port(domain="comb") for _ in range(3))
        m.d.comb += [peek.addr.eq(self.peek_address), self.peek_data.eq(peek.data)]

        # What is held, with a bit for each name that is asked for below.
        held, named = (Signal(QueuedInstruction),
                       {ins.name: Signal(name=f"is_{ins.name}") for ins in isa.INSTRUCTIONS})
        with m.If(self.instruction.valid & self.instruction.ready):
            m.d.sync += [flag.eq(self.instruction.payload.opcode == OPCODES[name])
                         for name, flag in named.items()]

        def name_is(*names: str) -> Value:
            return Cat(named[name] for name in names).any()

        def field(fields: dict[str, str]) -> Value:
            return operand(held.rs1, held.rs2, fields, name_is)

        group, is_dot = Signal(3), Signal()  # of what is held
        with m.If(self.instruction.valid & self.instruction.ready):
            with m.Switch(self.instruction.payload.opcode):
                for ins in isa.INSTRUCTIONS:
                    with m.Case(OPCODES[ins.name]):
                        m.d.sync += [group.eq(ins.group),
                                     is_dot.eq(ins.name in _DOTS)]

        # Operands that REP advances; set up from the instruction, then stepped.
        dst, a, b = Signal(13), Signal(13), Signal(13)
        s, t = Signal(5), Signal(5)
        factors, addends = (Signal(data.ArrayLayout(32, isa.VECTORS)),
                            Signal(data.ArrayLayout(32, isa.VECTORS)))
        repeat = Signal(data.StructLayout({
            "count": 6,
            "step_s": 1, "step_t": 1, "stride_dst": 13, "stride_a": 13, "stride_b": 13}))
        epilogue = Signal(data.StructLayout({"b": 13, "factor": 2, "pick": 2, "rank": 1,
                                             "base": 20}))

        # -- vector operation ----------------------------------------------------------------------
        # In START a register holds it: of what it is made of, only the scalars change in the last
        # cycle of LOAD.
        op, ready_op = Signal(VectorOp), Signal(VectorOp)
        m.d.sync += ready_op.eq(op)
        m.d.comb += [self.vector_op.eq(ready_op), self.vector_op.factors.eq(factors),
                     self.vector_op.addends.eq(addends)]
        recipe_now, recipe, reports, reports_now = (Signal(VectorOp), Signal(VectorOp), Signal(),
                                                    Signal())
        reads_a, reads_b = Signal(), Signal()  # scalar registers are named that hold operands
        with m.Switch(held.opcode):
            for name, settings in _RECIPES.items():
                with m.Case(OPCODES[name]):
                    m.d.comb += [getattr(recipe_now, key).eq(value)
                                 for key, value in settings.items()]
                    if (settings.get("sink") is Sink.SCRATCH
                        and "t" in {f.name for f in isa.by_name(name).fields}):
                        m.d.comb += reports_now.eq(1)
        # there from the cycle after DECODE on
        m.d.sync += [recipe.eq(recipe_now), reports.eq(reports_now)]
        m.d.sync += [reads_a.eq(name_is(*_FIRST_SCALAR)), reads_b.eq(name_is(*_SECOND_SCALAR))]
        m.d.comb += op.eq(recipe)
        with m.If(reports & (t != 0)):
            m.d.comb += op.reduce.eq(Reduce.ABSMAX)
        steps = repeat.step_s | (name_is("EXP2") & (repeat.stride_b != 0))
        # as one operation; not at all; a run after the first one
        grouped, refused, again = Signal(), Signal(), Signal()
        picked, marking = epilogue.pick == isa.PICKS["picked"], epilogue.pick == isa.PICKS["mark"]
        with m.If(name_is("DOT")):
            m.d.comb += op.mark.eq(marking)
            with m.Switch(epilogue.factor):
                with m.Case(isa.FACTORS["b"]):
                    m.d.comb += [op.b_read.eq(1), op.factor.eq(Factor.B)]
                with m.Case(isa.FACTORS["dst"]):
                    m.d.comb += [op.b_read.eq(1), op.b_dst.eq(1), op.factor.eq(Factor.B)]
                with m.Case(isa.FACTORS["relu2"]):
                    m.d.comb += [op.relu.eq(1), op.factor.eq(Factor.SELF)]
            with m.If(epilogue.rank):
                m.d.comb += op.sink.eq(Sink.RANK)
        m.d.comb += [
            op.vector.eq(Mux(is_dot, self.dot_vectors, dst)), op.dst.eq(dst), op.a.eq(a),
            op.b.eq(Mux(is_dot, epilogue.b, b)),
            op.count.eq(field(_with("n"))), op.stride.eq(field(_with("stride"))),
            op.groups.eq(Mux(grouped, repeat.count, 1)), op.step.eq(grouped & steps),
            op.step_dst.eq(repeat.stride_dst), op.step_a.eq(repeat.stride_a),
            op.step_b.eq(repeat.stride_b),
            self.dot_picked.eq((name_is("DOT") & picked) | name_is("COLS")),
            self.dot_columns.eq(name_is("COLS")),
            self.rank_base.eq(epilogue.base), self.rank_levels.eq(field(_with("levels"))),
            self.dot_words.eq(field(dict.fromkeys(_DOTS, "words"))),
            self.dot_mode.eq(field(_with("mode"))),
            self.dot_vectors.eq(Mux(name_is("COLS"), 0, field(_with("vectors")))),
            self.dot_rows.eq(field(_with("rows"))),
            self.check_words.eq(field({"CHECK": "words"})),
            self.store_address.eq(field(_with("addr"))), self.store_scalar.eq(factors[0]),
        ]
        scalar, function = Signal(_Scalar), Signal(ScalarFunction)
        m.d.comb += [scalar.target.eq(t), scalar.a.eq(factors[0]), scalar.b.eq(addends[0]),
                     scalar.function.eq(function)]
        for names, signal in ((_SCALAR_FUNCTIONS, function),
                              (_STORE_KINDS, self.store_kind)):
            with m.Switch(held.opcode):
                for name, value in names.items():
                    with m.Case(OPCODES[name]):
                        m.d.sync += signal.eq(value)  # from LOAD on

        fits = Signal(16)
        unfit = Signal()  # no operation: nothing to do, or more than fits
        with m.If(is_dot):
            columns = Mux(self.dot_mode == isa.MODES["base3"],
                          (self.dot_words << 7) + (self.dot_words << 5), self.dot_words << 7)
            too_many = Mux(self.dot_columns, self.dot_rows > columns, self.dot_rows > _MAX_ROWS)
            limit = Mux(self.dot_columns, isa.COLUMN_WORDS,
                        Mux(self.dot_vectors[2], isa.SHARED_WORDS, isa.ACT_WORDS))
            too_long = self.dot_words > limit
            many_bytes = ((self.dot_vectors >= isa.BYTE_VECTORS)
                          | ((self.dot_vectors != 0) & too_long))
            too_long = Mux(self.dot_mode == isa.MODES["int8"], self.dot_columns | many_bytes,
                           too_long)
            m.d.comb += unfit.eq((self.dot_rows == 0) | (self.dot_words == 0)
                                 | (self.dot_mode == 3) | too_long | too_many)
        with m.Elif(name_is("CHECK")):
            m.d.comb += unfit.eq(self.check_words == 0)
        with m.Elif(name_is("RANK")):
            m.d.comb += unfit.eq((self.rank_levels == 0) | (self.rank_levels > isa.RANK_LEVELS))
        with m.Elif(name_is("STORES")):
            m.d.comb += unfit.eq(self.store_address[:2] != 0)
        with m.Elif((group == isa.VECTOR) | ((group == isa.STORE) & ~name_is("STORES"))):
            with m.If(name_is("QUANT8")):
                m.d.comb += fits.eq((isa.BYTE_VECTORS - dst[:2]) << 10)  # 32 words of 32
            with m.Elif(name_is("QUANT5")):
                m.d.comb += fits.eq(Mux(dst[2], isa.SHARED_WORDS * 160, isa.ACT_WORDS * 160))
            with m.Else():
                m.d.comb += fits.eq(Mux(dst[2], isa.SHARED_WORDS * 128, isa.ACT_WORDS * 128))
            too_long = (name_is("QUANT4", "QUANT5", "QUANT8")
                        & ((op.count > fits) | (name_is("QUANT8") & dst[2])))
            misaligned = ((name_is("STOREF", "STOREQ") & (self.store_address[:5] != 0))
                          | (name_is("LOADB") & (op.count[:5] != 0)))
            m.d.comb += unfit.eq((op.count == 0) | too_long | misaligned | refused)

        # -- repetition: what can be said of all runs together -------------------------------------
        rows = Signal(12)
        m.d.comb += rows.eq((op.count + isa.LANES - 1) >> 3)
        lengths = {}  # from the first row of the first run to the first row of the last one
        for name in ("dst", "a", "b"):
            length, stride = Signal(19, name=f"length_{name}"), repeat[f"stride_{name}"]
            count = (repeat.count - 1)[:6]
            # a multiplication would take a DSP slice
            m.d.sync += length.eq(sum(Mux(count[i], stride << i, 0) for i in range(6)))
            lengths[name] = length
        written_rows = lengths["dst"] + rows

        def independent(name: str, start: Value) -> Value:
            """Whether no run reads from ``start`` on what another one writes."""
            distance = (start - dst)[:13]
            apart = ((written_rows <= distance)
                     & (lengths[name] + rows + distance <= isa.SCRATCH_ROWS))
            same = ((distance == 0) & (repeat[f"stride_{name}"] == repeat.stride_dst)
                    & (repeat.stride_dst >= rows))
            return apart | (same & (written_rows <= isa.SCRATCH_ROWS))

        def near(register: Value) -> Value:
            return ((register - t)[:5] < repeat.count) | ((t - register)[:5] < repeat.count)

        # Vectors 0 to 3 only, or so few elements that each of the eight would hold them.
        low = (lengths["dst"][3:] == 0) & (dst[:3] + lengths["dst"][:3] < isa.BYTE_VECTORS)
        shared = op.count <= isa.SHARED_WORDS * Mux(name_is("QUANT5"), 160, 128)
        alike = Mux(name_is("QUANT8"), low & (op.count <= isa.ACT_WORDS * 32),
                    ~name_is("QUANT5", "QUANT4") | low | shared)
        together = (((t == 0) ^ repeat.step_t) & (~steps | (repeat.count <= isa.VECTORS)) & alike
                    & ~((t != 0)
                        & ((reads_a & near(s))
                           | (reads_b & (near(b[:5]) | (repeat.stride_b > 1))))))
        settled, settling = Signal(), Signal()  # the two conditions take a cycle of LOAD
        m.d.comb += settling.eq(name_is(*_GROUPED) & (repeat.count > 1) & ~settled)

        loads = Signal(range(isa.VECTORS))
        last_load = Mux(is_dot, self.dot_vectors, repeat.count - 1)[:len(loads)]
        step_factor = Mux(is_dot, field(_with("step_s")) & ~name_is("COLS"),
                          grouped & repeat.step_s)
        step_addend = Mux(grouped & name_is("EXP2"), repeat.stride_b[:5], 0)
        m.d.comb += [read_a.addr.eq(s), read_b.addr.eq(b)]

        # Scalar operations run behind the others. A result is written when nothing else is; who
        # names its register waits.
        m.submodules.scalars = scalars = fifo.SyncFIFO(width=len(scalar.as_value()),
                                                       depth=_SCALAR_QUEUE_DEPTH)
        following = data.View(_Scalar, scalars.r_data)
        pending = Signal(isa.SCALARS)  # registers that a queued or running operation writes
        running, finished, target, result = Signal(), Signal(), Signal(5), Signal(32)
        m.d.comb += [
            scalars.w_data.eq(scalar.as_value()), self.scalar_start.eq(scalars.r_rdy & ~running),
            scalars.r_en.eq(self.scalar_start),
            self.scalar_function.eq(following.function), self.scalar_a.eq(following.a),
            self.scalar_b.eq(following.b),
        ]
        with m.If(self.scalar_start):
            m.d.sync += [running.eq(1), target.eq(following.target)]
        written = Signal(5)  # where the vector unit's next reduction goes
        with m.If(self.scalar_done):
            m.d.sync += [finished.eq(1), result.eq(self.scalar_value)]

        infinite, infinite_operand = Signal(), Signal()
        m.d.comb += self.overflow.eq(infinite | infinite_operand)

        def put(address: Value, value: Value, check: Value) -> None:
            m.d.comb += [write.addr.eq(address), write.data.eq(value), write.en.eq(address != 0),
                         infinite.eq(check & (value[23:31] == 255))]

        with m.If(finished):
            put(target, result, Const(1))
        putting = Signal()
        with m.If(finished & ~putting):
            m.d.sync += [finished.eq(0), running.eq(0), pending.bit_select(target, 1).eq(0)]
        hazard = ((reads_a & pending.bit_select(read_a.addr, 1))
                  | (reads_b & pending.bit_select(read_b.addr, 1))
                  | pending.bit_select(t, 1) | (grouped & (t != 0) & pending.any()))
        # A store's rows may still leave when it counts as done; what sends rows itself, or to
        # another place, comes after them.
        sends_rows, stores, on_vectors = Signal(), Signal(), Signal()  # of what is held, from LOAD
        m.d.sync += [
            stores.eq(group == isa.STORE),
            sends_rows.eq((group == isa.STORE) | (name_is("DOT") & epilogue.rank)),
            on_vectors.eq(name_is(*_RECIPES)),
        ]
        starts = Signal()
        m.d.comb += [
            self.vector_start.eq(starts & on_vectors), self.dot_start.eq(starts & is_dot),
            self.rank_start.eq(starts & is_dot), self.store_start.eq(starts & stores),
        ]

        with m.FSM() as fsm:
            m.d.sync += Assert(~self.vector_reduced | fsm.ongoing("VECTOR"),
                               "a reduction comes whose register nobody knows")
            m.d.comb += self.busy.eq(~fsm.ongoing("FETCH") | self.instruction.valid | running
                                     | scalars.r_rdy)
            with m.State("FETCH"):
                m.d.comb += self.instruction.ready.eq(1)
                with m.If(self.instruction.valid):
                    m.d.sync += held.eq(self.instruction.payload)
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.d.sync += [
                    loads.eq(0), dst.eq(field(_DST)), a.eq(field(_A)),
                    b.eq(field(_B | _SECOND_SCALAR)), s.eq(field(_FIRST_SCALAR)),
                    t.eq(Mux(name_is(*_TARGET), field(_TARGET), 0)),
                ]
                with m.If(name_is(*_PREFIXES)):
                    for prefix, held_prefix in (("REP", repeat), ("EPI", epilogue)):
                        with m.If(name_is(prefix)):
                            m.d.sync += [held_prefix[f.name].eq(field({prefix: f.name}))
                                         for f in isa.by_name(prefix).fields]
                    m.d.comb += self.complete.eq(1)
                    m.next = "FETCH"
                with m.Else():
                    m.next = "LOAD"
            with m.State("LOAD"):
                with m.Switch(loads):
                    for i in range(isa.VECTORS):
                        with m.Case(i):
                            m.d.sync += [factors[i].eq(read_a.data), addends[i].eq(read_b.data)]
                m.d.sync += settled.eq(1)
                with m.If(settling):
                    m.d.sync += [
                        grouped.eq(together),
                        refused.eq(name_is(*_ROWS) & ~again
                                   & ~(independent("a", a)
                                       & (~name_is(*_READ_B) | independent("b", b)))),
                    ]
                with m.Elif(~hazard):
                    m.d.sync += [loads.eq(loads + 1), s.eq(s + step_factor), b.eq(b + step_addend)]
                    m.d.comb += infinite_operand.eq(~unfit
                                                    & ((reads_a & (read_a.data[23:31] == 255))
                                                              | (reads_b
                                                                      & (read_b.data[23:31]
                                                                              == 255))))
                with m.If(settling | hazard):
                    m.next = "LOAD"
                with m.Elif(unfit):
                    m.d.comb += self.bad.eq(1)
                    m.next = "COMPLETE"
                with m.Elif((loads == last_load) | ~(is_dot | (grouped & steps))):
                    m.next = "START"
            with m.State("START"):
                m.d.sync += written.eq(t)
                m.d.comb += starts.eq(~sends_rows | self.row_free)
                with m.If(name_is("SSET")):
                    put(t, field({"SSET": "value"}), Const(0))
                    m.d.comb += putting.eq(1)
                    m.next = "COMPLETE"
                with m.Elif(name_is("SECTION")):
                    m.d.sync += self.section.eq(field({"SECTION": "section"}))
                    m.next = "COMPLETE"
                with m.Elif(name_is("RANK")):
                    with m.If(self.rank_idle):
                        m.d.comb += self.rank_clear.eq(1)
                        m.next = "COMPLETE"
                with m.Elif(group == isa.SCALAR):
                    m.d.comb += scalars.w_en.eq(1)
                    with m.If(scalars.w_rdy):
                        m.d.sync += pending.bit_select(t, 1).eq(t != 0)
                        m.next = "COMPLETE"
                with m.Elif(sends_rows & ~self.row_free):
                    m.next = "START"
                with m.Elif(name_is("CHECK")):
                    m.d.comb += self.check_start.eq(1)
                    m.next = "CHECK"
                with m.Elif(name_is("STORES")):
                    m.next = "STORE-SCALAR"
                with m.Else():
                    m.next = "VECTOR"
            with m.State("VECTOR"):
                with m.If(self.vector_reduced):
                    put(written, self.vector_value, Const(1))
                    m.d.comb += putting.eq(1)
                    m.d.sync += written.eq(written + (t != 0))
                with m.If(self.vector_done):
                    m.next = "COMPLETE"
            with m.State("CHECK"):
                with m.If(self.check_done):
                    put(t, self.check_value, Const(0))
                    m.d.comb += putting.eq(1)
                    m.next = "COMPLETE"
            with m.State("STORE-SCALAR"):
                m.d.comb += self.store_scalar_valid.eq(1)
                with m.If(self.store_scalar_ready):
                    m.next = "COMPLETE"
            with m.State("COMPLETE"):
                m.d.sync += [loads.eq(0), settled.eq(0), grouped.eq(0), refused.eq(0)]
                repeatable = (((group == isa.VECTOR) & ~is_dot & ~name_is("CHECK"))
                              | (group == isa.SCALAR))
                with m.If((repeat.count > 1) & repeatable & ~grouped & ~refused):
                    m.d.sync += [
                        again.eq(1), repeat.count.eq(repeat.count - 1),
                        dst.eq(dst + repeat.stride_dst), a.eq(a + repeat.stride_a),
                        b.eq(b + repeat.stride_b),
                        s.eq(s + repeat.step_s), t.eq(t + repeat.step_t),
                    ]
                    with m.If(group == isa.SCALAR):
                        m.d.sync += [t.eq(t + 1), b.eq(b + repeat.step_t)]
                    m.next = "LOAD"
                with m.Else():
                    m.d.sync += [repeat.eq(0), epilogue.eq(0), again.eq(0)]
                    m.d.comb += [
                        self.complete.eq(1), self.store_complete.eq(group == isa.STORE),
                        self.pick_complete.eq(name_is("PICK") | (name_is("DOT") & marking)),
                    ]
                    m.next = "FETCH"
        return m
