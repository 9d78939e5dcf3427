"""Dot-product lanes: stream words times activations, one int32 per matrix row and vector.

Each of the 32 byte lanes gives, per vector, the sum of five ternary products or one int8 product; an adder tree sums
the lanes and an accumulator the words of a row. The pipeline never stalls: a word is taken only if the row that it ends
is sure to find room in the result queue. Words of picked columns go to the column accumulator instead of the trees.

The data path stands in three clock domains besides ``sync``: ``dot`` (unpackers and vector 0), ``dotx`` (the other
vectors) and ``cols`` (column accumulator). On hardware all are the same clock; the simulation stops those that have nothing
to do, which is most of its time.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import MODES, WORD_BYTES

from .activations import DIGITS, Activations, ActivationWrite
from .config import TVUConfig
from .float32 import delay
from .stream import PickedRow
from .unpack import Unpacker

__all__ = ["ColumnWords", "DotLanes", "DotResult", "VectorLanes"]

_SUM_BITS = 32
_RESULTS = 16
_TREE_LEVELS = WORD_BYTES.bit_length() - 1
_LATENCY = 3 + _TREE_LEVELS + 1  # memory read and unpacking, products, tree, accumulator


class DotResult(data.Struct):
    """Dot products of matrix row ``row`` with the activation vectors; ``last`` marks the operation's end, which comes without
    ``data`` after picked rows."""

    sums: data.ArrayLayout(signed(_SUM_BITS), 4)
    row: 15
    data: 1
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


class ColumnWords(data.Struct):
    """What the column accumulator gets for one stream word, and when the last one has passed."""

    valid: 1
    index: 8
    code: signed(8)
    first: 1
    end: 1


class DotLanes(wiring.Component):
    """Members: ``start`` latches ``words`` (stream words per row), ``mode``, ``vectors`` (number minus one), ``rows``, ``picked`` (rows
    are those of ``entry``) and ``columns`` (picked columns instead of rows); ``word`` and ``entry`` in; ``write`` to the activation
    buffers; ``result`` out, one per row; ``column``, ``plus`` and ``minus`` to the column accumulator; ``hungry`` while a word
    could be taken; ``awake``, ``awake_more`` and ``awake_columns``: the clocks of ``dot``, ``dotx`` and ``cols`` must run.
    """

    def __init__(self, config: TVUConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1), "words": In(8), "mode": In(2), "vectors": In(2), "rows": In(20), "picked": In(1), "columns": In(1),
            "word": In(stream.Signature(256)), "entry": In(stream.Signature(PickedRow)), "hungry": Out(1),
            "write": In(ActivationWrite(config)), "write_vector": In(2), "result": Out(stream.Signature(DotResult)),
            "column": Out(ColumnWords), "plus": Out(DIGITS * WORD_BYTES), "minus": Out(DIGITS * WORD_BYTES),
            "awake": Out(1), "awake_more": Out(1), "awake_columns": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words, mode, vectors, rows = Signal(8), Signal(2), Signal(2), Signal(20)
        picked, columns, ending, fresh = Signal(), Signal(), Signal(), Signal()
        index, row = Signal(8), Signal(15)
        int8 = mode == MODES["int8"]
        first, final = index == 0, index == words - 1
        credit = Signal(range(_RESULTS + 1), init=_RESULTS)
        take, mark = Signal(), Signal()
        entry = self.entry
        with m.If(picked):
            m.d.comb += self.hungry.eq(ending & ~(entry.valid & entry.payload.end))
        with m.Else():
            m.d.comb += self.hungry.eq(rows != 0)
        m.d.comb += [
            self.word.ready.eq(self.hungry & (credit != 0) & (~picked | entry.valid)),
            take.eq(self.word.valid & self.word.ready),
            mark.eq(picked & ending & entry.valid & entry.payload.end & (credit != 0)),
            entry.ready.eq(mark | (picked & take & final)),
        ]
        with m.If(self.start):
            m.d.sync += [
                words.eq(self.words), mode.eq(self.mode), vectors.eq(self.vectors), rows.eq(Mux(self.picked, 0, self.rows)), index.eq(0),
                row.eq(0), picked.eq(self.picked), columns.eq(self.columns), ending.eq(self.picked), fresh.eq(1),
            ]
        with m.Elif(take):
            m.d.sync += index.eq(Mux(final, 0, index + 1))
            with m.If(final):
                m.d.sync += [row.eq(row + 1), fresh.eq(0)]
                with m.If(~picked):
                    m.d.sync += rows.eq(rows - 1)
        with m.If(mark):
            m.d.sync += ending.eq(0)

        # valid, first and last word of the row, last row: beside the data
        valids, marks = [take], [mark]
        for _ in range(_LATENCY):
            valid, marked = Signal(name="valid"), Signal(name="marked")
            m.d.sync += [valid.eq(valids[-1]), marked.eq(marks[-1])]
            valids.append(valid)
            marks.append(marked)
        first_late = delay(m, first, _LATENCY - 1)
        end, last = delay(m, final & ~columns, _LATENCY), delay(m, (rows == 1) & ~picked, _LATENCY)
        row_late = delay(m, Mux(picked, entry.payload.row, row), _LATENCY)
        working = Cat(valids).any()
        m.d.comb += [
            self.awake.eq(working), self.awake_more.eq(working & (vectors != 0)), self.awake_columns.eq(working & columns),
        ]

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
        for domain in ("dot", "dotx", "cols"):
            plus = Signal(DIGITS * WORD_BYTES, reset_less=True, name=f"plus_{domain}")
            minus = Signal(DIGITS * WORD_BYTES, reset_less=True, name=f"minus_{domain}")
            m.d[domain] += [plus.eq(Cat(u.plus for u in weights)), minus.eq(Cat(u.minus for u in weights))]
            copies[domain] = plus, minus
        m.d.comb += [self.plus.eq(copies["cols"][0]), self.minus.eq(copies["cols"][1])]
        m.d.comb += [
            self.column.valid.eq(valids[2] & delay(m, columns, 2)), self.column.index.eq(delay(m, index, 2)),
            self.column.code.eq(delay(m, entry.payload.code, 2)), self.column.first.eq(delay(m, fresh, 2)),
            self.column.end.eq(marks[3] & columns),
        ]

        m.submodules.results = results = fifo.SyncFIFOBuffered(width=len(self.result.payload.as_value()), depth=_RESULTS)
        result = Signal(DotResult)
        int8_operands = {}
        for domain in ("dot", "dotx"):
            digit1, int8_1 = Signal(2, name=f"digit_{domain}"), Signal(name=f"int8_{domain}")
            word2 = Signal(256, reset_less=True, name=f"word_{domain}")
            m.d[domain] += [digit1.eq(index[:2]), int8_1.eq(int8), word2.eq(word1)]
            int8_operands[domain] = digit1, int8_1, word2
        for v in range(self.config.vectors):
            domain = "dotx" if v else "dot"
            m.submodules[f"vector{v}"] = vector = VectorLanes(self.config, domain)
            (plus, minus), (digit1, int8_1, word2) = copies[domain], int8_operands[domain]
            m.d.comb += [
                vector.write.enable.eq(self.write.enable & (self.write_vector == v)), vector.write.address.eq(self.write.address),
                vector.write.digit.eq(self.write.digit), vector.write.quarter.eq(self.write.quarter),
                vector.write.codes.eq(self.write.codes),
                vector.read_address.eq(Mux(int8, index >> 2, index)), vector.digit.eq(digit1), vector.int8.eq(int8_1),
                vector.plus.eq(plus), vector.minus.eq(minus), vector.word.eq(word2), vector.first.eq(first_late),
                vector.valid.eq(valids[_LATENCY - 1]),
                result.sums[v].eq(vector.total),
            ]
        marker = marks[-1] & ~columns
        m.d.comb += [
            result.last.eq(last | marker), result.row.eq(row_late), result.data.eq(~marker),
            results.w_data.eq(result.as_value()), results.w_en.eq((valids[-1] & end) | marker),
            self.result.payload.as_value().eq(results.r_data), self.result.valid.eq(results.r_rdy),
            results.r_en.eq(self.result.ready),
        ]
        m.d.sync += credit.eq(credit - (((take & final) | mark) & ~columns) + (self.result.valid & self.result.ready))
        return m
