"""Bulk data into the board's DDR: a window of datagrams, each repeated until the board says that it
arrived.

Every sending has a sequence number of its own, so an answer tells which sending it is for and how
long that took. A datagram counts as lost when others that were sent well behind it have arrived;
how far behind is learnt from those that were only late.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xtvu.datagram import FLAGS, MAGIC, OPERATIONS, RECENT_WORDS, STATUS, Datagram

from bitnet_host.errors import LinkError
from bitnet_host.run.link.client import Link, RoundTrip

__all__ = ["Sent", "upload"]

_EVERY = 4  # datagrams for which one answer is wanted
_FIRST_WINDOW, _LEAST_WINDOW = 32, 4
# datagrams that may wait on the way, as far as the round trip tells: fewer waste the line, more get
# lost
_FEW, _MANY = 24, 48
# share of a window that is lost beyond which it is too wide; a bad line loses less
_CONGESTED = 0.3
_DATA = OPERATIONS["DATA"]


@dataclass
class Sent:
    """What an upload took: datagrams, and how many of them more than once was needed."""

    datagrams: int = 0
    repeated: int = 0


class _Window:
    """Datagrams under way, by sequence number: (piece, when it was sent)."""

    def __init__(self, most: int) -> None:
        self.under_way: dict[int, tuple[int, float]] = {}
        self.size, self.most = float(min(_FIRST_WINDOW, most)), most
        self.late = 2 * RECENT_WORDS  # sendings by which an order may be off
        self._taken_for_lost: dict[int, int] = {}  # sequence number: piece
        self._since, self._lost = 0, 0
        self._trip, self._least_trip = 0.0, 1e9  # seconds: of late, and at best

    def lost(self, newest: int) -> list[int]:
        """Pieces that must have been lost, given the newest sending that arrived."""
        gone = []
        for sequence, (piece, _) in self.under_way.items():  # in the order in which they were sent
            if ((newest - sequence & 0xFFFFFFFF) >> 31 or newest - sequence
                & 0xFFFFFFFF <= self.late):
                break
            gone.append(sequence)
            self._taken_for_lost[sequence] = piece
        self._lost += len(gone)
        return [self.under_way.pop(sequence)[0] for sequence in gone]

    def give_up(self) -> list[int]:
        """All pieces under way, for a narrower window."""
        pieces = {sequence: piece for sequence, (piece, _) in self.under_way.items()}
        self._taken_for_lost.update(pieces)
        self.under_way.clear()
        self.size = min(float(self.most), max(_LEAST_WINDOW, self.size / 2))
        return list(pieces.values())

    def only_late(self, sequence: int) -> int | None:
        """The piece that was taken for lost wrongly, if it was."""
        piece = self._taken_for_lost.pop(sequence, None)
        if piece is not None:
            self.late = min(self.late + 8, 256)
            self._lost = max(0, self._lost - 1)
        return piece

    def measured(self, seconds: float) -> None:
        """A round trip. What is more than the shortest one was spent in queues, as in TCP Vegas
        (Brakmo and Peterson, 1995)."""
        self._least_trip = min(self._least_trip, seconds)
        self._trip += (seconds - self._trip) / 8 if self._trip else seconds

    def arrived(self) -> None:
        """One more has; each time that a window's worth has, the window is looked at."""
        self._since += 1
        if self._since < self.size:
            return
        share = self._lost / (self._since + self._lost)
        waiting = self.size * (1 - self._least_trip / self._trip) if self._trip else 0
        if share > _CONGESTED:
            self.size *= 1 - share
        elif waiting > _MANY:
            self.size -= (waiting - _MANY) / 2
        elif waiting < _FEW:
            self.size *= 1.5
        self.size = min(float(self.most), max(_LEAST_WINDOW, self.size))
        self._since = self._lost = 0
        self._taken_for_lost = dict(list(self._taken_for_lost.items())[-1024:])


def upload(link: Link,
           offset: int,
           data: NDArray[np.uint8], progress: Callable[[int], None] = lambda done: None) -> Sent:
    """Writes ``data`` (a multiple of 8 bytes) to DDR from ``offset`` on. ``progress`` hears how
    many bytes have arrived. Raises LinkError, BoardHeld or BoardTaken."""
    with link.alone():
        return _Upload(link, offset, data).run(progress)


class _Upload:
    def __init__(self, link: Link, offset: int, data: NDArray[np.uint8]) -> None:
        self._link, self._wire, self._offset = link, link.wire, offset
        self._view = np.ascontiguousarray(data).data.cast("B")
        self._piece = 4 * (self._wire.most_words & ~1)
        self._count = -(-len(self._view) // self._piece)
        most = max(1, self._wire.window // (self._piece + 24))
        self._window = _Window(most)
        self._waiting: deque[int] = deque()  # pieces to be sent again
        self._next, self._missing = 0, self._count
        self._there = bytearray(self._count)
        self._sent = Sent()
        self._claimed = link.next_sequence()
        line = (self._piece * most / self._wire.bytes_per_second if self._wire.bytes_per_second
                else 0.0)
        self._trip = RoundTrip(0.3 + 2 * line, 0.02 + line)

    def run(self, progress: Callable[[int], None]) -> Sent:
        heard = time.monotonic()
        backoff = 1
        while self._missing:
            self._fill()
            raw = self._wire.receive(backoff * self._trip.timeout)
            if raw is None:
                if time.monotonic() - heard > self._wire.patience:
                    raise LinkError(f"the board at {self._link.name} does not answer any more: "
                                    f"check the connection and try again; "
                                    "what has arrived is kept")
                backoff = min(2 * backoff, 8)
                if backoff == 8:
                    self._wire.fall_back()
                self._all_lost()
                continue
            before = self._missing
            while raw is not None:
                if self._answer(raw):
                    heard, backoff = time.monotonic(), 1
                raw = (self._wire.receive(0) if len(self._window.under_way) < self._window.size / 2
                       else None)
            if self._missing != before:
                self._link.heard()
                progress(min(len(self._view), (self._count - self._missing) * self._piece))
        return self._sent

    def _fill(self) -> None:
        """Sends what the window lets."""
        window = self._window
        while len(window.under_way) < window.size:
            while self._waiting and self._there[self._waiting[0]]:
                self._waiting.popleft()
            if self._waiting:
                piece = self._waiting.popleft()
                self._sent.repeated += 1
            elif self._next < self._count:
                piece = self._next
                self._next += 1
            else:
                break
            last = self._next == self._count and all(self._there[other] for other in self._waiting)
            full = len(window.under_way) + 1 >= window.size
            self._send(piece, last or full or self._sent.datagrams % _EVERY == 0)

    def _send(self, piece: int, answer: bool) -> None:
        start = piece * self._piece
        body = self._view[start:start + self._piece]
        sequence = self._link.next_sequence()
        kind = _DATA | (FLAGS["ANSWER"] if answer else 0) << 8 | len(body) // 4 << 16
        head = struct.pack("<5I", MAGIC, self._link.token, sequence, kind, self._offset + start)
        self._wire.send(head, body, zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little"))
        self._window.under_way[sequence] = (piece, time.monotonic())
        self._sent.datagrams += 1

    def _answer(self, raw: bytes) -> bool:
        answer = Datagram.decode(raw)
        if answer is None or answer.token != self._link.token or answer.operation != _DATA:
            return False
        if answer.flags in (STATUS["HELD"], STATUS["FREE"]):
            # it was sent before the claim was made again
            if answer.sequence - self._claimed & 0x80000000:
                return False
            self._claimed = self._link.regain()
            self._all_lost()
            return True
        if answer.flags != STATUS["OK"]:
            self._link.refused(answer, f"offset 0x{answer.address:x} of DDR")
        entry = self._window.under_way.get(answer.sequence)
        if entry is not None:
            trip = max(1e-5, time.monotonic() - entry[1])
            self._trip.measured(trip)
            self._window.measured(trip)
        for sequence in answer.data:
            self._arrived(sequence)
        self._waiting.extend(piece
                             for piece in self._window.lost(answer.sequence)
                             if not self._there[piece])
        return True

    def _arrived(self, sequence: int) -> None:
        entry = self._window.under_way.pop(sequence, None)
        piece = entry[0] if entry is not None else self._window.only_late(sequence)
        if piece is None:
            return
        if entry is not None:
            self._window.arrived()
        if not self._there[piece]:
            self._there[piece] = 1
            self._missing -= 1

    def _all_lost(self) -> None:
        """Nothing has been heard for long: everything is sent again, more slowly."""
        window = self._window
        self._waiting.extend(piece for piece in window.give_up() if not self._there[piece])
