"""Activation buffer of one vector: int8 codes, 160 of them readable at once.

A word holds 32 byte lanes x 5 digits, matching a stream word of base-3 weights: element ``e`` of a vector sits in
byte lane ``e % 32`` at digit ``e % P // 32`` (P = 160 or 128, see ``xtvu.layout``). So eight consecutive codes always
fall into one digit and one quarter of the byte lanes, and every memory column has a fixed place in the row written.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES, WORD_BYTES

from .config import TVUConfig

__all__ = ["ActivationWrite", "Activations", "DIGITS"]

DIGITS = 5
_QUARTERS = WORD_BYTES // LANES


class ActivationWrite(wiring.Signature):
    """Writes eight codes: word ``address``, ``digit``, and which ``quarter`` of the byte lanes."""

    def __init__(self, config: TVUConfig) -> None:
        super().__init__({"enable": Out(1), "address": Out(range(config.act_depth)), "digit": Out(3), "quarter": Out(2),
                          "codes": Out(8 * LANES)})


class Activations(wiring.Component):
    """Members: ``write`` (in ``sync``); ``read_address``; what it names can be read with ``code`` a cycle of ``domain`` later."""

    def __init__(self, config: TVUConfig, domain: str) -> None:
        self.config, self.domain = config, domain
        self._columns = [[Signal(8 * LANES, name=f"read{digit}_{quarter}") for quarter in range(_QUARTERS)]
                         for digit in range(DIGITS)]
        super().__init__({"write": In(ActivationWrite(config)), "read_address": In(range(config.act_depth))})

    def code(self, lane: int, digit: int) -> Value:
        """The code of a byte lane and digit in the word read last."""
        return self._columns[digit][lane // LANES].word_select(lane % LANES, 8)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for digit in range(DIGITS):
            for quarter in range(_QUARTERS):
                column = memory.Memory(shape=unsigned(8 * LANES), depth=self.config.act_depth, init=[])
                m.submodules[f"d{digit}q{quarter}"] = column
                write, read = column.write_port(), column.read_port(domain=self.domain)
                m.d.comb += [
                    write.addr.eq(self.write.address), write.data.eq(self.write.codes),
                    write.en.eq(self.write.enable & (self.write.digit == digit) & (self.write.quarter == quarter)),
                    read.addr.eq(self.read_address), self._columns[digit][quarter].eq(read.data),
                ]
        return m
