"""Collector: dot products of eight matrix rows become one scratchpad row per activation vector."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES

from .config import TVUConfig
from .lanes import DotResult

__all__ = ["CollectedRow", "Collector"]


class CollectedRow(data.Struct):
    """Eight int32 for ``vector``; ``mask`` marks the lanes that hold a result, ``last`` the operation's last row."""

    sums: data.ArrayLayout(signed(32), LANES)
    vector: 2
    mask: LANES
    last: 1


class Collector(wiring.Component):
    """Members: ``vectors`` (number minus one, constant during an operation); ``result`` in; ``row`` out.

    The rows of one group of eight leave vector by vector while the next group is gathered.
    """

    def __init__(self, config: TVUConfig) -> None:
        self.config = config
        super().__init__({
            "vectors": In(2), "result": In(stream.Signature(DotResult)), "row": Out(stream.Signature(CollectedRow)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = self.config.vectors
        lane = Signal(range(LANES))
        gathered = [[Signal(signed(32), name=f"gathered{v}_{i}") for i in range(LANES)] for v in range(count)]
        full, final, filled = Signal(), Signal(), Signal(LANES)
        leaving = [[Signal(signed(32), name=f"leaving{v}_{i}") for i in range(LANES)] for v in range(count)]
        busy, vector, final_out, mask_out = Signal(), Signal(2), Signal(), Signal(LANES)

        result = self.result
        move = Signal()
        m.d.comb += [
            result.ready.eq(~full | move),
            move.eq(full & (~busy | (self.row.ready & (vector == self.vectors)))),
        ]
        with m.If(move):
            m.d.sync += [full.eq(0), busy.eq(1), vector.eq(0), final_out.eq(final), mask_out.eq(filled), filled.eq(0)]
            for v in range(count):
                m.d.sync += [leaving[v][i].eq(gathered[v][i]) for i in range(LANES)]
        with m.Elif(busy & self.row.ready):
            m.d.sync += vector.eq(vector + 1)
            with m.If(vector == self.vectors):
                m.d.sync += busy.eq(0)
        with m.If(result.valid & result.ready):
            for i in range(LANES):
                with m.If(lane == i):
                    m.d.sync += [gathered[v][i].eq(result.payload.sums[v]) for v in range(count)]
            m.d.sync += [
                filled.eq(Mux(move, 0, filled) | (1 << lane)), final.eq(result.payload.last),
                full.eq((lane == LANES - 1) | result.payload.last),
                lane.eq(Mux(result.payload.last, 0, lane + 1)),
            ]
        row = self.row.payload
        m.d.comb += [self.row.valid.eq(busy), row.vector.eq(vector), row.mask.eq(mask_out),
                     row.last.eq(final_out & (vector == self.vectors))]
        chosen = Cat(*(Cat(*leaving[v]) for v in range(count))).word_select(vector, 32 * LANES)
        m.d.comb += Cat(row.sums[i] for i in range(LANES)).eq(chosen)
        return m
