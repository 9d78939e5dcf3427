"""What a run shows of itself: a table of losses, a curve, a model card."""

from __future__ import annotations

from html import escape
from typing import Any

from bitnet_host.train.state import Record, State

__all__ = ["HEADING", "card", "curve", "line", "picture"]

HEADING = (f"{'time':>7} {'step':>7} {'tokens':>11} {'loss':>7} {'valid':>7} "
           f"{'zeros: weights':>15} {'gates':>6} {'codes':>6} {'tokens/s':>9}")
_WIDTH, _HEIGHT = 60, 12


def line(record: Record, before: Record | None) -> str:
    """A record, with the speed since the one before it."""
    seconds = record.seconds - (before.seconds if before else 0)
    tokens = record.tokens - (before.tokens if before else 0)
    clock = f"{int(record.seconds) // 60}:{int(record.seconds) % 60:02}"
    return (f"{clock:>7} {record.step:>7,} {record.tokens:>11,} {record.loss:>7.3f} "
            f"{record.valid:>7.3f} {record.weights:>15.1%} {record.gates:>6.1%} "
            f"{record.codes:>6.1%} {tokens / max(seconds, 1e-9):>9,.0f}")


def curve(history: list[Record]) -> str:
    """The loss on what was kept back over tokens, in letters."""
    values = [record.valid for record in history]
    low, high = min(values), max(values)
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for record in history:
        column = round((_WIDTH - 1) * record.tokens / history[-1].tokens)
        row = round((_HEIGHT - 1) * (high - record.valid) / max(high - low, 1e-9))
        grid[row][column] = "*"
    rows = [f"{high if not place else low if place == _HEIGHT - 1 else '':>7.5} |{''.join(row)}"
            for place, row in enumerate(grid)]
    return "\n".join([*(row.rstrip() for row in rows), f"{'':8}+{'-' * _WIDTH}",
                      f"{'':9}0{history[-1].tokens:>{_WIDTH - 1},} tokens"])


def picture(history: list[Record], title: str) -> str:
    """The same as SVG, with the loss on what was learnt."""
    width, height, left, bottom = 720, 360, 60, 50
    values = [value for record in history for value in (record.loss, record.valid)]
    low, high = min(values), max(max(values), min(values) + 1e-3)

    def place(record: Record, value: float) -> str:
        x = left + (width - left - 20) * record.tokens / history[-1].tokens
        y = 30 + (height - bottom - 30) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    def path(values: list[str], colour: str) -> str:
        return (f'<polyline fill="none" stroke="{colour}" stroke-width="2" '
                f'points="{" ".join(values)}"/>')

    texts = [(left, 20, title), (5, 36, f"{high:.2f}"), (5, height - bottom, f"{low:.2f}"),
             (left, height - 30, "0"), (width - 160, height - 30,
                                        f"{history[-1].tokens:,} tokens"),
             (left, height - 10, "nats per token: grey while learning, blue on what was kept back")]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *(f'<text x="{x}" y="{y}">{escape(text)}</text>' for x, y, text in texts),
        path([place(record, record.loss) for record in history], "#999999"),
        path([place(record, record.valid) for record in history], "#3b6fb6"), "</svg>", ""])


def card(state: State, said: str, comparison: dict[str, float] | None) -> str:
    """The model card (README.md). ``said``: words of the model."""
    last, settings = state.history[-1], state.settings
    rows: list[tuple[str, Any]] = [
        ("parameters", f"{settings['parameters']:,}, {settings['ternary']:,} of them ternary"),
        ("texts", ", ".join(settings["files"])), ("SHA-256 of the texts", settings["digest"]),
        ("begun with", settings["start"] or "nothing"), ("seed", settings["seed"]),
        ("steps, tokens", f"{last.step:,}, {last.tokens:,}"),
        ("time", f"{last.seconds / 60:.1f} minutes on {settings['device']}"),
        ("loss, on what was kept back", f"{last.valid:.3f} nats per token"),
        ("zeros among weights, gates, codes",
         f"{last.weights:.1%}, {last.gates:.1%}, {last.codes:.1%}"),
        *((f"compared: {name}", f"{loss:.3f} nats per token")
          for name, loss in (comparison or {}).items())]
    return "\n".join([
        "---", "library_name: transformers", "tags: [bitnet, ternary]", "---", "",
        "# A ternary language model", "",
        "Weights of -1, 0 and 1, trained with `bitnet-host train` (BitNet b1.58).", "",
        "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), "",
        "```", settings["command"], "```", "", "What it says by itself:", "",
        *(f"> {text}" for text in said.splitlines() or [""]), ""])
