"""CFU front end: takes the CPU's commands, answers them, keeps the sticky errors, and brings the
unit back from anything.

It lies in domain ``bus``, which only the SoC's reset reaches; what is behind it, in ``sync``,
starts anew with every RESET too. Either reset ends when memory owes nothing (see axi.py).
"""

from __future__ import annotations

from amaranth.hdl import Array, Assert, Cat, Const, Module, Mux, ResetSignal, Signal
from amaranth.hdl._ast import Value  # the base class has no public home in Amaranth 0.5
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu import isa

from .decoder import OPCODE_BITS, OPCODES, Decoder, operand
from .descriptor import TICKET_BITS, Ports, StreamDescriptor
from .instruction import QueuedInstruction

__all__ = ["CFUBus", "FrontEnd", "PATIENCE_BITS"]

PATIENCE_BITS = 22
_LOOK_UP = 2  # cycles
_READS = ("COUNTER", "SGET", "RANKED")
_ADDRESS = {ins.name: "addr" for ins in isa.INSTRUCTIONS if ins.group == isa.STREAM}


class CFUBus(wiring.Signature):
    """VexRiscv's CFU bus, as seen by the CPU."""

    def __init__(self) -> None:
        super().__init__({
            "cmd": Out(stream.Signature(data.StructLayout({"function_id": 10, "rs1": 32,
                                                           "rs2": 32}))),
            "rsp": In(stream.Signature(32)),
        })


class FrontEnd(wiring.Component):
    """Members: ``bus``; ``descriptor`` and ``instruction`` out; what COUNTER, SGET and RANKED
    answer with (``counter``, ``scalar``, ``ranked``) at the addresses that they ask for; ``busy``
    while the units have work, ``progress`` when they got on with it; ``errors``: events by name;
    ``quiet`` while memory owes nothing; ``resetting`` holds what is behind in reset; ``holds`` a
    command, which is ``done`` in the cycle in which it is carried out.

    A command is held in a register first, so that the CPU's stall hangs on nothing but whether that
    is free, and carried out in the next cycle; a queued instruction waits there for room in its
    queue, and what reads a counter, a scalar or the ranking has it two cycles later. The answer
    follows in the next cycle. If nothing gets on for 2^``patience_bits`` cycles the
    ``queue`` error is set, and queued instructions are dropped until a RESET: the CPU never hangs.

    ``cmd.ready`` is high whenever no command is offered. VexRiscv needs that: a command that was
    taken and whose instruction leaves the execute stage later, in a cycle with ``ready`` low, is
    offered again, with the bits of the next instruction.
    """

    def __init__(self, patience_bits: int = PATIENCE_BITS) -> None:
        self._patience_bits = patience_bits
        super().__init__({
            "bus": In(CFUBus()), "descriptor": Out(stream.Signature(StreamDescriptor)),
            "instruction": Out(stream.Signature(QueuedInstruction)), "ports": Out(Ports),
            "counter_address": Out(4), "counter": In(32).array(len(isa.COUNTERS)),
            "scalar_address": Out(5), "scalar": In(32),
            "ranked_address": Out(8), "ranked_vector": Out(3), "ranked": In(32),
            "busy": In(1),
            "progress": In(1), "errors": In(data.StructLayout({name: 1 for name in isa.ERRORS})),
            "quiet": In(1), "resetting": Out(1, init=1), "holds": Out(1), "done": Out(1),
        })
        # the command that is held, and what the decoder made of it
        self._command = Signal.like(self.bus.cmd.payload)
        self._opcode, self._group = Signal(OPCODE_BITS), Signal(3)
        self._defined, self._reads = Signal(), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.decoder = decoder = Decoder()
        cmd, rsp = self.bus.cmd, self.bus.rsp
        holds = self.holds
        errors = Signal.like(self.errors)
        to_stream = self._defined & (self._group == isa.STREAM)
        to_queue = self._defined & (self._group > isa.STREAM)

        # A command that reads what lies outside has the answer in the third cycle.
        done, room, looked = self.done, Signal(), Signal(_LOOK_UP)
        m.d.bus += looked.eq(Mux(done, 0, Cat(holds, looked)))
        with m.If((to_stream | to_queue) & ~errors.queue):
            m.d.comb += room.eq(~self.resetting
                                & Mux(to_stream, self.descriptor.ready, self.instruction.ready))
        with m.Else():
            m.d.comb += room.eq(1)
        m.d.comb += [
            decoder.function_id.eq(cmd.payload.function_id),
            cmd.ready.eq(~cmd.valid | (~holds & ~ResetSignal("bus", allow_reset_less=True))),
            done.eq(holds & (~rsp.valid | rsp.ready) & room & (~self._reads | looked[-1])),
            self.descriptor.valid.eq(done & to_stream & ~errors.queue),
            self.instruction.valid.eq(done & to_queue & ~errors.queue),
            self.instruction.payload.opcode.eq(self._opcode),
            self.instruction.payload.rs1.eq(self._command.rs1),
            self.instruction.payload.rs2.eq(self._command.rs2),
        ]
        m.d.bus += Assert(cmd.valid | cmd.ready, "a command that is not there would be held back")
        # These registers take what the bus shows, command or not: their enables hang on nothing of
        # the CPU's.
        with m.If(~holds):
            m.d.bus += [
                self._command.eq(cmd.payload), self._opcode.eq(decoder.opcode),
                self._group.eq(decoder.group), self._defined.eq(decoder.defined),
                self._reads.eq(Cat(decoder.opcode == OPCODES[name] for name in _READS).any()
                               & decoder.defined),
            ]
        with m.If(cmd.valid & ~holds):
            m.d.bus += holds.eq(1)
        with m.Elif(done):
            m.d.bus += holds.eq(0)
        self._reset(m, done)
        refused = self._set_ports(m, done)
        self._keep_errors(m, done, errors, refused)
        self._describe(m)
        answer = self._answer(m, errors)  # outside of the If: what it looks up must not wait for it
        with m.If(done):
            m.d.bus += [rsp.valid.eq(1), rsp.payload.eq(answer)]
        with m.Elif(rsp.ready):
            m.d.bus += rsp.valid.eq(0)
        return m

    def _is(self, name: str) -> Value:
        return self._defined & (self._opcode == OPCODES[name])

    def _operand(self, **fields: str) -> Value:
        return operand(self._command.rs1, self._command.rs2, fields, self._is)

    def _reset(self, m: Module, done: Value) -> None:
        """``resetting`` rises with RESET and falls when what is behind has seen it and memory owes
        nothing."""
        seen = Signal()
        m.d.bus += seen.eq(self.resetting)
        with m.If(done & self._is("RESET")):
            m.d.bus += self.resetting.eq(1)
        with m.Elif(seen & self.quiet):
            m.d.bus += self.resetting.eq(0)

    def _set_ports(self, m: Module, done: Value) -> Value:
        """Between streams only, so that ports stay in step; returns whether PORTS is refused."""
        told, refused, asked = Signal(Ports), Signal(), done & self._is("PORTS")
        m.d.comb += [
            *(told[name].eq(self._operand(PORTS=name)) for name in ("mask", "apart", "bursts")),
            refused.eq(asked & (self.busy | self.resetting | (told.mask == 0))),
        ]
        with m.If(self.resetting):
            m.d.bus += self.ports.eq(self.ports.as_value().init)
        with m.Elif(asked & ~refused):
            m.d.bus += self.ports.eq(told)
        return refused

    def _keep_errors(self, m: Module, done: Value, errors: data.View, refused: Value) -> None:
        patience = Signal(self._patience_bits)
        with m.If(self.progress | (~self.busy & ~self.resetting)):
            m.d.bus += patience.eq(0)
        with m.Elif(~patience.all()):
            m.d.bus += patience.eq(patience + 1)
        misaligned = self.descriptor.valid & (self._operand(**_ADDRESS)[1:5] != 0)
        raised = Signal.like(errors)
        for name in isa.ERRORS:
            m.d.comb += raised[name].eq(self.errors[name] & ~self.resetting)
        with m.If(done & ~self._defined):
            m.d.comb += raised.undefined.eq(1)
        with m.If(misaligned | refused):
            m.d.comb += raised.descriptor.eq(1)
        m.d.comb += raised.queue.eq(patience.all())
        cleared = Mux(done & self._is("CLEAR"), self._operand(CLEAR="mask"), 0)
        m.d.bus += errors.eq((errors.as_value() & ~cleared) | raised.as_value())
        with m.If(done & self._is("RESET")):
            m.d.bus += [errors.eq(0), patience.eq(0)]

    def _describe(self, m: Module) -> None:
        """The stream descriptor of a command, with the number of stores or picks before it that it
        may have to wait for."""
        stores, picks, marking = Signal(TICKET_BITS), Signal(TICKET_BITS), Signal()
        descriptor, address = self.descriptor.payload, self._operand(**_ADDRESS)
        strided, picked = self._is("STREAMR"), self._is("STREAMP")
        m.d.comb += [
            descriptor.address.eq(address[5:]), descriptor.picked.eq(picked),
            descriptor.fence.eq(address[0] & ~picked),
            descriptor.everything.eq(address[0] & picked),
            descriptor.ticket.eq(Mux(picked, picks, stores)),
            descriptor.words.eq(self._operand(STREAM="words", STREAMR="words", STREAMP="words")),
            descriptor.rows.eq(Mux(strided | picked,
                                   self._operand(STREAMR="rows", STREAMP="groups"), 1)),
            descriptor.stride.eq(self._operand(STREAMR="stride")),
        ]
        taken = self.instruction.valid
        m.d.bus += [
            stores.eq(stores + (taken & (self._group == isa.STORE))),
            picks.eq(picks + (taken & (self._is("PICK") | (self._is("DOT") & marking)))),
        ]
        # the EPI that stands before an operation, if there is one
        with m.If(taken & ~self._is("REP")):
            m.d.bus += marking.eq(self._is("EPI")
                                  & (self._operand(EPI="pick") == isa.PICKS["mark"]))
        with m.If(self.resetting):
            m.d.bus += [stores.eq(0), picks.eq(0), marking.eq(0)]

    def _answer(self, m: Module, errors: data.View) -> Signal:
        answer = Signal(32)
        m.d.comb += [
            self.counter_address.eq(self._operand(COUNTER="section")),
            self.scalar_address.eq(self._operand(SGET="s")),
            self.ranked_address.eq(self._operand(RANKED="index")),
            self.ranked_vector.eq(self._operand(RANKED="vector")),
        ]
        counters = Array([*self.counter, *[Const(0, 32)] * (16 - len(isa.COUNTERS))])
        read = Signal(32)
        for name, value in (("COUNTER", counters[self._operand(COUNTER="index")]),
                            ("SGET", self.scalar), ("RANKED", self.ranked)):
            with m.If(self._is(name)):
                m.d.bus += read.eq(value)
        status = Cat(errors.as_value(), Const(0, isa.BUSY_BIT - len(isa.ERRORS)),
                     self.busy | self.resetting)
        for name, value in (("ID", Const(isa.isa_hash(), 32)), ("STATUS", status),
                            *((name, read) for name in _READS)):
            with m.If(self._is(name)):
                m.d.comb += answer.eq(value)
        return answer
