"""Runs the whole table of measurements and writes it between the marks of docs/performance.md:
``make bench``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitnet_host.bench.measure import BenchOptions, measure_gemv, measure_model
from bitnet_host.errors import UserError
from bitnet_host.model.sources.synthetic import GATE_ZEROS

__all__ = ["SHARES", "main", "table"]

BEGIN, END = "<!-- make bench writes from here -->", "<!-- to here -->"
_FULL = BenchOptions(shape="2b4t", context=128)
_BUNDLED = BenchOptions(shape="bundled", context=64, tokens=2)

#: What is measured with a full-size model: label and options.
_FULL_RUNS: list[tuple[str, BenchOptions]] = [
    ("decode at context 128", _FULL), ("decode at context 128", replace(_FULL, ddr="conservative")),
    ("decode at context 1,024", replace(_FULL, context=1024)),
    ("decode at context 2,000", replace(_FULL, context=2000)),
    ("prefill of 64 tokens", replace(_FULL, prefill=64)),
    # what a token costs grows evenly with those before it, so these are as the mean of 512
    ("prefill of 512 tokens, by the 16 in the middle", replace(_FULL, prefill=16, cached=248)),
]
_TECHNIQUES: list[tuple[str, BenchOptions]] = [
    ("all", _FULL), ("without skipping rows of up_proj", replace(_FULL, all_rows=True)),
    ("without skipping columns of down_proj", replace(_FULL, all_columns=True)),
    ("with the full int8 head", replace(_FULL, full_head=True)),
    ("2-bit instead of base-3 weights", replace(_FULL, weights="2bit")),
    ("none of these",
     replace(_FULL, weights="2bit", all_rows=True, all_columns=True, full_head=True)),
]
_BUNDLED_RUNS = [_BUNDLED, replace(_BUNDLED, ddr="conservative"),
                 replace(_BUNDLED, weights="2bit"), replace(_BUNDLED, context=250)]
_MEMORY = Path(__file__).parent / "memory"
#: Memory models with a stream that is ever faster, slowest first.
SHARES = [str(_MEMORY / f"share-{share}.txt") for share in (50, 60, 72, 78, 84, 88)]
SHARES += ["ug585", str(_MEMORY / "share-94.txt")]
_DELAYS = [str(_MEMORY / f"{name}.txt")
           for name in ("latency-2x", "delay-60", "delay-200", "commands-4")]
_COLUMNS = ("cycles", "bytes", "moving", "stall_memory", "stall_compute", "stall_control",
            "exposed")


def _command(o: BenchOptions) -> str:
    words = ["bitnet-host bench", f"--shape {o.shape}" if o.shape != "bundled" else ""]
    words += [f"--prefill {o.prefill}" if o.prefill else f"--context {o.context}",
              f"--cached {o.cached}" if o.cached else "",
              f"--tokens {o.tokens}" if o.tokens > 1 else "",
              f"--slots {o.slots}" if o.slots > 1 else ""]
    words += [f"--weights {o.weights}" if o.weights else "",
              f"--ddr {_name(o.ddr)}" if o.ddr != "ug585" else "",
              f"--gate-zeros {o.gate_zeros}" if o.gate_zeros != GATE_ZEROS else ""]
    words += ["--head full" if o.full_head else "", "--all-rows" if o.all_rows else "",
              "--all-columns" if o.all_columns else ""]
    return f"`{' '.join(filter(None, words))}`"


def _name(ddr: str) -> str:
    """Of a memory model, from the project's folder."""
    return f"host/bitnet_host/bench/memory/{Path(ddr).name}" if "/" in ddr else ddr


def _row(*cells: object) -> str:
    return ("| "
            + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells)
            + " |")


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


class _Runs:
    """Measures each set of options once."""

    def __init__(self) -> None:
        self._done: dict[BenchOptions, dict[str, Any]] = {}

    def __call__(self, options: BenchOptions) -> dict[str, Any]:
        if options not in self._done:
            print(_command(options).strip("`"), flush=True)
            self._done[options] = measure_model(options)
            print(f"  {self._done[options]['cycles']:,} cycles", flush=True)
        return self._done[options]


def table(run: Callable[[BenchOptions], dict[str, Any]]) -> str:
    """All measurements as Markdown; ``run`` makes one. Raises UserError."""
    lines = ["## Full size: 2b4t", "", "Per token, at 125 MHz.", "",
             "| | preset | cycles | tokens/s | roofline | granted beats used | DDR peak | exposed "
             "| command |",
             "|---|---|---|---|---|---|---|---|---|"]
    for label, options in _FULL_RUNS:
        r = run(options)
        lines.append(_row(label, options.ddr, r["cycles"], r["tokens_per_second"],
                          r["roofline"]["tokens_per_second"],
                          _share(r["share_of_granted"]), _share(r["ddr_peak_share"]),
                          _share(r["exposed_share"]), _command(options)))
    for label, options in (*_FULL_RUNS[:2], *_FULL_RUNS[-2:]):
        r = run(options)
        lines += ["", f"### By operator: {label}, {options.ddr}", "", _row("operator", *_COLUMNS)]
        lines.append("|---" * (1 + len(_COLUMNS)) + "|")
        lines += [_row(name, *(values[c] for c in _COLUMNS))
                  for name, values in [*r["operators"].items(), ("total", r["total"])]]
    lines += ["",
              "## Other memories", "",
              "Decode of 2b4t at context 128. The first rows differ in what a stream over four "
              "ports gets, the others in when bursts are answered.", "",
              "| memory | a stream's share of the peak | cycles | tokens/s | of a stream's beats | "
              "command |", "|---|---|---|---|---|---|"]
    for memory in [*SHARES, *_DELAYS]:
        options = replace(_FULL, ddr=memory)
        r = run(options)
        lines.append(_row(Path(memory).stem, _share(r["stream_share"]), r["cycles"],
                          r["tokens_per_second"], _share(r["share_of_granted"]),
                          _command(options)))
    lines += ["",
              "## What each technique gives", "",
              "Decode of 2b4t at context 128, ug585; each row leaves out one technique.", "",
              "| | cycles | tokens/s | bytes read | command |", "|---|---|---|---|---|"]
    for label, options in _TECHNIQUES:
        r = run(options)
        lines.append(_row(label, r["cycles"], r["tokens_per_second"], r["total"]["bytes"],
                          _command(options)))
    lines += ["",
              "## The bundled model",
              "",
              "| preset | weights | context | cycles per token | tokens/s | exposed | command |",
              "|---|---|---|---|---|---|---|"]
    for options in _BUNDLED_RUNS:
        r = run(options)
        lines.append(_row(options.ddr, r["weights"], options.context, r["cycles"],
                          r["tokens_per_second"], _share(r["exposed_share"]),
                          _command(options)))
    lines += ["",
              "## Stream", "",
              "One 2560 x 2560 GEMV, base-3 weights: 40,960 stream words of 32 bytes.", "",
              "| preset | cycles | stalled on memory | 64-bit beats | of the DRAM's peak | "
              "command |", "|---|---|---|---|---|---|"]
    for preset in ("ug585", "conservative"):
        r = measure_gemv("2560x2560", "base3", preset)
        lines.append(_row(preset, r["cycles"], r["stall_memory"], r["beats_used"],
                          _share(r["share_of_peak"]),
                          f"`bitnet-host bench --gemv 2560x2560 --ddr {preset}`"))
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path)
    path = parser.parse_args().document
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"bench: {path} lacks the lines {BEGIN} and {END}", file=sys.stderr)
        return 2
    try:
        path.write_text(f"{before}{BEGIN}\n\n{table(_Runs())}\n{END}{after}")
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
