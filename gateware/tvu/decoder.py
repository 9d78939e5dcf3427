"""Decoder: function id to opcode, and operands to where the instruction table has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from amaranth.hdl import Cat, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from xtvu import isa

__all__ = ["Decoder", "OPCODES", "OPCODE_BITS", "operand"]

#: Opcode of each instruction: its place in the table.
OPCODES = {ins.name: index for index, ins in enumerate(isa.INSTRUCTIONS)}
OPCODE_BITS = len(isa.INSTRUCTIONS).bit_length()


def operand(rs1: Value, rs2: Value, fields: Mapping[str, str],
            is_one: Callable[[str], Value]) -> Value:
    """The operand that an instruction has under the name ``fields[instruction]``, from where the
    table has it; of an instruction that is not in ``fields``, any bits. ``is_one`` tells whether it
    is the instruction of that name. Raises KeyError if there is no such field."""
    places: dict[tuple[int, int, int], list[str]] = {}
    for instruction, name in fields.items():
        field = isa.by_name(instruction).field(name)
        places.setdefault((field.source, field.lo, field.width), []).append(instruction)
    (common, _), *others = sorted(places.items(), key=lambda item: -len(item[1]))

    def bits(place: tuple[int, int, int]) -> Value:
        source, lo, width = place
        return (rs1, rs2)[source - 1][lo:lo + width]

    value = bits(common)
    for place, instructions in others:
        value = Mux(Cat(is_one(name) for name in instructions).any(), bits(place), value)
    return value


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
