"""Scanner of the pick memory: which rows of a picked stream are fetched, and where they are.

It looks at a group of eight codes at a time and offers one row per cycle, lowest first, and the end
of the rows after the last.
"""

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES, PICK_ROWS

__all__ = ["GROUP_BITS", "PickScanner", "PickedRow", "RowAddress", "WORD_ADDRESS_BITS"]

WORD_ADDRESS_BITS = 27
GROUP_BITS = 12
_WORD_BITS = 8  # of the length of a picked row


class PickedRow(data.Struct):
    """A row of a picked stream and its code, or the ``end`` of the rows."""

    row: GROUP_BITS + 3
    code: signed(8)
    end: 1


class RowAddress(data.Struct):
    """A picked row and the stream word that it begins with."""

    entry: PickedRow
    address: WORD_ADDRESS_BITS


class PickScanner(wiring.Component):
    """Members: ``start`` begins a scan of ``groups`` groups of eight rows, of ``words`` stream
    words each, from word ``address`` on; ``everything`` takes all rows for picked. They hold during
    ``start`` only. ``pick_address`` and ``pick_data`` (8 codes, a cycle later) read the memory;
    ``row`` out, the last one with ``end``; ``busy`` until that was taken; ``over`` when no other is
    to come.
    """

    def __init__(self) -> None:
        super().__init__({
            "start": In(1), "groups": In(GROUP_BITS), "words": In(_WORD_BITS),
            "address": In(WORD_ADDRESS_BITS), "everything": In(1),
            "pick_address": Out((PICK_ROWS - 1).bit_length()), "pick_data": In(8 * LANES),
            "row": Out(stream.Signature(RowAddress)), "busy": Out(1), "over": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # the group that is scanned, its codes, which of its rows are still to come
        group, codes, waiting = Signal(GROUP_BITS), Signal(8 * LANES), Signal(LANES)
        base, words = Signal(WORD_ADDRESS_BITS), Signal(_WORD_BITS)
        following, groups = Signal(GROUP_BITS), Signal(GROUP_BITS)
        loaded, everything = Signal(), Signal()  # ``loaded``: the memory has answered
        lane, taken = Signal(range(LANES)), Signal()
        for i in reversed(range(LANES)):
            with m.If(waiting[i]):
                m.d.comb += lane.eq(i)
        rest = waiting & ~(1 << lane)
        row, through = self.row.payload, following == groups
        distance = sum((Mux(lane[bit], words << bit, 0) for bit in range(1, len(lane))),
                       Mux(lane[0], words, 0))
        m.d.comb += [
            self.pick_address.eq(following), taken.eq(self.row.valid & self.row.ready),
            row.entry.row.eq(Cat(lane, group)), row.entry.code.eq(codes.word_select(lane, 8)),
            row.entry.end.eq(waiting == 0), row.address.eq(base + distance),
            self.over.eq((waiting == 0) & through),
            self.row.valid.eq(self.busy & ((waiting != 0) | through)),
        ]
        with m.If(self.busy):
            m.d.sync += loaded.eq(1)
        with m.If(self.busy & loaded & ~through & ((waiting == 0) | (taken & (rest == 0)))):
            m.d.sync += [
                loaded.eq(0), codes.eq(self.pick_data), group.eq(following),
                following.eq(following + 1), base.eq(base + (words << 3)),
                waiting.eq(Cat(everything | self.pick_data.word_select(i, 8).any()
                               for i in range(LANES))),
            ]
        with m.Elif(taken):
            m.d.sync += waiting.eq(rest)
        with m.If(taken & row.entry.end):
            m.d.sync += self.busy.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.busy.eq(1), loaded.eq(0), waiting.eq(0), following.eq(0),
                groups.eq(self.groups), words.eq(self.words), everything.eq(self.everything),
                base.eq(self.address - (self.words << 3)),
            ]
        m.d.sync += Assert(~self.start | ~self.busy, "a scan starts while another goes on")
        return m
