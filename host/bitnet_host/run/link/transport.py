"""Transports: how messages (``protocol``) get to the board and back, and how its DDR is reached."""

from __future__ import annotations

import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import serial
from numpy.typing import NDArray

from bitnet_host.errors import BoardBusy, BoardRestarted, LinkError, LinkTimeout
from bitnet_host.run.link.etherbone import Etherbone
from bitnet_host.run.protocol import COMMANDS, EVENTS, MAILBOX, MAX_PAYLOAD, SYNC, restart_text

__all__ = ["MailboxTransport", "SerialTransport", "Transport"]

Words = NDArray[np.uint32]
_MAILBOX_BASE, _DDR_BASE = 0x9000_0000, 0x4000_0000  # soc/bitnet_soc/soc.py; tests compare
_EVENT_NAMES = {code: name for name, code in EVENTS.items()}


def _words(values: object) -> Words:
    return np.asarray(values, np.uint32)


class Transport(ABC):
    """One command at a time; events arrive until the command's last one."""

    name: str

    @abstractmethod
    def send(self, command: str, payload: Words | Sequence[int] = ()) -> None:
        """Sends a command. Raises LinkError if the board does not take it."""

    @abstractmethod
    def receive(self, timeout: float) -> tuple[str, Words]:
        """The next event. Raises LinkTimeout if none comes in ``timeout`` seconds."""

    @abstractmethod
    def cancel(self) -> None:
        """Asks the board to end the running command early."""

    @abstractmethod
    def write_ddr(self, offset: int, words: Words) -> None:
        """Writes words at a DDR address (physical order)."""

    @abstractmethod
    def read_ddr(self, offset: int, count: int) -> Words:
        """Reads words at a DDR address (physical order)."""

    @abstractmethod
    def close(self) -> None:
        """Releases the line."""

    def _silent(self) -> LinkTimeout:
        return LinkTimeout(f"the board at {self.name} stopped answering: restart it and try again")


def _name(code: int) -> str:
    return _EVENT_NAMES.get(code, f"event {code}")


class MailboxTransport(Transport):
    """Through Etherbone: commands and events in the mailbox memory, DDR directly."""

    def __init__(self, host: str, port: int) -> None:
        self._bus = Etherbone(host, port)
        self.name = self._bus.name
        self._sequence, self._tail = 0, 0
        self._pending: list[tuple[str, Words]] = []
        self._attach()

    @staticmethod
    def _at(word: int) -> int:
        return _MAILBOX_BASE + 4 * word

    def _attach(self) -> None:
        """Waits for the firmware to open the mailbox and takes up its counters."""
        limit = time.monotonic() + 30
        while True:
            magic, sequence, head, self._restarts = self._bus.read_list(
                [self._at(w) for w in (MAILBOX.magic, MAILBOX.command_sequence, MAILBOX.event_head, MAILBOX.restarts)])
            if magic == MAILBOX.magic_value:
                break
            if time.monotonic() > limit:
                raise LinkError(f"{self.name} answers, but no bitnet firmware runs there: load the board and try again")
            time.sleep(0.05)
        # What an earlier host left running ends now; BoardTarget.info skips its last events.
        self._sequence, self._tail = sequence, head
        self.cancel()
        self._bus.write_kept(self._at(MAILBOX.event_tail), _words([head]))

    def _read_state(self, word: int) -> int:
        """A word of the mailbox. If the firmware was restarted since this host last looked, a BOOT event is pending then."""
        magic, value, restarts = self._bus.read_list([self._at(w) for w in (MAILBOX.magic, word, MAILBOX.restarts)])
        if magic == MAILBOX.magic_value and restarts == self._restarts:
            return value
        self._attach()
        self._pending = [("BOOT", self._bus.read(self._at(MAILBOX.restarts), 3))]
        return self._sequence if word == MAILBOX.command_taken else self._tail

    def send(self, command: str, payload: Words | Sequence[int] = ()) -> None:
        data = _words(payload)
        limit = time.monotonic() + 60
        while self._read_state(MAILBOX.command_taken) != self._sequence:
            if time.monotonic() > limit:
                raise BoardBusy(f"the board at {self.name} answers but is busy with another command: wait, or end the other host")
            time.sleep(0.01)
        if self._pending and self._pending[0][0] == "BOOT":
            code, detail = map(int, self._pending.pop(0)[1][1:])
            raise BoardRestarted(restart_text(code, detail), code, detail)
        self._bus.write_kept(self._at(MAILBOX.command), np.concatenate([_words([COMMANDS[command], len(data)]), data]))
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        self._bus.write_kept(self._at(MAILBOX.command_sequence), _words([self._sequence]))

    def receive(self, timeout: float) -> tuple[str, Words]:
        limit = time.monotonic() + timeout
        pause = 0.0
        while not self._pending:
            head = self._read_state(MAILBOX.event_head)
            if head != self._tail:
                self._collect(head)
                break
            if time.monotonic() > limit:
                raise self._silent()
            time.sleep(pause)
            pause = min(0.02, pause + 0.001)
        return self._pending.pop(0)

    def _collect(self, head: int) -> None:
        count = head - self._tail & 0xFFFFFFFF
        if count > MAILBOX.ring_words:
            raise LinkError(f"the board at {self.name} was restarted: start anew")
        places = [(self._tail + i) % MAILBOX.ring_words for i in range(count)]
        words: list[int] = []
        for start in range(0, count, 128):
            words += self._bus.read_list([self._at(MAILBOX.ring + place) for place in places[start:start + 128]])
        while words:
            if len(words) < 2 or len(words) < 2 + words[1]:
                raise LinkError(f"the board at {self.name} sent an event that breaks off: restart it and try again")
            length = words[1]
            self._pending.append((_name(words[0]), _words(words[2:2 + length])))
            words = words[2 + length:]
        self._tail = head
        self._bus.write_kept(self._at(MAILBOX.event_tail), _words([head]))

    def cancel(self) -> None:
        self._bus.write_kept(self._at(MAILBOX.cancel), _words([self._sequence]))

    def write_ddr(self, offset: int, words: Words) -> None:
        self._bus.write_checked(_DDR_BASE + offset, words)

    def read_ddr(self, offset: int, count: int) -> Words:
        return self._bus.read(_DDR_BASE + offset, count)

    def close(self) -> None:
        self._bus.close()


class SerialTransport(Transport):
    """Over UART: framed messages; DDR through READ and WRITE commands. ``device`` may be a URL such as socket://host:port."""

    def __init__(self, device: str) -> None:
        self.name = f"serial:{device}"
        try:
            self._line = serial.serial_for_url(device, baudrate=115200, timeout=0.02)
        except (serial.SerialException, OSError, ValueError) as error:
            raise LinkError(f"cannot open {device}: {error}") from None
        self._buffer = bytearray()
        self.cancel()  # what an earlier host left running ends now

    def send(self, command: str, payload: Words | Sequence[int] = ()) -> None:
        body = np.concatenate([_words([COMMANDS[command], len(payload)]), _words(payload)]).astype("<u4").tobytes()
        try:
            self._line.write(SYNC.to_bytes(4, "little") + body + zlib.crc32(body).to_bytes(4, "little"))
        except (serial.SerialException, OSError) as error:
            raise LinkError(f"{self.name} was lost: {error}") from None

    def _frame(self) -> tuple[str, Words] | None:
        """Takes a frame out of the buffer; text and damaged frames are dropped."""
        sync = SYNC.to_bytes(4, "little")
        while True:
            start = self._buffer.find(sync)
            if start < 0:
                del self._buffer[:-3]
                return None
            del self._buffer[:start]
            if len(self._buffer) < 12:
                return None
            length = int.from_bytes(self._buffer[8:12], "little")
            if length > MAX_PAYLOAD:
                del self._buffer[:4]
                continue
            size = 12 + 4 * length
            if len(self._buffer) < size + 4:
                return None
            body = bytes(self._buffer[4:size])
            if zlib.crc32(body) != int.from_bytes(self._buffer[size:size + 4], "little"):
                del self._buffer[:4]
                continue
            del self._buffer[:size + 4]
            words = np.frombuffer(body, "<u4")
            return _name(int(words[0])), words[2:].copy()

    def receive(self, timeout: float) -> tuple[str, Words]:
        limit = time.monotonic() + timeout
        while (frame := self._frame()) is None:
            try:
                self._buffer += self._line.read(4096)
            except (serial.SerialException, OSError) as error:
                raise LinkError(f"{self.name} was lost: {error}") from None
            if time.monotonic() > limit:
                raise self._silent()
        return frame

    def cancel(self) -> None:
        self.send("CANCEL")

    def _expect(self, event: str) -> Words:
        name, payload = self.receive(60)
        if name != event:
            raise LinkError(f"the board at {self.name} answered {name} instead of {event}: restart it and try again")
        return payload

    def write_ddr(self, offset: int, words: Words) -> None:
        for start in range(0, len(words), 256):
            self.send("WRITE", np.concatenate([_words([offset + 4 * start]), words[start:start + 256]]))
            self._expect("DONE")

    def read_ddr(self, offset: int, count: int) -> Words:
        parts = []
        for start in range(0, count, 256):
            self.send("READ", [offset + 4 * start, min(256, count - start)])
            parts.append(self._expect("DATA"))
        return np.concatenate(parts)

    def close(self) -> None:
        self._line.close()
