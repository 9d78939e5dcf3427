"""A board made of memory, a socket and the rules of xtvu/datagram.py, written anew from their text.
It has no firmware: tests play it."""

from __future__ import annotations

import socket
import struct
import threading
import zlib
from collections.abc import Callable

import numpy as np
from xtvu.datagram import MAGIC, RECENT_WORDS

__all__ = ["DDR_BYTES", "BoardDouble"]

DDR_BYTES = 1 << 26
_DDR, _MAILBOX = 0x4000_0000, 0x9000_0000
_OK, _HELD, _FREE, _PROTECTED, _UNMAPPED, _BAD = 0, 1, 2, 3, 4, 6


class BoardDouble:
    """``words``: the mailbox by address; ``ddr``: bytes; ``protected``: a range of it. ``spoil``
    makes of an answer the datagrams that are sent. ``written``: WRITEs that were done. ``lapse`` is
    what 30 s of silence do."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}
        self.ddr = np.zeros(DDR_BYTES, np.uint8)
        self.protected = range(0)
        self.spoil: Callable[[bytes, int], list[bytes]] = lambda answer, number: [answer]
        self.asked, self.written, self.data_datagrams = 0, [], 0
        self.holder, self.claims, self.last = None, 0, (0, _OK)
        self._recent = [0] * RECENT_WORDS
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self._open = True
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def lapse(self) -> None:
        self.holder = None

    def set(self, word: int, value: int) -> None:
        """A word of the mailbox."""
        self.words[_MAILBOX + 4 * word] = value

    def get(self, word: int) -> int:
        return self.words.get(_MAILBOX + 4 * word, 0)

    def close(self) -> None:
        self._open = False
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while self._open:
            try:
                raw, sender = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            if (len(raw) < 24
                or len(raw) % 4 or zlib.crc32(raw[:-4]) != struct.unpack("<I", raw[-4:])[0]):
                continue
            magic, token, sequence, kind, address = struct.unpack_from("<5I", raw)
            if magic != MAGIC or len(raw) != 24 + 4 * (kind >> 16):
                continue
            self.asked += 1
            answer = self._answer(sender, token, sequence, kind & 255, kind >> 8 & 255, address,
                                  raw[20:-4])
            if answer is None:
                continue
            status, body = answer
            whole = (struct.pack("<5I", MAGIC, token, sequence,
                                 kind & 255 | status << 8 | len(body) // 4 << 16, address) + body)
            whole += struct.pack("<I", zlib.crc32(whole))
            for part in self.spoil(whole, self.asked):
                self._socket.sendto(part, sender)

    def _answer(self, sender, token, sequence, operation, flags, address, body):
        if operation == 1:
            return self._claim(sender, token, sequence, flags)
        if self.holder != (sender, token):
            return (_FREE if self.holder is None else _HELD), b""
        if operation == 2:
            self.holder = None
            return _OK, b""
        if operation == 3:
            addresses = struct.unpack(f"<{len(body) // 4}I", body)
            return _OK, struct.pack(f"<{len(addresses)}I", *map(self._read, addresses))
        if operation == 4:
            return self._write(sequence, address, body)
        return self._data(sequence, flags, address, body) if operation == 5 else (_BAD, b"")

    def _claim(self, sender, token, sequence, flags):
        mine = self.holder is not None and self.holder[1] == token
        granted = token != 0 and (self.holder is None or mine or flags & 1)
        if granted:
            if not mine:
                self.claims += 1
                self.last = sequence, _OK
            self.holder = sender, token
        ip, port = ((struct.unpack("<I", socket.inet_aton(self.holder[0][0]))[0],
                     socket.htons(self.holder[0][1])) if self.holder else (0, 0))
        state = struct.pack("<8I", int(self.holder is not None), ip, port, 12, 3, self.claims, 0, 0)
        return (_OK if granted else _FREE if self.holder is None else _HELD), state

    def _read(self, address: int) -> int:
        if _DDR <= address < _DDR + DDR_BYTES:
            return int(self.ddr[address - _DDR:address - _DDR + 4].view("<u4")[0])
        return self.words.get(address, 0)

    def _write(self, sequence, address, body):
        age = sequence - self.last[0] & 0xFFFFFFFF
        if age >> 31:
            return None
        if age:
            self.last = sequence, self._store(address, body)
        return self.last[1], b""

    def _store(self, address: int, body: bytes) -> int:
        self.written.append((address, body))
        if _DDR <= address < _DDR + DDR_BYTES:
            start = address - _DDR
            if start in self.protected:
                return _PROTECTED
            self.ddr[start:start + len(body)] = np.frombuffer(body, np.uint8)
        else:
            for i, (word,) in enumerate(struct.iter_unpack("<I", body)):
                self.words[address + 4 * i] = word
        return _OK

    def _data(self, sequence, flags, address, body):
        if (sequence - self.last[0] & 0xFFFFFFFF) >> 31:
            return None
        if address + len(body) > DDR_BYTES or address % 8 or len(body) % 8:
            return _UNMAPPED, b""
        if address in self.protected:
            return _PROTECTED, b""
        self.ddr[address:address + len(body)] = np.frombuffer(body, np.uint8)
        self.data_datagrams += 1
        self._recent = [sequence, *self._recent[:-1]]
        return (_OK, struct.pack(f"<{RECENT_WORDS}I", *self._recent)) if flags & 2 else None
