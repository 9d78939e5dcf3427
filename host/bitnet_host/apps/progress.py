"""Shows long steps on stderr: a bar with speed and time left on a terminal, quiet lines
elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

__all__ = ["ProgressDisplay"]

_BYTES = {"upload", "verify"}  # steps that count bytes
_PAUSE = 10.0  # seconds between lines where there is no terminal


class ProgressDisplay:
    """Called with (what, done, total); ``end`` clears what is shown."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)  # it heeds NO_COLOR
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._what, self._next = "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            if self._what.startswith(f"{what},"):  # the estimate that was said first stays
                what = self._what
            else:
                self.end()
        if what != self._what:
            self._what, self._next = what, time.monotonic() + _PAUSE
            if self._console.is_terminal:
                in_bytes = what.partition(",")[0] in _BYTES
                counts: list[ProgressColumn] = ([DownloadColumn(), TransferSpeedColumn()]
                                                if in_bytes else [MofNCompleteColumn()])
                self._bar = Bar(TextColumn("{task.description}"), BarColumn(), *counts,
                                TimeRemainingColumn(), console=self._console,
                                transient=True)
                self._bar.start()
                self._task = self._bar.add_task(what, total=total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif (time.monotonic() >= self._next or (not done and "," in what)) and done < total:
            self._next = time.monotonic() + _PAUSE
            print(f"{what}: {100 * done // max(total, 1)} %", file=sys.stderr, flush=True)
        if done >= total:
            self.end()

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar, self._task = None, None
        self._what = ""
