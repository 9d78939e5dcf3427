"""Ranking: keeps the largest of each activation vector's results, in a heap for each whose root is
the smallest that is kept.

An entry is the value's key with the complement of its number below it, so that no two are equal
and, of equal values, the one with the smaller number is larger. What beats the root takes its place
and sinks: two cycles per level.
"""

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES, RANK_LEVELS, VECTORS

from .float32 import float_key
from .store import StoreRow

__all__ = ["Ranking"]

_NUMBER_BITS = 20
_ENTRY_BITS = 32 + _NUMBER_BITS


class Ranking(wiring.Component):
    """Members: ``clear`` empties it and takes ``levels``; ``base`` (number of the first value of
    the first row) and ``last_vector`` are taken with ``start``; ``row`` in: of each of the vectors,
    then the next ones of each; ``peek`` names an entry (1 to 2^levels - 1) of ``peek_vector`` and
    ``number`` is its number a cycle later, all ones if there is none; ``idle`` while nothing is
    being sorted in.
    """

    def __init__(self) -> None:
        super().__init__({
            "clear": In(1),
            "levels": In(4),
            "start": In(1), "base": In(_NUMBER_BITS), "last_vector": In(range(VECTORS)),
            "row": In(stream.Signature(StoreRow)),
            "peek": In(RANK_LEVELS), "peek_vector": In(range(VECTORS)), "number": Out(32),
            "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Node n has children 2n and 2n + 1, which share a word; a root, node 1, stands in word 0.
        # The upper bits of an address are the vector.
        words = 1 << (RANK_LEVELS - 1)
        m.submodules.heap = heap = memory.Memory(shape=unsigned(2 * _ENTRY_BITS),
                                                 depth=VECTORS * words, init=[])
        write, read = heap.write_port(granularity=_ENTRY_BITS), heap.read_port()
        m.submodules.roots = roots = memory.Memory(shape=unsigned(_ENTRY_BITS), depth=VECTORS,
                                                   init=[])
        write_root, root = roots.write_port(), roots.read_port(domain="comb")
        entry, left, right = Signal(_ENTRY_BITS), Signal(_ENTRY_BITS), Signal(_ENTRY_BITS)
        levels, node, level = Signal(4), Signal(RANK_LEVELS), Signal(4)
        number, lane, last_vector = Signal(_NUMBER_BITS), Signal(range(LANES)), Signal(3)
        word, emptied = Signal(range(words)), Signal(range(VECTORS))
        # of the row that comes, and of the entry that sinks
        vector, owner = self.row.payload.vector, Signal(range(VECTORS))

        with m.If(self.start):
            m.d.sync += [number.eq(self.base), last_vector.eq(self.last_vector)]
        m.d.sync += Assert(~self.clear | self.idle, "the ranking is cleared while rows wait")

        values = Cat(self.row.payload.values[i] for i in range(LANES))
        candidate = Cat(~number, float_key(values.word_select(lane, 32)))
        m.d.comb += [root.addr.eq(vector), write_root.addr.eq(owner)]

        def place(target: Signal, value: object) -> None:
            """Writes a node."""
            m.d.comb += [write.addr.eq(Cat(target[1:], owner)), write.data.eq(Cat(value, value)),
                         write.en.eq(Mux(target[0], 2, 1)),
                         write_root.data.eq(value), write_root.en.eq(target == 1)]

        odd, peeked = Signal(), Signal(_ENTRY_BITS)
        m.d.sync += odd.eq(self.peek[0])
        m.d.comb += [
            peeked.eq(read.data.word_select(odd, _ENTRY_BITS)),
            self.number.eq(Mux(peeked[_NUMBER_BITS:] == 0, ~0, ~peeked[:_NUMBER_BITS])),
        ]

        with m.FSM() as fsm:
            m.d.comb += self.idle.eq(fsm.ongoing("SCAN") & ~self.row.valid)
            with m.State("SCAN"):
                m.d.sync += [entry.eq(candidate), owner.eq(vector), node.eq(1), level.eq(1)]
                m.d.comb += [
                    self.row.ready.eq(lane == LANES - 1),
                    # the children of the root that may be replaced
                    read.addr.eq(Mux(self.row.valid, Cat(Const(1, RANK_LEVELS - 1), vector),
                                     Cat(self.peek[1:], self.peek_vector))),
                ]
                with m.If(self.row.valid):
                    with m.If(self.row.payload.mask.bit_select(lane, 1) & (candidate > root.data)):
                        m.next = "READ"
                    back = self.row.ready & (vector != last_vector)
                    m.d.sync += [lane.eq(lane + 1), number.eq(number + Mux(back, 1 - LANES, 1))]
                with m.If(self.clear):
                    m.d.sync += [levels.eq(self.levels), word.eq(0), emptied.eq(0)]
                    m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += [write.addr.eq(Cat(word, emptied)), write.en.eq(3),
                             write_root.addr.eq(emptied), write_root.en.eq(1)]
                m.d.sync += word.eq(word + 1)
                with m.If(((word + 1) >> (levels - 1)[:3]) != 0):
                    m.d.sync += [word.eq(0), emptied.eq(emptied + 1)]
                    with m.If(emptied == VECTORS - 1):
                        m.next = "SCAN"
            with m.State("READ"):
                m.d.sync += [left.eq(read.data[:_ENTRY_BITS]), right.eq(read.data[_ENTRY_BITS:])]
                m.next = "SINK"
            with m.State("SINK"):
                chosen = right < left
                m.d.comb += read.addr.eq(Cat(chosen, node[:RANK_LEVELS - 2], owner))
                with m.If((level == levels) | ((entry < left) & (entry < right))):
                    place(node, entry)
                    m.next = "SCAN"
                with m.Else():
                    place(node, Mux(chosen, right, left))
                    m.d.sync += [node.eq(Cat(chosen, node)), level.eq(level + 1)]
                    m.next = "READ"
        return m
