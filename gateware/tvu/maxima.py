"""Largest element, or largest magnitude, of the rows of a run."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES

from .float32 import float_key

__all__ = ["Maxima"]


class Maxima(wiring.Component):
    """Keeps a maximum per lane and folds them in three steps when a run ends.

    Members: ``start``; ``valid`` while a row is there, its ``last``, ``mask`` and ``values``;
    ``done`` pulses when ``value`` is that of a run; ``busy`` before. ``magnitude`` (signs do not
    count) holds during an operation.
    """

    def __init__(self) -> None:
        super().__init__({
            "start": In(1), "magnitude": In(1), "valid": In(1), "last": In(1), "mask": In(LANES),
            "values": In(32).array(LANES), "done": Out(1), "busy": Out(1), "value": Out(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken, ends, opening = Signal(), Signal(), Signal(init=1)
        keys, kept = ([Signal(32, name=f"key{i}") for i in range(LANES)],
                      [Signal(32, name=f"kept{i}") for i in range(LANES)])
        m.d.sync += [taken.eq(self.valid), ends.eq(self.valid & self.last)]
        for i, value in enumerate(self.values):
            key = float_key(Cat(value[:31], value[31] & ~self.magnitude))
            m.d.sync += keys[i].eq(Mux(self.mask[i], key, 0))
            with m.If(taken & (opening | (keys[i] > kept[i]))):
                m.d.sync += kept[i].eq(keys[i])
        with m.If(self.start):
            m.d.sync += opening.eq(1)
        with m.Elif(taken):
            m.d.sync += opening.eq(ends)
        largest = self._fold(m, kept)
        folds: list[Value] = [self.valid & self.last, ends]
        for step in range(LANES.bit_length()):
            valid = Signal(name=f"fold{step}")
            m.d.sync += valid.eq(folds[-1])
            folds.append(valid)
        m.d.comb += [
            self.done.eq(folds[-1]), self.busy.eq(Cat(folds).any()),
            self.value.eq(Mux(largest[31], largest & 0x7FFFFFFF, ~largest)),
        ]
        return m

    @staticmethod
    def _fold(m: Module, keys: list[Signal]) -> Signal:
        while len(keys) > 1:
            half = len(keys) // 2
            folded = [Signal(32, name=f"folded{half}_{i}") for i in range(half)]
            m.d.sync += [new.eq(Mux(b > a, b, a))
                         for new, a, b in zip(folded, keys[:half], keys[half:], strict=True)]
            keys = folded
        return keys[0]
