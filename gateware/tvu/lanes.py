"""Dot-product lanes: stream words times activations, one int32 per matrix row and vector.

Each of the 32 byte lanes gives, per vector, the sum of five ternary products or one int8 product; an adder tree sums
the lanes and an accumulator the words of a row. All stages are registered and move together when ``advance`` is set.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from xtvu.isa import MODES, WORD_BYTES

from .activations import DIGITS
from .config import TVUConfig
from .unpack import Unpacker

__all__ = ["DotLanes", "DotResult"]

_SUM_BITS = 32


class DotResult(data.Struct):
    """Dot products of one matrix row with the activation vectors; ``last`` marks the operation's last row."""

    sums: data.ArrayLayout(signed(_SUM_BITS), 4)
    last: 1


class DotLanes(wiring.Component):
    """Members: ``start`` latches ``words`` (stream words per row), ``mode``, ``vectors`` (number minus one) and ``rows``;
    ``word`` in; ``read_address`` and ``read0``.. to the activation buffers; ``result`` out, one per row;
    ``hungry`` while words are still to be taken; ``bad`` pulses with ``start`` if words or rows is zero.
    """

    def __init__(self, config: TVUConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1), "words": In(8), "mode": In(2), "vectors": In(2), "rows": In(20),
            "word": In(stream.Signature(256)), "hungry": Out(1),
            "read_address": Out(range(config.act_depth)),
            **{f"read{v}": In(8 * DIGITS * WORD_BYTES) for v in range(config.vectors)},
            "result": Out(stream.Signature(DotResult)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = self.config.vectors
        words, mode, vectors, rows = Signal(8), Signal(2), Signal(2), Signal(20)
        index = Signal(8)
        int8 = mode == MODES["int8"]
        m.d.comb += self.hungry.eq(rows != 0)
        first, final = index == 0, index == words - 1

        advance = Signal()
        take = Signal()
        m.d.comb += [
            take.eq(self.word.valid & self.hungry & advance),
            self.word.ready.eq(self.hungry & advance),
            self.read_address.eq(Mux(int8, index >> 2, index)),
        ]
        with m.If(self.start):
            m.d.sync += [words.eq(self.words), mode.eq(self.mode), vectors.eq(self.vectors), rows.eq(self.rows), index.eq(0)]
        with m.Elif(take):
            m.d.sync += index.eq(Mux(final, 0, index + 1))
            with m.If(final):
                m.d.sync += rows.eq(rows - 1)

        # valid, first word of a row, last word of a row, last row: one bit each, shifted along with the data
        valid, begin, end, last = take, first, final, rows == 1

        def step(*values):
            staged = []
            for value in values:
                register = Signal.like(value)
                m.d.sync += register.eq(Mux(advance, value, register))
                staged.append(register)
            return staged

        used = [Signal(name=f"used{v}") for v in range(count)]
        m.d.comb += [used[v].eq(vectors >= v) for v in range(count)]

        # stage 1: capture
        word1, digit1 = Signal(256), Signal(2)
        acts1 = [Signal(8 * DIGITS * WORD_BYTES, name=f"acts{v}") for v in range(count)]
        with m.If(take):
            m.d.sync += [word1.eq(self.word.payload), digit1.eq(index[:2])]
            for v in range(count):
                with m.If(used[v]):
                    m.d.sync += acts1[v].eq(getattr(self, f"read{v}"))
        valid, begin, end, last = step(valid, begin, end, last)

        # stage 2: unpack
        plus2, minus2 = [], []
        word2 = Signal(256)
        acts2 = [[[Signal(signed(8), name=f"act{v}_{lane}_{d}") for d in range(DIGITS)]
                  for lane in range(WORD_BYTES)] for v in range(count)]
        for lane in range(WORD_BYTES):
            m.submodules[f"unpack{lane}"] = unpacker = Unpacker()
            plus, minus = Signal(DIGITS, name=f"plus{lane}"), Signal(DIGITS, name=f"minus{lane}")
            m.d.comb += [unpacker.byte.eq(word1.word_select(lane, 8)), unpacker.two_bit.eq(mode == MODES["2bit"])]
            with m.If(advance & valid):
                m.d.sync += [plus.eq(unpacker.plus), minus.eq(unpacker.minus)]
            plus2.append(plus)
            minus2.append(minus)
        with m.If(advance & valid):
            m.d.sync += word2.eq(word1)
        for v in range(count):
            with m.If(advance & valid & used[v]):
                for lane in range(WORD_BYTES):
                    codes = [acts1[v].word_select(d * WORD_BYTES + lane, 8) for d in range(DIGITS)]
                    chosen = Cat(codes[:4]).word_select(digit1, 8)
                    for d in range(DIGITS):
                        value = Mux(int8, chosen, codes[0]) if d == 0 else codes[d]
                        m.d.sync += acts2[v][lane][d].eq(value)
        valid, begin, end, last = step(valid, begin, end, last)

        # stage 3: products
        levels = []
        for v in range(count):
            leaves = []
            for lane in range(WORD_BYTES):
                leaf = Signal(signed(16), name=f"leaf{v}_{lane}")
                terms = []
                for d in range(DIGITS):
                    act = acts2[v][lane][d]
                    magnitude = Mux(plus2[lane][d] | minus2[lane][d], act, 0)
                    terms.append(Mux(minus2[lane][d], -magnitude, magnitude))
                product = acts2[v][lane][0] * word2.word_select(lane, 8).as_signed()
                with m.If(advance & valid & used[v]):
                    m.d.sync += leaf.eq(Mux(int8, product, sum(terms[1:], terms[0])))
                leaves.append(leaf)
            levels.append(leaves)
        valid, begin, end, last = step(valid, begin, end, last)

        # stages 4 to 8: tree
        while len(levels[0]) > 1:
            for v in range(count):
                summed = []
                for i in range(0, len(levels[v]), 2):
                    total = Signal(signed(len(levels[v][0]) + 1), name=f"tree{v}")
                    with m.If(advance & valid & used[v]):
                        m.d.sync += total.eq(levels[v][i] + levels[v][i + 1])
                    summed.append(total)
                levels[v] = summed
            valid, begin, end, last = step(valid, begin, end, last)

        # stage 9: accumulate over the words of a row
        for v in range(count):
            total = Signal(signed(_SUM_BITS), name=f"total{v}")
            with m.If(advance & valid & used[v]):
                m.d.sync += total.eq(Mux(begin, 0, total) + levels[v][0])
            m.d.comb += self.result.payload.sums[v].eq(total)
        complete, last = step(valid & end, last)
        m.d.comb += [
            self.result.valid.eq(complete), self.result.payload.last.eq(last),
            advance.eq(~complete | self.result.ready),
        ]
        return m
