"""Sequencer: takes queued instructions in order, resolves scalars, and runs them on the units.

Also holds the scalar registers and the REP and EPI prefixes. One operation runs at a time; the DMA
readers work ahead of it, rows of a store leave behind it, and scalar operations wait in a queue of
their own until their results are needed.
"""

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu import isa

from .decoder import OPCODE_BITS, OPCODES, operand
from .operation import Factor, Reduce, Sink, VectorOp
from .recipes import (
    DOTS,
    GROUPED,
    PREFIXES,
    READ_B,
    RECIPES,
    ROWS,
    SCALAR_FUNCTIONS,
    STORE_KINDS,
    named,
)
from .repetition import Repetition, Runs
from .scalar import ScalarFunction
from .scalars import REGISTER_BITS, ScalarQueue
from .store import StoreKind

__all__ = ["QueuedInstruction", "Sequencer"]

_MAX_ROWS = 32768  # that DotLanes and Collector count
#: The roles of operands, and what each instruction calls them.
_DST = named("dst", "vector")
_A, _FIRST_SCALAR = named("a", registers=False), named("s", "a", registers=True)
_B, _SECOND_SCALAR = named("b", registers=False), named("c", "b", registers=True)
_TARGET = named("t", "d")


class QueuedInstruction(data.Struct):
    """An instruction on its way through the queue."""

    opcode: OPCODE_BITS
    rs1: 32
    rs2: 32


class _Epilogue(data.Struct):
    """What EPI says."""

    b: 13
    factor: 2
    pick: 2
    rank: 1
    base: 20


class _State:
    """Registers that more than one part of the sequencer reads: what is ``held``, the operands that
    REP advances, the scalars that were read, and the prefixes."""

    def __init__(self) -> None:
        self.held = Signal(QueuedInstruction)
        # a bit for each name that is asked for
        self.named = {ins.name: Signal(name=f"is_{ins.name}") for ins in isa.INSTRUCTIONS}
        self.group, self.is_dot = Signal(3), Signal()
        self.dst, self.a, self.b = Signal(13), Signal(13), Signal(13)
        self.s, self.t = Signal(REGISTER_BITS), Signal(REGISTER_BITS)
        self.factors = Signal(data.ArrayLayout(32, isa.VECTORS))
        self.addends = Signal(data.ArrayLayout(32, isa.VECTORS))
        self.repeat, self.epilogue = Signal(Runs), Signal(_Epilogue)
        # all runs as one operation; none at all; a run after the first one
        self.grouped, self.refused, self.again = Signal(), Signal(), Signal()
        self.settled = Signal()  # that is known
        self.starts, self.sends_rows = Signal(), Signal()

    def name_is(self, *names: str) -> Value:
        """Whether an instruction of one of these names is held."""
        return Cat(self.named[name] for name in names).any()

    def field(self, fields: dict[str, str]) -> Value:
        """The operand that the held instruction has under its name in ``fields``."""
        return operand(self.held.rs1, self.held.rs2, fields, self.name_is)


class Sequencer(wiring.Component):
    """Members: ``instruction`` in; what each unit is told and tells, by the unit's own names
    (``vector``, ``dot``, ``rank``, ``check``, ``scalar``, ``store``); ``peek_address`` and
    ``peek_data`` read a scalar register from outside; ``row`` to the store unit, of one scalar;
    ``row_free``: no row is on its way from the vector unit; ``busy``; ``complete`` pulses per
    instruction; ``store_complete`` per instruction of the STORE group, whose last rows may still be
    leaving then, and ``pick_complete`` per one that wrote the pick memory; ``bad`` pulses on an
    instruction that is refused; ``overflow`` on an infinite scalar, read or written; ``section`` is
    what counters count for.
    """

    def __init__(self) -> None:
        super().__init__({
            "instruction": In(stream.Signature(QueuedInstruction)),
            "peek_address": In(REGISTER_BITS), "peek_data": Out(32),
            "busy": Out(1), "complete": Out(1), "store_complete": Out(1), "pick_complete": Out(1),
            "bad": Out(1), "overflow": Out(1), "section": Out(4),
            "vector": Out(wiring.Signature({
                "start": Out(1), "op": Out(VectorOp), "done": In(1), "reduced": In(1),
                "value": In(32)})),
            "dot": Out(wiring.Signature({
                "start": Out(1), "words": Out(7), "mode": Out(2), "vectors": Out(3),
                "rows": Out(19), "picked": Out(1), "columns": Out(1)})),
            "rank": Out(wiring.Signature({
                "clear": Out(1), "levels": Out(4), "start": Out(1), "base": Out(20),
                "idle": In(1)})),
            "check": Out(wiring.Signature({
                "start": Out(1), "words": Out(24), "done": In(1), "value": In(32)})),
            "scalar": Out(wiring.Signature({
                "start": Out(1), "function": Out(ScalarFunction), "a": Out(32), "b": Out(32),
                "done": In(1), "r": In(32)})),
            "store": Out(wiring.Signature({
                "start": Out(1), "address": Out(32), "kind": Out(StoreKind)})),
            "row": Out(stream.Signature(32)), "row_free": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.registers = registers = memory.Memory(shape=unsigned(32), depth=isa.SCALARS,
                                                           init=[])
        m.submodules.scalars = scalars = ScalarQueue()
        m.submodules.repetition = repetition = Repetition()
        self._state = state = _State()
        self._write = registers.write_port()
        self._first, self._second, peek = (registers.read_port(domain="comb") for _ in range(3))
        m.d.comb += [peek.addr.eq(self.peek_address), self.peek_data.eq(peek.data),
                     self._first.addr.eq(state.s), self._second.addr.eq(state.b)]
        self._hold(m)
        # scalar registers are named that hold operands
        reads = (Signal(name="reads_first"), Signal(name="reads_second"))
        m.d.sync += [reads[0].eq(state.name_is(*_FIRST_SCALAR)),
                     reads[1].eq(state.name_is(*_SECOND_SCALAR))]
        steps = (state.repeat.step_s
                 | (state.name_is("EXP2") & (state.repeat.stride_b != 0)))
        op = self._operation(m, steps)
        self._other_units(m)
        self._queue_scalars(m, scalars)
        self._start_lines(m)
        m.d.comb += [
            repetition.runs.eq(state.repeat), repetition.op.eq(op), repetition.first.eq(state.s),
            repetition.second.eq(state.b), repetition.target.eq(state.t),
            repetition.reads_first.eq(reads[0]), repetition.reads_second.eq(reads[1]),
            repetition.steps.eq(steps), repetition.to_bytes.eq(state.name_is("QUANT8")),
            repetition.quantises.eq(state.name_is("QUANT5", "QUANT4")),
        ]
        self._sequence(m, op, steps, reads, scalars, repetition)
        return m

    def _hold(self, m: Module) -> None:
        state, payload = self._state, self.instruction.payload
        with m.If(self.instruction.valid & self.instruction.ready):
            m.d.sync += [state.held.eq(payload),
                         *(flag.eq(payload.opcode == OPCODES[name])
                           for name, flag in state.named.items())]
            with m.Switch(payload.opcode):
                for ins in isa.INSTRUCTIONS:
                    with m.Case(OPCODES[ins.name]):
                        m.d.sync += [state.group.eq(ins.group), state.is_dot.eq(ins.name in DOTS)]

    def _operation(self, m: Module, steps: Value) -> data.View:
        """The vector operation, as it will be. In START a register holds it: of what it is made of,
        only the scalars change in the last cycle of LOAD."""
        state = self._state
        op, op_held, recipe = Signal(VectorOp), Signal(VectorOp), Signal(VectorOp)
        reports = Signal()  # to a scalar register, if one is named
        m.d.sync += [op_held.eq(op), recipe.eq(0), reports.eq(0)]
        with m.Switch(state.held.opcode):
            for name, settings in RECIPES.items():
                with m.Case(OPCODES[name]):
                    m.d.sync += [getattr(recipe, key).eq(value) for key, value in settings.items()]
                    if settings.get("sink") is Sink.SCRATCH and name in _TARGET:
                        m.d.sync += reports.eq(1)
        m.d.comb += [self.vector.op.eq(op_held), self.vector.op.factors.eq(state.factors),
                     self.vector.op.addends.eq(state.addends), op.eq(recipe)]
        with m.If(reports & (state.t != 0)):
            m.d.comb += op.reduce.eq(Reduce.ABSMAX)
        with m.If(state.name_is("DOT")):
            self._apply_epilogue(m, op)
        runs = state.repeat
        m.d.comb += [
            op.vector.eq(Mux(state.is_dot, self.dot.vectors, state.dst)), op.dst.eq(state.dst),
            op.a.eq(state.a), op.b.eq(Mux(state.is_dot, state.epilogue.b, state.b)),
            op.count.eq(state.field(named("n"))), op.stride.eq(state.field(named("stride"))),
            op.groups.eq(Mux(state.grouped, runs.count, 1)), op.step.eq(state.grouped & steps),
            op.step_dst.eq(runs.stride_dst), op.step_a.eq(runs.stride_a),
            op.step_b.eq(runs.stride_b),
        ]
        return op

    def _apply_epilogue(self, m: Module, op: data.View) -> None:
        epilogue = self._state.epilogue
        m.d.comb += op.mark.eq(epilogue.pick == isa.PICKS["mark"])
        with m.Switch(epilogue.factor):
            with m.Case(isa.FACTORS["b"]):
                m.d.comb += [op.b_read.eq(1), op.factor.eq(Factor.B)]
            with m.Case(isa.FACTORS["dst"]):
                m.d.comb += [op.b_read.eq(1), op.b_dst.eq(1), op.factor.eq(Factor.B)]
            with m.Case(isa.FACTORS["relu2"]):
                m.d.comb += [op.relu.eq(1), op.factor.eq(Factor.SELF)]
        with m.If(epilogue.rank):
            m.d.comb += op.sink.eq(Sink.RANK)

    def _other_units(self, m: Module) -> None:
        state, field = self._state, self._state.field
        columns, picked = state.name_is("COLS"), state.epilogue.pick == isa.PICKS["picked"]
        m.d.comb += [
            self.dot.words.eq(field(dict.fromkeys(DOTS, "words"))),
            self.dot.mode.eq(field(named("mode"))), self.dot.rows.eq(field(named("rows"))),
            self.dot.vectors.eq(Mux(columns, 0, field(named("vectors")))),
            self.dot.picked.eq((state.name_is("DOT") & picked) | columns),
            self.dot.columns.eq(columns),
            self.rank.base.eq(state.epilogue.base), self.rank.levels.eq(field(named("levels"))),
            self.check.words.eq(field({"CHECK": "words"})),
            self.store.address.eq(field(named("addr"))), self.row.payload.eq(state.factors[0]),
        ]

    def _start_lines(self, m: Module) -> None:
        """From registers and ``starts`` alone: they reach far."""
        state = self._state
        stores, on_vectors, self._rank_idle = Signal(), Signal(), Signal()
        m.d.sync += [
            stores.eq(state.group == isa.STORE), on_vectors.eq(state.name_is(*RECIPES)),
            # A store's rows may still leave when it counts as done; what sends rows itself, or to
            # another place, comes after them.
            state.sends_rows.eq((state.group == isa.STORE)
                                | (state.name_is("DOT") & state.epilogue.rank)),
            self._rank_idle.eq(self.rank.idle),
        ]
        m.d.comb += [
            self.vector.start.eq(state.starts & on_vectors),
            self.dot.start.eq(state.starts & state.is_dot),
            self.rank.start.eq(state.starts & state.is_dot),
            self.store.start.eq(state.starts & stores),
        ]

    def _queue_scalars(self, m: Module, scalars: ScalarQueue) -> None:
        state, operation = self._state, scalars.operation.payload
        function = Signal(ScalarFunction)
        for names, signal in ((SCALAR_FUNCTIONS, function), (STORE_KINDS, self.store.kind)):
            with m.Switch(state.held.opcode):
                for name, value in names.items():
                    with m.Case(OPCODES[name]):
                        m.d.sync += signal.eq(value)  # from LOAD on
        m.d.comb += [
            operation.function.eq(function), operation.target.eq(state.t),
            operation.a.eq(state.factors[0]), operation.b.eq(state.addends[0]),
            self.scalar.start.eq(scalars.start), self.scalar.function.eq(scalars.function),
            self.scalar.a.eq(scalars.a), self.scalar.b.eq(scalars.b),
            scalars.done.eq(self.scalar.done), scalars.value.eq(self.scalar.r),
        ]

    def _unfit(self, m: Module, op: data.View) -> Value:
        """No operation: nothing to do, or more than fits."""
        state, name_is, dot = self._state, self._state.name_is, self.dot
        unfit = Signal()
        with m.If(state.is_dot):
            columns = Mux(dot.mode == isa.MODES["base3"], (dot.words << 7) + (dot.words << 5),
                          dot.words << 7)
            too_many = Mux(dot.columns, dot.rows > columns, dot.rows > _MAX_ROWS)
            limit = Mux(dot.columns, isa.COLUMN_WORDS,
                        Mux(dot.vectors[2], isa.SHARED_WORDS, isa.ACT_WORDS))
            too_long = dot.words > limit
            many_bytes = (dot.vectors >= isa.BYTE_VECTORS) | ((dot.vectors != 0) & too_long)
            too_long = Mux(dot.mode == isa.MODES["int8"], dot.columns | many_bytes, too_long)
            m.d.comb += unfit.eq((dot.rows == 0) | (dot.words == 0) | (dot.mode == 3)
                                 | too_long | too_many)
        with m.Elif(name_is("CHECK")):
            m.d.comb += unfit.eq(self.check.words == 0)
        with m.Elif(name_is("RANK")):
            m.d.comb += unfit.eq((self.rank.levels == 0) | (self.rank.levels > isa.RANK_LEVELS))
        with m.Elif(name_is("STORES")):
            m.d.comb += unfit.eq(self.store.address[:2] != 0)
        with m.Elif((state.group == isa.VECTOR) | (state.group == isa.STORE)):
            too_long = (name_is("QUANT4", "QUANT5", "QUANT8")
                        & ((op.count > self._room(m)) | (name_is("QUANT8") & state.dst[2])))
            misaligned = ((name_is("STOREF", "STOREQ") & (self.store.address[:5] != 0))
                          | (name_is("LOADB") & (op.count[:5] != 0)))
            m.d.comb += unfit.eq((op.count == 0) | too_long | misaligned | state.refused)
        return unfit

    def _room(self, m: Module) -> Value:
        """Elements that an activation vector holds."""
        room, dst = Signal(16), self._state.dst
        with m.If(self._state.name_is("QUANT8")):
            m.d.comb += room.eq((isa.BYTE_VECTORS - dst[:2]) << 10)  # 32 words of 32
        with m.Elif(self._state.name_is("QUANT5")):
            m.d.comb += room.eq(Mux(dst[2], isa.SHARED_WORDS * 160, isa.ACT_WORDS * 160))
        with m.Else():
            m.d.comb += room.eq(Mux(dst[2], isa.SHARED_WORDS * 128, isa.ACT_WORDS * 128))
        return room

    def _sequence(self, m: Module, op: data.View, steps: Value, reads: tuple[Signal, Signal],
                  scalars: ScalarQueue, repetition: Repetition) -> None:
        state = self._state
        self._infinite, self._putting = Signal(), Signal()  # a scalar that is written; one is
        infinite_operand = Signal()
        m.d.comb += self.overflow.eq(self._infinite | infinite_operand)
        # A scalar operation's result is written when nothing else is; who names its register waits.
        result = scalars.result
        m.d.comb += result.ready.eq(~self._putting)
        with m.If(result.valid):
            self._put(m, result.payload.target, result.payload.value, Const(1))
        hazard = ((reads[0] & scalars.pending.bit_select(self._first.addr, 1))
                  | (reads[1] & scalars.pending.bit_select(self._second.addr, 1))
                  | scalars.pending.bit_select(state.t, 1)
                  | (state.grouped & (state.t != 0) & scalars.pending.any()))
        unfit = self._unfit(m, op)
        written = Signal(REGISTER_BITS)  # where the vector unit's next reduction goes
        loads = Signal(range(isa.VECTORS))
        with m.FSM() as fsm:
            m.d.sync += Assert(~self.vector.reduced | fsm.ongoing("VECTOR"),
                               "a reduction comes whose register nobody knows")
            m.d.comb += self.busy.eq(~fsm.ongoing("FETCH") | self.instruction.valid | scalars.busy)
            with m.State("FETCH"):
                m.d.comb += self.instruction.ready.eq(1)
                with m.If(self.instruction.valid):
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.d.sync += loads.eq(0)
                self._decode(m)
            with m.State("LOAD"):
                self._load(m, loads, steps, unfit, hazard, reads, infinite_operand, repetition)
            with m.State("START"):
                m.d.sync += written.eq(state.t)
                self._start(m, scalars)
            with m.State("VECTOR"):
                with m.If(self.vector.reduced):
                    self._put(m, written, self.vector.value, Const(1))
                    m.d.comb += self._putting.eq(1)
                    m.d.sync += written.eq(written + (state.t != 0))
                with m.If(self.vector.done):
                    m.next = "COMPLETE"
            with m.State("CHECK"):
                with m.If(self.check.done):
                    self._put(m, state.t, self.check.value, Const(0))
                    m.d.comb += self._putting.eq(1)
                    m.next = "COMPLETE"
            with m.State("STORE-SCALAR"):
                m.d.comb += self.row.valid.eq(1)
                with m.If(self.row.ready):
                    m.next = "COMPLETE"
            with m.State("COMPLETE"):
                m.d.sync += loads.eq(0)
                self._complete(m)

    def _put(self, m: Module, register: Value, value: Value, check: Value) -> None:
        """Writes a scalar register."""
        m.d.comb += [self._write.addr.eq(register), self._write.data.eq(value),
                     self._write.en.eq(register != 0),
                     self._infinite.eq(check & (value[23:31] == 255))]

    def _decode(self, m: Module) -> None:
        state, field = self._state, self._state.field
        m.d.sync += [
            state.dst.eq(field(_DST)), state.a.eq(field(_A)),
            state.b.eq(field(_B | _SECOND_SCALAR)), state.s.eq(field(_FIRST_SCALAR)),
            state.t.eq(Mux(state.name_is(*_TARGET), field(_TARGET), 0)),
        ]
        with m.If(state.name_is(*PREFIXES)):
            for prefix, kept in (("REP", state.repeat), ("EPI", state.epilogue)):
                with m.If(state.name_is(prefix)):
                    m.d.sync += [kept[f.name].eq(field({prefix: f.name}))
                                 for f in isa.by_name(prefix).fields]
            m.d.comb += self.complete.eq(1)
            m.next = "FETCH"
        with m.Else():
            m.next = "LOAD"

    def _load(self, m: Module, loads: Signal, steps: Value, unfit: Value, hazard: Value,
              reads: tuple[Signal, Signal], infinite: Signal, repetition: Repetition) -> None:
        """Reads scalars, one pair a cycle."""
        state, name_is = self._state, self._state.name_is
        last = Mux(state.is_dot, self.dot.vectors, state.repeat.count - 1)[:len(loads)]
        step_first = Mux(state.is_dot, state.field(named("step_s")) & ~name_is("COLS"),
                         state.grouped & state.repeat.step_s)
        step_second = Mux(state.grouped & name_is("EXP2"),
                          state.repeat.stride_b[:REGISTER_BITS], 0)
        first, second = self._first.data, self._second.data
        # what REP makes of the operation takes a cycle
        settling = name_is(*GROUPED) & (state.repeat.count > 1) & ~state.settled
        with m.Switch(loads):
            for i in range(isa.VECTORS):
                with m.Case(i):
                    m.d.sync += [state.factors[i].eq(first), state.addends[i].eq(second)]
        m.d.sync += state.settled.eq(1)
        with m.If(settling):
            m.d.sync += [
                state.grouped.eq(repetition.together),
                state.refused.eq(name_is(*ROWS) & ~state.again
                                 & ~(repetition.apart_a
                                     & (~name_is(*READ_B) | repetition.apart_b))),
            ]
            m.next = "LOAD"
        with m.Elif(hazard):
            m.next = "LOAD"
        with m.Else():
            m.d.sync += [loads.eq(loads + 1), state.s.eq(state.s + step_first),
                         state.b.eq(state.b + step_second)]
            m.d.comb += infinite.eq(~unfit & ((reads[0] & (first[23:31] == 255))
                                              | (reads[1] & (second[23:31] == 255))))
            with m.If(unfit):
                m.d.comb += self.bad.eq(1)
                m.next = "COMPLETE"
            with m.Elif((loads == last) | ~(state.is_dot | (state.grouped & steps))):
                m.next = "START"

    def _start(self, m: Module, scalars: ScalarQueue) -> None:
        state, name_is = self._state, self._state.name_is
        m.d.comb += state.starts.eq(~state.sends_rows | self.row_free)
        with m.If(name_is("SSET")):
            self._put(m, state.t, state.field({"SSET": "value"}), Const(0))
            m.d.comb += self._putting.eq(1)
            m.next = "COMPLETE"
        with m.Elif(name_is("SECTION")):
            m.d.sync += self.section.eq(state.field({"SECTION": "section"}))
            m.next = "COMPLETE"
        with m.Elif(name_is("RANK")):
            with m.If(self._rank_idle):
                m.d.comb += self.rank.clear.eq(1)
                m.next = "COMPLETE"
        with m.Elif(state.group == isa.SCALAR):
            m.d.comb += scalars.operation.valid.eq(1)
            with m.If(scalars.operation.ready):
                m.next = "COMPLETE"
        with m.Elif(state.sends_rows & ~self.row_free):
            m.next = "START"
        with m.Elif(name_is("CHECK")):
            m.d.comb += self.check.start.eq(1)
            m.next = "CHECK"
        with m.Elif(name_is("STORES")):
            m.next = "STORE-SCALAR"
        with m.Else():
            m.next = "VECTOR"

    def _complete(self, m: Module) -> None:
        state, runs = self._state, self._state.repeat
        m.d.sync += [state.settled.eq(0), state.grouped.eq(0), state.refused.eq(0)]
        repeatable = (((state.group == isa.VECTOR) & ~state.is_dot & ~state.name_is("CHECK"))
                      | (state.group == isa.SCALAR))
        with m.If((runs.count > 1) & repeatable & ~state.grouped & ~state.refused):
            m.d.sync += [
                state.again.eq(1), runs.count.eq(runs.count - 1),
                state.dst.eq(state.dst + runs.stride_dst), state.a.eq(state.a + runs.stride_a),
                state.b.eq(state.b + runs.stride_b),
                state.s.eq(state.s + runs.step_s), state.t.eq(state.t + runs.step_t),
            ]
            with m.If(state.group == isa.SCALAR):
                m.d.sync += [state.t.eq(state.t + 1), state.b.eq(state.b + runs.step_t)]
            m.next = "LOAD"
        with m.Else():
            marks = state.name_is("DOT") & (state.epilogue.pick == isa.PICKS["mark"])
            m.d.sync += [runs.eq(0), state.epilogue.eq(0), state.again.eq(0)]
            m.d.comb += [
                self.complete.eq(1), self.store_complete.eq(state.group == isa.STORE),
                self.pick_complete.eq(state.name_is("PICK") | marks),
            ]
            m.next = "FETCH"
