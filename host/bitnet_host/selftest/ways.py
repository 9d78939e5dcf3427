"""The ways to memory that can be tried one by one.

Three write: the bus, on which the CPU is; the upload's port, HP1; the vector unit, by HP0. Five
read: the bus, and the ports HP0 to HP3, of which each brings 8 of a stream word's 32 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import WORD_BYTES
from xtvu.layout import BEAT_BYTES, BLOCK_BYTES, PORTS, stripe, unstripe

from bitnet_host.model.header import MODEL_BASE
from bitnet_host.run.link.transport import DDR_BASE, MailboxTransport
from bitnet_host.run.protocol import MOST_READ
from bitnet_host.selftest.diagnosed import Diagnosed

__all__ = ["BUS", "READERS", "UPLOAD", "VECTOR", "kept", "part", "plain", "read", "write",
           "writers"]

Bytes = NDArray[np.uint8]
BUS, UPLOAD, VECTOR = "the CPU's way", "HP1 writing", "HP0 writing"
READERS = (BUS, *(f"HP{port} reading" for port in range(PORTS)))
_SOURCE = MODEL_BASE  # of what the vector unit copies


def writers(board: Diagnosed) -> tuple[str, ...]:
    """Those whose data comes from here. Over UART the CPU writes uploads, too."""
    return (BUS,) if board.transport.bytes_per_second else (BUS, UPLOAD)


def plain(data: Bytes) -> Bytes:
    """``data`` without bytes of -128, which the vector unit does not copy."""
    return np.where(data == 0x80, np.uint8(0x81), data)


def write(board: Diagnosed, writer: str, address: int, words: Bytes) -> None:
    """Stream words uint8 [n, 32], whole blocks of 512 bytes, to a linear address."""
    if writer == VECTOR:
        write(board, writers(board)[-1], _SOURCE, words)
        for start in range(0, len(words), MOST_READ):
            at = start * WORD_BYTES
            board.ask("STORE", [_SOURCE + at, address + at, min(MOST_READ, len(words) - start)],
                      "DONE")
        return
    data = stripe(words.reshape(-1)).view("<u4")
    if writer == BUS:
        assert isinstance(board.transport, MailboxTransport)
        board.transport.link.write(DDR_BASE + address, data)
    else:
        board.transport.write_ddr(address, data)


def read(board: Diagnosed, address: int, words: int) -> dict[str, Bytes]:
    """What each reader finds at a block: the bus uint8 [words, 4, 8], a port [words, 1, 8]."""
    blocks = -(-words * WORD_BYTES // BLOCK_BYTES)
    raw = board.transport.read_ddr(address, blocks * BLOCK_BYTES // 4).astype("<u4").view(np.uint8)
    ports = board.port_bytes(address, words).reshape(words, PORTS, BEAT_BYTES)
    found = {BUS: unstripe(raw)[:words * WORD_BYTES].reshape(words, PORTS, BEAT_BYTES)}
    return found | {reader: part(reader, ports) for reader in READERS[1:]}


def part(reader: str, words: Bytes) -> Bytes:
    """What a reader should bring of words, uint8 [n, 4, 8]."""
    port = READERS.index(reader) - 1
    return words if port < 0 else words[:, port:port + 1]


@contextmanager
def kept(board: Diagnosed, places: dict[int, int]) -> Iterator[None]:
    """Puts back what lay at addresses, with so many bytes each, and where the vector unit's source
    is."""
    sizes = places | {_SOURCE: 2 * MOST_READ * WORD_BYTES}
    words = {place: board.transport.read_ddr(place, size // 4) for place, size in sizes.items()}
    try:
        yield
    finally:
        for place, what in words.items():
            board.transport.write_ddr(place, what)
