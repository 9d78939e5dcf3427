"""REP: whether all runs of an operation can be one, and whether they depend on each other."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from xtvu import isa
from xtvu.layout import WEIGHTS_PER_WORD

from .scalars import REGISTER_BITS

__all__ = ["Repetition", "Runs"]


class Runs(data.Struct):
    """What REP says: how often, and by how much operands advance."""

    count: 6
    step_s: 1
    step_t: 1
    stride_dst: 13
    stride_a: 13
    stride_b: 13


class Repetition(wiring.Component):
    """Members: ``runs`` of an operation on ``count`` elements of ``a`` and ``b`` to ``dst``;
    ``first`` and ``second``, the scalar registers that it reads if
    ``reads_first`` and ``reads_second``, and ``target``, which it writes; ``steps``: each run reads
    other ones; ``quantises``, for words of 4 digits or with ``digits5`` of 5; ``to_bytes`` instead.

    A cycle after these hold: ``together``: the runs can be one operation; ``apart_a``
    and ``apart_b``: no run reads there what another one writes.
    """

    def __init__(self) -> None:
        super().__init__({
            "runs": In(Runs), "dst": In(13), "a": In(13), "b": In(13), "count": In(15),
            "digits5": In(1),
            "first": In(REGISTER_BITS), "second": In(REGISTER_BITS), "target": In(REGISTER_BITS),
            "reads_first": In(1), "reads_second": In(1), "steps": In(1),
            "quantises": In(1), "to_bytes": In(1),
            "together": Out(1), "apart_a": Out(1), "apart_b": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        runs = self.runs
        rows = Signal(12)
        m.d.comb += rows.eq((self.count + isa.LANES - 1) >> 3)
        lengths = {}  # from the first row of the first run to the first row of the last one
        for name in ("dst", "a", "b"):
            length, stride = Signal(19, name=f"length_{name}"), runs[f"stride_{name}"]
            count = (runs.count - 1)[:6]
            # a multiplication would take a DSP slice
            m.d.sync += length.eq(sum((Mux(count[i], stride << i, 0) for i in range(6)),
                                      Value.cast(0)))
            lengths[name] = length
        written_rows = lengths["dst"] + rows

        def apart(name: str, start: Value) -> Value:
            distance = (start - self.dst)[:13]
            beyond = ((written_rows <= distance)
                      & (lengths[name] + rows + distance <= isa.SCRATCH_ROWS))
            same = ((distance == 0) & (runs[f"stride_{name}"] == runs.stride_dst)
                    & (runs.stride_dst >= rows))
            return beyond | (same & (written_rows <= isa.SCRATCH_ROWS))

        m.d.comb += [self.apart_a.eq(apart("a", self.a)), self.apart_b.eq(apart("b", self.b)),
                     self.together.eq(self._scalars_allow()
                                      & self._activations_allow(lengths["dst"]))]
        return m

    def _scalars_allow(self) -> Value:
        """A maximum of its own for each run or none, factors that one operation can hold, and no
        run reads a maximum of another one."""
        runs, target = self.runs, self.target

        def near(register: Value) -> Value:
            return (((register - target)[:REGISTER_BITS] < runs.count)
                    | ((target - register)[:REGISTER_BITS] < runs.count))

        reads_target = ((self.reads_first & near(self.first))
                        | (self.reads_second & (near(self.second) | (runs.stride_b > 1))))
        return (((target == 0) ^ runs.step_t) & (~self.steps | (runs.count <= isa.VECTORS))
                & ~((target != 0) & reads_target))

    def _activations_allow(self, length: Value) -> Value:
        """Vectors 0 to 3 only, or so few elements that each of the eight would hold them."""
        low = (length[3:] == 0) & (self.dst[:3] + length[:3] < isa.BYTE_VECTORS)
        digits5, digits4, byte = (WEIGHTS_PER_WORD[mode] for mode in ("base3", "2bit", "int8"))
        shared = self.count <= isa.SHARED_WORDS * Mux(self.digits5, digits5, digits4)
        return Mux(self.to_bytes, low & (self.count <= isa.ACT_WORDS * byte),
                   ~self.quantises | low | shared)
