"""Functions by table and linear interpolation, of all lanes: 2^a and the logistic function."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from xtvu import semantics
from xtvu.isa import LANES

from .logic import choose, delay

__all__ = ["FloatLookup", "Lookups"]

_ADDRESS_BITS = semantics.SIGMOID_BITS + 1
_VALUE_BITS, _SLOPE_BITS, _REST_BITS = 23, 17, 12
# The coarse table of the logistic function begins where the fine one ends, so its first quarter is
# free; the powers of two lie there.
_COARSE = 1 << semantics.SIGMOID_BITS
_COARSE_USED = _COARSE // 4
_SATURATES = 24  # bit of |a| * 2^20 from which on the logistic function is 0 or 1


def _entries() -> list[int]:
    """Value and slope of each entry."""
    fine, coarse = (list(zip(values.tolist(), slopes.tolist(), strict=True))
                    for values, slopes in zip(semantics.SIGMOID_TABLE, semantics.SIGMOID_SLOPE,
                                              strict=True))
    powers = zip(semantics.EXP2_TABLE.tolist(), semantics.EXP2_SLOPE.tolist(), strict=True)
    rows = fine + coarse
    for place, row in enumerate(powers, _COARSE):
        rows[place] = row
    return [value | slope << _VALUE_BITS if place < _COARSE + 2**semantics.EXP2_BITS
            or place >= _COARSE + _COARSE_USED else 0
            for place, (value, slope) in enumerate(rows)]


class FloatLookup(wiring.Component):
    """r = 2^a (``semantics.exp2``), or with ``sigmoid``, which holds during an operation, the
    integer of ``semantics.sigmoid``. ``entry`` of the tables is that of the last cycle's
    ``address``."""

    LATENCY = 6

    def __init__(self) -> None:
        super().__init__({
            "a": In(32), "sigmoid": In(1), "r": Out(31),
            "address": Out(_ADDRESS_BITS), "entry": In(_VALUE_BITS + _SLOPE_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sigmoid = self.sigmoid
        exponent = self.a[23:31]
        wide = Signal(52)  # 26 bits of |a| * 2^16 or, for sigmoid, 2^20; then what is pushed out
        one = Mux(sigmoid, 132, 136)  # exponent from which on nothing is pushed out
        tiny = exponent < (one - 27)[:8]  # all of it is
        # by one - exponent, as a table: faster than a subtraction
        amount = choose([Const((136 - 4 * s - low) % 32, 5) for s in range(2) for low in range(32)],
                        Cat(exponent[:5], sigmoid))
        m.d.comb += wide.eq(Cat(Const(0, 28), self.a[:23], 1) >> amount)
        # ``lost``: whether what was pushed out has a one, four bits of it each
        magnitude, lost, sign, huge = (self._data(26, "magnitude"), self._data(7, "lost"),
                                       self._data(1, "sign"), self._data(1, "huge"))
        m.d.sync += [
            magnitude.eq(Mux(tiny, 0, wide[26:52])),
            lost.eq(Cat((exponent != 0) & (tiny | wide[:26][i:i + 4].any())
                        for i in range(0, 26, 4))),
            sign.eq(self.a[31]), huge.eq(exponent > one),
        ]
        fixed = self._data(27, "fixed")
        # For powers floor, also below zero: -(magnitude + lost), in one addition.
        negate = sign & ~sigmoid
        m.d.sync += fixed.eq((magnitude ^ negate.replicate(27)) + (negate & ~lost.any()))
        rest = self._look_up(m, fixed)
        value, slope = self.entry[:_VALUE_BITS], self.entry[_VALUE_BITS:]
        limit = delay(m, delay(m, huge, 1) | (sigmoid & fixed[_SATURATES:26].any()), 1)
        power = self._data(range(-1024, 1024), "power")
        m.d.sync += power.eq(fixed[16:27].as_signed())
        product = delay(m, slope * rest, 1)
        self._result(m, delay(m, value, 1) + (product >> _REST_BITS), delay(m, power, 1),
                     delay(m, limit, 1), delay(m, sign, 3))
        return m

    @staticmethod
    def _data(shape: object, name: str) -> Signal:
        return Signal(shape, name=name, reset_less=True)

    def _look_up(self, m: Module, fixed: Signal) -> Signal:
        """The address of an entry and, a cycle later, how far behind it ``fixed`` lies."""
        bits = semantics.SIGMOID_BITS
        coarse = fixed[22:26].any()  # from 4 on
        rest = self._data(_REST_BITS, "rest")
        with m.If(~self.sigmoid):
            m.d.comb += self.address.eq(Cat(fixed[9:16], Const(0, bits - 7), Const(1, 1)))
            m.d.sync += rest.eq(Cat(Const(0, 3), fixed[:9]))
        with m.Elif(coarse):
            m.d.comb += self.address.eq(Cat(fixed[14:14 + bits], Const(1, 1)))
            m.d.sync += rest.eq(fixed[2:14])
        with m.Else():
            m.d.comb += self.address.eq(fixed[12:12 + bits])
            m.d.sync += rest.eq(fixed[:12])
        return rest

    def _result(self, m: Module, sum_: object, power: object, limit: object,
                negative: object) -> None:
        fraction = self._data(_VALUE_BITS, "fraction")
        biased = self._data(range(-1024, 2048), "biased")
        top, bottom, complement = (self._data(1, "top"), self._data(1, "bottom"),
                                   self._data(1, "complement"))
        m.d.sync += [
            fraction.eq(sum_), biased.eq(power + 127),
            top.eq(limit & ~negative), bottom.eq(limit & negative),
            complement.eq(self.sigmoid & negative),
        ]
        r = self._data(31, "r")
        powers = ~self.sigmoid
        m.d.sync += r.eq(Cat(((fraction ^ complement.replicate(23)) + complement)[:23],
                             biased[:8] & powers.replicate(8)))
        with m.If(top | (powers & ~bottom & (biased > 254))):
            m.d.sync += r.eq(Cat(Const(0, 23), Const(1, 1), powers.replicate(7)))
        with m.Elif(bottom | (powers & (biased < 1))):
            m.d.sync += r.eq(0)
        m.d.comb += self.r.eq(r)


class Lookups(wiring.Component):
    """The function of ``a`` of every lane, in four units: the lower lanes of a row first, the upper
    ones in the next cycle. ``valid``: a row is there. Two units share the ports of a memory."""

    LATENCY = FloatLookup.LATENCY + 1

    def __init__(self) -> None:
        super().__init__({"valid": In(1), "sigmoid": In(1), "a": In(32).array(LANES),
                          "r": Out(32).array(LANES)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        half, rows = LANES // 2, _entries()
        for i in range(half):
            if i % 2 == 0:
                m.submodules[f"table{i // 2}"] = table = memory.Memory(
                    shape=unsigned(_VALUE_BITS + _SLOPE_BITS), depth=len(rows), init=rows)
            port = table.read_port()
            m.submodules[f"unit{i}"] = unit = FloatLookup()
            m.d.comb += [
                port.addr.eq(unit.address), unit.entry.eq(port.data),
                unit.sigmoid.eq(self.sigmoid),
                unit.a.eq(Mux(self.valid, self.a[i], delay(m, self.a[i + half], 1))),
                self.r[i].eq(delay(m, unit.r, 1)), self.r[i + half].eq(unit.r),
            ]
        return m
