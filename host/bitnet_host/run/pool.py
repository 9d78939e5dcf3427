"""Several boards with one model, among which conversations are shared out. Those of a board that
dies go on with another one, and it is taken up again when it is back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from bitnet_host.errors import BoardError, LinkError, NoBoard, UserError
from bitnet_host.model.image import Image
from bitnet_host.reporting import Progress, quiet
from bitnet_host.run.open import open_board
from bitnet_host.run.protocol import ERRORS
from bitnet_host.run.slots import Slots
from bitnet_host.run.target import Cancel, Target

__all__ = ["BoardState", "Pool"]

_log = logging.getLogger("bitnet_host.pool")
_LOOK = 0.1  # seconds between two looks at a cancel
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between two tries to reach a board
# errors of the command, and not of the board
_HARMLESS = {ERRORS[name][0] for name in ("CONTEXT", "ARGUMENT", "MEMORY")}
_ELSEWHERE = {ERRORS[name][0] for name in ("POSITION", "BUSY")}  # of the conversation

Open = Callable[[str, Image, Progress], Target]


@dataclass(frozen=True)
class BoardState:
    """``error``: why it is not there; ``busy`` of ``slots`` are answering."""

    name: str
    error: str
    busy: int
    slots: int


class _Board:
    """One of them. ``slots`` is None while it is away."""

    def __init__(self, name: str, slots: Slots) -> None:
        self.name, self.error = name, ""
        self.slots: Slots | None = slots
        self.count = slots.count

    @property
    def load(self) -> float:
        return (self.slots.busy + self.slots.waiting) / self.count if self.slots else 1e9


class Pool:
    """Opens the targets ``names`` with ``count`` slots each, 0 for all that they have. Use it as
    ``Slots``, and close it. ``patience``: seconds that an answer waits while no board is there.
    Raises UserError if one of the boards cannot be opened."""

    def __init__(self, names: Sequence[str], image: Image, count: int = 0,
                 progress: Progress = quiet, *, patience: float = 60.0,
                 open_one: Open = open_board) -> None:
        self.image, self.patience = image, patience
        self._count, self._open = count, open_one
        self._changed = threading.Condition()
        self._closed = False
        self._boards: list[_Board] = []
        try:
            for name in names:
                self._boards.append(_Board(name, self._slots(name, progress)))
        except BaseException:
            self.close()
            raise

    def _slots(self, name: str, progress: Progress) -> Slots:
        target = self._open(name, self.image, progress)
        try:
            return Slots(target, self._count)
        except BaseException:
            target.close()
            raise

    @property
    def count(self) -> int:
        """Slots of all boards, whether they are there or not."""
        return sum(board.count for board in self._boards)

    @property
    def boards(self) -> list[BoardState]:
        return [BoardState(board.name, board.error, slots.busy if slots else 0, board.count)
                for board in self._boards for slots in (board.slots,)]

    def close(self) -> None:
        """Ends all answers and releases the boards."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            targets = [board.slots.target for board in self._boards if board.slots]
        for target in targets:
            target.close()

    # -- leases ------------------------------------------------------------------------------------

    @contextmanager
    def lease(self, tokens: Sequence[int], cancel: Cancel | None = None) -> Iterator[Target | None]:
        """As of ``Slots``, on the board whose KV cache has most of ``tokens``, or has the least to
        do. Raises NoBoard if none comes back in time."""
        board, slots = self._choose(tokens, cancel)
        if board is None or slots is None:
            yield None
            return
        try:
            with slots.lease(tokens, cancel) as slot:
                yield slot
        except UserError as error:
            if _is_of_board(error):
                self._lose(board, slots, error)
            raise

    def goes_on(self, error: UserError) -> bool:
        """As of ``Target``: if it was the board's fault."""
        return not self._closed and (_is_of_board(error) or _is_elsewhere(error))

    def _choose(self, tokens: Sequence[int],
                cancel: Cancel | None) -> tuple[_Board | None, Slots | None]:
        waited = 0.0
        with self._changed:
            while not (there := [board for board in self._boards if board.slots]):
                if self._closed or cancel:
                    return None, None
                if waited >= self.patience:
                    raise NoBoard(f"no board is there: {self._boards[0].error}")
                self._changed.wait(_LOOK)
                waited += _LOOK
            best = max(there, key=lambda board: (self._held(board, tokens), -board.load))
            return best, best.slots

    @staticmethod
    def _held(board: _Board, tokens: Sequence[int]) -> int:
        """What of ``tokens`` need not be read again, where that is worth a thought."""
        held = board.slots.common(tokens) if board.slots else 0
        return held if 2 * held >= len(tokens) else 0

    # -- boards that are away ----------------------------------------------------------------------

    def _lose(self, board: _Board, slots: Slots, error: UserError) -> None:
        """Once for all answers that it had."""
        with self._changed:
            if board.slots is not slots or self._closed:
                return
            board.slots, board.error = None, str(error)
        _log.warning("board %s is away: %s", board.name, error)
        threading.Thread(target=self._take_up, args=(board, slots), daemon=True).start()

    def _take_up(self, board: _Board, slots: Slots) -> None:
        """Tries until the board is there again."""
        with suppress(Exception):  # whatever is wrong with it, it is done with
            slots.target.close()
        wait = _FIRST_WAIT
        while not self._closed:
            try:
                new = self._slots(board.name, quiet)
            except UserError as error:
                board.error = str(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, wait)
                wait = min(_LONGEST_WAIT, 2 * wait)
                continue
            with self._changed:
                if not self._closed:
                    board.slots, board.error = new, ""
                    self._changed.notify_all()
                    _log.warning("board %s is back", board.name)
                    return
            new.target.close()


def _is_elsewhere(error: UserError) -> bool:
    return isinstance(error, BoardError) and error.code in _ELSEWHERE


def _is_of_board(error: UserError) -> bool:
    """Whether the board, or the way to it, is at fault."""
    if isinstance(error, BoardError):
        return error.code not in _HARMLESS | _ELSEWHERE
    return isinstance(error, LinkError) and not isinstance(error, NoBoard)
