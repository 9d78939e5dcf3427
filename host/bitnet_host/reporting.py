"""How long steps tell how far they are."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "quiet"]

#: Called with (what, done, total) during long steps.
Progress = Callable[[str, int, int], None]


def quiet(what: str, done: int, total: int) -> None:
    """Shows nothing."""
