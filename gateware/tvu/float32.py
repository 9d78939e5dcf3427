"""Pipelined float32 arithmetic with the rounding and flushing of ``xtvu.semantics``.

Every unit takes operands each cycle and gives the result ``LATENCY`` cycles later; none stalls.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.hdl._ast import Value  # the base class has no public home in Amaranth 0.5
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from xtvu import semantics

__all__ = [
    "FloatAdd", "FloatExp2", "FloatMultiply", "FloatToInt8", "IntToFloat", "choose", "delay", "float_key", "leading_zeros", "round_pack",
]


def delay(m: Module, value: Value, cycles: int, domain: str = "sync") -> Value:
    """``value``, ``cycles`` cycles later. Without reset, so that it can become shift-register LUTs."""
    for _ in range(cycles):
        stage = Signal.like(value, name="delay", reset_less=True)
        m.d[domain] += stage.eq(value)
        value = stage
    return value


def choose(values: Sequence[Value], index: Value) -> Value:
    """``values[index]`` as a tree of two-to-one multiplexers, which map better than what an Array becomes."""
    if len(values) == 1:
        return values[0]
    half = 1 << (len(values) - 1).bit_length() - 1
    bit = half.bit_length() - 1
    return Mux(index[bit], choose(values[half:], index[:bit]), choose(values[:half], index[:bit]))


def leading_zeros(m: Module, value: Value) -> Signal:
    """Number of zero bits above the highest one of ``value``; its width if it is zero. Combinational."""
    width = len(value)
    count = Signal(range(width + 1), name="leading_zeros")
    m.d.comb += count.eq(width)
    for bit in range(width):
        with m.If(value[bit]):
            m.d.comb += count.eq(width - 1 - bit)
    return count


def float_key(bits: Value) -> Value:
    """Unsigned 32-bit key in the order of the float32 values, -0 below +0."""
    return Mux(bits[31], ~bits, bits | 0x80000000)[:32]


def round_pack(m: Module, sign: Value, exponent: Value, mantissa: Value, guard: Value, sticky: Value,
               zero: Value) -> Signal:
    """Rounds to nearest even and packs. ``exponent`` is signed and biased, ``mantissa`` has its leading one.

    Combinational. An exponent below 1 flushes to zero before rounding; one above 254 gives an infinity.
    """
    bits, rounded = Signal(32, name="rounded_bits"), Signal(31, name="rounded")
    # A carry out of the mantissa leaves zeros there and goes where it belongs, into the exponent, which 255 makes an infinity.
    m.d.comb += rounded.eq(Cat(mantissa[:23], exponent[:8]) + (guard & (sticky | mantissa[0])))
    with m.If(zero | (exponent < 1)):
        m.d.comb += bits.eq(Cat(Const(0, 31), sign))
    with m.Elif(exponent >= 255):
        m.d.comb += bits.eq(Cat(Const(0, 23), Const(255, 8), sign))
    with m.Else():
        m.d.comb += bits.eq(Cat(rounded, sign))
    return bits


class FloatMultiply(wiring.Component):
    """r = a * b."""

    LATENCY = 4

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "r": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = self.a, self.b
        product, product2 = Signal(48), Signal(48)
        exponent, exponent2 = Signal(9), Signal(9)
        ma = Mux(a[23:31] != 0, Cat(a[:23], 1), 0)
        mb = Mux(b[23:31] != 0, Cat(b[:23], 1), 0)
        m.d.sync += [
            product.eq(ma[:24] * mb[:24]), product2.eq(product),
            exponent.eq(a[23:31] + b[23:31]), exponent2.eq(exponent),
        ]
        sign = delay(m, a[31] ^ b[31], 3)
        zero = delay(m, (a[23:31] == 0) | (b[23:31] == 0), 3)

        mantissa, guard, sticky = Signal(24), Signal(), Signal()
        biased = Signal(range(-256, 512))
        high = product2[47]
        m.d.sync += [
            mantissa.eq(Mux(high, product2[24:48], product2[23:47])),
            guard.eq(Mux(high, product2[23], product2[22])),
            sticky.eq(product2[:22].any() | (high & product2[22])),
            biased.eq(exponent2 + high - 127),
        ]
        bits = round_pack(m, sign, biased, mantissa, guard, sticky, zero)
        m.d.sync += self.r.eq(bits)
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

        big, small = Signal(24), Signal(24)
        big_exponent, distance = Signal(8), Signal(8)
        big_sign, subtract, both_negative = Signal(), Signal(), Signal()
        ma = Mux(a_zero, 0, Cat(a[:23], 1))
        mb = Mux(b_zero, 0, Cat(b[:23], 1))
        m.d.sync += [
            big.eq(Mux(swap, mb, ma)), small.eq(Mux(swap, ma, mb)),
            big_exponent.eq(Mux(swap, b[23:31], a[23:31])),
            distance.eq(Mux(swap, b[23:31] - a[23:31], a[23:31] - b[23:31])),
            big_sign.eq(Mux(swap, b[31], a[31])),
            subtract.eq(a[31] ^ b[31]), both_negative.eq(a[31] & b[31]),
        ]

        shifted, big2, subtract2 = Signal(27), Signal(24), Signal()
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

        total, total2 = Signal(28), Signal(28)
        extended = Cat(Const(0, 3), big2)
        m.d.sync += total.eq(Mux(subtract2, extended - shifted, extended + shifted))

        zeros = Signal(range(29))
        m.d.sync += [zeros.eq(leading_zeros(m, total)), total2.eq(total)]

        exponent = delay(m, big_exponent, 3)
        normal = Signal(28)
        biased = Signal(range(-64, 512))
        nothing = Signal()
        m.d.sync += [
            normal.eq(total2 << zeros[:5]),
            biased.eq(exponent + 1 - zeros),
            nothing.eq(total2 == 0),
        ]
        # An exact cancellation is +0; a sum of zeros is -0 only if both are.
        sign = Mux(nothing, delay(m, both_negative, 4), delay(m, big_sign, 4))
        bits = round_pack(m, sign, biased, normal[4:28], normal[3], normal[:3].any(), nothing)
        m.d.sync += self.r.eq(bits)
        return m


class IntToFloat(wiring.Component):
    """r = float(a), a a signed integer of ``WIDTH`` bits."""

    LATENCY, WIDTH = 4, 28

    def __init__(self) -> None:
        super().__init__({"a": In(self.WIDTH), "r": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        magnitude, magnitude2 = Signal(self.WIDTH), Signal(self.WIDTH)
        zeros = Signal(range(self.WIDTH + 1))
        m.d.sync += [
            magnitude.eq(Mux(self.a[-1], -self.a, self.a)),
            magnitude2.eq(magnitude),
            zeros.eq(leading_zeros(m, magnitude)),
        ]
        sign = delay(m, self.a[-1], 2)
        normal = Signal(self.WIDTH)
        biased = Signal(range(-1, 256))
        nothing = Signal()
        m.d.sync += [normal.eq(magnitude2 << zeros[:5]), biased.eq(126 + self.WIDTH - zeros), nothing.eq(magnitude2 == 0)]
        bits = round_pack(m, delay(m, sign, 1), biased, normal[-24:], normal[-25], normal[:-25].any(), nothing)
        m.d.sync += self.r.eq(bits)
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
        fixed = Signal(33)  # 9 integer bits, 24 fraction bits
        large, sign = Signal(), Signal()
        m.d.sync += [sign.eq(a[31]), large.eq(exponent >= 127 + 8)]
        with m.If(exponent < 126):
            m.d.sync += fixed.eq(0)
        with m.Else():
            m.d.sync += fixed.eq(Cat(a[:23], 1) << (exponent - 126)[:4])
        magnitude = Signal(9)
        m.d.comb += magnitude.eq(fixed[24:33] + (fixed[23] & (fixed[:23].any() | fixed[24])))
        with m.If(sign):
            m.d.sync += self.r.eq(Mux(large | (magnitude > 127), 0x81, (-magnitude)[:8]))
        with m.Else():
            m.d.sync += self.r.eq(Mux(large | (magnitude > 127), 0x7F, magnitude[:8]))
        return m


class FloatExp2(wiring.Component):
    """r = 2^a by table and linear interpolation (``semantics.exp2``)."""

    LATENCY = 4

    def __init__(self) -> None:
        super().__init__({"a": In(32), "r": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = [int(value) | int(slope) << 23
                for value, slope in zip(semantics.EXP2_TABLE, semantics.EXP2_SLOPE, strict=True)]
        m.submodules.table = table = memory.Memory(shape=unsigned(40), depth=len(rows), init=rows)
        port = table.read_port(domain="comb")

        exponent = self.a[23:31]
        wide = Signal(52)  # 26 integer bits of |t| * 2^16, then what the shift pushed out
        amount = Signal(8)
        m.d.comb += [
            amount.eq(136 - exponent),
            wide.eq(Cat(Const(0, 28), self.a[:23], 1) >> Mux(exponent < 136 - 27, 27, amount)[:5]),
        ]
        magnitude, lost, sign, huge = Signal(26), Signal(), Signal(), Signal()
        m.d.sync += [
            magnitude.eq(Mux(exponent == 0, 0, wide[26:52])),
            lost.eq((exponent != 0) & wide[:26].any()),
            sign.eq(self.a[31]), huge.eq(exponent > 136),
        ]

        fixed = Signal(27)
        m.d.comb += fixed.eq(Mux(sign, -(magnitude + lost), magnitude))  # floor, also below zero
        m.d.comb += port.addr.eq(fixed[9:16])
        value, slope, rest = Signal(23), Signal(17), Signal(9)
        power = Signal(range(-1024, 1024))
        m.d.sync += [
            Cat(value, slope).eq(port.data), rest.eq(fixed[:9]),
            power.eq(fixed[16:27].as_signed()),
        ]
        limit, below = delay(m, huge, 1), delay(m, sign, 1)
        fraction, biased, infinite, zero = Signal(23), Signal(range(-1024, 2048)), Signal(), Signal()
        m.d.sync += [
            fraction.eq(value + (slope * rest >> 9)),
            biased.eq(power + 127), infinite.eq(limit & ~below), zero.eq(limit & below),
        ]
        m.d.sync += self.r.eq(Cat(fraction, biased[:8], Const(0, 1)))
        with m.If(infinite | (~zero & (biased > 254))):
            m.d.sync += self.r.eq(0x7F800000)
        with m.Elif(zero | (biased < 1)):
            m.d.sync += self.r.eq(0)
        return m
