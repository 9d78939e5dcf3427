"""Commands to the board and events from it (``protocol``), through its mailbox, over any wire."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitnet_host.errors import BoardBusy, BoardRestarted, BoardTaken, LinkError, LinkTimeout
from bitnet_host.run.link.bulk import upload
from bitnet_host.run.link.client import Link
from bitnet_host.run.link.wires import SerialWire, UDPWire
from bitnet_host.run.protocol import COMMANDS, EVENT_HEAD_WORDS, EVENTS, MAILBOX, restart_text

__all__ = ["DDR_BASE", "Event", "MailboxTransport", "Transport", "over_serial", "over_udp"]

Words = NDArray[np.uint32]
MAILBOX_BASE, DDR_BASE = 0x9000_0000, 0x4000_0000  # soc/bitnet_soc/soc.py; tests compare
_EVENT_NAMES = {code: name for name, code in EVENTS.items()}
_COMMAND_NAMES = {code: name for name, code in COMMANDS.items()}
_RESET_SECONDS, _BOOT_SECONDS, _BUSY_SECONDS = 0.3, 30.0, 120.0


def _words(values: object) -> Words:
    return np.asarray(values, np.uint32)


class Event(NamedTuple):
    """``sequence``: the number of the command that it answers."""

    sequence: int
    name: str
    payload: Words


class Transport(ABC):
    """Commands go to the board one by one; what answers them may come in any order. Threads may
    share it."""

    name: str
    bytes_per_second = 0.0  # of an upload; 0 where it is fast

    @abstractmethod
    def ready(self) -> None:
        """Returns when ``send`` would not have to wait for the board, which may take it as long as
        a pass over the model. Raises as that."""

    @abstractmethod
    def send(self, command: str, payload: Words | Sequence[int] = ()) -> int:
        """Sends a command; its number. Raises LinkError if the board does not take it,
        BoardRestarted if it was restarted."""

    @abstractmethod
    def listen(self, timeout: float) -> Event:
        """The next event, whatever it answers. Raises LinkTimeout if none comes in ``timeout``
        seconds, BoardRestarted if the board was restarted."""

    @abstractmethod
    def cancel(self, slot: int, sequence: int) -> None:
        """Asks the board to end a GENERATE early."""

    @abstractmethod
    def progress(self) -> tuple[int, ...]:
        """What the board is doing, how much of it is done, and of how much: numbers that change
        while it gets on."""

    @abstractmethod
    def write_ddr(self,
                  offset: int,
                  words: Words, progress: Callable[[int], None] = lambda done: None) -> None:
        """Writes words at a DDR address (physical order, a multiple of 8); ``progress`` hears of
        bytes that have arrived."""

    @abstractmethod
    def read_ddr(self, offset: int, count: int) -> Words:
        """Reads words at a DDR address (physical order)."""

    @abstractmethod
    def speed_up(self) -> None:
        """Makes a slow line as fast as it can be, before much is sent over it."""

    @abstractmethod
    def close(self) -> None:
        """Gives the board back and releases the line."""


class MailboxTransport(Transport):
    """``link`` to the board, which it takes care of from now on."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.name, self.bytes_per_second = link.name, link.wire.bytes_per_second
        self._sequence, self._tail, self._restarts = 0, 0, 0
        self._pending: list[Event] = []
        self._sending, self._lock = threading.Lock(), threading.RLock()
        try:
            self._attach()
        except BaseException:
            link.close()
            raise

    @staticmethod
    def _at(word: int) -> int:
        return MAILBOX_BASE + 4 * word

    def _state(self, *words: int) -> list[int]:
        return self.link.read_list([self._at(word) for word in words])

    def _attach(self) -> None:
        """Waits for the firmware to open the mailbox and takes up its counters."""
        limit = time.monotonic() + _BOOT_SECONDS
        while True:
            magic, sequence, taken, head, self._restarts = self._state(
                MAILBOX.magic, MAILBOX.command_sequence, MAILBOX.command_taken, MAILBOX.event_head,
                MAILBOX.restarts)
            if magic == MAILBOX.magic_value:
                break
            if time.monotonic() > limit:
                raise LinkError(f"{self.name} answers, but no bitnet firmware runs there: load the "
                                f"board and try again")
            time.sleep(0.05)
        # a command may be under way, whose number is the next one
        self._sequence = sequence if sequence == taken + 1 & 0xFFFFFFFF else taken
        self._tail = head
        self._pending.clear()
        self.link.write(self._at(MAILBOX.event_tail), [head])

    def _look(self, *words: int) -> list[int]:
        """Words of the mailbox. Raises BoardRestarted if the firmware was restarted since this host
        last looked."""
        with self._explained():
            magic, restarts, *values = self._state(MAILBOX.magic, MAILBOX.restarts, *words)
        if magic != MAILBOX.magic_value or restarts != self._restarts:
            raise self._restart()
        return values

    def _restart(self) -> BoardRestarted:
        """Takes up what the restarted firmware starts with; what to tell of it."""
        self._attach()
        code, detail = self._state(MAILBOX.restarts + 1, MAILBOX.restarts + 2)
        return BoardRestarted(restart_text(code, detail), code, detail)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A board that was reset has forgotten who held it, which alone looks as if somebody else
        had been there."""
        try:
            yield
        except BoardTaken:
            before = self._restarts
            # until then the mailbox may say what was true before a reset
            time.sleep(_RESET_SECONDS)
            restart = self._restart()
            if self._restarts != before:
                raise restart from None
            raise

    def send(self, command: str, payload: Words | Sequence[int] = ()) -> int:
        data = _words(payload)
        with self._sending:
            self.ready()
            with self._lock, self._explained():
                self.link.write(self._at(MAILBOX.command),
                                np.concatenate([_words([COMMANDS[command], len(data)]), data]))
                self._sequence = self._sequence + 1 & 0xFFFFFFFF
                self.link.write(self._at(MAILBOX.command_sequence), [self._sequence])
                return self._sequence

    def ready(self) -> None:
        limit, before = time.monotonic() + _BUSY_SECONDS, (0, 0)
        while True:
            with self._lock:
                taken, sequence, head, doing, done, total = self._look(
                    MAILBOX.command_taken, MAILBOX.command_sequence, MAILBOX.event_head,
                    MAILBOX.doing, MAILBOX.done, MAILBOX.total)
                if head != self._tail:  # the board may wait for room before it takes anything
                    self._collect(head)
                if sequence == taken:  # also if a number that this host meant to write never
                    self._sequence = taken  # got there
                    return
            if (doing, done) != before:
                limit, before = time.monotonic() + _BUSY_SECONDS, (doing, done)
            if time.monotonic() > limit:
                name = _COMMAND_NAMES.get(doing, f"command {doing}")
                far = f", {done} of {total} done" if total else ""
                raise BoardBusy(f"the board at {self.name} is busy with {name}{far}, and does not "
                                f"get on: restart it")
            time.sleep(0.01)

    def listen(self, timeout: float) -> Event:
        limit, pause = time.monotonic() + timeout, 0.0
        while True:
            with self._lock:
                if not self._pending:
                    head, = self._look(MAILBOX.event_head)
                    if head != self._tail:
                        self._collect(head)
                if self._pending:
                    return self._pending.pop(0)
            if time.monotonic() > limit:
                raise LinkTimeout(f"the board at {self.name} has nothing to say: restart it and "
                                  f"try again")
            time.sleep(pause)
            pause = min(0.02, pause + 0.001)

    def _collect(self, head: int) -> None:
        count = head - self._tail & 0xFFFFFFFF
        if count > MAILBOX.ring_words:
            raise LinkError(f"the board at {self.name} was restarted: start anew")
        words = self._state(*(MAILBOX.ring + (self._tail + i) % MAILBOX.ring_words
                              for i in range(count)))
        while words:
            if len(words) < EVENT_HEAD_WORDS or len(words) < EVENT_HEAD_WORDS + words[1]:
                raise LinkError(f"the board at {self.name} sent an event that breaks off: restart "
                                f"it and try again")
            end = EVENT_HEAD_WORDS + words[1]
            self._pending.append(Event(words[2], _EVENT_NAMES.get(words[0], f"event {words[0]}"),
                                       _words(words[EVENT_HEAD_WORDS:end])))
            words = words[end:]
        self._tail = head
        self.link.write(self._at(MAILBOX.event_tail), [head])

    def progress(self) -> tuple[int, ...]:
        with self._lock:
            return tuple(self._look(MAILBOX.doing, MAILBOX.done, MAILBOX.total))

    def cancel(self, slot: int, sequence: int) -> None:
        with self._explained():
            self.link.write(self._at(MAILBOX.cancel + slot), [sequence])

    def write_ddr(self,
                  offset: int,
                  words: Words, progress: Callable[[int], None] = lambda done: None) -> None:
        pairs = len(words) & ~1
        with self._explained():
            upload(self.link, offset, words[:pairs].view(np.uint8), progress)
            if pairs < len(words):
                self.link.write(DDR_BASE + offset + 4 * pairs, words[pairs:])

    def read_ddr(self, offset: int, count: int) -> Words:
        with self._explained():
            return self.link.read(DDR_BASE + offset, count)

    def speed_up(self) -> None:
        with self._explained():
            self.link.speed_up()
        self.bytes_per_second = self.link.wire.bytes_per_second

    def close(self) -> None:
        self.link.close()


def over_udp(host: str, port: int, *, take_over: bool = False) -> MailboxTransport:
    """To a board in the network, or a simulator's UDP port."""
    return MailboxTransport(Link(UDPWire(host, port), take_over=take_over))


def over_serial(device: str, *, take_over: bool = False) -> MailboxTransport:
    """To a board's UART; ``device`` may be a URL such as socket://host:port."""
    return MailboxTransport(Link(SerialWire(device), take_over=take_over))
