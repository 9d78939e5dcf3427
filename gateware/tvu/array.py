"""Product array: 160 weights of a stream word times eight activation vectors, in 160 DSP slices.

A weight is -1, 0 or 1, so a product needs no multiplier: slice (chain, position) adds, subtracts or
leaves out the codes of four vectors, which stand side by side in its 48 bits, and hands the sums to
the next position of its chain. That is a pass of the word. A word takes two: vectors 0 to 3 and
then 4 to 7. Chain 2 d + h sums digit d of byte lanes 16 h to 16 h + 15; a tree adds up the ten
chains, an accumulator the words of a row.

int8 operands are sums of bits: the first pass takes bits 0 to 3 of each byte as digits, the second
one bits 4 to 7, both times vectors 0 to 3, and the tree weighs the digits by 1, 2, 4, 8.

The slices run at twice the system clock, so that both passes fit in a cycle, or at the system
clock (``dsp_clock`` 1): then each pass takes a cycle, and a word whose second pass would serve
nobody has only one.

Column sums use the same slices one by one: each adds or subtracts the column's code to one
accumulator of 24 bits, kept in a memory per position.

Four 12-bit sums in one word must not borrow from each other. Codes are stored plus 128, so a chain
starts with 2048 - 128 W in each field, W the sum of the chain's 16 weights: what comes out is 2048
plus the sum of products, positive in any case.
"""

from collections.abc import Callable

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import ACT_WORDS, COLUMN_WORDS, MODES, SHARED_WORDS, VECTORS, WORD_BYTES

from . import dsp
from .activations import (
    BANDS,
    CHAINS,
    DIGITS,
    POSITIONS,
    TOKENS,
    Activations,
    ActivationWrite,
)
from .band import BAND_ENTRY, COLUMN_SUM_BITS, FIELD_BITS, Band, Lead
from .logic import choose, delay

__all__ = ["ProductArray", "SUM_BITS"]

SUM_BITS = 28  # 127 words of int8: 127 * 32 * 127 * 128
_PIPELINE = 28  # fast cycles from a word in its register to its sums
# Fast cycles that it takes to sum the weights of a chain, while what goes along with the word is on
# its way to the bands.
_SUMMING = BAND_ENTRY
_ADDRESS_BITS = (ACT_WORDS - 1).bit_length()


def _weights_rom() -> list[int]:
    """For each way to read a byte and each byte: bit d is set where digit d is not zero, bit 5 + d
    where it is negative."""
    rom = []
    for byte in range(256):  # base 3; 243 and above: zeros
        digits = [byte // 3**d % 3 - 1 if byte < 243 else 0 for d in range(DIGITS)]
        rom.append(digits)
    for byte in range(256):  # two bits each; 3 is zero
        rom.append([(-1, 0, 1, 0)[byte >> 2 * d & 3] for d in range(4)] + [0])
    for byte in range(256):  # int8, lower half
        rom.append([byte >> d & 1 for d in range(4)] + [0])
    for byte in range(256):  # int8, upper half, whose last bit is the sign
        rom.append([(byte >> 4 + d & 1) * (-1 if d == 3 else 1) for d in range(4)] + [0])
    return [sum((w != 0) << d | (w < 0) << DIGITS + d for d, w in enumerate(digits))
            for digits in rom]


class ProductArray(wiring.Component):
    """Members, a cycle after a word was taken: ``word``, ``valid``, ``address`` (its word of the
    activation vectors), ``slot`` (its word of a column), ``negative`` (the column's code is) and
    ``fresh`` (the first column of an operation); with ``dsp_clock`` 1 also ``pass2``, and all of
    them for each pass. ``ahead`` cycles before a word's sums: ``total_valid``, ``first`` (word of a
    row) and ``select`` (the vector that serves vector 0). ``latency`` cycles after it was taken:
    ``sums``. ``mode``, ``columns`` and ``both`` (words have two passes) hold during an operation.
    ``read_columns`` and ``read_slot`` choose what ``column_sum`` gives, ``settling`` cycles later.
    ``write``, ``spread``, ``spread_address`` and ``code``: see
    Activations. ``awake_fill``: the clock of ``fill`` must run. ``adder`` makes a slice; Amaranth's
    own simulator needs another one than ``dsp.adder``.

    Domains: ``sync``; ``dot``, the same clock, and ``fast``, ``dsp_clock`` times as fast and in
    phase, which run while words are under way.
    """

    def __init__(self, adder: Callable[..., None] = dsp.adder, *, dsp_clock: int = 2) -> None:
        self._adder, self._dsp_clock = adder, dsp_clock
        self.latency, self.ahead = 1 + _PIPELINE // dsp_clock, 2 // dsp_clock
        self.settling = 2 // dsp_clock
        self._sums = [[Signal(COLUMN_SUM_BITS, name=f"column_sum{p}_{chain}")
                       for chain in range(CHAINS)] for p in range(POSITIONS)]
        super().__init__({
            "mode": In(2), "columns": In(1), "both": In(1),
            "word": In(8 * WORD_BYTES), "valid": In(1), "pass2": In(1),
            "address": In(_ADDRESS_BITS),
            "slot": In(range(COLUMN_WORDS)),
            "negative": In(1), "fresh": In(1),
            "total_valid": In(1),
            "first": In(1), "select": In(2), "sums": Out(signed(SUM_BITS)).array(VECTORS),
            "read_columns": In(1), "read_slot": In(range(COLUMN_WORDS)),
            "write": In(ActivationWrite()), "spread": In(1), "spread_address": In(_ADDRESS_BITS),
            "code": In(signed(8)),
            "awake_fill": Out(1),
        })

    def column_sum(self, lane: int, digit: int) -> Value:
        """The accumulator of a byte lane and digit."""
        chain = 2 * digit + lane // POSITIONS
        return self._sums[lane % POSITIONS][chain].as_signed()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pass2, late_pass2 = self._pass(m)
        mode, int8, both, columns = Signal(2), Signal(), Signal(), Signal()
        # These hold during an operation, so they may come late, and go on to where they are needed
        # from register to register: no net of theirs has to reach everywhere.
        m.d.fast += [mode.eq(self.mode), int8.eq(self.mode == MODES["int8"]), both.eq(self.both),
                     columns.eq(self.columns)]
        lead = Signal(Lead)
        m.d.fast += [
            lead.address.eq(self.address | Mux(pass2 & ~int8, SHARED_WORDS, 0)),
            lead.slot.eq(self.slot), lead.fresh.eq(self.fresh),
            # of two passes over a column the second one counts
            lead.keep.eq(self.valid & columns & (pass2 if self._dsp_clock == 2 else 1)),
        ]
        nonzero, negative = self._decode(m, pass2, mode, int8, columns)
        starts = self._starts(m, nonzero, negative)
        fields = self._chains(m, lead, columns, nonzero, negative, starts)
        late_int8 = delay(m, int8, 1, "fast")
        totals = self._tree(m, fields, late_int8)
        self._accumulate(m, totals, late_pass2, delay(m, late_int8, 1, "fast"),
                         delay(m, both, 2, "fast"))
        return m

    def _pass(self, m: Module) -> tuple[Value, Value]:
        """1 in the second pass of a word, for the word that comes in and for the totals."""
        if self._dsp_clock == 1:
            return self.pass2, delay(m, self.pass2, _PIPELINE - 2, "fast")
        tick, seen, pass2, late = Signal(), Signal(), Signal(init=1), Signal()
        m.d.dot += tick.eq(~tick)
        # dot and fast stop together, so they stay in step; an even number of cycles lies between
        m.d.fast += [seen.eq(tick), pass2.eq(tick != seen), late.eq(~pass2)]
        return pass2, late

    def _decode(self, m: Module, pass2: Value, mode: Value, int8: Value,
                columns: Value) -> tuple[list[list[Value]], list[list[Value]]]:
        """Weights that are not zero and weights that are negative, by byte lane and digit, in
        ``fast``: a cycle for the ROM, and one for a register behind it, as the ROM takes most of a
        cycle."""
        flip = Signal()
        m.d.fast += flip.eq(self.negative & columns)
        rom = _weights_rom()
        read = {}
        for lane in range(POSITIONS):
            m.submodules[f"weights{lane}"] = table = memory.Memory(shape=unsigned(2 * DIGITS),
                    depth=len(rom), init=rom)
            for byte in (lane, lane + POSITIONS):
                port = table.read_port(domain="fast")
                m.d.comb += port.addr.eq(Cat(self.word.word_select(byte, 8),
                                             Mux(int8, pass2, mode[0]), int8))
                read[byte] = port.data
        nonzero, negative = [], []
        for lane in range(WORD_BYTES):
            found, below = (Signal(DIGITS, name=f"nonzero{lane}"),
                            Signal(DIGITS, name=f"negative{lane}"))
            m.d.fast += [found.eq(read[lane][:DIGITS]),
                         below.eq(read[lane][DIGITS:] ^ flip.replicate(DIGITS))]
            nonzero.append(list(found))
            negative.append(list(below))
        return nonzero, negative

    def _starts(self, m: Module, nonzero: list[list[Value]],
                negative: list[list[Value]]) -> list[Value]:
        """What each chain starts with: 2048 - 128 W in each field, that is (16 - W) << 7."""
        starts = []
        for chain in range(CHAINS):
            digit, first = chain // 2, chain % 2 * POSITIONS
            lanes = range(first, first + POSITIONS)
            # 1 - w
            counts: list[Value] = [Mux(nonzero[i][digit], Cat(C(0, 1), negative[i][digit]), 1)
                                   for i in lanes]
            for group in (4, 2, 2):
                summed = []
                for i in range(0, len(counts), group):
                    total = Signal(range(2 * POSITIONS + 1), name=f"start{chain}")
                    m.d.fast += total.eq(sum(counts[i + 1:i + group], counts[i]))
                    summed.append(total)
                counts = summed
            starts.append(Cat(C(0, 7), counts[0], *[Cat(C(0, 6), counts[0])] * 3)[:dsp.WIDTH])
        return starts

    def _chains(self, m: Module, lead: data.View, columns: Value, nonzero: list[list[Value]],
                negative: list[list[Value]], starts: list[Value]) -> list[Value]:
        """Activation memory and slices; returns what leaves each chain."""
        m.submodules.activations = activations = Activations()
        wiring.connect(m, activations.write, wiring.flipped(self.write))
        m.d.comb += [activations.spread.eq(self.spread),
                     activations.spread_address.eq(self.spread_address),
                     activations.code.eq(self.code), self.awake_fill.eq(activations.awake)]
        # by byte lane, when its position needs them; the last stage in a flip-flop, which is fast
        weights = [delay(m, delay(m, Cat(nonzero[lane], negative[lane]),
                                  _SUMMING + lane % POSITIONS - 1, "fast"), 1, "fast", plain=True)
                   for lane in range(WORD_BYTES)]
        results = []
        for b, chains in enumerate(BANDS):
            m.submodules[f"band{b}"] = band = Band(len(chains), self._adder)
            m.d.comb += [
                band.lead.eq(lead), band.columns.eq(columns),
                band.read_columns.eq(self.read_columns), band.read_slot.eq(self.read_slot),
            ]
            for i, chain in enumerate(chains):
                digit, first = chain // 2, chain % 2 * POSITIONS
                m.d.comb += band.start[i].eq(starts[chain])
                for p in range(POSITIONS):
                    m.d.comb += [
                        activations.read_address[b][p].eq(band.address[p]),
                        band.codes[p][i].eq(activations.codes(p, chain)),
                        band.use[p][i].eq(weights[first + p][digit]),
                        band.subtract[p][i].eq(weights[first + p][DIGITS + digit]),
                        self._sums[p][chain].eq(band.column_sums[p][i]),
                    ]
                results.append(band.result[i])
        return results

    def _tree(self, m: Module, chains: list[Value], int8: Value) -> list[Value]:
        """The sums of the four vectors over all chains, four cycles later."""
        totals = []
        for k in range(TOKENS):
            fields = [chain.word_select(k, FIELD_BITS) ^ 1 << FIELD_BITS - 1 for chain in chains]
            digits = []
            for d in range(DIGITS):
                pair = Signal(signed(FIELD_BITS + 1), name=f"digit{k}_{d}")
                m.d.fast += pair.eq(fields[2 * d].as_signed() + fields[2 * d + 1].as_signed())
                digits.append(pair)
            lower, upper = (Signal(signed(FIELD_BITS + 3), name=f"lower{k}"),
                            Signal(signed(FIELD_BITS + 3), name=f"upper{k}"))
            four, all_five = (Signal(signed(FIELD_BITS + 6), name=f"four{k}"),
                              Signal(signed(FIELD_BITS + 6), name=f"five{k}"))
            m.d.fast += [
                lower.eq(digits[0] + Mux(int8, digits[1] << 1, digits[1])),
                upper.eq(digits[2] + Mux(int8, digits[3] << 1, digits[3])),
                four.eq(lower + Mux(int8, upper << 2, upper)),
                all_five.eq(four + delay(m, digits[4], 2, "fast")),
            ]
            totals.append(all_five)
        return totals

    def _accumulate(self, m: Module, totals: list[Value], pass2: Value, int8: Value,
                    both: Value) -> None:
        """Sums over the words of a row: ``new`` and ``old`` take turns for the two passes, unless
        they go into one sum (int8) or there is but one. What is to be added is chosen a fast cycle
        before."""
        valid, first, second = Signal(), Signal(), Signal()  # ``second``: the upper halves of int8
        m.d.fast += [valid.eq(self.total_valid), first.eq(self.first), second.eq(int8 & pass2)]
        for k in range(TOKENS):
            one = delay(m, int8 | ~both, 1, "fast", plain=True)
            total = choose(totals, self.select) if k == 0 else totals[k]
            addend = Signal(signed(FIELD_BITS + 10), name=f"addend{k}")
            new, old = (Signal(signed(SUM_BITS), name=f"new{k}"),
                        Signal(signed(SUM_BITS), name=f"old{k}"))
            m.d.fast += addend.eq(Mux(int8 & pass2, total << 4, total))
            with m.If(valid):
                m.d.fast += [new.eq(addend + Mux(first & ~second, 0, Mux(one, new, old))),
                             old.eq(new)]
            m.d.comb += [self.sums[k].eq(Mux(one, new, old)), self.sums[k + TOKENS].eq(new)]
