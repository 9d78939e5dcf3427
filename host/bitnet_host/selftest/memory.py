"""Finds wrong lines of memory and of the ways to it.

Every way that writes (the bus, on which the CPU is; the upload's port, HP1) is tried with every way
that reads (the bus; the ports HP0 to HP3, of which each brings 8 of a stream word's 32 bytes). What
lies on one way only shows with that way alone; what shows with all of them lies in the DRAM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import WORD_BYTES
from xtvu.layout import BEAT_BYTES, BLOCK_BYTES, PORTS, stripe, unstripe
from xtvu.semantics import checksum

from bitnet_host.model.header import MODEL_BASE
from bitnet_host.reporting import Progress, quiet
from bitnet_host.run.link.transport import DDR_BASE, MailboxTransport
from bitnet_host.run.protocol import PATTERN
from bitnet_host.selftest.diagnosed import Diagnosed

__all__ = ["BASE", "check_cpu", "check_lines", "check_whole", "conclude"]

Bytes = NDArray[np.uint8]
BUS, UPLOAD = "the CPU's way", "HP1 writing"
_READERS = (BUS, *(f"HP{port} reading" for port in range(PORTS)))
#: Any bit of each may be flipped without leaving what may be written. Of two lines that are swapped
#: at least one of these addresses has none set alone.
_BASES = tuple(3 * MODEL_BASE << shift for shift in (0, 2, 4))
BASE = _BASES[0]
_NARROW = "the upper 32 bits are missing: is the port in 32-bit mode?"
_MANY = "of 64 data bits are wrong"
_FEW = 8  # data bits that may be wrong while stream words can still be told apart
_ELSEWHERE = "other addresses are read than were written"
_LOWEST_LINE = 5  # the first address bit that chooses between stream words
_PIECE = 1 << 16  # bytes that are checked at once
_CPU_WORDS = 4096  # twice what the CPU's cache holds


@dataclass(frozen=True)
class _Fault:
    """What one way of reading found wrong with what one way of writing wrote."""

    writer: str
    reader: str
    what: str


def _walking(turn: int) -> Bytes:
    """Stream words uint8 [128, 32]: in each port's 64 bits a one walks, then a zero; ``turn`` says
    where they begin."""
    ones = np.uint64(1) << ((np.arange(64, dtype=np.uint64) + np.uint64(turn)) % np.uint64(64))
    walk = np.concatenate([ones, ~ones])
    return np.repeat(walk[:, None], PORTS, axis=1).view(np.uint8).reshape(-1, WORD_BYTES)


def _write(board: Diagnosed, writer: str, address: int, blocks: Bytes) -> None:
    words = stripe(blocks.reshape(-1)).view("<u4")
    if writer == BUS:
        assert isinstance(board.transport, MailboxTransport)
        board.transport.link.write(DDR_BASE + address, words)
    else:
        board.transport.write_ddr(address, words)


def _read(board: Diagnosed, address: int, words: int) -> dict[str, NDArray[np.uint8]]:
    """By each reader, uint8 [words, 4, 8]: the bus brings all of a word, a port its part."""
    blocks = -(-words * WORD_BYTES // BLOCK_BYTES)
    raw = board.transport.read_ddr(address, blocks * BLOCK_BYTES // 4).astype("<u4").view(np.uint8)
    _, ports = board.port_bytes(address, words)
    found = {BUS: unstripe(raw)[:words * WORD_BYTES].reshape(words, PORTS, BEAT_BYTES)}
    found |= {f"HP{port} reading": ports[:, port:port + 1] for port in range(PORTS)}
    return found


def _part(reader: str, words: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a reader brings of words, uint8 [words, 4, 8]."""
    port = _READERS.index(reader) - 1
    return words if port < 0 else words[:, port:port + 1]


def _bits(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> str:
    """Which of the 64 data bits are wrong, and how. uint8 [n, parts, 8]."""
    got, want = (x.reshape(-1, BEAT_BYTES).view("<u8")[:, 0] for x in (found, expected))
    lines = []
    for bit in range(64):
        is_one, shall = (x >> np.uint64(bit) & np.uint64(1) for x in (got, want))
        if (is_one != shall).any():
            kind = (f"stuck at {int(is_one[0])}" if (is_one == is_one[0]).all() else "unreliable")
            lines.append((bit, kind))
    if len(lines) > _FEW:
        narrow = all(bit >= 32 for bit, _ in lines) or _halves(got, want)
        return _NARROW if narrow else f"{len(lines)} {_MANY}"
    return ", ".join(f"data bit {bit} is {kind}" for bit, kind in lines)


def _halves(got: NDArray[np.uint64], want: NDArray[np.uint64]) -> bool:
    """Whether beats bring half of what they could, as those of a port in 32-bit mode."""
    return bool((got >> np.uint64(32) == 0).all() and got.any() and (want >> np.uint64(32)).any())


def _data_faults(board: Diagnosed, writer: str, turn: int) -> Iterator[_Fault]:
    pattern = _walking(turn)
    _write(board, writer, BASE, pattern)
    expected = pattern.reshape(-1, PORTS, BEAT_BYTES)
    for reader, found in _read(board, BASE, len(pattern)).items():
        want = _part(reader, expected)
        if not np.array_equal(found, want):
            yield _Fault(writer, reader, _bits(found, want))


def _lines(memory_bytes: int) -> list[int]:
    return list(range(_LOWEST_LINE, memory_bytes.bit_length() - 1))


def _address_faults(board: Diagnosed, writer: str, seed: int) -> Iterator[_Fault]:
    lines, open_readers = _lines(board.info["memory_bytes"]), list(_READERS)
    for base in _BASES:
        tags, found = _tagged(board, writer, base, lines, base + seed)
        unclear = []
        for reader in open_readers:
            want = _part(reader, tags.reshape(-1, PORTS, BEAT_BYTES))
            what = _confused(found[reader], want, lines)
            if what is None:
                unclear.append(reader)
            elif what:
                yield _Fault(writer, reader, what)
        open_readers = unclear
        if not open_readers:
            return
    for reader in open_readers:
        yield _Fault(writer, reader, _ELSEWHERE)


def _tagged(board: Diagnosed, writer: str, base: int, lines: list[int],
            seed: int) -> tuple[Bytes, dict[str, Bytes]]:
    """Writes stream words of their own to ``base`` and to where one address line differs from it,
    and reads them again. A line below 9 chooses between the words of a block, which is written as a
    whole."""
    rng = np.random.default_rng(seed)
    tags = rng.integers(0, 256, (len(lines) + 1, WORD_BYTES), np.uint8)
    rest = rng.integers(0, 256, (BLOCK_BYTES // WORD_BYTES, WORD_BYTES), np.uint8)
    first = rest.copy()
    first[0] = tags[0]
    for line, tag in zip(lines, tags[1:], strict=True):
        if 1 << line < BLOCK_BYTES:
            first[(1 << line) // WORD_BYTES] = tag
    _write(board, writer, base, first)
    for line, tag in zip(lines, tags[1:], strict=True):
        if 1 << line >= BLOCK_BYTES:
            rest[0] = tag
            _write(board, writer, base ^ 1 << line, rest)
    parts = [_read(board, base, 1), *(_read_word(board, base ^ 1 << line) for line in lines)]
    return tags, {reader: np.concatenate([part[reader] for part in parts]) for reader in _READERS}


def _read_word(board: Diagnosed, address: int) -> dict[str, NDArray[np.uint8]]:
    """One stream word, at any word of its block."""
    block, word = address & -BLOCK_BYTES, address % BLOCK_BYTES // WORD_BYTES
    return {reader: found[word:word + 1] for reader, found in _read(board, block, word + 1).items()}


def _confused(got: Bytes, want: Bytes, lines: list[int]) -> str | None:
    """Which address lines do not choose what they should; empty if all do, None if that cannot be
    told. A few wrong data bits do not matter. uint8 [1 + lines, parts, 8]."""
    differ = np.unpackbits(got[:, None] ^ want[None], axis=-1).sum(axis=(2, 3))
    nearest, few = differ.argmin(axis=1), _FEW * want.shape[1]
    if (differ.diagonal() <= few).all():
        return ""
    lost: set[int] = set()
    swapped: set[tuple[int, int]] = set()
    for place, instead in enumerate(nearest.tolist()):
        if differ[place, instead] > few or instead == place:
            continue
        if place and instead:
            swapped.add((min(place, instead), max(place, instead)))
        else:
            lost.add(max(place, instead))
    said = [f"address lines A{lines[one - 1]} and A{lines[other - 1]} are swapped"
            for one, other in sorted(swapped)]
    said += [f"address line A{lines[place - 1]} is without effect" for place in sorted(lost)]
    return ", ".join(said) or None


def check_lines(board: Diagnosed, progress: Progress = quiet) -> tuple[list[str], list[str]]:
    """Data and address lines by all ways. Returns sentences on what is wrong, none if nothing is,
    and the details. Memory keeps what it held."""
    board.forget_port_bytes()
    faults: list[_Fault] = []
    steps: list[Callable[[], Iterator[_Fault]]] = [
        lambda: _data_faults(board, BUS, 0), lambda: _data_faults(board, UPLOAD, 1),
        lambda: _address_faults(board, BUS, 1), lambda: _address_faults(board, UPLOAD, 2)]
    with _kept(board):
        for number, step in enumerate(steps):
            progress("memory lines", number, len(steps))
            faults += step()
        wrong = _vector_writes(board)
        progress("memory lines", len(steps), len(steps))
    if wrong:  # then nothing is known of what ports read
        faults = [fault for fault in faults if fault.reader == BUS]
        wrong = [] if faults else wrong  # it is by the bus that stored words are seen
    faults = _telling(faults)
    return wrong + conclude([(f.writer, f.reader, f.what) for f in faults]), [
        f"{fault.writer}, {fault.reader}: {fault.what}" for fault in faults]


def _telling(faults: list[_Fault]) -> list[_Fault]:
    """Without what follows from the other fault of the same two ways: data that is garbled is found
    nowhere, and where other addresses are read all data is wrong."""
    by_ways: dict[tuple[str, str], list[_Fault]] = {}
    for fault in faults:
        by_ways.setdefault((fault.writer, fault.reader), []).append(fault)
    told = []
    for both in by_ways.values():
        vague = [f for f in both if f.what == _ELSEWHERE or f.what.endswith(_MANY)]
        told += [f for f in both if f not in vague] or both[:1]
    return told


@contextmanager
def _kept(board: Diagnosed) -> Iterator[None]:
    """Puts back what lay where lines are tried."""
    lines = [line for line in _lines(board.info["memory_bytes"]) if 1 << line >= BLOCK_BYTES]
    flips = [0, *(1 << line for line in lines)]
    places = sorted({base ^ flip for base in _BASES for flip in flips})
    sizes = [128 * WORD_BYTES if place == BASE else BLOCK_BYTES for place in places]
    words = [board.transport.read_ddr(place, size // 4)
             for place, size in zip(places, sizes, strict=True)]
    try:
        yield
    finally:
        for place, what in zip(places, words, strict=True):
            board.transport.write_ddr(place, what)


def _vector_writes(board: Diagnosed) -> list[str]:
    """Whether floats that the vector unit stores are whole."""
    floats, _ = board.port_bytes(BASE, 16)
    good = np.isfinite(floats) & (floats == np.rint(floats)) & (np.abs(floats) <= 128)
    if good.all():
        return []
    missing = np.isnan(floats).reshape(-1, 2)
    narrow = bool(missing[:, 1].all() and not missing[:, 0].any())
    return ["HP0 writing: " + (_NARROW if narrow
                               else "what the vector unit stores does not arrive whole")]


def conclude(faults: list[tuple[str, str, str]]) -> list[str]:
    """Where it lies, from (writer, reader, what): what all have in common. One sentence for each
    different ``what``."""
    sentences = []
    for what in dict.fromkeys(what for _, _, what in faults):
        pairs = [(writer, reader) for writer, reader, said in faults if said == what]
        common = set.intersection(*({writer, reader} for writer, reader in pairs))
        everything = 2 * len(_READERS)
        if len(pairs) == everything:
            where = "all ways, so in the DRAM, its lines or its training"
        elif common:
            where = " or ".join(sorted(common))
        else:
            where = "several ways"
        sentences.append(f"{where}: {what}")
    return sentences


def _pattern(address: int, words: int, flip: int) -> NDArray[np.uint32]:
    """What the CPU writes in the command MEMORY."""
    places = np.arange(address, address + 4 * words, 4, dtype=np.uint64)
    return (places * np.uint64(PATTERN) & np.uint64(0xFFFFFFFF)).astype(np.uint32) ^ np.uint32(flip)


def check_cpu(board: Diagnosed) -> list[str]:
    """Whether the CPU finds what it wrote, in bursts of a cache line, and whether the memory ports
    find the same. What lay there is lost."""
    wrong = []
    for flip in (0, 0xFFFFFFFF):
        found = board.cpu_memory(BASE, _CPU_WORDS, flip)
        if found["wrong"]:
            bits = [str(bit) for bit in range(32) if found["differ"] >> bit & 1]
            wrong.append(f"the CPU wrote {found['expected']:08x} to 0x{found['address']:x} of DDR "
                         f"and read {found['found']:08x}; {found['wrong']} of {_CPU_WORDS} words "
                         f"differ, in the bits {', '.join(bits)}")
            break
        words = unstripe(_pattern(BASE, _CPU_WORDS, flip).view(np.uint8))
        sums = board.ask("SUMS", [BASE, _CPU_WORDS * 4 // WORD_BYTES, 1], "SUMS")
        if int(sums[0]) != checksum(words):
            wrong.append("the memory ports read something else than the CPU wrote")
            break
    return wrong


def check_whole(board: Diagnosed, progress: Progress = quiet) -> list[str]:
    """Every cell from MODEL_BASE on holds a pattern of its address and its complement, written by
    the upload's port and read by all four. What lay there is lost."""
    total = board.info["memory_bytes"] - MODEL_BASE
    wrong: list[str] = []
    for number, flip in enumerate((0, 0xFFFFFFFF)):
        for address in range(MODEL_BASE, board.info["memory_bytes"], 16 * _PIECE):
            count = min(16, (board.info["memory_bytes"] - address) // _PIECE)
            words = _pattern(address, count * _PIECE // 4, flip)
            board.transport.write_ddr(address, words)
            sums = board.ask("SUMS", [address, _PIECE // WORD_BYTES, count], "SUMS")
            pieces = words.view(np.uint8).reshape(count, _PIECE)
            wrong += [f"memory from 0x{address + place * _PIECE:x} on does not hold a pattern"
                      for place in range(count) if int(sums[place]) != checksum(
                          unstripe(pieces[place]))]
            progress("whole memory", number * total + address - MODEL_BASE + count * _PIECE,
                     2 * total)
            if len(wrong) > 8:
                return [*wrong[:8], "and more"]
    return wrong
