"""Activation buffers: int8 codes of up to four vectors, 160 of them readable at once per vector.

A word holds 32 byte lanes x 5 digits, matching a stream word of base-3 weights: element ``e`` of a vector sits in
byte lane ``e % 32`` at digit ``e % P // 32`` (P = 160 or 128, see ``xtvu.layout``). So eight consecutive codes always
fall into one digit and one quarter of the byte lanes, and every memory column has a fixed place in the row written.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from xtvu.isa import LANES, WORD_BYTES

from .config import TVUConfig

__all__ = ["Activations", "DIGITS"]

DIGITS = 5
_QUARTERS = WORD_BYTES // LANES


class Activations(wiring.Component):
    """One write of 8 codes and one read of whole words per clock.

    Members: ``write_*``: vector, word address, digit and quarter of the byte lanes; ``read_address`` to
    ``read0`` .. ``read3`` (bits ``(digit * 32 + lane) * 8`` on), combinational.
    """

    def __init__(self, config: TVUConfig) -> None:
        self.config = config
        address = range(config.act_depth)
        super().__init__({
            "write_enable": In(1), "write_vector": In(2), "write_address": In(address),
            "write_digit": In(3), "write_quarter": In(2), "write_codes": In(8 * LANES),
            "read_address": In(address),
            **{f"read{v}": Out(8 * DIGITS * WORD_BYTES) for v in range(config.vectors)},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for vector in range(self.config.vectors):
            columns = []
            for digit in range(DIGITS):
                for quarter in range(_QUARTERS):
                    column = memory.Memory(shape=unsigned(8 * LANES), depth=self.config.act_depth, init=[])
                    m.submodules[f"v{vector}d{digit}q{quarter}"] = column
                    write, read = column.write_port(), column.read_port(domain="comb")
                    m.d.comb += [
                        write.addr.eq(self.write_address), write.data.eq(self.write_codes),
                        write.en.eq(self.write_enable & (self.write_vector == vector)
                                    & (self.write_digit == digit) & (self.write_quarter == quarter)),
                        read.addr.eq(self.read_address),
                    ]
                    columns.append(read.data)
            m.d.comb += getattr(self, f"read{vector}").eq(Cat(columns))
        return m
