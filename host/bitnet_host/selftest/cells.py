"""Patterns in memory: what the CPU reads of its own, and every cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import WORD_BYTES
from xtvu.layout import unstripe
from xtvu.semantics import checksum

from bitnet_host.errors import BadArgument
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.reporting import Progress, quiet
from bitnet_host.run.protocol import PATTERN
from bitnet_host.selftest.diagnosed import Diagnosed
from bitnet_host.selftest.ways import kept

__all__ = ["check_cpu", "check_whole", "refuse_slow"]

_BASE = 3 * MODEL_BASE
_PIECE = 1 << 16  # bytes that are checked at once
_CPU_WORDS = 4096  # four times what the CPU's cache holds
_FLIPS = (0, 0xFFFFFFFF)
_MOST_TOLD = 8


def _pattern(address: int, words: int, flip: int) -> NDArray[np.uint32]:
    """What the CPU writes in the command MEMORY."""
    places = np.arange(address, address + 4 * words, 4, dtype=np.uint64)
    return (places * np.uint64(PATTERN) & np.uint64(0xFFFFFFFF)).astype(np.uint32) ^ np.uint32(flip)


def check_cpu(board: Diagnosed) -> tuple[list[str], list[str]]:
    """Whether the CPU finds what it wrote, in bursts of a cache line, and whether the memory ports
    find the same: sentences on what is wrong, and no details. Memory keeps what it held."""
    wrong: list[str] = []
    with kept(board, {_BASE: 4 * _CPU_WORDS}):
        for flip in _FLIPS:
            wrong += _by_cpu(board, flip)
            if wrong:
                break
    return wrong, []


def _by_cpu(board: Diagnosed, flip: int) -> list[str]:
    found = board.cpu_memory(_BASE, _CPU_WORDS, flip)
    if found["wrong"]:
        bits = ", ".join(str(bit) for bit in range(32) if found["differ"] >> bit & 1)
        return [f"the CPU wrote {found['expected']:08x} to 0x{found['address']:x} of DDR and read "
                f"{found['found']:08x}; {found['wrong']} of {_CPU_WORDS} words differ, in bits "
                f"{bits}"]
    words = unstripe(_pattern(_BASE, _CPU_WORDS, flip).view(np.uint8))
    sums = board.ask("SUMS", [_BASE, _CPU_WORDS * 4 // WORD_BYTES, 1], "SUMS")
    return ([] if int(sums[0]) == checksum(words)
            else ["the memory ports read something else than the CPU wrote"])


def refuse_slow(board: Diagnosed) -> None:
    """Raises BadArgument for a line over which all of memory would take days."""
    if board.transport.bytes_per_second:
        raise BadArgument("--whole sends all of memory twice, which takes days over UART: use the "
                          "network")


def check_whole(board: Diagnosed, progress: Progress = quiet) -> tuple[list[str], list[str]]:
    """Every cell from MODEL_BASE on holds a pattern of its address and its complement, written by
    the upload's port and read by all four: sentences on what is wrong, and no details. What lay
    there is lost."""
    total = board.info["memory_bytes"] - MODEL_BASE
    wrong: list[str] = []
    for number, flip in enumerate(_FLIPS):
        for address in range(MODEL_BASE, board.info["memory_bytes"], 16 * _PIECE):
            count = min(16, (board.info["memory_bytes"] - address) // _PIECE)
            words = _pattern(address, count * _PIECE // 4, flip)
            board.transport.write_ddr(address, words)
            sums = board.ask("SUMS", [address, _PIECE // WORD_BYTES, count], "SUMS")
            pieces = words.view(np.uint8).reshape(count, _PIECE)
            wrong += [f"memory from 0x{address + place * _PIECE:x} on does not hold a pattern"
                      for place in range(count)
                      if int(sums[place]) != checksum(unstripe(pieces[place]))]
            progress("whole memory", number * total + address - MODEL_BASE + count * _PIECE,
                     2 * total)
            if len(wrong) > _MOST_TOLD:
                return [*wrong[:_MOST_TOLD], "and more"], []
    return wrong, []
