"""Dot-product lanes: stream words times activations, one int32 per matrix row and vector.

Each of the 32 byte lanes gives, per vector, the sum of five ternary products or one int8 product; an adder tree sums
the lanes and an accumulator the words of a row. The pipeline never stalls: a word is taken only if the row that it ends
is sure to find room in the result queue.

The data path stands in two clock domains besides ``sync``: ``dot`` (unpackers and vector 0) and ``dotx`` (the other
vectors). On hardware all three are the same clock; the simulation stops those that have nothing to do, which is most of
its time.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import MODES, WORD_BYTES

from .activations import DIGITS, Activations, ActivationWrite
from .config import TVUConfig
from .float32 import delay
from .unpack import Unpacker

__all__ = ["DotLanes", "DotResult", "VectorLanes"]

_SUM_BITS = 32
_RESULTS = 16
_TREE_LEVELS = WORD_BYTES.bit_length() - 1
_LATENCY = 3 + _TREE_LEVELS + 1  # memory read and unpacking, products, tree, accumulator


class DotResult(data.Struct):
    """Dot products of one matrix row with the activation vectors; ``last`` marks the operation's last row."""

    sums: data.ArrayLayout(signed(_SUM_BITS), 4)
    last: 1


class VectorLanes(wiring.Component):
    """One activation vector: its buffer, 32 lanes, tree and accumulator, all in clock domain ``domain``.

    Members: ``write``; ``read_address`` at cycle 0; ``digit`` (which digit an int8 word multiplies) and ``int8`` at cycle 1;
    ``plus``, ``minus`` (5 bits per lane) and ``word`` at cycle 2;
    ``valid`` and ``first`` (word of a row) at the last cycle before ``total``.
    """

    def __init__(self, config: TVUConfig, domain: str) -> None:
        self.config, self.domain = config, domain
        super().__init__({
            "write": In(ActivationWrite(config)), "read_address": In(range(config.act_depth)), "digit": In(2), "int8": In(1),
            "plus": In(DIGITS * WORD_BYTES), "minus": In(DIGITS * WORD_BYTES), "word": In(8 * WORD_BYTES),
            "valid": In(1), "first": In(1), "total": Out(signed(_SUM_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        d = m.d[self.domain]
        m.submodules.activations = activations = Activations(self.config, self.domain)
        wiring.connect(m, activations.write, wiring.flipped(self.write))
        m.d.comb += activations.read_address.eq(self.read_address)

        # The buffer's output register is cycle 1; cycle 2 holds one code per lane and digit.
        int8 = Signal()
        d += int8.eq(self.int8)
        leaves = []
        for lane in range(WORD_BYTES):
            codes = [Signal(signed(8), name=f"code{lane}_{digit}") for digit in range(DIGITS)]
            read = [activations.code(lane, digit) for digit in range(DIGITS)]
            d += codes[0].eq(Mux(self.int8, Cat(read[:4]).word_select(self.digit, 8), read[0]))
            d += [codes[digit].eq(read[digit]) for digit in range(1, DIGITS)]

            terms = []
            for digit, code in enumerate(codes):
                bit = lane * DIGITS + digit
                terms.append(Mux(self.plus[bit], code, Mux(self.minus[bit], -code, 0)))
            product = codes[0] * self.word.word_select(lane, 8).as_signed()
            leaf = Signal(signed(16), name=f"leaf{lane}")
            d += leaf.eq(Mux(int8, product, sum(terms[1:], terms[0])))
            leaves.append(leaf)
        while len(leaves) > 1:
            summed = []
            for left, right in zip(leaves[::2], leaves[1::2], strict=True):
                node = Signal(signed(len(left) + 1), name="node")
                d += node.eq(left + right)
                summed.append(node)
            leaves = summed
        with m.If(self.valid):
            d += self.total.eq(Mux(self.first, 0, self.total) + leaves[0])
        return m


class DotLanes(wiring.Component):
    """Members: ``start`` latches ``words`` (stream words per row), ``mode``, ``vectors`` (number minus one) and ``rows``;
    ``word`` in; ``write`` to the activation buffers; ``result`` out, one per row; ``hungry`` while words are still to be taken;
    ``awake`` and ``awake_more``: the clocks of ``dot`` and ``dotx`` must run.
    """

    def __init__(self, config: TVUConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1), "words": In(8), "mode": In(2), "vectors": In(2), "rows": In(20),
            "word": In(stream.Signature(256)), "hungry": Out(1), "write": In(ActivationWrite(config)), "write_vector": In(2),
            "result": Out(stream.Signature(DotResult)), "awake": Out(1), "awake_more": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words, mode, vectors, rows = Signal(8), Signal(2), Signal(2), Signal(20)
        index = Signal(8)
        int8 = mode == MODES["int8"]
        first, final = index == 0, index == words - 1
        credit = Signal(range(_RESULTS + 1), init=_RESULTS)
        take = Signal()
        m.d.comb += [
            self.hungry.eq(rows != 0), self.word.ready.eq(self.hungry & (credit != 0)),
            take.eq(self.word.valid & self.word.ready),
        ]
        with m.If(self.start):
            m.d.sync += [words.eq(self.words), mode.eq(self.mode), vectors.eq(self.vectors), rows.eq(self.rows), index.eq(0)]
        with m.Elif(take):
            m.d.sync += index.eq(Mux(final, 0, index + 1))
            with m.If(final):
                m.d.sync += rows.eq(rows - 1)

        # valid, first and last word of the row, last row: beside the data
        valids = [take]
        for _ in range(_LATENCY):
            valid = Signal(name="valid")
            m.d.sync += valid.eq(valids[-1])
            valids.append(valid)
        first_late = delay(m, first, _LATENCY - 1)
        end, last = delay(m, final, _LATENCY), delay(m, rows == 1, _LATENCY)
        m.d.comb += [self.awake.eq(Cat(valids).any()), self.awake_more.eq(self.awake & (vectors != 0))]

        word1 = Signal(256, reset_less=True)
        two_bit1 = Signal()
        m.d.dot += [word1.eq(self.word.payload), two_bit1.eq(mode == MODES["2bit"])]
        weights = []
        for lane in range(WORD_BYTES):
            m.submodules[f"unpack{lane}"] = unpacker = Unpacker()
            m.d.comb += [unpacker.byte.eq(word1.word_select(lane, 8)), unpacker.two_bit.eq(two_bit1)]
            weights.append(unpacker)
        # Each domain has its own copy of what it works on, or one would wake the other.
        copies = {}
        for domain in ("dot", "dotx"):
            digit1, int8_1 = Signal(2, name=f"digit_{domain}"), Signal(name=f"int8_{domain}")
            plus = Signal(DIGITS * WORD_BYTES, reset_less=True, name=f"plus_{domain}")
            minus = Signal(DIGITS * WORD_BYTES, reset_less=True, name=f"minus_{domain}")
            word2 = Signal(256, reset_less=True, name=f"word_{domain}")
            m.d[domain] += [
                digit1.eq(index[:2]), int8_1.eq(int8), word2.eq(word1),
                plus.eq(Cat(u.plus for u in weights)), minus.eq(Cat(u.minus for u in weights)),
            ]
            copies[domain] = digit1, int8_1, plus, minus, word2

        m.submodules.results = results = fifo.SyncFIFOBuffered(width=len(self.result.payload.as_value()), depth=_RESULTS)
        result = Signal(DotResult)
        for v in range(self.config.vectors):
            domain = "dotx" if v else "dot"
            m.submodules[f"vector{v}"] = vector = VectorLanes(self.config, domain)
            digit1, int8_1, plus, minus, word2 = copies[domain]
            m.d.comb += [
                vector.write.enable.eq(self.write.enable & (self.write_vector == v)), vector.write.address.eq(self.write.address),
                vector.write.digit.eq(self.write.digit), vector.write.quarter.eq(self.write.quarter),
                vector.write.codes.eq(self.write.codes),
                vector.read_address.eq(Mux(int8, index >> 2, index)), vector.digit.eq(digit1), vector.int8.eq(int8_1),
                vector.plus.eq(plus), vector.minus.eq(minus), vector.word.eq(word2), vector.first.eq(first_late),
                vector.valid.eq(valids[_LATENCY - 1]),
                result.sums[v].eq(vector.total),
            ]
        m.d.comb += [
            result.last.eq(last), results.w_data.eq(result.as_value()), results.w_en.eq(valids[-1] & end),
            self.result.payload.as_value().eq(results.r_data), self.result.valid.eq(results.r_rdy),
            results.r_en.eq(self.result.ready),
        ]
        m.d.sync += credit.eq(credit - (take & final) + (self.result.valid & self.result.ready))
        return m
