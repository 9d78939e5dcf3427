"""Commands of several threads over one transport: each hears what answers its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from bitnet_host.errors import BoardHeld, BoardRestarted, BoardTaken, LinkTimeout, UserError
from bitnet_host.run.link.transport import Transport

__all__ = ["Exchange", "loses_conversations"]

Words = NDArray[np.uint32]
_SLICE = 0.25  # seconds after which whoever listens looks whether it still has to


def loses_conversations(error: UserError) -> bool:
    """Whether the board may hold somebody else's conversations, or none, after ``error``."""
    return isinstance(error, BoardTaken | BoardHeld | BoardRestarted)


class Exchange:
    """Whoever waits for an event listens for all who wait; there is no thread of its own. What
    answers a command that nobody waits for any more is dropped."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._waiting: dict[int, deque[tuple[str, Words] | UserError]] = {}
        self._changed, self._sending = threading.Condition(), threading.Lock()
        self._listening = False

    def send(self, command: str, payload: Sequence[int] = ()) -> int:
        """Sends a command; its number, for ``receive`` and, at the end, ``forget``. Raises as
        ``Transport.send``."""
        with self._sending, self.told():
            self.transport.ready()  # others hear their events meanwhile
            with self._changed:  # lest its event is there before somebody waits for it
                sequence = self.transport.send(command, payload)
                self._waiting[sequence] = deque()
            return sequence

    @contextmanager
    def told(self) -> Iterator[None]:
        """For uses of the transport beside this exchange: if one finds the conversations lost, all
        who wait hear of it."""
        try:
            yield
        except UserError as error:
            if loses_conversations(error):
                with self._changed:
                    self._fail(error)
            raise

    def receive(self, sequence: int, timeout: float) -> tuple[str, Words]:
        """The next event that answers a command. Raises LinkTimeout if none comes in ``timeout``
        seconds, and whatever goes wrong with the line, whoever was listening."""
        limit = time.monotonic() + timeout
        while True:
            with self._changed:
                events = self._waiting.setdefault(sequence, deque())
                while not events and self._listening and time.monotonic() < limit:
                    self._changed.wait(max(0.0, min(_SLICE, limit - time.monotonic())))
                if events:
                    event = events.popleft()
                    if isinstance(event, UserError):
                        raise event
                    return event
                if self._listening:
                    raise LinkTimeout(f"the board at {self.transport.name} has nothing to say to "
                                      f"a command: restart it and try again")
            self._listen(limit)

    def forget(self, sequence: int) -> None:
        """Nobody waits for what answers a command any more."""
        with self._changed:
            self._waiting.pop(sequence, None)

    def _listen(self, limit: float) -> None:
        """Takes one event, for whomever it is."""
        event = failure = None
        with self._changed:
            if self._listening:
                return
            self._listening = True
        try:
            event = self.transport.listen(max(0.0, min(_SLICE, limit - time.monotonic())))
        except LinkTimeout:
            if time.monotonic() >= limit:
                raise
        except UserError as error:
            failure = error
        finally:
            with self._changed:
                self._listening = False
                if failure:
                    self._fail(failure)
                elif event and event.sequence in self._waiting:
                    self._waiting[event.sequence].append((event.name, event.payload))
                self._changed.notify_all()

    def _fail(self, error: UserError) -> None:
        """Tells all who wait."""
        for events in self._waiting.values():
            events.append(error)
        self._changed.notify_all()
