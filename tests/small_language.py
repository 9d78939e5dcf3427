"""A small language to learn: every line can be told to its end from its first words."""

from __future__ import annotations

import random
from pathlib import Path

__all__ = ["SHAPE", "write_grammar"]

#: Of a model that learns it within a minute.
SHAPE = ("hidden=64,intermediate=128,layers=2,heads=2,kv_heads=1,head_dim=32,vocab=320,"
         "context=64")
_NAMES = ("Ada", "Bob", "Cleo", "Dan", "Eve")
_ANIMALS = {"cat": "meows", "dog": "barks", "cow": "moos", "duck": "quacks"}
_COLOURS = ("red", "blue", "green", "grey")


def _line(rng: random.Random) -> str:
    name, animal, colour = (rng.choice(list(words)) for words in (_NAMES, _ANIMALS, _COLOURS))
    number = rng.randrange(2, 9)
    return (f"{name} has {number} {colour} {animal}s; each {colour} {animal} {_ANIMALS[animal]}; "
            f"{name} has {number}.")


def write_grammar(path: Path, lines: int = 4000, seed: int = 1) -> Path:
    """One document of many lines after the other."""
    rng = random.Random(seed)
    documents = ["\n".join(_line(rng) for _ in range(20)) for _ in range(lines // 20)]
    path.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    return path
