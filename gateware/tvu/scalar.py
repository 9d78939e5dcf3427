"""Scalar unit: add, multiply, maximum, divide and square root on float32 scalar registers."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from .float32 import FloatAdd, float_key, round_pack

__all__ = ["ScalarFunction", "ScalarUnit"]

_QUOTIENT_BITS = 26


class ScalarFunction(enum.Enum, shape=3):
    """What the unit computes."""

    ADD = 0
    MULTIPLY = 1
    DIVIDE = 2
    SQRT = 3
    MAXIMUM = 4


class ScalarUnit(wiring.Component):
    """Computes r from a and b; ``start`` for one cycle, ``done`` for one cycle when r holds the
    result.

    Multiplication and division take two bits per cycle, the square root one; all round correctly.
    Division by zero and the root of a negative number give an infinity.
    """

    def __init__(self) -> None:
        super().__init__({
            "a": In(32), "b": In(32), "function": In(ScalarFunction), "start": In(1),
            "r": Out(32), "done": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.adder = adder = FloatAdd()
        a, b, function = Signal(32), Signal(32), Signal(ScalarFunction)
        m.d.comb += [adder.a.eq(a), adder.b.eq(b)]

        count = Signal(range(64))
        remainder, divisor, triple, root = (Signal(32), Signal(24), Signal(26),
                                            Signal(_QUOTIENT_BITS))
        radicand = Signal(52)
        exponent, sign, zero, bad = Signal(range(-512, 512)), Signal(), Signal(), Signal()
        ma, mb = Cat(a[:23], 1), Cat(b[:23], 1)

        bits = round_pack(m, sign, exponent, root[2:26], root[1], root[0] | (remainder != 0), zero)

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [a.eq(self.a), b.eq(self.b), function.eq(self.function),
                                 count.eq(0)]
                    m.next = "SETUP"
            with m.State("SETUP"):
                m.d.sync += [root.eq(0), count.eq(0)]
                with m.Switch(function):
                    with m.Case(ScalarFunction.ADD, ScalarFunction.MAXIMUM):
                        m.next = "WAIT"
                    with m.Case(ScalarFunction.MULTIPLY):
                        m.d.sync += [
                            remainder.eq(0),
                            radicand.eq(ma), divisor.eq(mb), exponent.eq(a[23:31] + b[23:31] - 127),
                            sign.eq(a[31] ^ b[31]),
                            zero.eq((a[23:31] == 0) | (b[23:31] == 0)), bad.eq(0),
                        ]
                        m.next = "MULTIPLY"
                    with m.Case(ScalarFunction.DIVIDE):
                        less = ma < mb
                        m.d.sync += [
                            remainder.eq(Mux(less, ma << 1, ma)), divisor.eq(mb),
                            triple.eq(mb + (mb << 1)),
                            exponent.eq(a[23:31] - b[23:31] + 127 - less),
                            sign.eq(a[31] ^ b[31]), zero.eq(a[23:31] == 0), bad.eq(b[23:31] == 0),
                        ]
                        m.next = "DIVIDE"
                    with m.Case(ScalarFunction.SQRT):
                        odd = ~a[23]  # the bias is odd
                        m.d.sync += [
                            remainder.eq(0), radicand.eq(Mux(odd, ma << 28, ma << 27)),
                            exponent.eq((a[23:31] + 127) >> 1),
                            sign.eq(a[31]), zero.eq(a[23:31] == 0), bad.eq(a[31] & (a[23:31] != 0)),
                        ]
                        m.next = "SQRT"
            with m.State("WAIT"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == FloatAdd.LATENCY):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
                with m.Switch(function):
                    with m.Case(ScalarFunction.ADD):
                        m.d.comb += self.r.eq(adder.r)
                    with m.Default():
                        m.d.comb += self.r.eq(Mux(float_key(a) >= float_key(b), a, b))
            with m.State("MULTIPLY"):
                # the product's upper part grows in radicand[24:], its lower part moves in below as
                # the factor moves out
                upper = Signal(28)
                m.d.comb += upper.eq(radicand[24:] + Mux(radicand[0], divisor, 0)
                                     + Mux(radicand[1], divisor << 1, 0))
                m.d.sync += [radicand.eq(Cat(radicand[2:24], upper)), count.eq(count + 2)]
                with m.If(count == 22):
                    m.next = "PRODUCT"
            with m.State("PRODUCT"):
                high = radicand[47]
                m.d.sync += [
                    root.eq(Mux(high,
                                Cat(radicand[:23].any(), radicand[23:48]),
                                Cat(radicand[:22].any(), radicand[22:47]))),
                    exponent.eq(exponent + high),
                ]
                m.next = "ROUND"
            with m.State("DIVIDE"):
                # remainder < 2 divisor: the digit is how often divisor goes into 2 remainder, 0 to
                # 3
                doubled = remainder << 1
                rests = [Signal(signed(28), name=f"rest{digit}") for digit in (1, 2, 3)]
                multiples = (divisor, divisor << 1, triple)
                m.d.comb += [rest.eq(doubled - multiple)
                             for multiple, rest in zip(multiples, rests, strict=True)]
                digit, kept = Signal(2), Signal(27)
                m.d.comb += kept.eq(doubled)
                for value, rest in enumerate(rests, 1):
                    with m.If(rest >= 0):
                        m.d.comb += [digit.eq(value), kept.eq(rest)]
                m.d.sync += [root.eq(Cat(digit, root)), remainder.eq(kept << 1),
                             count.eq(count + 2)]
                with m.If(count == _QUOTIENT_BITS - 2):
                    m.next = "ROUND"
            with m.State("SQRT"):
                wider = Cat(radicand[50:52], remainder)[:32]
                trial = Cat(1, 0, root)
                fits = wider >= trial
                m.d.sync += [
                    remainder.eq(Mux(fits, wider - trial, wider)), radicand.eq(radicand << 2),
                    root.eq(Cat(fits, root)), count.eq(count + 1),
                ]
                with m.If(count == _QUOTIENT_BITS - 1):
                    m.next = "ROUND"
            with m.State("ROUND"):
                m.d.sync += a.eq(Mux(bad, Cat(Const(0x7F800000, 31), sign), bits))
                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [self.done.eq(1), self.r.eq(a)]
                m.next = "IDLE"
        return m
