"""Activation memory: int8 codes of eight vectors, 160 codes of four vectors readable at once.

A word holds 32 byte lanes x 5 digits, matching a stream word of base-3 weights: element ``e`` of a
vector sits in byte lane ``e % 32`` at digit ``e % P // 32`` (P = 160 or 128, see ``xtvu.layout``).
The product array wants them by *position*: byte lanes 0 to 15 are positions 0 to 15 of five chains,
one per digit, and lanes 16 to 31 those of five others. So there is a memory per position and band
of chains, read at its own address; vectors 0 to 3 begin in its lower half, 4 to 7 in the upper one.

A code is stored plus 128, so that it is never negative.
"""

from __future__ import annotations

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import ACT_WORDS, BYTE_VECTORS, LANES, SHARED_WORDS, VECTORS, WORD_BYTES

__all__ = ["ActivationWrite", "Activations", "BANDS", "CHAINS", "DIGITS", "POSITIONS", "TOKENS"]

DIGITS = 5
POSITIONS = 16
CHAINS = DIGITS * WORD_BYTES // POSITIONS  # chain 2 d + h: digit d of byte lanes 16 h to 16 h + 15
#: Chains whose slices stand in one of the columns of the chip, of 60, 60, 60, 20 and 20 slices.
#: These lie apart: what all slices need goes to each band by registers of its own.
BANDS = (range(0, 3), range(3, 6), range(6, 9), range(9, 10))
TOKENS = VECTORS // 2  # vectors that are read at once
_ADDRESS_BITS = (ACT_WORDS - 1).bit_length()


class ActivationWrite(wiring.Signature):
    """Writes eight codes of ``vector``: word ``address``, ``digit``, and which ``quarter`` of the
    byte lanes. With ``bytes`` all of the first four digits get them, and an address beyond a
    vector's end continues in the next vector."""

    def __init__(self) -> None:
        super().__init__({"enable": Out(1), "vector": Out(3), "address": Out(_ADDRESS_BITS + 2),
                          "digit": Out(3), "quarter": Out(2),
                          "bytes": Out(1), "codes": Out(8 * LANES)})


class Activations(wiring.Component):
    """Members: ``write`` (in ``sync``, takes two cycles); ``spread``: write |``code``| to vector 0
    and zeros to vectors 1 to 3 at every place of word ``spread_address``, as plain numbers, for
    column sums; ``read_address`` of each position, band by band, for what ``codes`` gives in the
    same cycle; ``awake``: the clock of domain ``fill`` must run.
    """

    def __init__(self) -> None:
        self._codes = [[Signal(8 * TOKENS, name=f"read{p}_{chain}") for chain in range(CHAINS)]
                       for p in range(POSITIONS)]
        super().__init__({
            "write": In(ActivationWrite()), "spread": In(1), "spread_address": In(_ADDRESS_BITS),
            "code": In(signed(8)),
            "read_address": In(_ADDRESS_BITS).array(len(BANDS), POSITIONS), "awake": Out(1),
        })

    def codes(self, position: int, chain: int) -> Value:
        """The stored codes of the vectors, as they are read."""
        return self._codes[position][chain]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        assert BYTE_VECTORS == TOKENS
        write = self.write
        enable, whole = Signal(), Signal()
        address, token, digits, quarter = (Signal(_ADDRESS_BITS), Signal(2), Signal(DIGITS),
                                           Signal(2))
        codes, others = Signal(8 * LANES, reset_less=True), Signal(8 * LANES, reset_less=True)
        vector = Mux(write.bytes, write.vector + write.address[_ADDRESS_BITS:], write.vector)[:3]
        upper = Mux(write.vector[2], SHARED_WORDS, 0)
        biased = Cat(write.codes.word_select(i, 8) ^ 0x80 for i in range(LANES))
        magnitude = Mux(self.code < 0, -self.code, self.code)[:8]
        m.d.sync += [
            enable.eq(write.enable | self.spread), whole.eq(self.spread),
            address.eq(Mux(self.spread, self.spread_address,
                           write.address[:_ADDRESS_BITS] | upper)),
            token.eq(vector[:2]), digits.eq(Mux(write.bytes, 0b1111, 1 << write.digit)),
            quarter.eq(write.quarter),
            codes.eq(Mux(self.spread, magnitude.replicate(LANES), biased)),
            others.eq(Mux(self.spread, 0, biased)),
        ]
        m.d.sync += Assert(~(write.enable & self.spread), "two writes to the activation memory")
        m.d.comb += self.awake.eq(enable)
        for b, band in enumerate(BANDS):
            size = TOKENS * len(band)
            for p in range(POSITIONS):
                m.submodules[f"band{b}_position{p}"] = words = memory.Memory(
                    shape=unsigned(8 * size), depth=ACT_WORDS,
                    init=[int.from_bytes(b"\x80" * size, "little")] * ACT_WORDS)
                port, read = (words.write_port(domain="fill", granularity=8),
                              words.read_port(domain="comb"))
                here = p * 2 // POSITIONS
                enables, data = [], []
                for chain in band:
                    digit, half = chain // 2, chain % 2
                    for k in range(TOKENS):
                        enables.append(enable
                                       & (whole
                                          | (digits[digit]
                                             & (quarter == 2 * half + here) & (token == k))))
                        data.append((others if k else codes).word_select(p % LANES, 8))
                m.d.comb += [
                    port.addr.eq(address), port.en.eq(Cat(enables)), port.data.eq(Cat(data)),
                    read.addr.eq(self.read_address[b][p]),
                    Cat(self._codes[p][chain] for chain in band).eq(read.data),
                ]
        return m
