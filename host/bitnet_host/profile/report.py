"""Rows and sums of a profile, and the forms in which they are written."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from xtvu.isa import WORD_BYTES
from xtvu.layout import WEIGHTS_PER_WORD

from bitnet_host.model.header import mode_of
from bitnet_host.profile.measure import Measured
from bitnet_host.profile.work import GROUPS, Work, work_of
from bitnet_host.run.protocol import PARTS, STEPS

__all__ = ["FORMS", "TITLES", "Report", "Row"]

TITLES = ("step", "shape", "cycles", "ms", "% of time", "operations", "% of them", "GOPS", "bytes",
          "MB/s", "stall: memory", "compute", "control")
_SUMS = {"attention": "attention block", "mlp": "MLP block", "other": "outside of layers"}


@dataclass(frozen=True)
class Row:
    """``layer`` is None for what there is once, and for sums. Times in ms, bandwidth in MB/s,
    ``gops`` in 10^9 operations per second; shares of the whole."""

    step: str
    layer: int | None
    shape: str
    cycles: int
    time_ms: float
    time_share: float
    operations: int
    operations_share: float
    gops: float
    bytes: int
    bandwidth_mb_s: float
    moving: int
    stall_memory: int
    stall_compute: int
    stall_control: int


def _is_of(group: str, work: Work) -> bool:
    return work.group == group


class Report:
    """``layers``: a row for each step of each layer, in the order in which they run; ``steps``: all
    layers together; ``sums`` of them; ``context_rates``: (context, tokens per second)."""

    def __init__(self, measured: Measured,
                 context_rates: Sequence[tuple[int, float]] = ()) -> None:
        self.measured, self.context_rates = measured, list(context_rates)
        self.work = work_of(measured.image.header, measured.contexts)
        self._clock = measured.options.clock
        layers = measured.image.header.layers
        self._counts = {name: layers if work.group != "other" else 1
                        for name, work in self.work.items()}
        self._cycles = int(measured.cycles.sum())
        self._operations = sum(work.operations * self._counts[name]
                               for name, work in self.work.items())
        self.layers = [self._row(work, [stage], self._layer(stage))
                       for stage in range(layers + 2) for work in self._of_stage(stage)]
        self.steps = [self._row(work, range(layers + 2)) for work in self.work.values()]
        self.total = self._sum("total", lambda work: True)
        self.sums = [*(self._sum(_SUMS[group], partial(_is_of, group)) for group in GROUPS),
                     self._sum("all linear", lambda work: work.linear),
                     self._sum("all non-linear", lambda work: not work.linear), self.total]

    def _layer(self, stage: int) -> int | None:
        return stage - 1 if 0 < stage <= self.measured.image.header.layers else None

    def _of_stage(self, stage: int) -> Iterable[Work]:
        inside = self._layer(stage) is not None
        return (work for work in self.work.values() if (work.group != "other") == inside
                and (inside or (work.name == "embed") == (stage == 0)))

    def _row(self, work: Work, stages: Iterable[int], layer: int | None = None) -> Row:
        stages = list(stages)
        parts = self.measured.cycles[stages, list(STEPS).index(work.name)].sum(0)
        count = 1 if len(stages) == 1 else self._counts[work.name]
        return self._made(work.name, layer, work.shape, parts.tolist(), count * work.operations)

    def _sum(self, name: str, wanted: Callable[[Work], bool]) -> Row:
        places = [place for place, step in enumerate(STEPS) if wanted(self.work[step])]
        parts = self.measured.cycles[:, places].sum((0, 1)).tolist()
        operations = sum(work.operations * self._counts[step]
                         for step, work in self.work.items() if wanted(work))
        return self._made(name, None, "", parts, operations)

    def _made(self, name: str, layer: int | None, shape: str, parts: list[int],
              operations: int) -> Row:
        cycles, seconds = sum(parts), sum(parts) / self._clock
        moved = WORD_BYTES * parts[PARTS.index("moving")]
        return Row(name, layer, shape, cycles, 1e3 * seconds, cycles / max(1, self._cycles),
                   operations, operations / max(1, self._operations),
                   operations / seconds / 1e9 if seconds else 0.0, moved,
                   moved / seconds / 1e6 if seconds else 0.0, *parts)

    # -- what a profile says beside its rows -------------------------------------------------------

    @property
    def tokens(self) -> int:
        return len(self.measured.contexts)

    @property
    def peak_gops(self) -> float:
        """Ternary products and sums of one token's vector at a word of weights each cycle."""
        return 2 * WEIGHTS_PER_WORD[mode_of(self.measured.image.header)] * self._clock / 1e9

    @property
    def stream_mb_s(self) -> float:
        return self.measured.bytes_per_cycle * self._clock / 1e6

    def heading(self) -> str:
        """One line for people."""
        measured = self.measured
        what = (f"a prompt of {self.tokens} tokens" if self.tokens > 1
                else f"one token at context {measured.contexts[0]}")
        return (f"{measured.name}, {what}, {mode_of(measured.image.header)} weights, DDR "
                f"{measured.options.ddr}, {self._clock / 1e6:g} MHz")

    def closing(self) -> str:
        """What the time is without and with a look at each step."""
        plain = self.measured.whole
        more = 100 * (self.total.cycles / plain - 1)
        return (f"{plain:,} cycles = {self.tokens * self._clock / plain:.2f} tokens/s when nobody "
                f"looks; the steps together take {self.total.cycles:,} ({more:+.1f} %): the vector "
                f"unit is waited for behind each layer, and that wait is left out")

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        measured, options = self.measured, self.measured.options
        return {
            "model": measured.name, "model_id": f"{measured.image.header.model_id:08x}",
            "tokens": self.tokens, "contexts": [measured.contexts[0], measured.contexts[-1]],
            "weights": mode_of(measured.image.header), "ddr": options.ddr,
            "clock_hz": options.clock,
            "head": "full" if options.full_head else "screened",
            "all_rows": options.all_rows, "all_columns": options.all_columns,
            "cycles": measured.whole,
            "tokens_per_second": self.tokens * self._clock / measured.whole,
            "stream_mb_s": self.stream_mb_s, "peak_gops": self.peak_gops,
            "steps": [vars(row) | {"group": self.work[row.step].group,
                                   "linear": self.work[row.step].linear,
                                   "fused": self.work[row.step].fused} for row in self.steps],
            "sums": [vars(row) for row in self.sums], "layers": [vars(row) for row in self.layers],
            "over_context": [{"context": context, "tokens_per_second": rate}
                             for context, rate in self.context_rates],
        }

    def cells(self, row: Row) -> list[str]:
        """A row for people, in the order of TITLES."""
        return [row.step, row.shape, f"{row.cycles:,}", f"{row.time_ms:.3f}",
                f"{100 * row.time_share:.1f}", f"{row.operations:,}",
                f"{100 * row.operations_share:.1f}", f"{row.gops:.2f}", f"{row.bytes:,}",
                f"{row.bandwidth_mb_s:,.0f}", f"{row.stall_memory:,}", f"{row.stall_compute:,}",
                f"{row.stall_control:,}"]

# -- forms -----------------------------------------------------------------------------------------


def _table(report: Report) -> str:
    rows = [TITLES, *map(report.cells, report.steps), [""] * len(TITLES),
            *map(report.cells, report.sums)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(TITLES))]
    lines = ["  ".join(cell.ljust(width) if place < 2 else cell.rjust(width)
                       for place, (cell, width)
                       in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
    return "\n".join([report.heading(), "", *lines, "", report.closing(), ""])


def _markdown(report: Report) -> str:
    head = [TITLES, ["---", "---", *["---:"] * (len(TITLES) - 2)]]
    rows = [*head, *map(report.cells, report.steps),
            *([f"**{cell}**" if cell else "" for cell in report.cells(row)] for row in report.sums)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([report.heading(), "", *lines, "", report.closing(), ""])


def _csv(report: Report) -> str:
    """The raw rows: each step of each layer."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(field.name for field in fields(Row))
    writer.writerows(vars(row).values() for row in report.layers)  # None is empty
    return out.getvalue()


def _json(report: Report) -> str:
    return json.dumps(report.as_dict(), indent=1) + "\n"


#: How a report is written, by name.
FORMS: dict[str, Callable[[Report], str]] = {
    "table": _table, "csv": _csv, "json": _json, "md": _markdown}
