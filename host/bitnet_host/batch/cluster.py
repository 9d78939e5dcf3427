"""Answering requests of a batch on Ray: an actor for each board, on any machine of a cluster."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bitnet_host.batch.answers import Row
from bitnet_host.batch.requests import Request
from bitnet_host.batch.work import Crowded, answer
from bitnet_host.errors import BadArgument, LinkError, UserError
from bitnet_host.model.image import Image
from bitnet_host.model.text import TextModel
from bitnet_host.run.pool import Pool
from bitnet_host.run.protocol import SLOTS
from bitnet_host.run.target import Cancel
from bitnet_host.serve.model import Model

__all__ = ["Cluster"]

_LOOK = 0.2  # seconds between two looks at a cancel
_FIRST_REST, _LONGEST_REST = 0.5, 30.0  # seconds for which a board that failed gets no request
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class _Held:
    """A model in the cluster's memory. A process that is started anew asks for it again."""

    reference: Any

    def image(self) -> Image:
        import ray
        image: Image = ray.get(self.reference)
        return image


class _Actor:
    """Answers on one board, in a process of its own."""

    def __init__(self, target: str, slots: int, defaults: Mapping[str, float]) -> None:
        self._target, self._slots, self._defaults = target, slots, defaults
        self._open: tuple[Model, Pool] | None = None
        self._lock = threading.Lock()

    def open(self, image: _Held) -> int | str:
        """How many slots the board has, or why there is none."""
        try:
            return self._opened(image)[1].count
        except UserError as error:
            return str(error)

    def _opened(self, held: _Held) -> tuple[Model, Pool]:
        with self._lock:
            if self._open is None:
                image = held.image()
                self._open = (Model(image, TextModel(image), self._defaults),
                              Pool([self._target], image, self._slots, patience=0.0))
            return self._open

    def answer(self, image: _Held, request: Request, alone: bool) -> Row | str | None:
        """The row of a request, or why the board gave none; None if it has to be repeated with
        fewer beside it."""
        try:
            return answer(*self._opened(image), request, Cancel(), alone) or "it was cancelled"
        except Crowded:
            return None
        except UserError as error:
            return str(error)

    def close(self) -> None:
        with self._lock:
            if self._open is not None:
                self._open[1].close()


class _Board:
    """What the driver knows of an actor."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name, self.actor = name, actor
        self.count = self.busy = 0
        self.error = ""
        self._until, self._rest = 0.0, _FIRST_REST

    @property
    def free(self) -> bool:
        return self.busy < self.count and time.monotonic() >= self._until

    def failed(self, why: str) -> None:
        """Leaves it alone for a while, longer each time."""
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + self._rest
            self._rest = min(_LONGEST_REST, 2 * self._rest)
        self.error = why

    def answered(self) -> None:
        self.error, self._rest, self._until = "", _FIRST_REST, 0.0


class Cluster:
    """An actor for each of ``targets``, on the Ray cluster at ``address``, or in this machine's own
    if that is ``local``. ``slots`` of each board are used, 0 for all; ``defaults`` as of ``Model``.
    ``patience``: seconds that work waits while no board is there. Raises BadArgument if Ray is not
    installed, LinkError if the cluster or a board is not there. Close it."""

    def __init__(self, address: str, targets: Sequence[str], image: Image, slots: int,
                 defaults: Mapping[str, float], *, patience: float = 60.0) -> None:
        if not 0 <= slots <= SLOTS:
            raise BadArgument(f"the number of slots must lie between 1 and {SLOTS}, not {slots}")
        self._patience = patience
        self._ray = _started(address)
        try:
            self._held = _Held(self._ray.put(image))
            made = self._ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=0,
                                    max_concurrency=SLOTS + 1,
                                    scheduling_strategy="SPREAD")(_Actor)
            self._boards = [_Board(name, made.remote(name, slots, dict(defaults)))
                            for name in targets]
            self._open()
        except BaseException:
            self._ray.shutdown()
            raise

    def _open(self) -> None:
        found = [board.actor.open.remote(self._held) for board in self._boards]
        for board, reference in zip(self._boards, found, strict=True):
            try:
                count = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                text = str(error).strip().splitlines()[0]
                raise LinkError(f"the actor for {board.name} does not run ({text}): see that all "
                                f"machines of the cluster have this version of bitnet-zynq "
                                f"installed, and memory for the model") from None
            if isinstance(count, str):
                raise LinkError(count)
            board.count = count

    def answers(self, requests: Sequence[Request], cancel: Cancel) -> Iterator[Row]:
        """The rows of all requests, as they come, each once: what a board did not come to the end
        of is given to another one. Raises LinkError if no board comes back in time."""
        waiting = deque(requests)
        under_way: dict[Any, tuple[_Board, Request]] = {}
        alive = time.monotonic()
        while (waiting or under_way) and not cancel:
            for board in self._boards:
                while waiting and board.free:
                    request = waiting.popleft()
                    reference = board.actor.answer.remote(self._held, request, board.count == 1)
                    under_way[reference] = board, request
                    board.busy += 1
            if not under_way and time.monotonic() - alive > self._patience:
                raise LinkError(f"no board is there: {self._boards[0].error}")
            if not under_way:
                time.sleep(_LOOK)
                continue
            ready, _ = self._ray.wait(list(under_way), timeout=_LOOK)
            for reference in ready:
                board, request = under_way.pop(reference)
                board.busy -= 1
                row = self._row(reference)
                if row is None:
                    board.count = max(1, min(board.count - 1, board.busy))
                    waiting.appendleft(request)
                elif isinstance(row, str):
                    if not board.error:
                        alive = time.monotonic()  # it was there until now
                    board.failed(row)
                    waiting.appendleft(request)
                else:
                    board.answered()
                    alive = time.monotonic()
                    yield row

    def _row(self, reference: Any) -> Row | str | None:
        """What became of a request, as ``_Actor.answer`` has it."""
        try:
            row: Row | str | None = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:  # a fault of this tool, which would come again
            raise
        except self._ray.exceptions.RayError as error:
            return f"its process has ended: {error}".splitlines()[0]
        return row

    def close(self) -> None:
        """Gives the boards back and ends the actors."""
        with suppress(Exception):  # those that are gone already
            self._ray.get([board.actor.close.remote() for board in self._boards],
                          timeout=_CLOSE_SECONDS)
        self._ray.shutdown()


def _started(address: str) -> Any:
    """The module, connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of each run
    try:
        import ray
    except ImportError:
        raise BadArgument("Ray is not installed: pip install 'bitnet-zynq[ray]', or leave --ray "
                          "out") from None
    try:
        _listens(address)
        if address == "local":
            ray.init(address="local", include_dashboard=False, log_to_driver=False,
                     logging_level=logging.ERROR)
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LinkError(f"no Ray cluster answers at {address} ({text}): start one with `ray start "
                        f"--head`, or give --ray local") from None
    return ray


def _listens(address: str) -> None:
    """Raises OSError if nobody is at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CLOSE_SECONDS).close()
