"""One float32 lane of the vector unit."""

from __future__ import annotations

from amaranth.hdl import C, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .float32 import FloatAdd, FloatMultiply, FloatToInt8, IntToFloat
from .logic import delay
from .lookup import Lookups
from .operation import Add, Factor

__all__ = ["ADDED", "ADDS", "LATENCY", "Lane", "MULTIPLIES", "OPERANDS", "SCALES"]

# Cycles after a row was issued.
OPERANDS = 2  # its operands are there
SCALES = OPERANDS + IntToFloat.LATENCY  # it is multiplied by the scalar factor
MULTIPLIES = SCALES + FloatMultiply.LATENCY  # by the other one
ADDS = MULTIPLIES + FloatMultiply.LATENCY
ADDED = ADDS + FloatAdd.LATENCY
_POST = Lookups.LATENCY
LATENCY = ADDED + _POST  # its result is there
_ONE, _MINUS_ZERO = 0x3F800000, 0x80000000


class Lane(wiring.Component):
    """Members: operands ``a`` (float32, or an ``integer`` of IntToFloat.WIDTH bits) and ``b``, in
    cycle OPERANDS of a row; the scalar ``scale`` in cycle SCALES; ``scalar`` (the other summand, if
    it is not b) in cycle ADDS, when ``product`` and ``summand`` are there; ``augend`` and
    ``addend``, which the adder gets then; ``total``, what it gives in cycle ADDED; ``found`` for it
    in a table, and ``r``, in cycle LATENCY. ``scaled`` in cycle MULTIPLIES is for those who check.

    ``relu`` makes what is negative after the scalar factor zero; ``factor`` and ``add`` choose the
    other operands; ``codes`` and ``lookup`` what becomes of the sum. They hold during an operation.
    """

    def __init__(self) -> None:
        super().__init__({
            "a": In(32), "b": In(32), "integer": In(1), "scale": In(32), "scalar": In(32),
            "relu": In(1), "factor": In(Factor), "add": In(Add), "codes": In(1), "lookup": In(1),
            "scaled": Out(32), "product": Out(32), "summand": Out(32),
            "augend": In(32), "addend": In(32), "total": Out(32),
            "found": In(32), "r": Out(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.int_to_float = int_to_float = IntToFloat()
        m.submodules.scale = scale = FloatMultiply()
        m.submodules.multiply = multiply = FloatMultiply()
        m.submodules.add = add = FloatAdd()
        m.submodules.to_int8 = to_int8 = FloatToInt8()
        m.d.comb += [
            int_to_float.a.eq(self.a[:IntToFloat.WIDTH]),
            scale.a.eq(Mux(self.integer, int_to_float.r, delay(m, self.a, IntToFloat.LATENCY))),
            scale.b.eq(self.scale), self.scaled.eq(scale.r),
        ]
        x = Signal(32)
        b_multiply = delay(m, self.b, IntToFloat.LATENCY + FloatMultiply.LATENCY)
        b_add = delay(m, b_multiply, FloatMultiply.LATENCY)
        m.d.comb += [
            x.eq(Mux(self.relu & scale.r[31], 0, scale.r)), multiply.a.eq(x),
            multiply.b.eq(Mux(self.factor == Factor.NONE, _ONE,
                              Mux(self.factor == Factor.SELF, x, b_multiply))),
            self.product.eq(multiply.r),
            self.summand.eq(Mux(self.add == Add.B, b_add, self.scalar)),
            add.a.eq(self.augend), add.b.eq(self.addend), self.total.eq(add.r),
            to_int8.a.eq(add.r),
        ]
        code = delay(m, to_int8.r, _POST - FloatToInt8.LATENCY)
        m.d.comb += self.r.eq(Mux(self.codes, code,
                                  Mux(self.lookup, self.found, delay(m, add.r, _POST))))
        return m

    @staticmethod
    def scale_of(applies: Value, factor: Value) -> Value:
        """The scalar factor of an operation that may have none."""
        return Mux(applies, factor, _ONE)

    @staticmethod
    def scalar_of(add: Value, addend: Value) -> Value:
        """The scalar summand: minus ``addend``, or nothing, which is minus zero."""
        return Mux(add == Add.SCALAR, addend ^ C(_MINUS_ZERO, 32), _MINUS_ZERO)
