"""Sequencer: takes queued instructions in order, resolves scalars, and runs them on the units.

Also holds the scalar registers and the REP and EPI prefixes. One operation runs at a time; the DMA
readers work ahead of it, rows of a store leave behind it, and scalar operations wait in a queue of
their own until their results are needed.
"""

from amaranth.hdl import Assert, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu import isa

from .decoder import OPCODES
from .float32 import is_infinite
from .instruction import Held, QueuedInstruction
from .limits import unfit
from .operation import Factor, Reduce, Sink, VectorOp
from .recipes import (
    DOTS,
    PREFIXES,
    READ_B,
    RECIPES,
    ROWS,
    SCALAR_FUNCTIONS,
    STORE_KINDS,
    TOGETHER,
    named,
)
from .repetition import Repetition
from .scalar import ScalarFunction
from .scalars import REGISTER_BITS, ScalarQueue
from .store import StoreKind

__all__ = ["Sequencer"]

#: The roles of operands, and what each instruction calls them.
_DST = named("dst", "vector")
_A, _FIRST_SCALAR = named("a", registers=False), named("s", "a", registers=True)
_B, _SECOND_SCALAR = named("b", registers=False), named("c", "b", registers=True)
_TARGET = named("t", "d")


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
                "start": Out(1), "first": Out(5), "words": Out(7), "mode": Out(2),
                "last_vector": Out(3), "rows": Out(19), "picked": Out(1), "columns": Out(1)})),
            "rank": Out(wiring.Signature({
                "clear": Out(1), "levels": Out(4), "start": Out(1), "base": Out(20),
                "last_vector": Out(3), "idle": In(1)})),
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
        self._held = held = Held()
        self._write = registers.write_port()
        self._first, self._second, peek = (registers.read_port(domain="comb") for _ in range(3))
        m.d.comb += [peek.addr.eq(self.peek_address), self.peek_data.eq(peek.data),
                     self._first.addr.eq(held.s), self._second.addr.eq(held.b)]
        self._hold(m)
        # scalar registers are named that hold operands
        reads = (Signal(name="reads_first"), Signal(name="reads_second"))
        m.d.sync += [reads[0].eq(held.name_is(*_FIRST_SCALAR)),
                     reads[1].eq(held.name_is(*_SECOND_SCALAR))]
        steps = (held.repeat.step_s
                 | (held.name_is("EXP2") & (held.repeat.stride_b != 0)))
        op = self._operation(m, steps)
        self._other_units(m)
        self._queue_scalars(m, scalars)
        self._start_lines(m)
        m.d.comb += [
            repetition.runs.eq(held.repeat), repetition.dst.eq(held.dst), repetition.a.eq(held.a),
            repetition.b.eq(held.b), repetition.count.eq(op.count),
            repetition.digits5.eq(op.digits5), repetition.first.eq(held.s),
            repetition.second.eq(held.b), repetition.target.eq(held.t),
            repetition.reads_first.eq(reads[0]), repetition.reads_second.eq(reads[1]),
            repetition.steps.eq(steps), repetition.to_bytes.eq(held.name_is("QUANT8")),
            repetition.quantises.eq(held.name_is("QUANT5", "QUANT4")),
        ]
        self._sequence(m, op, steps, reads, scalars, repetition)
        return m

    def _hold(self, m: Module) -> None:
        held, payload = self._held, self.instruction.payload
        with m.If(self.instruction.valid & self.instruction.ready):
            m.d.sync += [held.instruction.eq(payload),
                         *(flag.eq(payload.opcode == OPCODES[name])
                           for name, flag in held.named.items())]
            with m.Switch(payload.opcode):
                for ins in isa.INSTRUCTIONS:
                    with m.Case(OPCODES[ins.name]):
                        m.d.sync += [held.group.eq(ins.group), held.is_dot.eq(ins.name in DOTS)]

    def _operation(self, m: Module, steps: Value) -> data.View:
        """The vector operation, as it will be. In START a register holds it: of what it is made of,
        only the scalars change in the last cycle of LOAD."""
        held = self._held
        op, op_held, recipe = Signal(VectorOp), Signal(VectorOp), Signal(VectorOp)
        reports = Signal()  # to a scalar register, if one is named
        m.d.sync += [op_held.eq(op), recipe.eq(0), reports.eq(0)]
        with m.Switch(held.instruction.opcode):
            for name, settings in RECIPES.items():
                with m.Case(OPCODES[name]):
                    m.d.sync += [getattr(recipe, key).eq(value) for key, value in settings.items()]
                    if settings.get("sink") is Sink.SCRATCH and name in _TARGET:
                        m.d.sync += reports.eq(1)
        m.d.comb += [self.vector.op.eq(op_held), self.vector.op.factors.eq(held.factors),
                     self.vector.op.addends.eq(held.addends), op.eq(recipe)]
        with m.If(reports & (held.t != 0)):
            m.d.comb += op.reduce.eq(Reduce.ABSMAX)
        with m.If(held.name_is("DOT")):
            self._apply_epilogue(m, op)
        runs = held.repeat
        m.d.comb += [
            op.vector.eq(Mux(held.is_dot, self.dot.last_vector, held.dst)), op.dst.eq(held.dst),
            op.a.eq(held.a), op.b.eq(Mux(held.is_dot, held.epilogue.b, held.b)),
            op.count.eq(held.field(named("n"))), op.stride.eq(held.field(named("stride"))),
            op.runs.eq(Mux(held.together, runs.count, 1)), op.step.eq(held.together & steps),
            op.step_dst.eq(runs.stride_dst), op.step_a.eq(runs.stride_a),
            op.step_b.eq(runs.stride_b),
        ]
        return op

    def _apply_epilogue(self, m: Module, op: data.View) -> None:
        epilogue = self._held.epilogue
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
        held, field = self._held, self._held.field
        columns, picked = held.name_is("COLS"), held.epilogue.pick == isa.PICKS["picked"]
        m.d.comb += [
            self.dot.first.eq(Mux(held.name_is("DOT"), held.epilogue.first, 0)),
            self.dot.words.eq(field(dict.fromkeys(DOTS, "words"))),
            self.dot.mode.eq(field(named("mode"))), self.dot.rows.eq(field(named("rows"))),
            self.dot.last_vector.eq(Mux(columns, 0, field(named("last_vector")))),
            self.dot.picked.eq((held.name_is("DOT") & picked) | columns),
            self.dot.columns.eq(columns),
            self.rank.base.eq(held.epilogue.base), self.rank.levels.eq(field(named("levels"))),
            self.rank.last_vector.eq(self.dot.last_vector),
            self.check.words.eq(field({"CHECK": "words"})),
            self.store.address.eq(field(named("addr"))), self.row.payload.eq(held.factors[0]),
        ]

    def _start_lines(self, m: Module) -> None:
        """A unit starts when START says so, and otherwise by registers alone: these lines reach
        far."""
        held = self._held
        stores, on_vectors = Signal(), Signal()
        self._starts, self._rank_idle = Signal(), Signal()
        m.d.sync += [
            stores.eq(held.group == isa.STORE), on_vectors.eq(held.name_is(*RECIPES)),
            # A store's rows may still leave when it counts as done; what sends rows itself, or to
            # another place, comes after them.
            held.sends_rows.eq((held.group == isa.STORE)
                                | (held.name_is("DOT") & held.epilogue.rank)),
            self._rank_idle.eq(self.rank.idle),
        ]
        stores_scalar = self._starts & held.name_is("STORES")
        m.d.sync += self.row.valid.eq(stores_scalar | (self.row.valid & ~self.row.ready))
        m.d.comb += [
            self.vector.start.eq(self._starts & on_vectors),
            self.dot.start.eq(self._starts & held.is_dot),
            self.rank.start.eq(self._starts & held.is_dot),
            self.store.start.eq(self._starts & stores),
        ]

    def _queue_scalars(self, m: Module, scalars: ScalarQueue) -> None:
        held, operation = self._held, scalars.operation.payload
        function = Signal(ScalarFunction)
        for names, signal in ((SCALAR_FUNCTIONS, function), (STORE_KINDS, self.store.kind)):
            with m.Switch(held.instruction.opcode):
                for name, value in names.items():
                    with m.Case(OPCODES[name]):
                        m.d.sync += signal.eq(value)  # from LOAD on
        m.d.comb += [
            operation.function.eq(function), operation.target.eq(held.t),
            operation.a.eq(held.factors[0]), operation.b.eq(held.addends[0]),
            self.scalar.start.eq(scalars.start), self.scalar.function.eq(scalars.function),
            self.scalar.a.eq(scalars.a), self.scalar.b.eq(scalars.b),
            scalars.done.eq(self.scalar.done), scalars.value.eq(self.scalar.r),
        ]

    def _sequence(self, m: Module, op: data.View, steps: Value, reads: tuple[Signal, Signal],
                  scalars: ScalarQueue, repetition: Repetition) -> None:
        held = self._held
        self._infinite = Signal()  # a scalar that is written
        infinite_operand = Signal()
        m.d.comb += self.overflow.eq(self._infinite | infinite_operand)
        # A scalar operation's result is written when nothing else is; who names its register waits.
        result = scalars.result
        with m.If(result.valid):
            self._put(m, result.payload.target, result.payload.value, Const(1))
        hazard = ((reads[0] & scalars.pending.bit_select(self._first.addr, 1))
                  | (reads[1] & scalars.pending.bit_select(self._second.addr, 1))
                  | scalars.pending.bit_select(held.t, 1)
                  | (held.together & (held.t != 0) & scalars.pending.any()))
        refusal = unfit(m, held, op, self)
        written = Signal(REGISTER_BITS)  # where the vector unit's next reduction goes
        loads = Signal(range(isa.VECTORS))
        with m.FSM() as fsm:
            m.d.sync += Assert(~self.vector.reduced | fsm.ongoing("VECTOR"),
                               "a reduction comes whose register nobody knows")
            m.d.comb += [
                self.busy.eq(~fsm.ongoing("FETCH") | self.instruction.valid | scalars.busy),
                result.ready.eq(~((fsm.ongoing("START") & held.name_is("SSET"))
                                  | self.vector.reduced | self.check.done)),
            ]
            with m.State("FETCH"):
                m.d.comb += self.instruction.ready.eq(1)
                with m.If(self.instruction.valid):
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.d.sync += loads.eq(0)
                self._decode(m)
            with m.State("LOAD"):
                self._load(m, loads, steps, refusal, hazard, reads, infinite_operand, repetition)
            with m.State("START"):
                m.d.sync += written.eq(held.t)
                self._start(m, scalars)
            with m.State("VECTOR"):
                with m.If(self.vector.reduced):
                    self._put(m, written, self.vector.value, Const(1))
                    m.d.sync += written.eq(written + (held.t != 0))
                with m.If(self.vector.done):
                    m.next = "COMPLETE"
            with m.State("CHECK"):
                with m.If(self.check.done):
                    self._put(m, held.t, self.check.value, Const(0))
                    m.next = "COMPLETE"
            with m.State("STORE-SCALAR"):
                with m.If(self.row.valid & self.row.ready):
                    m.next = "COMPLETE"
            with m.State("COMPLETE"):
                m.d.sync += loads.eq(0)
                self._complete(m)

    def _put(self, m: Module, register: Value, value: Value, check: Value) -> None:
        """Writes a scalar register."""
        m.d.comb += [self._write.addr.eq(register), self._write.data.eq(value),
                     self._write.en.eq(register != 0),
                     self._infinite.eq(check & is_infinite(value))]

    def _decode(self, m: Module) -> None:
        held, field = self._held, self._held.field
        m.d.sync += [
            held.dst.eq(field(_DST)), held.a.eq(field(_A)),
            held.b.eq(field(_B | _SECOND_SCALAR)), held.s.eq(field(_FIRST_SCALAR)),
            held.t.eq(Mux(held.name_is(*_TARGET), field(_TARGET), 0)),
        ]
        with m.If(held.name_is(*PREFIXES)):
            for prefix, kept in (("REP", held.repeat), ("EPI", held.epilogue)):
                with m.If(held.name_is(prefix)):
                    m.d.sync += [kept[f.name].eq(field({prefix: f.name}))
                                 for f in isa.by_name(prefix).fields]
            m.d.comb += self.complete.eq(1)
            m.next = "FETCH"
        with m.Else():
            m.next = "LOAD"

    def _load(self, m: Module, loads: Signal, steps: Value, refusal: Value, hazard: Value,
              reads: tuple[Signal, Signal], infinite: Signal, repetition: Repetition) -> None:
        """Reads scalars, one pair a cycle."""
        held, name_is = self._held, self._held.name_is
        last = Mux(held.is_dot, self.dot.last_vector, held.repeat.count - 1)[:len(loads)]
        step_first = Mux(held.is_dot, held.field(named("step_s")) & ~name_is("COLS"),
                         held.together & held.repeat.step_s)
        step_second = Mux(held.together & name_is("EXP2"),
                          held.repeat.stride_b[:REGISTER_BITS], 0)
        first, second = self._first.data, self._second.data
        # what REP makes of the operation takes a cycle
        settling = name_is(*TOGETHER) & (held.repeat.count > 1) & ~held.settled
        with m.Switch(loads):
            for i in range(isa.VECTORS):
                with m.Case(i):
                    m.d.sync += [held.factors[i].eq(first), held.addends[i].eq(second)]
        m.d.sync += held.settled.eq(1)
        with m.If(settling):
            m.d.sync += [
                held.together.eq(repetition.together),
                held.refused.eq(name_is(*ROWS) & ~held.again
                                 & ~(repetition.apart_a
                                     & (~name_is(*READ_B) | repetition.apart_b))),
            ]
            m.next = "LOAD"
        with m.Elif(hazard):
            m.next = "LOAD"
        with m.Else():
            m.d.sync += [loads.eq(loads + 1), held.s.eq(held.s + step_first),
                         held.b.eq(held.b + step_second)]
            m.d.comb += infinite.eq(~refusal & ((reads[0] & is_infinite(first))
                                              | (reads[1] & is_infinite(second))))
            with m.If(refusal):
                m.d.comb += self.bad.eq(1)
                m.next = "COMPLETE"
            with m.Elif((loads == last) | ~(held.is_dot | (held.together & steps))):
                m.next = "START"

    def _start(self, m: Module, scalars: ScalarQueue) -> None:
        held, name_is = self._held, self._held.name_is
        m.d.comb += self._starts.eq(~held.sends_rows | self.row_free)
        with m.If(name_is("SSET")):
            self._put(m, held.t, held.field({"SSET": "value"}), Const(0))
            m.next = "COMPLETE"
        with m.Elif(name_is("SECTION")):
            m.d.sync += self.section.eq(held.field({"SECTION": "section"}))
            m.next = "COMPLETE"
        with m.Elif(name_is("RANK")):
            with m.If(self._rank_idle):
                m.d.comb += self.rank.clear.eq(1)
                m.next = "COMPLETE"
        with m.Elif(held.group == isa.SCALAR):
            m.d.comb += scalars.operation.valid.eq(1)
            with m.If(scalars.operation.ready):
                m.next = "COMPLETE"
        with m.Elif(held.sends_rows & ~self.row_free):
            m.next = "START"
        with m.Elif(name_is("CHECK")):
            m.d.comb += self.check.start.eq(1)
            m.next = "CHECK"
        with m.Elif(name_is("STORES")):
            m.next = "STORE-SCALAR"
        with m.Else():
            m.next = "VECTOR"

    def _complete(self, m: Module) -> None:
        held, runs = self._held, self._held.repeat
        m.d.sync += [held.settled.eq(0), held.together.eq(0), held.refused.eq(0)]
        repeatable = (((held.group == isa.VECTOR) & ~held.is_dot & ~held.name_is("CHECK"))
                      | (held.group == isa.SCALAR))
        with m.If((runs.count > 1) & repeatable & ~held.together & ~held.refused):
            m.d.sync += [
                held.again.eq(1), runs.count.eq(runs.count - 1),
                held.dst.eq(held.dst + runs.stride_dst), held.a.eq(held.a + runs.stride_a),
                held.b.eq(held.b + runs.stride_b),
                held.s.eq(held.s + runs.step_s), held.t.eq(held.t + runs.step_t),
            ]
            with m.If(held.group == isa.SCALAR):
                m.d.sync += [held.t.eq(held.t + 1), held.b.eq(held.b + runs.step_t)]
            m.next = "LOAD"
        with m.Else():
            marks = held.name_is("DOT") & (held.epilogue.pick == isa.PICKS["mark"])
            m.d.sync += [runs.eq(0), held.epilogue.eq(0), held.again.eq(0)]
            m.d.comb += [
                self.complete.eq(1), self.store_complete.eq(held.group == isa.STORE),
                self.pick_complete.eq(held.name_is("PICK") | marks),
            ]
            m.next = "FETCH"
