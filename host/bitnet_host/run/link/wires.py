"""Wires: what carries datagrams (xtvu/datagram.py), and may lose, damage, repeat or disorder
them."""

from __future__ import annotations

import socket
import time
from abc import ABC, abstractmethod

import serial
from xtvu.datagram import BASE_RATE, HEAD_WORDS, MAGIC, MOST_WORDS, PORT, Datagram

from bitnet_host.errors import LinkError

__all__ = ["SerialWire", "UDPWire", "Wire"]

_HEAD = 4 * HEAD_WORDS
_MAGIC = MAGIC.to_bytes(4, "little")


class Wire(ABC):
    """``name`` for people; ``most_words`` of a datagram's data; ``bytes_per_second``, 0 if that is
    no matter; ``window``: bytes that may be on their way at a time; ``patience``: seconds without
    any answer after which nobody is there."""

    name: str
    most_words = MOST_WORDS
    bytes_per_second = 0.0
    window = 512 * 4 * MOST_WORDS
    patience = 8.0

    @abstractmethod
    def send(self, *parts: bytes | memoryview) -> None:
        """Sends one datagram. Raises LinkError if the wire is gone."""

    @abstractmethod
    def receive(self, timeout: float) -> bytes | None:
        """The next datagram, which may be damaged, or None if none comes within ``timeout``
        seconds. Raises LinkError."""

    @abstractmethod
    def fall_back(self) -> None:
        """Nobody has answered for a while: to where both ends meet again (xtvu.datagram), if they
        can be elsewhere."""

    @abstractmethod
    def close(self) -> None:
        """Releases it."""


class UDPWire(Wire):
    """To ``host``, the board's or a simulator's, and its ``port``."""

    def __init__(self, host: str, port: int = PORT, *, source: str = "") -> None:
        self.name = f"udp://{host}:{port}"
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if source:
                self._socket.bind((source, 0))
            self._socket.connect((host, port))
        except (OSError, OverflowError, UnicodeError) as error:
            self._socket.close()
            raise LinkError(f"cannot reach {self.name}: {error}") from None

    def send(self, *parts: bytes | memoryview) -> None:
        try:
            self._socket.settimeout(None)
            self._socket.sendmsg(parts)
        except ConnectionRefusedError:  # the answer to an earlier one; what was sent counts as lost
            pass
        except OSError as error:
            raise LinkError(f"{self.name} cannot be reached: {error.strerror or error}") from None

    def receive(self, timeout: float) -> bytes | None:
        end = time.monotonic() + timeout
        while True:
            try:
                self._socket.settimeout(max(0.0, end - time.monotonic()))
                return self._socket.recv(2048)
            except (TimeoutError, BlockingIOError):
                return None
            except ConnectionRefusedError:
                if time.monotonic() >= end:
                    return None
                time.sleep(min(0.02, timeout))
            except OSError as error:
                raise LinkError(f"{self.name} was lost: {error.strerror or error}") from None

    def fall_back(self) -> None:
        pass

    def close(self) -> None:
        self._socket.close()


class SerialWire(Wire):
    """Over UART; ``device`` may be a URL such as socket://host:port. Text between datagrams is
    passed over."""

    most_words = 128
    window = 900  # the board's FIFO holds 1,024 bytes while the firmware does something else
    patience = 30.0

    def __init__(self, device: str) -> None:
        self.name = f"serial:{device}"
        self.bytes_per_second = BASE_RATE / 10
        try:
            self._line = serial.serial_for_url(device, baudrate=BASE_RATE, timeout=0)
        except (serial.SerialException, OSError, ValueError) as error:
            raise LinkError(f"cannot open {device}: {error}") from None
        self._buffer = bytearray()

    def set_rate(self, baud: int) -> None:
        """Changes the speed, of this end. Raises LinkError if the device does not have it."""
        try:
            self._line.baudrate = baud
        except (serial.SerialException, OSError, ValueError) as error:
            raise LinkError(f"{self.name} does not run at {baud} baud: {error}") from None
        self.bytes_per_second = baud / 10
        self._buffer.clear()

    def fall_back(self) -> None:
        if self.bytes_per_second != BASE_RATE / 10:
            self.set_rate(BASE_RATE)
        # a byte too many or too few may have made a short datagram a long one, and each question
        # that is repeated would be taken for more of it: what ends the longest
        self.send(bytes(_HEAD + 4 * (MOST_WORDS + 1)))

    def send(self, *parts: bytes | memoryview) -> None:
        try:
            self._line.write(b"".join(parts))
        except (serial.SerialException, OSError) as error:
            raise LinkError(f"{self.name} was lost: {error}") from None

    def receive(self, timeout: float) -> bytes | None:
        end = time.monotonic() + timeout
        while (found := self.take()) is None:
            left = end - time.monotonic()
            if left <= 0:
                return None
            try:
                self._line.timeout = min(left, 0.05)
                self._buffer += self._line.read(max(1, self._line.in_waiting))
            except (serial.SerialException, OSError) as error:
                raise LinkError(f"{self.name} was lost: {error}") from None
        return found

    def take(self) -> bytes | None:
        """A datagram out of what has come. If it is damaged and another begins inside, it broke off
        there. While it is not whole, a good one inside shows that its length was garbled: answers
        to repeated questions could be too few to fill it."""
        while True:
            start = self._buffer.find(_MAGIC)
            if start < 0:
                del self._buffer[:-3]
                return None
            del self._buffer[:start]
            if len(self._buffer) < _HEAD:
                return None
            size = _HEAD + 4 * (int.from_bytes(self._buffer[14:16], "little") + 1)
            if size > _HEAD + 4 * (MOST_WORDS + 1):
                del self._buffer[:4]
                continue
            if len(self._buffer) < size:
                return self._inside()
            found = bytes(self._buffer[:size])
            following = self._buffer.find(_MAGIC, 4, size)
            if following > 0 and Datagram.decode(found) is None:
                del self._buffer[:following]
                continue
            del self._buffer[:size]
            return found

    def _inside(self) -> bytes | None:
        """The first good datagram that begins after the first byte."""
        start = 0
        while (start := self._buffer.find(_MAGIC, start + 1)) > 0:
            length = int.from_bytes(self._buffer[start + 14:start + 16], "little")
            found = bytes(self._buffer[start:start + _HEAD + 4 * (length + 1)])
            if Datagram.decode(found) is not None:
                del self._buffer[:start + len(found)]
                return found
        return None

    def close(self) -> None:
        self._line.close()
