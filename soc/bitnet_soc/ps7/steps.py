"""The steps that start a processing system, and the form in which they are exchanged.

The form is that of the register tables of public boards: a JSON object of phases, each a list of
``["write", address, value]``, ``["maskwrite", address, mask, value]``, ``["poll", address, mask]``
and ``["delay", address, milliseconds]``, addresses and words as hexadecimal text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .registers import REGISTERS, Register

__all__ = ["GLOBAL_TIMER", "PHASES", "Delay", "Poll", "Start", "Step", "Write", "as_json",
           "overwrite", "poll", "write"]

#: In the order in which they run. The bitstream is loaded before ``post_config``.
PHASES = ("mio_init", "pll_init", "clock_init", "ddr_init", "peripherals_init", "post_config")
GLOBAL_TIMER = 0xF8F0_0200  # which a delay is measured with; it stands in the tables


@dataclass(frozen=True)
class Write:
    """Fields of a register that are set, and why; the others keep what they hold. ``whole``: the
    register is written without having been read."""

    register: Register
    values: tuple[tuple[str, int], ...]
    why: str = ""
    whole: bool = False

    @property
    def mask(self) -> int:
        return 0xFFFF_FFFF if self.whole else sum(self.register[name].mask
                                                  for name, _ in self.values)

    @property
    def value(self) -> int:
        return sum(value << self.register[name].low for name, value in self.values)


@dataclass(frozen=True)
class Poll:
    """Waits until one of the bits of a field is set."""

    register: Register
    field: str
    why: str = ""

    @property
    def mask(self) -> int:
        return self.register[self.field].mask


@dataclass(frozen=True)
class Delay:
    milliseconds: int


Step = Write | Poll | Delay
#: Phase to steps.
Start = dict[str, list[Step]]


def write(name: str, why: str = "", /, **values: int) -> Write:
    """A step that writes fields. Raises KeyError if there is no such register or field, and
    ValueError if a value does not fit."""
    register = REGISTERS[name]
    for field, value in values.items():
        if not 0 <= value <= register[field].mask >> register[field].low:
            raise ValueError(f"{value} does not fit field {field} of {name}")
    return Write(register, tuple(values.items()), why)


def overwrite(name: str, why: str = "", /, **values: int) -> Write:
    """The same for a register that is written without having been read."""
    return replace(write(name, why, **values), whole=True)


def poll(name: str, field: str, why: str = "") -> Poll:
    return Poll(REGISTERS[name], field, why)


def _rows(steps: Iterable[Step]) -> Iterator[list[str | int]]:
    def word(value: int) -> str:
        return f"0x{value:08X}"

    for step in steps:
        match step:
            case Write(whole=True):
                yield ["write", word(step.register.address), word(step.value)]
            case Write():
                yield ["maskwrite", word(step.register.address), word(step.mask), word(step.value)]
            case Poll():
                yield ["poll", word(step.register.address), word(step.mask)]
            case Delay():
                yield ["delay", word(GLOBAL_TIMER), step.milliseconds]


def as_json(start: Start) -> dict[str, list[list[str | int]]]:
    return {phase: list(_rows(start[phase])) for phase in PHASES}
