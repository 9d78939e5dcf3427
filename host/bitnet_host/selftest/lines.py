"""Finds data and address lines that are wrong, and on which way to memory.

Every way that writes is tried with every way that reads: what lies on one of them shows with that
one alone, what shows with all of them lies in the DRAM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import WORD_BYTES
from xtvu.layout import ADDRESS_BITS, BEAT_BYTES, BLOCK_BYTES, PORTS

from bitnet_host.model.header import MODEL_BASE
from bitnet_host.reporting import Progress, quiet
from bitnet_host.selftest.diagnosed import Diagnosed
from bitnet_host.selftest.ways import BUS, READERS, VECTOR, kept, part, plain, read, write, writers

__all__ = ["BASES", "Fault", "check_lines", "conclude"]

Bytes = NDArray[np.uint8]
#: Any bit of each may be flipped without leaving what may be written. Of two lines that are swapped
#: at least one of these addresses has both set alike.
BASES = tuple(3 * MODEL_BASE << shift for shift in (0, 2, 4))
_LOWEST_BIT = 5  # of a linear address, that chooses between stream words
_FEW = 8  # data bits that may be wrong while stream words can still be told apart
_NARROW = "the upper 32 bits are missing: is the port in 32-bit mode?"
_ELSEWHERE = "other addresses are read than were written"


@dataclass(frozen=True)
class Fault:
    """What one way of reading found wrong with what one way of writing wrote."""

    writer: str
    reader: str
    what: str


def check_lines(board: Diagnosed, progress: Progress = quiet) -> tuple[list[str], list[str]]:
    """Sentences on what is wrong, none if nothing is, and the details. Memory keeps what it held,
    if nothing is wrong with the ways to it. Raises BoardError if memory answers with errors."""
    faults: list[Fault] = []
    ways = writers(board)
    bits = _bits_of(board)
    flips = [0, *(1 << bit for bit in bits if 1 << bit >= BLOCK_BYTES)]
    places = {base ^ flip: BLOCK_BYTES for base in BASES for flip in flips}
    with kept(board, places | {BASES[0]: 128 * WORD_BYTES}):
        for number, writer in enumerate(ways):
            progress("memory lines", number, len(ways) + 1)
            faults += _by(board, writer, number)
        # what the vector unit writes it reads first, by all ports
        if not faults:
            faults = list(_by(board, VECTOR, len(ways)))
            ways += (VECTOR,)
        progress("memory lines", len(ways) + 1, len(ways) + 1)
    details = [f"{fault.writer}, {fault.reader}: {fault.what}" for fault in faults]
    details += [f"{way} was not tried" for way in (BUS, "HP1 writing", VECTOR) if way not in ways]
    if faults:
        details.append("what memory held may not have been put back as it was")
    return conclude(faults, ways), details


def conclude(faults: list[Fault], ways: tuple[str, ...]) -> list[str]:
    """Where it lies: what the pairs of ways that show the same have in common. ``ways``: those of
    writing that were tried. One sentence for each different ``what``."""
    sentences = []
    for what in dict.fromkeys(fault.what for fault in faults):
        pairs = {(fault.writer, fault.reader) for fault in faults if fault.what == what}
        common = set.intersection(*(set(pair) for pair in pairs))
        common = {way for way in common if _always(way, pairs, ways)} or common
        if len(pairs) == len(ways) * len(READERS):
            where = ("all ways, so in the DRAM, its lines or its training" if len(ways) > 1
                     else f"{BUS} or the DRAM")
        elif common:
            where = " or ".join(sorted(common))
        else:
            where = "several ways"
        sentences.append(f"{where}: {what}")
    return sentences


def _always(way: str, pairs: set[tuple[str, str]], ways: tuple[str, ...]) -> bool:
    """Whether whatever goes by a way is wrong; what goes by it twice may be right again."""
    return all((writer, reader) in pairs for writer in ways for reader in READERS
               if (writer == way) != (reader == way))


def _by(board: Diagnosed, writer: str, turn: int) -> Iterator[Fault]:
    """Faults of what a way writes; of each reader the one that explains the other: where many data
    bits are wrong stream words are not recognised, and where other addresses are read all data is
    wrong."""
    data = {fault.reader: (fault, wrong) for fault, wrong in _data_faults(board, writer, turn)}
    readers = [reader for reader in READERS
               if reader not in data or data[reader][0].what != _NARROW]
    address = {fault.reader: fault for fault in _address_faults(board, writer, turn, readers)}
    for reader in READERS:
        elsewhere = reader in address and address[reader].what == _ELSEWHERE
        if reader in data and (data[reader][1] <= _FEW or elsewhere or reader not in address):
            yield data[reader][0]
        if reader in address and not (elsewhere and reader in data):
            yield address[reader]


# -- data lines ------------------------------------------------------------------------------------

def _walking(turn: int) -> Bytes:
    """Stream words uint8 [128, 32]: in each port's 64 bits a one walks, then a zero; ``turn`` says
    where they begin."""
    ones = np.uint64(1) << ((np.arange(64, dtype=np.uint64) + np.uint64(turn)) % np.uint64(64))
    walk = np.concatenate([ones, ~ones])
    return plain(np.repeat(walk[:, None], PORTS, axis=1).view(np.uint8).reshape(-1, WORD_BYTES))


def _data_faults(board: Diagnosed, writer: str, turn: int) -> Iterator[tuple[Fault, int]]:
    """Faults, and how many bits are wrong."""
    pattern = _walking(turn)
    write(board, writer, BASES[0], pattern)
    expected = pattern.reshape(-1, PORTS, BEAT_BYTES)
    for reader, found in read(board, BASES[0], len(pattern)).items():
        got, want = (x.reshape(-1, BEAT_BYTES).view("<u8")[:, 0]
                     for x in (found, part(reader, expected)))
        if not np.array_equal(got, want):
            what, wrong = _wrong_bits(got, want)
            yield Fault(writer, reader, what), wrong


def _wrong_bits(got: NDArray[np.uint64], want: NDArray[np.uint64]) -> tuple[str, int]:
    """Which of the 64 data bits are wrong, and how; and how many."""
    lines = []
    for bit in range(64):
        is_one, shall = (x >> np.uint64(bit) & np.uint64(1) for x in (got, want))
        if (is_one != shall).any():
            stuck = bool((is_one == is_one[0]).all())
            lines.append((bit, f"stuck at {int(is_one[0])}" if stuck else "unreliable"))
    if len(lines) <= _FEW:
        return ", ".join(f"data bit {bit} is {kind}" for bit, kind in lines), len(lines)
    # it writes or reads lower halves: nothing else is there, or words one after another
    only_lower = not (got >> np.uint64(32)).any() and got.any()
    narrow = only_lower or all(bit >= 32 for bit, _ in lines)
    return _NARROW if narrow else f"{len(lines)} of 64 data bits are wrong", len(lines)


# -- address lines ---------------------------------------------------------------------------------

@dataclass
class _Confusion:
    """Of lines, by their places in the list of bits: ``swapped`` pairs, ``lost`` ones, and those of
    which other things are read (0: none is flipped)."""

    swapped: set[tuple[int, int]] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    unclear: set[int] = field(default_factory=set)

    def text(self, bits: list[int]) -> str:
        names = {place + 1: f"A{ADDRESS_BITS.index(bit)}" for place, bit in enumerate(bits)}
        said = [f"address lines {names[one]} and {names[other]} are swapped"
                for one, other in sorted(self.swapped)]
        return ", ".join(said + [f"address line {names[place]} is without effect"
                                 for place in sorted(self.lost)])


def _bits_of(board: Diagnosed) -> list[int]:
    """Of a linear address, those that are tried."""
    return list(range(_LOWEST_BIT, board.info["memory_bytes"].bit_length() - 1))


def _address_faults(board: Diagnosed, writer: str, turn: int,
                    readers: list[str]) -> Iterator[Fault]:
    bits = _bits_of(board)
    for base in BASES if readers else ():
        tags, found = _tagged(board, writer, base, bits, base + turn)
        seen = {reader: _confused(found[reader], part(reader, tags.reshape(-1, PORTS, BEAT_BYTES)))
                for reader in readers}
        _overwrite(board, writer, base, bits, seen)
        for reader, confusion in seen.items():
            if confusion.swapped or confusion.lost:
                yield Fault(writer, reader, confusion.text(bits))
        readers = [reader for reader, confusion in seen.items()
                   if confusion.unclear and not confusion.swapped and not confusion.lost]
        if not readers:
            return
    for reader in readers:
        yield Fault(writer, reader, _ELSEWHERE)


def _tagged(board: Diagnosed, writer: str, base: int, bits: list[int],
            seed: int) -> tuple[Bytes, dict[str, Bytes]]:
    """Writes stream words of their own to ``base`` and to where one bit of the address differs from
    it, and reads them again. A bit below 9 chooses between the words of a block, which is written
    as a whole."""
    rng = np.random.default_rng(seed)
    tags = plain(rng.integers(0, 256, (len(bits) + 1, WORD_BYTES), np.uint8))
    blocks = {base: plain(rng.integers(0, 256, (BLOCK_BYTES // WORD_BYTES, WORD_BYTES), np.uint8))}
    for place, bit in [(0, None), *enumerate(bits, start=1)]:
        at = base if bit is None else base ^ 1 << bit
        block = blocks.setdefault(at & -BLOCK_BYTES, blocks[base].copy())
        block[at % BLOCK_BYTES // WORD_BYTES] = tags[place]
    for at, block in blocks.items():
        write(board, writer, at, block)
    parts = [read(board, base, 1), *(_read_word(board, base ^ 1 << bit) for bit in bits)]
    return tags, {reader: np.concatenate([found[reader] for found in parts]) for reader in READERS}


def _read_word(board: Diagnosed, address: int) -> dict[str, Bytes]:
    """One stream word, at any word of its block."""
    block, word = address & -BLOCK_BYTES, address % BLOCK_BYTES // WORD_BYTES
    return {reader: found[word:word + 1] for reader, found in read(board, block, word + 1).items()}


def _same(got: Bytes, want: Bytes) -> NDArray[np.bool_]:
    """Whether words [n, parts, 8] are the same but for a few bits, bool [n, m]."""
    differ = np.unpackbits(got[:, None] ^ want[None], axis=-1).sum(axis=(2, 3))
    same: NDArray[np.bool_] = differ <= _FEW * want.shape[1]
    return same


def _confused(got: Bytes, want: Bytes) -> _Confusion:
    """What was read where; place 0 is where no line is flipped."""
    same, confusion = _same(got, want), _Confusion()
    for place in np.flatnonzero(~same.diagonal()).tolist():
        others = np.flatnonzero(same[place]).tolist()
        if others and place and others[0] and same[others[0], place]:
            confusion.swapped.add((min(place, others[0]), max(place, others[0])))
        elif others and (not place or not others[0]):
            confusion.lost.add(max(place, others[0]))
        else:
            confusion.unclear.add(place)
    return confusion


def _overwrite(board: Diagnosed, writer: str, base: int, bits: list[int],
               seen: dict[str, _Confusion]) -> None:
    """Of an unclear line: whether what is written where it is flipped is found where it is not."""
    one, other = (np.full((BLOCK_BYTES // WORD_BYTES, WORD_BYTES), byte, np.uint8)
                  for byte in (0x3C, 0x43))
    # where nothing was recognised at all there is no telling
    unclear = [confusion.unclear for confusion in seen.values()
               if len(confusion.unclear) <= len(bits)]
    for place in sorted(set().union(*unclear) - {0}):
        if 1 << bits[place - 1] < BLOCK_BYTES:
            continue
        write(board, writer, base, one)
        write(board, writer, base ^ 1 << bits[place - 1], other)
        found = read(board, base, 1)
        for reader, confusion in seen.items():
            want = part(reader, other[:1].reshape(-1, PORTS, BEAT_BYTES))
            if place in confusion.unclear and _same(found[reader], want)[0, 0]:
                confusion.lost.add(place)
