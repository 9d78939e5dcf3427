"""How bytes lie in DDR: striping over the four ports, and weight packings.

The TVU reads 32-byte *stream words*, 8 bytes from each of four AXI ports. So that a 512-byte block
is one 16-beat burst on every port, word ``w`` of a block keeps its 8-byte piece ``p`` at byte ``128
p + 8 w``. Addresses in TVU instructions are *linear*: they count as if words lay one after another.
``physical_address`` maps them to where the byte is in DDR; only whole 512-byte blocks are permuted.

Element ``e`` of a matrix row sits in word ``e // P`` with P = 160 (base3), 128 (2bit) or 32 (int8),
and there in byte lane ``e % 32`` at digit ``e % P // 32``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .isa import WORD_BYTES

__all__ = [
    "ADDRESS_BITS", "BEAT_BYTES", "BLOCK_BYTES", "BLOCK_WORDS", "PORTS", "WEIGHTS_PER_WORD",
    "WORD_DIGITS", "pack_ternary", "physical_address", "row_words", "stripe",
    "unpack_ternary", "unstripe",
]

PORTS, BEAT_BYTES, BLOCK_WORDS = 4, 8, 16
BLOCK_BYTES = PORTS * BEAT_BYTES * BLOCK_WORDS
#: The bit of a linear address that is bit 0, 1, 2 ... of the DDR address: of the byte in its piece,
#: then of the word, of the port, and of the block.
ADDRESS_BITS = (*range(3), *range(5, 9), *range(3, 5), *range(9, 32))
_IN_BLOCK: list[int] = [
    sum((offset >> bit & 1) << place for place, bit in enumerate(ADDRESS_BITS))
    for offset in range(BLOCK_BYTES)]
WORD_DIGITS = 5 * WORD_BYTES  # of activations that a stream word can meet
WEIGHTS_PER_WORD = {"base3": WORD_DIGITS, "2bit": 4 * WORD_BYTES, "int8": WORD_BYTES}
_BASE = {"base3": 3, "2bit": 4}


def row_words(columns: int, mode: str) -> int:
    """Stream words that one matrix row of ``columns`` elements takes."""
    return -(-columns // WEIGHTS_PER_WORD[mode])


def physical_address(linear: int) -> int:
    """DDR address of the byte at a linear address."""
    return linear & -BLOCK_BYTES | _IN_BLOCK[linear % BLOCK_BYTES]


def stripe(data: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Linear bytes to DDR order; zero-padded to whole 512-byte blocks. uint8 [n] -> uint8 [ceil(n /
    512) * 512]."""
    flat = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1)
    padded = np.zeros(-(-flat.size // BLOCK_BYTES) * BLOCK_BYTES, np.uint8)
    padded[:flat.size] = flat
    return np.ascontiguousarray(padded.reshape(-1, BLOCK_WORDS, PORTS, BEAT_BYTES)
                                .transpose(0, 2, 1, 3)).reshape(-1)


def unstripe(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of ``stripe``; the size must be a multiple of 512."""
    return np.ascontiguousarray(data.reshape(-1, PORTS, BLOCK_WORDS, BEAT_BYTES)
                                .transpose(0, 2, 1, 3)).reshape(-1)


def pack_ternary(weights: NDArray[np.int8], mode: str) -> NDArray[np.uint8]:
    """Packs int8 [rows, columns] in {-1, 0, 1} to uint8 [rows, row_words * 32] in linear order.

    A byte is the sum of (weight + 1) * B^digit with B = 3 (base3, 5 digits) or 4 (2bit, 4 digits).
    Raises ValueError for other weights.
    """
    if weights.size and (weights.min() < -1 or weights.max() > 1):
        raise ValueError("weights must be -1, 0 or 1")
    rows, columns = weights.shape
    per_word, base = WEIGHTS_PER_WORD[mode], _BASE[mode]
    words = row_words(columns, mode)
    trits = np.ones((rows, words * per_word), np.uint8)
    trits[:, :columns] = (weights + 1).astype(np.uint8)
    digits = trits.reshape(rows, words, per_word // WORD_BYTES, WORD_BYTES)
    out = np.zeros((rows, words, WORD_BYTES), np.uint8)
    for digit in range(digits.shape[2]):
        out += digits[:, :, digit] * np.uint8(base**digit)
    return out.reshape(rows, words * WORD_BYTES)


def unpack_ternary(packed: NDArray[np.uint8], columns: int, mode: str) -> NDArray[np.int8]:
    """The inverse of ``pack_ternary``: int8 [rows, columns]. As for the TVU, bytes and codes that
    no packing gives count as zeros."""
    rows, digits = packed.shape[0], WEIGHTS_PER_WORD[mode] // WORD_BYTES
    weights = np.zeros((256, 8), np.int8)  # of every byte, looked up eight at a time
    for digit in range(digits):
        codes = np.arange(_BASE[mode]**digits) // _BASE[mode]**digit % _BASE[mode]
        weights[:len(codes), digit] = np.where(codes == 3, 0, codes.astype(np.int8) - 1)
    table, words = weights.view(np.uint64).reshape(-1), packed.reshape(rows, -1, WORD_BYTES)
    out = np.empty((rows, words.shape[1], digits, WORD_BYTES), np.int8)
    for start in range(0, rows, 64):  # so that what is looked up stays in the processor's cache
        found = table[words[start:start + 64]].view(np.int8).reshape(-1, words.shape[1],
                WORD_BYTES, 8)
        out[start:start + 64] = found[..., :digits].transpose(0, 1, 3, 2)
    return np.ascontiguousarray(out.reshape(rows, -1)[:, :columns])
