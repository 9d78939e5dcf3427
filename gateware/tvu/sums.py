"""Running sums of SUM and SUMSQ: what the lanes' adders get.

An adder takes a new pair every cycle and gives its sum LATENCY cycles later, so SLOTS sums are
under way in each lane; row n goes to slot n % SLOTS (``xtvu.semantics``). When the rows have ended
the slots are folded, eight to one, and then the lanes.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES
from xtvu.semantics import SLOTS

from .float32 import FloatAdd

__all__ = ["RunningSums"]


class _Tag(data.Struct):
    """What travels through the adders beside the last sums: their phase (0: accumulation; 1 to 3
    folds the slots, 4 to 6 the lanes) and their place within it."""

    tagged: 1
    phase: 3
    slot: 3


class RunningSums(wiring.Component):
    """Members: ``start``; ``issue`` and the number ``index`` of the row that is issued; ``valid``
    while a row is at the adders, and its ``mask``, ``product`` and ``summand``; ``augend`` and
    ``addend`` for the adders, whose sums are ``total``; ``done`` when lane 0's is that of all;
    ``ending`` while one of the last sums comes out. ``summing`` holds during an operation; without
    it product and summand go through.
    """

    def __init__(self) -> None:
        super().__init__({
            "start": In(1), "summing": In(1), "issue": In(1), "index": In(12),
            "valid": In(1), "mask": In(LANES),
            "product": In(32).array(LANES), "summand": In(32).array(LANES),
            "total": In(32).array(LANES),
            "augend": Out(32).array(LANES), "addend": Out(32).array(LANES),
            "done": Out(1), "ending": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entering = Signal(_Tag)
        tags = [entering]
        for _ in range(FloatAdd.LATENCY):
            tag = Signal(_Tag, name="tag")
            m.d.sync += tag.eq(tags[-1])
            tags.append(tag)
        leaving = tags[-1]
        fold, half, lanes = self._fold(m, leaving)
        issued, filled = Signal(13), Signal()  # ``filled``: every slot has been started
        with m.If(self.start):
            m.d.sync += [issued.eq(0), filled.eq(0)]
        with m.Elif(self.valid):
            m.d.sync += [issued.eq(issued + 1), filled.eq(filled | (issued == SLOTS - 1))]
        # While rows are being issued, it runs SLOTS + 1 rows ahead of the adder, so only the last
        # ones get tagged.
        rows = Signal(13)
        with m.If(self.issue):
            m.d.sync += rows.eq(self.index + 1)
        with m.If(fold):
            m.d.comb += [entering.tagged.eq(1), entering.phase.eq(leaving.phase + 1),
                         entering.slot.eq(leaving.slot - half)]
        with m.Elif(self.summing & self.valid):
            m.d.comb += [entering.tagged.eq(issued + SLOTS >= rows),
                         entering.slot.eq(issued + SLOTS - rows)]
        self._operands(m, fold, half, lanes, filled)
        m.d.comb += [self.ending.eq(leaving.tagged),
                     self.done.eq(leaving.tagged & (leaving.phase == 6))]
        return m

    def _fold(self, m: Module, leaving: data.View) -> tuple[Value, Value, Value]:
        """Whether the sums that come out are folded, with those of how many slots before, or with
        those of other lanes in which step."""
        fold, half, lanes = Signal(), Signal(range(SLOTS // 2 + 1)), Signal(2)
        with m.If(leaving.tagged):
            with m.Switch(leaving.phase):
                for phase, slots in enumerate((4, 2, 1)):
                    with m.Case(phase):
                        m.d.comb += [fold.eq(leaving.slot >= slots), half.eq(slots)]
                with m.Case(3, 4, 5):
                    m.d.comb += [fold.eq(1), lanes.eq(leaving.phase - 2)]
        return fold, half, lanes

    def _operands(self, m: Module, fold: Value, half: Value, lanes: Value, filled: Value) -> None:
        # The adders' results of the last cycles; age 0 is the one coming out now.
        ages: list[list[Value]] = [[self.total[i] for i in range(LANES)]]
        for _ in range(SLOTS // 2):
            older: list[Value] = [Signal(32, name="older", reset_less=True) for _ in range(LANES)]
            m.d.sync += [new.eq(old) for new, old in zip(older, ages[-1], strict=True)]
            ages.append(older)
        for i in range(LANES):
            augend, addend = self.augend[i], self.addend[i]
            m.d.comb += [augend.eq(self.product[i]), addend.eq(self.summand[i])]
            with m.If(fold):
                m.d.comb += augend.eq(self.total[i])
                with m.Switch(Cat(half, lanes)):
                    for age in (4, 2, 1):
                        with m.Case(age):
                            m.d.comb += addend.eq(ages[age][i])
                    for step, distance in ((1, 4), (2, 2), (3, 1)):
                        with m.Case(step << len(half)):
                            m.d.comb += addend.eq(self.total[i ^ distance])
            with m.Elif(self.summing):
                m.d.comb += [augend.eq(Mux(self.mask[i], self.product[i], 0)),
                             addend.eq(Mux(filled, ages[SLOTS - FloatAdd.LATENCY][i], 0))]
