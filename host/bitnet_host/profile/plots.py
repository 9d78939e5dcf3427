"""Pictures of a profile."""

from __future__ import annotations

import io
from collections.abc import Callable
from math import log10
from typing import Any

from bitnet_host.errors import BadArgument
from bitnet_host.profile.report import Report, Row
from bitnet_host.run.protocol import PARTS

__all__ = ["PLOTS", "drawn", "library"]

_GROUP_COLOURS = {"attention": "#3b6fb6", "mlp": "#c8553d", "other": "#6b7a3f"}
_PART_COLOURS = dict(zip(PARTS, ("#4a7fb5", "#d1495b", "#edae49", "#8d96a3"), strict=True))
_SETTINGS: Any = {"svg.hashsalt": "bitnet", "font.size": 9, "axes.spines.top": False,
             "axes.spines.right": False, "figure.constrained_layout.use": True}


def _bars(axes: Any, report: Report) -> None:
    """Milliseconds of each step, by what the cycles were."""
    steps = report.steps[::-1]
    left = [0.0] * len(steps)
    for part in PARTS:
        widths = [row.time_ms * getattr(row, part) / max(1, row.cycles) for row in steps]
        axes.barh([row.step for row in steps], widths, left=left, color=_PART_COLOURS[part],
                  label=part.replace("_", " "))
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel("ms in all layers")
    axes.legend(frameon=False)


def _roofline(axes: Any, report: Report) -> None:
    """Operations per second over operations per byte."""
    rows = [row for row in report.steps if row.bytes and row.cycles]
    bound, peak = report.stream_mb_s / 1e3, report.peak_gops
    low = min([row.operations / row.bytes for row in rows] + [1]) / 2
    high = max([row.operations / row.bytes for row in rows] + [peak / bound]) * 2
    axes.plot([low, peak / bound, high], [low * bound, peak, peak], color="black", linewidth=1)
    axes.annotate(f"{bound:.2f} GB/s of the stream", (low, low * bound), rotation=30, va="bottom")
    axes.annotate(f"{peak:g} GOPS: a word of weights each cycle, one token", (peak / bound, peak),
                  ha="right", va="bottom")
    labels: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        colour = _GROUP_COLOURS[report.work[row.step].group]
        axes.plot(row.operations / row.bytes, row.gops, "o", color=colour, markersize=4)
        place = round(8 * log10(row.operations / row.bytes)), round(8 * log10(row.gops))
        labels.setdefault(place, []).append(row)
    for near in labels.values():  # one label for points that lie side by side
        axes.annotate(", ".join(row.step for row in near),
                      (near[-1].operations / near[-1].bytes, near[-1].gops), xytext=(5, -8),
                      textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("GOPS")


def _timeline(axes: Any, report: Report) -> None:
    """Each step of each layer in its place."""
    groups = list(_GROUP_COLOURS)
    spans: dict[str, list[tuple[float, float]]] = {group: [] for group in groups}
    now = 0.0
    for row in report.layers:
        spans[report.work[row.step].group].append((now, row.time_ms))
        now += row.time_ms
    for place, group in enumerate(groups):
        axes.broken_barh(spans[group], (place - 0.4, 0.8), color=_GROUP_COLOURS[group],
                         edgecolor="white", linewidth=0.2)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_xlabel("ms")
    axes.set_xlim(0, now)


def _contexts(axes: Any, report: Report) -> None:
    """Tokens per second over context."""
    axes.plot(*zip(*report.context_rates, strict=True), "o-", color=_GROUP_COLOURS["attention"])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens in the KV cache")
    axes.set_ylabel("tokens/s")


#: Pictures by name, with their titles.
PLOTS: dict[str, tuple[str, Callable[[Any, Report], None]]] = {
    "steps": ("Time of each step", _bars), "roofline": ("Roofline", _roofline),
    "timeline": ("One step after the other", _timeline),
    "context": ("Speed over context", _contexts)}


def library() -> Any:
    """matplotlib. Raises BadArgument if it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise BadArgument("pictures need matplotlib: pip install 'bitnet-zynq[plots]', or choose "
                          "another --format and no --plots") from None
    matplotlib.use("Agg")
    return matplotlib


def drawn(report: Report, kind: str) -> dict[str, bytes]:
    """All pictures that there is something for, by name, as ``svg`` or ``png``. Raises as
    ``library``."""
    matplotlib = library()
    from matplotlib import pyplot
    found = {}
    for name, (title, draw) in PLOTS.items():
        if name == "context" and not report.context_rates:
            continue
        with matplotlib.rc_context(_SETTINGS):
            figure, axes = pyplot.subplots(figsize=(8, 4.5))
            draw(axes, report)
            axes.set_title(title)
            file = io.BytesIO()
            figure.savefig(file, format=kind, dpi=150,
                           metadata={"Date": None} if kind == "svg" else None)
            pyplot.close(figure)
        found[name] = file.getvalue()
    return found
