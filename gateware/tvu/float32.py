"""Pipelined float32 arithmetic with the rounding and flushing of ``xtvu.semantics``.

Every unit takes operands each cycle and gives the result ``LATENCY`` cycles later; none stalls.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.hdl._ast import Value  # the base class has no public home in Amaranth 0.5
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .logic import delay, leading_zeros

__all__ = [
    "FloatAdd", "FloatMultiply", "FloatToInt8", "IntToFloat",
    "float_key", "is_infinite", "round_pack",
]

_FACTOR_BITS = 17  # of a number without sign that a DSP slice multiplies by one of 24 bits


def _data(shape: object, name: str) -> Signal:
    """A register that needs no reset: what is valid stands beside it."""
    return Signal(shape, name=name, reset_less=True)


def is_infinite(bits: Value) -> Value:
    """Whether a float32 is infinite or no number."""
    return bits[23:31] == 255


def float_key(bits: Value) -> Value:
    """Unsigned 32-bit key in the order of the float32 values, -0 below +0."""
    return Mux(bits[31], ~bits, bits | 0x80000000)[:32]


def round_pack(m: Module, sign: Value, exponent: Value, mantissa: Value, guard: Value,
               sticky: Value,
               zero: Value) -> Signal:
    """Rounds to nearest even and packs. ``exponent`` is signed and biased, ``mantissa`` has its
    leading one.

    Combinational. An exponent below 1 flushes to zero before rounding; one above 254 gives an
    infinity.
    """
    bits, rounded = Signal(32, name="rounded_bits"), Signal(31, name="rounded")
    # A carry out of the mantissa leaves zeros there and goes where it belongs, into the exponent,
    # which 255 makes an infinity.
    m.d.comb += rounded.eq(Cat(mantissa[:23], exponent[:8]) + (guard & (sticky | mantissa[0])))
    with m.If(zero | (exponent < 1)):
        m.d.comb += bits.eq(Cat(Const(0, 31), sign))
    with m.Elif(exponent >= 255):
        m.d.comb += bits.eq(Cat(Const(0, 23), Const(255, 8), sign))
    with m.Else():
        m.d.comb += bits.eq(Cat(rounded, sign))
    return bits


class FloatMultiply(wiring.Component):
    """r = a * b.

    The mantissas' product takes two DSP slices, by the lower 17 bits of b's and by the rest, with a
    register at their inputs, behind their multipliers and at their outputs (A, M and P of UG479),
    so that no path holds more than one of them.
    """

    LATENCY = 6

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "r": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = self.a, self.b
        a_zero, b_zero = a[23:31] == 0, b[23:31] == 0
        ma = delay(m, Mux(a_zero, 0, Cat(a[:23], 1))[:24], 1)
        mb = delay(m, Mux(b_zero, 0, Cat(b[:23], 1))[:24], 1)
        lower = delay(m, ma * mb[:_FACTOR_BITS], 2)
        upper = delay(m, delay(m, ma, 1) * delay(m, mb[_FACTOR_BITS:], 1), 1)
        product = Cat(delay(m,
                            lower[:_FACTOR_BITS],
                            1), delay(m, (upper + lower[_FACTOR_BITS:])[:48 - _FACTOR_BITS], 1))
        exponent = delay(m, (a[23:31] + b[23:31])[:9], 4)
        sign = delay(m, a[31] ^ b[31], 5)
        zero = delay(m, a_zero | b_zero, 5)

        high = product[47]
        mantissa = delay(m, Mux(high, product[24:48], product[23:47]), 1)
        guard = delay(m, Mux(high, product[23], product[22]), 1)
        sticky = delay(m, product[:22].any() | (high & product[22]), 1)
        biased = _data(range(-256, 512), "biased")
        m.d.sync += biased.eq(exponent + high - 127)
        m.d.comb += self.r.eq(delay(m, round_pack(m, sign, biased, mantissa, guard, sticky, zero),
                                    1))
        return m


class FloatAdd(wiring.Component):
    """r = a + b."""

    LATENCY = 7

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "r": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = delay(m, self.a, 1), delay(m, self.b, 1)
        a_zero, b_zero = a[23:31] == 0, b[23:31] == 0
        a_key = Mux(a_zero, 0, a[:31])
        b_key = Mux(b_zero, 0, b[:31])
        swap = a_key < b_key

        big, small = _data(24, "big"), _data(24, "small")
        big_exponent, distance = _data(8, "big_exponent"), _data(8, "distance")
        big_sign, subtract, both_negative = (_data(1, "big_sign"), _data(1, "subtract"),
                                             _data(1, "both_negative"))
        ma = Mux(a_zero, 0, Cat(a[:23], 1))
        mb = Mux(b_zero, 0, Cat(b[:23], 1))
        m.d.sync += [
            big.eq(Mux(swap, mb, ma)), small.eq(Mux(swap, ma, mb)),
            big_exponent.eq(Mux(swap, b[23:31], a[23:31])),
            distance.eq(Mux(swap, b[23:31] - a[23:31], a[23:31] - b[23:31])),
            big_sign.eq(Mux(swap, b[31], a[31])),
            subtract.eq(a[31] ^ b[31]), both_negative.eq(a[31] & b[31]),
        ]

        shifted, big2, subtract2 = _data(27, "shifted"), _data(24, "big2"), _data(1, "subtract2")
        wide = Signal(54)
        amount = Signal(5)
        m.d.comb += [
            amount.eq(Mux(distance > 27, 27, distance)),
            wide.eq(Cat(Const(0, 30), small) >> amount),
        ]
        m.d.sync += [
            shifted.eq(Cat(wide[:28].any(), wide[28:54])),
            big2.eq(big), subtract2.eq(subtract),
        ]

        total, total2 = _data(28, "total"), _data(28, "total2")
        extended = Cat(Const(0, 3), big2)
        m.d.sync += total.eq(Mux(subtract2, extended - shifted, extended + shifted))

        zeros = _data(range(29), "zeros")
        m.d.sync += [zeros.eq(leading_zeros(m, total)), total2.eq(total)]

        exponent = delay(m, big_exponent, 3)
        normal = _data(28, "normal")
        biased = _data(range(-64, 512), "biased")
        nothing = _data(1, "nothing")
        m.d.sync += [
            normal.eq(total2 << zeros[:5]),
            biased.eq(exponent + 1 - zeros),
            nothing.eq(total2 == 0),
        ]
        # An exact cancellation is +0; a sum of zeros is -0 only if both are.
        sign = Mux(nothing, delay(m, both_negative, 4), delay(m, big_sign, 4))
        bits = round_pack(m, sign, biased, normal[4:28], normal[3], normal[:3].any(), nothing)
        m.d.comb += self.r.eq(delay(m, bits, 1))
        return m


class IntToFloat(wiring.Component):
    """r = float(a), a a signed integer of ``WIDTH`` bits."""

    LATENCY, WIDTH = 4, 28

    def __init__(self) -> None:
        super().__init__({"a": In(self.WIDTH), "r": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        magnitude, magnitude2 = _data(self.WIDTH, "magnitude"), _data(self.WIDTH, "magnitude2")
        zeros = _data(range(self.WIDTH + 1), "zeros")
        m.d.sync += [
            magnitude.eq(Mux(self.a[-1], -self.a, self.a)),
            magnitude2.eq(magnitude),
            zeros.eq(leading_zeros(m, magnitude)),
        ]
        sign = delay(m, self.a[-1], 2)
        normal = _data(self.WIDTH, "normal")
        biased = _data(range(-1, 256), "biased")
        nothing = _data(1, "nothing")
        m.d.sync += [normal.eq(magnitude2 << zeros[:5]), biased.eq(126 + self.WIDTH - zeros),
                     nothing.eq(magnitude2 == 0)]
        bits = round_pack(m, delay(m, sign, 1), biased, normal[-24:], normal[-25],
                          normal[:-25].any(), nothing)
        m.d.comb += self.r.eq(delay(m, bits, 1))
        return m


class FloatToInt8(wiring.Component):
    """r = clamp(round_half_even(a), -127, 127)."""

    LATENCY = 2

    def __init__(self) -> None:
        super().__init__({"a": In(32), "r": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = self.a
        exponent = a[23:31]
        fixed = _data(33, "fixed")  # 9 integer bits, 24 fraction bits
        large, sign, r = _data(1, "large"), _data(1, "sign"), _data(8, "r")
        m.d.sync += [sign.eq(a[31]), large.eq(exponent >= 127 + 8)]
        with m.If(exponent < 126):
            m.d.sync += fixed.eq(0)
        with m.Else():
            m.d.sync += fixed.eq(Cat(a[:23], 1) << (exponent - 126)[:4])
        magnitude = Signal(9)
        m.d.comb += magnitude.eq(fixed[24:33] + (fixed[23] & (fixed[:23].any() | fixed[24])))
        with m.If(sign):
            m.d.sync += r.eq(Mux(large | (magnitude > 127), 0x81, (-magnitude)[:8]))
        with m.Else():
            m.d.sync += r.eq(Mux(large | (magnitude > 127), 0x7F, magnitude[:8]))
        m.d.comb += self.r.eq(r)
        return m
