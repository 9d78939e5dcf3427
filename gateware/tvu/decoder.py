"""Decoder: function id to opcode, made from the instruction table."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from xtvu import isa

__all__ = ["Decoder", "OPCODES", "OPCODE_BITS"]

#: Opcode of each instruction: its place in the table.
OPCODES = {ins.name: index for index, ins in enumerate(isa.INSTRUCTIONS)}
OPCODE_BITS = len(isa.INSTRUCTIONS).bit_length()


class Decoder(wiring.Component):
    """Combinational. ``defined`` is low for function ids that the table does not assign."""

    def __init__(self) -> None:
        super().__init__({"function_id": In(10), "opcode": Out(OPCODE_BITS), "group": Out(3),
                          "defined": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.group.eq(self.function_id[:3])
        with m.Switch(self.function_id):
            for ins in isa.INSTRUCTIONS:
                with m.Case(ins.function_id):
                    m.d.comb += [self.opcode.eq(OPCODES[ins.name]), self.defined.eq(1)]
        return m
