"""Ranking: keeps the largest of a stream of float32, in a heap whose root is the smallest that is
kept.

An entry is the value's key with the complement of its number below it, so that no two are equal
and, of equal values, the one with the smaller number is larger. What beats the root takes its place
and sinks: two cycles per level.
"""

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES, RANK_LEVELS

from .float32 import float_key
from .store import StoreRow

__all__ = ["Ranking"]

_NUMBER_BITS = 20
_ENTRY_BITS = 32 + _NUMBER_BITS


class Ranking(wiring.Component):
    """Members: ``clear`` empties it and takes ``levels``; ``base`` (number of the first value of
    the first row) is taken with ``start``; ``row`` in; ``peek`` names an entry (1 to 2^levels - 1)
    and ``number`` is its number a cycle later, all ones if there is none; ``idle`` while nothing is
    being sorted in.
    """

    def __init__(self) -> None:
        super().__init__({
            "clear": In(1),
            "levels": In(4),
            "start": In(1), "base": In(_NUMBER_BITS), "row": In(stream.Signature(StoreRow)),
            "peek": In(RANK_LEVELS), "number": Out(32), "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Node n has children 2n and 2n + 1, which share a word; the root, node 1, stands in word 0.
        m.submodules.heap = heap = memory.Memory(shape=unsigned(2 * _ENTRY_BITS),
                                                 depth=1 << (RANK_LEVELS - 1), init=[])
        write, read = heap.write_port(granularity=_ENTRY_BITS), heap.read_port(domain="comb")
        root, entry = Signal(_ENTRY_BITS), Signal(_ENTRY_BITS)
        left, right = Signal(_ENTRY_BITS), Signal(_ENTRY_BITS)
        levels, node, level = Signal(4), Signal(RANK_LEVELS), Signal(4)
        number, lane = Signal(_NUMBER_BITS), Signal(range(LANES))
        word = Signal(RANK_LEVELS - 1)

        with m.If(self.start):
            m.d.sync += number.eq(self.base)
        m.d.sync += Assert(~self.clear | self.idle, "the ranking is cleared while rows wait")

        values = Cat(self.row.payload.values[i] for i in range(LANES))
        candidate = Cat(~number, float_key(values.word_select(lane, 32)))

        def place(target: Signal, value: object) -> None:
            """Writes a node."""
            m.d.comb += [write.addr.eq(target[1:]), write.data.eq(Cat(value, value)),
                         write.en.eq(Mux(target[0], 2, 1))]
            with m.If(target == 1):
                m.d.sync += root.eq(value)

        m.d.comb += read.addr.eq(self.peek[1:])
        peeked = Signal(_ENTRY_BITS)
        m.d.sync += peeked.eq(read.data.word_select(self.peek[0], _ENTRY_BITS))
        m.d.comb += self.number.eq(Mux(peeked[_NUMBER_BITS:] == 0, ~0, ~peeked[:_NUMBER_BITS]))

        with m.FSM() as fsm:
            m.d.comb += self.idle.eq(fsm.ongoing("SCAN") & ~self.row.valid)
            with m.State("SCAN"):
                m.d.sync += [entry.eq(candidate), node.eq(1), level.eq(1)]
                m.d.comb += self.row.ready.eq(lane == LANES - 1)
                with m.If(self.row.valid):
                    with m.If(self.row.payload.mask.bit_select(lane, 1) & (candidate > root)):
                        m.next = "READ"
                    m.d.sync += [lane.eq(lane + 1), number.eq(number + 1)]
                with m.If(self.clear):
                    m.d.sync += [levels.eq(self.levels), root.eq(0), word.eq(0)]
                    m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += [write.addr.eq(word), write.en.eq(3)]
                m.d.sync += word.eq(word + 1)
                with m.If(word == (1 << (RANK_LEVELS - 1)) - 1):
                    m.next = "SCAN"
            with m.State("READ"):
                m.d.comb += read.addr.eq(node)
                m.d.sync += [left.eq(read.data[:_ENTRY_BITS]), right.eq(read.data[_ENTRY_BITS:])]
                m.next = "SINK"
            with m.State("SINK"):
                chosen = right < left
                with m.If((level == levels) | ((entry < left) & (entry < right))):
                    place(node, entry)
                    m.next = "SCAN"
                with m.Else():
                    place(node, Mux(chosen, right, left))
                    m.d.sync += [node.eq(Cat(chosen, node)), level.eq(level + 1)]
                    m.next = "READ"
        return m
