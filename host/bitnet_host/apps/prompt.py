"""Reads messages: with line editing and history at a terminal, a line each elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from bitnet_host.files import cache_folder

__all__ = ["Prompt"]


def _history() -> History:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "history").touch(mode=0o600)
        return FileHistory(str(folder / "history"))
    except OSError:
        return InMemoryHistory()


class Prompt:
    """Messages until the end of input. What is pasted is one message, whatever lines it has; Ctrl-C
    clears what was typed."""

    def __iter__(self) -> Iterator[str]:
        if sys.stdin is None:
            return
        if sys.stdin.isatty() and sys.stdout.isatty():
            yield from self._terminal()
        else:
            yield from self._lines()

    @staticmethod
    def _terminal() -> Iterator[str]:
        session: PromptSession[str] = PromptSession(history=_history())
        while True:
            try:
                yield session.prompt("> ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                return

    @staticmethod
    def _lines() -> Iterator[str]:
        for line in sys.stdin.buffer:
            print("> ", end="", flush=True)
            yield line.decode("utf-8", "replace").rstrip("\n")
