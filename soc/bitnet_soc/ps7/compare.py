"""Compares two lists of start steps field by field.

``python -m bitnet_soc.ps7.compare BOARD FILE.json`` says in which fields the list that is computed
for a board differs from the one in a file, such as the vendor's tool wrote: what to look at when a
board file is new.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..boards import load, names
from .registers import lookup
from .sequence import start
from .steps import GLOBAL_TIMER, as_json

__all__ = ["Difference", "differences", "main"]

Rows = dict[str, list[list[str | int]]]
#: Phase, register, field: the values that are written, in order.
_Written = dict[tuple[str, str, str], tuple[int, ...]]


@dataclass(frozen=True)
class Difference:
    """``ours`` and ``theirs``: values that a field is given, in order; none: it is not written."""

    phase: str
    register: str
    field: str
    ours: tuple[int, ...]
    theirs: tuple[int, ...]

    def __str__(self) -> str:
        def told(values: tuple[int, ...]) -> str:
            return ", ".join(f"{value:#x}" for value in values) or "not written"

        return (f"{self.phase} {self.register}.{self.field}: {told(self.ours)} here, "
                f"{told(self.theirs)} there")


def _number(value: str | int) -> int:
    return value if isinstance(value, int) else int(value, 16)


def _fields(kind: str, address: int, mask: int, value: int) -> Iterator[tuple[str, str, int]]:
    """Register, field and value of what a row sets; bits that no field has stand as such."""
    register = lookup(address)
    if register is None:
        yield f"{address:#010x}", f"mask {mask:#x}", value & mask
        return
    rest = mask
    for field in register.fields:
        if field.mask & mask:
            yield (register.name, f"{kind}{field.name}", (value & mask & field.mask) >> field.low)
            rest &= ~field.mask
    if rest & value:
        yield register.name, f"bits {rest:#x}", value & rest


def _written(rows: Rows) -> _Written:
    found: dict[tuple[str, str, str], list[int]] = {}
    for phase, steps in rows.items():
        for kind, *numbers in steps:
            address, *others = map(_number, numbers)
            if address == GLOBAL_TIMER:
                continue
            match kind:
                case "write":
                    fields = _fields("", address, 0xFFFF_FFFF, others[0])
                case "maskwrite":
                    fields = _fields("", address, others[0], others[1])
                case "poll":
                    fields = _fields("waits for ", address, others[0], others[0])
                case _:
                    raise ValueError(f"unknown step {kind}")
            for register, field, value in fields:
                found.setdefault((phase, register, field), []).append(value)
    return {key: tuple(values) for key, values in found.items()}


def differences(ours: Rows, theirs: Rows) -> list[Difference]:
    """Fields that are not given the same values in the same order; raises ValueError if a list is
    not of the form of steps.py."""
    here, there = _written(ours), _written(theirs)
    return [Difference(*key, here.get(key, ()), there.get(key, ()))
            for key in here | there if here.get(key) != there.get(key)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("board", choices=names())
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    try:
        ours = as_json(start(load(arguments.board)))
    except ValueError as error:
        print(f"compare: the file of {arguments.board}: {error}", file=sys.stderr)
        return 2
    try:
        found = differences(ours, json.loads(arguments.file.read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        print(f"compare: {arguments.file} is no list of start steps ({error}); see docs/board.md",
              file=sys.stderr)
        return 2
    print("\n".join(map(str, found)) or "no differences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
