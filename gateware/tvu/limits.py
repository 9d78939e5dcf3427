"""What an instruction may ask for."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data
from xtvu import isa
from xtvu.layout import WEIGHTS_PER_WORD

from .instruction import Held
from .logic import choose

__all__ = ["unfit"]


def unfit(m: Module, held: Held, op: data.View, units: Any) -> Value:
    """Whether there is nothing to do, or more than fits: the held instruction is refused. ``units``
    has what each unit would be told, as the sequencer has it."""
    name_is, dot, check, rank, address = (held.name_is, units.dot, units.check, units.rank,
                                          units.store.address)
    unfit = Signal()
    with m.If(held.is_dot):
        columns = Mux(dot.mode == isa.MODES["base3"], (dot.words << 7) + (dot.words << 5),
                      dot.words << 7)
        too_many = Mux(dot.columns, dot.rows > columns, dot.rows > isa.MOST_ROWS)
        limit = Mux(dot.columns, isa.COLUMN_WORDS,
                    Mux(dot.last_vector[2], isa.SHARED_WORDS, isa.ACT_WORDS))
        too_long = dot.words + dot.first > limit
        beyond = (dot.last_vector != 0) | (dot.first != 0)  # else it may go on in other vectors
        many_bytes = (dot.last_vector >= isa.BYTE_VECTORS) | (beyond & too_long)
        too_long = Mux(dot.mode == isa.MODES["int8"], dot.columns | many_bytes, too_long)
        m.d.comb += unfit.eq((dot.rows == 0) | (dot.words == 0) | (dot.mode == 3)
                             | too_long | too_many)
    with m.Elif(name_is("CHECK")):
        m.d.comb += unfit.eq(check.words == 0)
    with m.Elif(name_is("RANK")):
        m.d.comb += unfit.eq((rank.levels == 0) | (rank.levels > isa.RANK_LEVELS))
    with m.Elif(name_is("STORES")):
        m.d.comb += unfit.eq(address[:2] != 0)
    with m.Elif((held.group == isa.VECTOR) | (held.group == isa.STORE)):
        too_long = (name_is("QUANT4", "QUANT5", "QUANT8")
                    & ((op.count > _room(m, held)) | (name_is("QUANT8") & held.dst[2])))
        misaligned = ((name_is("STOREF", "STOREQ") & (address[:5] != 0))
                      | (name_is("LOADB") & (op.count[:5] != 0)))
        m.d.comb += unfit.eq((op.count == 0) | too_long | misaligned | held.refused)
    return unfit


def _room(m: Module, held: Held) -> Value:
    """Elements that an activation vector holds."""
    room, dst = Signal(16), held.dst
    digits5, digits4, byte = (WEIGHTS_PER_WORD[mode] for mode in ("base3", "2bit", "int8"))
    with m.If(held.name_is("QUANT8")):
        m.d.comb += room.eq(choose([Const(isa.ACT_WORDS * byte * (isa.BYTE_VECTORS - vector), 16)
                                    for vector in range(isa.BYTE_VECTORS)], dst[:2]))
    with m.Elif(held.name_is("QUANT5")):
        m.d.comb += room.eq(Mux(dst[2], isa.SHARED_WORDS * digits5, isa.ACT_WORDS * digits5))
    with m.Else():
        m.d.comb += room.eq(Mux(dst[2], isa.SHARED_WORDS * digits4, isa.ACT_WORDS * digits4))
    return room
