"""Bands of the product array: chains whose slices stand in one column of the chip, and what goes
along with a word from position to position."""

from collections.abc import Callable

from amaranth.hdl import C, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import ACT_WORDS, COLUMN_WORDS

from . import dsp
from .activations import POSITIONS, TOKENS
from .logic import delay

__all__ = ["BAND_ENTRY", "Band", "COLUMN_SUM_BITS", "FIELD_BITS", "Lead"]

COLUMN_SUM_BITS = 24  # 16,384 columns times 127 need 22
BAND_ENTRY = 3  # fast cycles that a lead has to reach a band
FIELD_BITS = dsp.WIDTH // TOKENS  # of a slice's word, for each vector
_TURN = 2  # fast cycles from reading an accumulator to writing it


class Lead(data.Struct):
    """What goes along with a word: its ``address`` in the activation memory, its ``slot`` in a
    column; whether that column is the first one of its operation (``fresh``), and whether its sums
    are kept (``keep``)."""

    address: range(ACT_WORDS)
    slot: range(COLUMN_WORDS)
    fresh: 1
    keep: 1


class Band(wiring.Component):
    """``size`` chains, in domain ``fast``.

    Members: ``lead``, BAND_ENTRY + 1 cycles before position 0 reads the activation memory, and
    position p is p cycles behind: ``address`` of each, ``codes`` in the same cycle, ``use`` and
    ``subtract`` (weights) by position and chain, and ``start``, what the chains begin with. Sums
    of a chain leave it as ``result``, two cycles behind the last position.

    ``columns`` (sums of columns, not of rows) holds during an operation. With ``read_columns``, and
    no words under way, ``column_sums`` are the accumulators at ``read_slot``, two cycles later.
    """

    def __init__(self, size: int, adder: Callable[..., None]) -> None:
        self._size, self._adder = size, adder
        super().__init__({
            "lead": In(Lead), "address": Out(range(ACT_WORDS)).array(POSITIONS),
            "codes": In(8 * TOKENS).array(POSITIONS, size),
            "use": In(size).array(POSITIONS), "subtract": In(size).array(POSITIONS),
            "start": In(dsp.WIDTH).array(size), "result": Out(dsp.WIDTH).array(size),
            "columns": In(1), "read_columns": In(1), "read_slot": In(range(COLUMN_WORDS)),
            "column_sums": Out(COLUMN_SUM_BITS).array(POSITIONS, size),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Registers of its own for all that comes from afar: a net to every band would cross the
        # chip within a cycle.
        lead, columns, reads, read_slot = (
            delay(m, value, cycles, "fast", plain=True)
            for value, cycles in ((self.lead, BAND_ENTRY), (self.columns, 1),
                                  (self.read_columns, 1), (self.read_slot, 1)))
        cascades: list[Signal] = [C(0, dsp.WIDTH)] * self._size
        for p in range(POSITIONS):
            here = Signal(Lead, name=f"lead{p}", reset_less=True)
            m.d.fast += here.eq(lead)
            with m.If(reads):  # while columns are drained all positions read at one slot
                m.d.fast += here.slot.eq(read_slot)
            lead, columns = here, delay(m, columns, 1, "fast", plain=True)
            m.d.comb += self.address[p].eq(lead.address)
            cascades, results = self._slices(m, p, columns, lead.fresh, cascades)
            self._accumulators(m, p, lead, results)
        m.d.comb += [into.eq(result) for into, result in zip(self.result, results, strict=True)]
        return m

    def _accumulators(self, m: Module, p: int, lead: data.View, results: list[Signal]) -> None:
        """The memory of column sums at a position."""
        m.submodules[f"columns{p}"] = sums = memory.Memory(
            shape=unsigned(COLUMN_SUM_BITS * self._size), depth=COLUMN_WORDS, init=[])
        read, write = sums.read_port(domain="comb"), sums.write_port(domain="fast")
        m.d.comb += [
            read.addr.eq(lead.slot), Cat(self.column_sums[p]).eq(read.data),
            write.addr.eq(delay(m, lead.slot, _TURN, "fast")),
            write.en.eq(delay(m, lead.keep, _TURN, "fast")),
            write.data.eq(Cat(result[:COLUMN_SUM_BITS] for result in results)),
        ]

    def _slices(self, m: Module, p: int, columns: Signal, fresh: Signal,
                neighbours: list[Signal]) -> tuple[list[Signal], list[Signal]]:
        """The slices at a position; returns their cascade outputs and their sums."""
        from_memory = C(dsp.Z_C, 3) if p == 0 else C(dsp.Z_NEIGHBOUR, 3)
        z = Mux(columns, Mux(fresh, dsp.Z_ZERO, dsp.Z_C), from_memory)[:3]
        cascades, results = [], []
        for chain in range(self._size):
            old = Cat(self.column_sums[p][chain], C(0, dsp.WIDTH - COLUMN_SUM_BITS))
            result, cascade = (Signal(dsp.WIDTH, name=f"sums{p}_{chain}"),
                               Signal(dsp.WIDTH, name=f"cascade{p}_{chain}"))
            codes = Cat(Cat(self.codes[p][chain].word_select(k, 8), C(0, FIELD_BITS - 8))
                        for k in range(TOKENS))
            self._adder(m, f"slice{p}_{chain}", "fast", x=codes, use_x=self.use[p][chain],
                        subtract=self.subtract[p][chain],
                        c=Mux(columns, old, self.start[chain]) if p == 0 else old, z=z,
                        neighbour=neighbours[chain], p=result, cascade=cascade)
            cascades.append(cascade)
            results.append(result)
        return cascades, results
