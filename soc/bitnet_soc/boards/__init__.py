"""The boards: a module each, with ``BOARD``. Adding a file adds a board."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from .board import Board

__all__ = ["load", "names"]


def names() -> list[str]:
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name != "board"
                  and not found.name.startswith("_"))


def load(name: str) -> Board:
    """Raises KeyError if there is no such board."""
    if name not in names():
        raise KeyError(name)
    board: Board = import_module(f"{__name__}.{name}").BOARD
    return board
