"""What each TVU instruction takes, measured on the Verilated unit: `python
tests/instruction_cycles.py` prints the table of docs/architecture.md.

Several of one kind are queued behind a long operation, so that they follow one another without a
pause, and their stream words wait in the port buffers. Two sizes give what an instruction costs by
itself and for every further row of eight elements.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "gateware"))
from conftest import BUILD
from tvu_bench import MEGABYTE, WAIT, run_rtl
from xtvu import isa

__all__ = ["main"]

_MEMORY = np.zeros(4 * MEGABYTE, np.uint8)
_SMALL, _LARGE = 64, 64 + 8 * 16  # elements, or rows of a product
_REPEATS = 6  # no more descriptors than their queue holds
_STREAMED = {"MULM": 4, "AXPYM": 4, "LOADF": 4, "LOADB": 1}  # bytes per element
_ADDRESS = 2 * MEGABYTE


def _operands(name: str, size: int) -> dict[str, int]:
    """Every field zero but for the size and what a sensible instruction needs."""
    values = {field.name: 0 for field in isa.by_name(name).fields}
    for field, value in (("n", size), ("rows", size), ("words", 1), ("levels", 6),
                         ("addr", 3 * MEGABYTE), ("d", 2)):
        if field in values:
            values[field] = value
    for field, value in (("a", 256), ("b", 513)):  # in scratchpad rows, in different banks
        if (values.get(field) == 0 and isa.by_name(name).group != isa.SCALAR
            and isa.by_name(name).field(field).width == 13):
            values[field] = value
    if name == "CHECK":
        values["words"] = size // 8
    if name == "SDIV":
        values["b"] = 1
    return values


def _stream_words(name: str, size: int) -> int:
    if name in ("DOT", "DOTA", "CHECK"):
        return size // 8 if name == "CHECK" else size
    return -(-size * _STREAMED.get(name, 0) // isa.WORD_BYTES)


def _cycles(program: list, folder: Path) -> int:
    """Cycles from one SECTION to the next with ``program`` between them."""
    streams = [step for step in program if step[0].startswith("STREAM")]
    rest = [step for step in program if not step[0].startswith("STREAM")]
    program = [*streams,
               ("SSET", dict(d=1, value=0x3F800000)), ("MULS", dict(dst=0, a=0, s=0, n=16383, t=0)),
               ("SECTION", dict(section=3)), *rest, ("SECTION", dict(section=0)), WAIT]
    program += [("COUNTER", dict(index=i, section=3)) for i in range(4)]
    got, _, _ = run_rtl(BUILD / "sim/tvu_sim", folder, _MEMORY, program)
    status = got[-5]
    assert status == 0, f"{rest[0]}: status {status:x}"
    return sum(got[-4:])


def _cost(name: str, size: int, folder: Path) -> float:
    words, step = _stream_words(name, size), (name, _operands(name, size))
    stream = [("STREAM", dict(addr=_ADDRESS, words=words))] if words else []
    return (_cycles([*stream, step] * _REPEATS, folder)
            - _cycles([*stream, step], folder)) / (_REPEATS - 1)


def main() -> int:
    """Prints the table."""
    print("| instruction | eight rows | each further row |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for instruction in isa.INSTRUCTIONS:
            if (instruction.group in (isa.CONTROL, isa.STREAM)
                or instruction.name in ("REP", "EPI", "COLS", "SECTION")):
                continue
            small, large = (_cost(instruction.name, size, folder) for size in (_SMALL, _LARGE))
            further = (large - small) * 8 / (_LARGE - _SMALL)
            print(f"| {instruction.name} | {small:.0f} | {f'{further:.1f}' if further else '-'} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
