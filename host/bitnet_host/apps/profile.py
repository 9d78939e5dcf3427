"""``bitnet-host profile``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bitnet_host.apps.progress import ProgressDisplay
from bitnet_host.bench.measure import CLOCK_HZ, BenchOptions
from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.files import destination, replacing
from bitnet_host.model.sources.synthetic import GATE_ZEROS
from bitnet_host.profile.measure import measure_steps, over_context
from bitnet_host.profile.page import page
from bitnet_host.profile.plots import drawn, library
from bitnet_host.profile.report import FORMS, Report

__all__ = ["profile"]


def profile(
    shape: Annotated[str | None,
                     typer.Option(help="bundled, 2b4t, tiny, or explicit dimensions (default: "
                                       "bundled)")] = None,
    model: Annotated[Path | None,
                     typer.Option(help="model image or checkpoint folder, in place of a "
                                       "shape")] = None,
    prompt_tokens: Annotated[int,
                             typer.Option(help="profile a prompt of so many tokens instead of one "
                                               "token that is written")] = 0,
    context: Annotated[int, typer.Option(help="tokens in the KV cache, that one included")] = 64,
    over: Annotated[str,
                    typer.Option("--over-context",
                                 help="measure tokens/s at these contexts, too: 128,512,...")] = "",
    form: Annotated[str, typer.Option("--format",
                                      help="table, csv (each step of each layer), json, md or html "
                                           "(with pictures)")] = "table",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file to write")] = None,
    plots: Annotated[Path | None,
                     typer.Option(help="folder for pictures, as SVG and PNG")] = None,
    weights: Annotated[str, typer.Option(help="base3 or 2bit, of shapes")] = "",
    ddr: Annotated[str, typer.Option(help="memory model, as for bench")] = "ug585",
    clock: Annotated[float, typer.Option(help="Hz that seconds are reckoned with")] = CLOCK_HZ,
    gate_zeros: Annotated[float, typer.Option(help="share of gates that are not positive, of "
                                                   "synthetic shapes")] = GATE_ZEROS,
    seed: Annotated[int, typer.Option(help="of synthetic weights")] = 1,
) -> None:
    """Show where the time of a pass goes, step by step and layer by layer, on the simulated
    board."""
    if shape is not None and model is not None:
        raise BadArgument("give --shape or --model, not both")
    if form not in (*FORMS, "html"):
        raise BadArgument(f"--format must be {', '.join(FORMS)} or html, not {form}")
    contexts = _contexts(over)
    if contexts and model is not None:
        raise BadArgument("--over-context is for --shape")
    options = BenchOptions(shape=shape or "bundled", context=context, prefill=prompt_tokens,
                           weights=weights, ddr=ddr, clock=clock, gate_zeros=gate_zeros, seed=seed)
    # what cannot be written is said before minutes of measuring
    if form == "html" or plots is not None:
        library()
    if output is not None:
        destination(output)
    if plots is not None:
        _make(plots)
    display = ProgressDisplay()
    try:
        measured = measure_steps(options, model, display)
        rates = over_context(options, contexts, display) if contexts else []
    finally:
        display.end()
    report = Report(measured, rates)
    text = page(report) if form == "html" else FORMS[form](report)
    if plots is not None:
        _write_plots(report, plots)
    if output is None:
        sys.stdout.write(text)
    else:
        with replacing(output) as file:
            file.write(text.encode())


def _contexts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError:
        raise BadArgument(f"--over-context must be numbers with commas between them, not "
                          f"{text}") from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"cannot make {folder}: {error.strerror}") from None


def _write_plots(report: Report, folder: Path) -> None:
    for kind in ("svg", "png"):
        for name, data in drawn(report, kind).items():
            with replacing(folder / f"{name}.{kind}") as file:
                file.write(data)
