"""Scalar operations on their way: they run behind what the sequencer does next, until somebody
needs their results."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu import isa

from .queue import Queue
from .scalar import ScalarFunction

__all__ = ["REGISTER_BITS", "ScalarOperation", "ScalarQueue", "ScalarResult"]

REGISTER_BITS = (isa.SCALARS - 1).bit_length()
_DEPTH = 8


class ScalarOperation(data.Struct):
    """A scalar operation, operands already read."""

    function: ScalarFunction
    target: REGISTER_BITS
    a: 32
    b: 32


class ScalarResult(data.Struct):
    """What goes into register ``target``."""

    target: REGISTER_BITS
    value: 32


class ScalarQueue(wiring.Component):
    """Members: ``operation`` in, ``result`` out, in the same order; ``start`` to ``value`` of the
    scalar unit; ``pending``: the registers whose results are still to come; ``busy`` while there is
    anything."""

    def __init__(self) -> None:
        super().__init__({
            "operation": In(stream.Signature(ScalarOperation)),
            "result": Out(stream.Signature(ScalarResult)),
            "start": Out(1), "function": Out(ScalarFunction), "a": Out(32), "b": Out(32),
            "done": In(1), "value": In(32),
            "pending": Out(isa.SCALARS), "busy": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        operation, result = self.operation, self.result
        m.submodules.queue = queue = Queue(ScalarOperation, depth=_DEPTH)
        wiring.connect(m, wiring.flipped(operation), queue.i)
        following, running = queue.o.payload, Signal()
        m.d.comb += [
            self.start.eq(queue.o.valid & ~running), queue.o.ready.eq(self.start),
            self.function.eq(following.function), self.a.eq(following.a), self.b.eq(following.b),
            self.busy.eq(running | (queue.level != 0)),
        ]
        with m.If(self.start):
            m.d.sync += [running.eq(1), result.payload.target.eq(following.target)]
        with m.If(self.done):
            m.d.sync += [result.valid.eq(1), result.payload.value.eq(self.value)]
        with m.If(result.valid & result.ready):
            m.d.sync += [result.valid.eq(0), running.eq(0),
                         self.pending.bit_select(result.payload.target, 1).eq(0)]
        target = operation.payload.target
        with m.If(operation.valid & operation.ready):
            m.d.sync += self.pending.bit_select(target, 1).eq(target != 0)
        return m
