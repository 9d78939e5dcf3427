"""Etherbone over UDP: words of the SoC's bus, read and written in acknowledged records.

A record is ``00 0f writes reads``, then for writes a base address and data, for reads a return address and addresses,
everything big-endian behind an 8-byte packet head (Etherbone 1.0, as LiteEth's core implements it). The return address
comes back as the base of the answer and serves as a sequence number here. A write is acknowledged by a read of its last
word that follows in a packet of its own: LiteEth 2024.12 mistakes the return address of a record that writes and reads
for an address to read. LiteEth has no flow control, so at most two writes and the read that acknowledges them are under
way at a time.
"""

from __future__ import annotations

import socket
import struct

import numpy as np
from numpy.typing import NDArray

from bitnet_host.errors import LinkError

__all__ = ["Etherbone", "MAX_WORDS"]

_HEAD = struct.pack(">HBBI", 0x4E6F, 0x10, 0x44, 0)
MAX_WORDS = 250  # of a record; LiteEth's buffer holds 255
_TIMEOUT, _TRIES = 1.0, 8
_WINDOW = 2  # write records before one is acknowledged


class Etherbone:
    """A connection. ``host``, ``port``: where the board, or the simulator's UDP port, is."""

    def __init__(self, host: str, port: int, *, timeout: float = _TIMEOUT, tries: int = _TRIES) -> None:
        self.name = f"udp://{host}:{port}"
        self._tries = tries
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.settimeout(timeout)
            self._socket.connect((host, port))
        except (OSError, OverflowError, UnicodeError) as error:
            raise LinkError(f"cannot reach {self.name}: {error}") from None

    def close(self) -> None:
        self._socket.close()

    def _exchange(self, addresses: NDArray[np.uint32], *before: bytes) -> NDArray[np.uint32]:
        """Sends the records ``before`` and a read; repeats all until the answer comes. Raises LinkError after the last try."""
        self._sequence = self._sequence + 1 & 0xFFFFFF
        tag = self._sequence << 2
        request = _HEAD + struct.pack(">BBBBI", 0, 0x0F, 0, len(addresses), tag) + addresses.astype(">u4").tobytes()
        for _ in range(self._tries):
            try:
                for record in before:
                    self._socket.send(record)
                self._socket.send(request)
                while True:
                    answer = self._socket.recv(2048)
                    if len(answer) >= 16 + 4 * len(addresses) and struct.unpack_from(">I", answer, 12)[0] == tag:
                        return np.frombuffer(answer, ">u4", len(addresses), 16).astype(np.uint32)
            except TimeoutError:
                continue
            except OSError:
                break  # the port is closed: nobody listens
        raise LinkError(f"the board at {self.name} does not answer: check that it is on, loaded and in this network")

    def write(self, address: int, words: NDArray[np.uint32]) -> None:
        """Writes consecutive 32-bit words at a byte address of the bus; what others may change there too."""
        for start in range(0, len(words), MAX_WORDS):
            part = words[start:start + MAX_WORDS]
            here = address + 4 * start
            record = _HEAD + struct.pack(">BBBBI", 0, 0x0F, len(part), 0, here) + part.astype(">u4").tobytes()
            self._exchange(np.array([here + 4 * (len(part) - 1)], np.uint32), record)

    def write_kept(self, address: int, words: NDArray[np.uint32]) -> None:
        """As ``write``, where only this host writes: repeated until every word reads back."""
        for _ in range(self._tries):
            self.write(address, words)
            if np.array_equal(self.read(address, len(words)), words):
                return
        raise self._lossy()

    def _lossy(self) -> LinkError:
        return LinkError(f"the board at {self.name} does not keep what is written to its memory: check the network and try again")

    def write_checked(self, address: int, words: NDArray[np.uint32]) -> None:
        """As ``write``, for bulk data: faster, and repeated where the last word of a record does not read back.

        The firmware's checksums find what this misses.
        """
        span = _WINDOW * MAX_WORDS
        for start in range(0, len(words), span):
            records, ends, last = [], [], []
            for offset in range(start, min(start + span, len(words)), MAX_WORDS):
                part = words[offset:offset + MAX_WORDS]
                here = address + 4 * offset
                records.append(_HEAD + struct.pack(">BBBBI", 0, 0x0F, len(part), 0, here) + part.astype(">u4").tobytes())
                ends.append(here + 4 * (len(part) - 1))
                last.append(part[-1])
            for _ in range(self._tries):
                if np.array_equal(self._exchange(np.array(ends, np.uint32), *records), last):
                    break
            else:
                raise self._lossy()

    def read(self, address: int, count: int) -> NDArray[np.uint32]:
        """Reads consecutive 32-bit words."""
        parts = []
        for start in range(0, count, MAX_WORDS):
            n = min(MAX_WORDS, count - start)
            parts.append(self._exchange((address + 4 * (start + np.arange(n))).astype(np.uint32)))
        return np.concatenate(parts)

    def read_list(self, addresses: list[int]) -> list[int]:
        """Reads words at the given addresses, in one record."""
        return [int(x) for x in self._exchange(np.array(addresses, np.uint32))]
