"""Collector: dot products of eight neighbouring matrix rows become one scratchpad row per
activation vector."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES, VECTORS

from .array import SUM_BITS
from .logic import choose

__all__ = ["CollectedRow", "Collector", "DotResult"]


class DotResult(data.Struct):
    """Dot products of matrix row ``row`` with the activation vectors; ``last`` marks the
    operation's end, which comes without ``data`` after picked rows."""

    sums: data.ArrayLayout(signed(SUM_BITS), VECTORS)
    row: 15
    data: 1
    last: 1


class CollectedRow(data.Struct):
    """Eight integers of row ``index`` for ``vector``; ``mask`` marks the lanes that hold a result,
    ``last`` the operation's last row."""

    sums: data.ArrayLayout(signed(SUM_BITS), LANES)
    index: 12
    vector: 3
    mask: LANES
    last: 1


class Collector(wiring.Component):
    """Members: ``last_vector`` (its number, constant during an operation); ``result`` in; ``row``
    out.

    Results of eight matrix rows are gathered until one of others, or the last one, comes. What was
    gathered leaves vector by vector while the next ones are gathered.
    """

    def __init__(self) -> None:
        super().__init__({
            "last_vector": In(3),
            "result": In(stream.Signature(DotResult)), "row": Out(stream.Signature(CollectedRow)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = VECTORS
        gathered = [[Signal(signed(SUM_BITS), name=f"gathered{v}_{i}", reset_less=True)
                     for i in range(LANES)] for v in range(count)]
        index, filled, final = Signal(12), Signal(LANES), Signal()
        leaving = [[Signal(signed(SUM_BITS), name=f"leaving{v}_{i}", reset_less=True)
                    for i in range(LANES)] for v in range(count)]
        busy, vector, index_out, mask_out, final_out = (Signal(), Signal(3), Signal(12),
                                                        Signal(LANES), Signal())

        result = self.result
        lane, result_index = result.payload.row[:3], result.payload.row[3:]
        elsewhere = result.valid & result.payload.data & (result_index != index)
        move = Signal()
        m.d.comb += [
            move.eq((final
                     | filled[-1]
                     | ((filled != 0)
                        & elsewhere)) & (~busy | (self.row.ready & (vector == self.last_vector)))),
            result.ready.eq(move | (~final & ~filled[-1] & ((filled == 0) | ~elsewhere))),
        ]
        with m.If(move):
            m.d.sync += [
                busy.eq(1), vector.eq(0), final_out.eq(final), mask_out.eq(filled),
                index_out.eq(index), filled.eq(0), final.eq(0),
            ]
            for v in range(count):
                m.d.sync += [leaving[v][i].eq(gathered[v][i]) for i in range(LANES)]
        with m.Elif(busy & self.row.ready):
            m.d.sync += vector.eq(vector + 1)
            with m.If(vector == self.last_vector):
                m.d.sync += busy.eq(0)
        with m.If(result.valid & result.ready):
            m.d.sync += final.eq(result.payload.last)
            with m.If(result.payload.data):
                for i in range(LANES):
                    with m.If(lane == i):
                        m.d.sync += [gathered[v][i].eq(result.payload.sums[v])
                                     for v in range(count)]
                m.d.sync += [filled.eq(Mux(move, 0, filled) | (1 << lane)), index.eq(result_index)]
        row = self.row.payload
        m.d.comb += [self.row.valid.eq(busy), row.vector.eq(vector), row.mask.eq(mask_out),
                     row.index.eq(index_out),
                     row.last.eq(final_out & (vector == self.last_vector))]
        m.d.comb += [row.sums[i].eq(choose([leaving[v][i] for v in range(count)], vector))
                     for i in range(LANES)]
        return m
