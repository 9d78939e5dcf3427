"""Several conversations on one target: which slot answers which."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bitnet_host.errors import BadArgument, UserError
from bitnet_host.run.target import Cancel, Target

__all__ = ["Slots"]

_LOOK = 0.1  # seconds between two looks at a cancel


class Slots:
    """Shares a target's slots among the sessions that are made with it, of any threads. ``count``:
    how many, 0 for all there are. A conversation goes on in the slot that holds its beginning;
    otherwise an empty slot takes it, or the one whose conversation was answered longest ago. Who
    finds all of them busy waits, in order; a thread that has them all itself gets BadArgument, and
    so does who asks for more than there are."""

    def __init__(self, target: Target, count: int = 0) -> None:
        if not 0 <= count <= len(target.slots):
            raise BadArgument(f"the number of slots must lie between 1 and {len(target.slots)}, "
                              f"not {count}")
        self.target, self.image = target, target.image
        self._slots = list(target.slots[:count or None])
        self._idle = list(self._slots)  # longest ago first
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()
        self._owners = Counter[int]()  # how many slots a thread has
        for slot in self._slots:
            slot.make_room = self._make_room

    @property
    def waiting(self) -> int:
        """Conversations that wait for a slot."""
        return len(self._queue)

    @property
    def busy(self) -> int:
        return len(self._slots) - len(self._idle)

    def goes_on(self, error: UserError) -> bool:
        """As of ``Target``."""
        return False

    def common(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` an idle slot holds already."""
        with self._changed:
            return max((_common(slot.tokens, tokens) for slot in self._idle), default=0)

    @property
    def count(self) -> int:
        return len(self._slots)

    @contextmanager
    def lease(self, tokens: Sequence[int], cancel: Cancel | None = None) -> Iterator[Target | None]:
        """The slot for a conversation of ``tokens``, once it is its turn; None if it was cancelled
        before that."""
        slot, owner = self._acquire(tokens, cancel), threading.get_ident()
        try:
            yield slot
        finally:
            if slot is not None:
                with self._changed:
                    self._owners -= Counter((owner,))  # which drops it at none
                self._release(slot)

    def _acquire(self, tokens: Sequence[int], cancel: Cancel | None) -> Target | None:
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                while not (self._idle and self._queue[0] is ticket):
                    if cancel:
                        return None
                    if self._owners[threading.get_ident()] == len(self._slots):
                        raise BadArgument("this thread has all slots in the middle of an answer: "
                                          "read one to its end or close it first")
                    self._changed.wait(_LOOK)
                slot = self._choose(tokens)
                self._idle.remove(slot)
                self._owners[threading.get_ident()] += 1
                return slot
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _release(self, slot: Target) -> None:
        with self._changed:
            self._idle.append(slot)
            self._changed.notify_all()

    def _choose(self, tokens: Sequence[int]) -> Target:
        best = max(self._idle, key=lambda slot: _common(slot.tokens, tokens))
        common = _common(best.tokens, tokens)
        if common and 2 * common >= len(best.tokens):  # little of another conversation is lost
            return best
        empty = (slot for slot in self._idle if not slot.tokens)
        return next(empty, self._idle[0])

    def _make_room(self) -> bool:
        """Forgets the conversation that was answered longest ago and is not being answered now."""
        with self._changed:
            slot = next((slot for slot in self._idle if slot.tokens and not slot.answers), None)
            if slot is None:
                return False
            self._idle.remove(slot)
        try:
            slot.reset()
            return True
        finally:
            self._release(slot)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that both begin with."""
    count = 0
    for left, right in zip(a, b, strict=False):
        if left != right:
            break
        count += 1
    return count
