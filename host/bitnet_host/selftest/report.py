"""All of the diagnosis, as a text to read and to paste into an issue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from xtvu.isa import isa_hash

import bitnet_host
from bitnet_host.errors import BoardError
from bitnet_host.reporting import Progress, quiet
from bitnet_host.selftest.cells import check_cpu, check_whole, refuse_slow
from bitnet_host.selftest.diagnosed import Diagnosed
from bitnet_host.selftest.lines import check_lines
from bitnet_host.selftest.outside import check_clock, check_outside
from bitnet_host.selftest.speed import (
    STREAMS,
    cycles_per_token,
    dead_ports,
    expected,
    findings,
    measure,
)

__all__ = ["Report", "examine"]

_Findings = tuple[list[str], list[str]]  # sentences on what is wrong; details
_ANOTHER_VERSION = 0xFFFFFFFF  # firmware/main.c


@dataclass
class Report:
    """``info``: INFO_FIELDS; ``wrong``: sentences, empty if the board is well; ``details`` by
    subject; ``rates``: bytes per cycle of memory streams by name, empty if they were not run."""

    target: str
    info: dict[str, int]
    wrong: list[str] = field(default_factory=list)
    details: dict[str, list[str]] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    def add(self, subject: str, wrong: list[str], details: list[str]) -> None:
        self.wrong += [f"{subject}: {sentence}" for sentence in wrong]
        self.details[subject] = details or (["well"] if not wrong else [])

    @property
    def tokens_per_second(self) -> float | None:
        """Of 2b4t at context 128, by the measured stream of four ports: interpolated between
        simulations. None without one."""
        if not self.rates:
            return None
        return self.info["clock_hz"] / cycles_per_token(self.rates["four ports"])

    def as_dict(self) -> dict[str, Any]:
        return {"target": self.target, "version": bitnet_host.__version__,
                "isa": f"{isa_hash():08x}", "info": self.info, "wrong": self.wrong,
                "details": self.details, "bytes_per_cycle": self.rates,
                "tokens_per_second": self.tokens_per_second}

    def text(self) -> str:
        info = self.info
        lines = [f"bitnet-host {bitnet_host.__version__} selftest of {self.target}",
                 f"protocol {info['version']}, ISA {info['isa_hash']:08x}, "
                 f"{info['clock_hz'] / 1e6:g} MHz, {info['memory_bytes'] >> 20} MB, started again "
                 f"{info['restarts']} times", ""]
        for subject, details in self.details.items():
            lines += [f"{subject}: {detail}" for detail in details]
        if self.rates:
            lines += ["", *self._speeds()]
        lines += ["", *([f"WRONG: {sentence}" for sentence in self.wrong]
                        or ["nothing is wrong"])]
        return "\n".join(lines)

    def _speeds(self) -> list[str]:
        known, clock = expected(), self.info["clock_hz"]
        models = known["streams"] if clock == known["clock_hz"] else {}
        lines = [f"{'memory, MB/s':<28}{'measured':>10}"
                 + "".join(f"{name:>14}" for name in models)]
        for stream in STREAMS:
            if stream.name in self.rates:
                rates = [self.rates[stream.name], *(m[stream.name] for m in models.values())]
                lines.append(f"{stream.name:<28}{rates[0] * clock / 1e6:>10.0f}"
                             + "".join(f"{rate * clock / 1e6:>14.0f}" for rate in rates[1:]))
        lines.append(f"2b4t at context 128: an estimated {self.tokens_per_second:.1f} tokens/s "
                     "(interpolated between simulations)")
        return lines


def examine(board: Diagnosed, target: str, *, whole: bool = False,
            progress: Progress = quiet) -> Report:
    """Everything that can be found out of a board; with ``whole`` every cell of its memory is
    written, and the model that it holds is lost. What the board refuses to do, or does not end, is
    a finding like others. Raises LinkError if it stops answering, BadArgument for ``whole`` over a
    slow line."""
    if whole:
        refuse_slow(board)
    report = Report(target, board.info)
    report.add("vector unit", _vector_unit(board.info["selftest"]), [])
    subjects: dict[str, Callable[[], _Findings]] = {
        "around the SoC": lambda: check_outside(board),
        "clock": lambda: check_clock(board),
        "memory ports": lambda: (dead_ports(board), []),
        "memory lines": lambda: check_lines(board, progress),
        "memory of the CPU": lambda: check_cpu(board),
        "memory speed": lambda: _measure(report, board, progress),
    }
    if whole:
        subjects["all of memory"] = lambda: check_whole(board, progress)
    for subject, check in subjects.items():
        try:
            report.add(subject, *check())
        except BoardError as error:
            report.add(subject, [str(error)], [])
    return report


def _vector_unit(failed: int) -> list[str]:
    if failed == _ANOTHER_VERSION:
        return ["it is of another version than the firmware"]
    return [f"it fails step {failed} of its self-test"] if failed else []


def _measure(report: Report, board: Diagnosed, progress: Progress) -> _Findings:
    report.rates = measure(board, progress)
    return findings(report.rates, board.info["clock_hz"])
