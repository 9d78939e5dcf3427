"""The file of answers: a line for each, written when it is there, and once."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bitnet_host.batch.requests import Request
from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.files import destination

__all__ = ["Answers", "Row"]

#: An answer, or why there is none.
Row = dict[str, Any]
_BEGINS = b'{"id": '


class Answers:
    """Goes on with the file at ``path`` if it is there. ``done``: lines of ``requests`` that it has
    answers to; ``failed`` of them are errors. ``seeded``: the seeds of requests count. Raises
    BadArgument if it is something else or if another process writes it, BadFile if it cannot be
    used. Close it."""

    def __init__(self, path: Path, requests: Sequence[Request], inputs: tuple[Path, ...],
                 seeded: bool = False) -> None:
        self._path, self._seeded = path, seeded
        self.done: set[int] = set()
        self.failed = 0
        place = destination(path, inputs)
        try:
            self._file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise BadFile(f"cannot write {path}: {error.strerror}") from None
        try:
            self._lock()
            self._size = self._read({request.line: request for request in requests})
            os.ftruncate(self._file, self._size)
        except OSError as error:
            self.close()
            raise BadFile(f"cannot use {path}: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadArgument(f"another batch writes {self._path}: wait for it, or give another "
                              f"-o") from None

    def _read(self, requests: dict[int, Request]) -> int:
        """Takes note of answers that are there; the bytes of whole lines. What was cut off when a
        process was killed is no line."""
        size = 0
        with open(os.dup(self._file), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self._check_cut(line, number)
                    break
                self._take(self._row(line, number), requests)
                size += len(line)
        return size

    def _check_cut(self, line: bytes, number: int) -> None:
        """Whether what has no end can be the beginning of an answer, and is not somebody else's."""
        if line[:len(_BEGINS)] != _BEGINS[:len(line)]:
            raise self._no_answer(number)

    def _no_answer(self, number: int) -> BadArgument:
        return BadArgument(f"{self._path}, line {number} is no answer of a batch: give another -o")

    def _row(self, line: bytes, number: int) -> Row:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("line"), int):
            raise self._no_answer(number)
        return row

    def _take(self, row: Row, requests: dict[int, Request]) -> None:
        request = requests.get(row["line"])
        if request is None or request.named() != {key: row.get(key) for key in request.named()}:
            raise BadArgument(f"{self._path} has answers to other prompts, of another model or "
                              f"with other options: give another -o")
        if request.line in self.done:
            raise BadArgument(f"{self._path} has two answers to line {request.line}: give another "
                              f"-o")
        if self._seeded and row.get("seed") not in (None, request.seed, request.body.get("seed")):
            raise BadArgument(f"{self._path} was begun with another --seed: give that, or another "
                              f"-o")
        self.done.add(request.line)
        self.failed += "error" in row

    def add(self, row: Row) -> None:
        """Writes an answer, to the disk. Raises BadFile if it cannot be; then none of it is."""
        # halves of surrogate pairs come out as JSON's own escapes
        data = f"{json.dumps(row, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace")
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            os.fdatasync(self._file)
        except OSError as error:
            with suppress(OSError):  # the next run cuts off what is half-written, too
                os.ftruncate(self._file, self._size)
            raise BadFile(f"cannot write {self._path}: {error.strerror}; what it has is whole, and "
                          f"the same command goes on") from None
        self._size += len(data)
        self.done.add(row["line"])
        self.failed += "error" in row

    def close(self) -> None:
        os.close(self._file)
