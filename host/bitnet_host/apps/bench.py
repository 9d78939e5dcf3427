"""``bitnet-host bench``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from bitnet_host.apps.options import full_head
from bitnet_host.apps.progress import ProgressDisplay
from bitnet_host.bench.measure import (
    CLOCK_HZ,
    BenchOptions,
    check_model,
    measure_gemv,
    measure_model,
    print_measurement,
)
from bitnet_host.model.sources.synthetic import GATE_ZEROS

__all__ = ["bench"]


def bench(
    shape: Annotated[str,
                     typer.Option(help="bundled, 2b4t, tiny, or explicit dimensions (hidden=..., "
                                       "2b4t,layers=2)")] = "bundled",
    context: Annotated[int,
                       typer.Option(help="tokens in the KV cache, the decoded one included")] = 64,
    tokens: Annotated[int, typer.Option(help="tokens to decode")] = 1,
    slots: Annotated[int,
                     typer.Option(help="conversations that are decoded together")] = 1,
    prefill: Annotated[int,
                       typer.Option(help="measure a prompt of so many tokens instead of "
                                         "decoding")] = 0,
    cached: Annotated[int, typer.Option(help="tokens before those of --prefill, which "
                                           "then are a part of a longer prompt")] = 0,
    gemv: Annotated[str
                    | None,
                    typer.Option(help="measure only a matrix-vector product of "
                                      "ROWSxCOLUMNS")] = None,
    weights: Annotated[str, typer.Option(help="base3 or 2bit (default: what suits the "
                                              "model)")] = "",
    ddr: Annotated[str, typer.Option(help="memory model: ug585, conservative, or a file "
                                        "(docs/performance.md)")] = "ug585",
    clock: Annotated[float, typer.Option(help="Hz that seconds are reckoned with")] = CLOCK_HZ,
    head: Annotated[str, typer.Option(help="screened or full")] = "screened",
    all_rows: Annotated[bool,
                        typer.Option("--all-rows",
                                     help="read rows of up_proj whose gate is not "
                                          "positive, too")] = False,
    all_columns: Annotated[bool,
                           typer.Option("--all-columns",
                                        help="read columns of down_proj whose code is "
                                             "zero, too")] = False,
    gate_zeros: Annotated[float,
                          typer.Option(help="share of gates that are not positive, of synthetic "
                                            "shapes")] = GATE_ZEROS,
    seed: Annotated[int, typer.Option(help="of synthetic weights")] = 1,
    compare: Annotated[bool,
                       typer.Option("--compare",
                                    help="print the roofline beside the measurement")] = False,
    check: Annotated[bool,
                     typer.Option("--check",
                                  help="instead of measuring, compare with the golden model bit "
                                       "for bit")] = False,
    as_object: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure cycles on the simulated board."""
    if gemv is not None:
        result = measure_gemv(gemv, weights or "base3", ddr)
    else:
        options = BenchOptions(shape, context, tokens, prefill, weights, ddr, clock,
                               full_head(head), all_rows, all_columns,
                               gate_zeros, seed, slots, cached)
        display = ProgressDisplay()
        try:
            result = check_model(options, display) if check else measure_model(options, display)
        finally:
            display.end()
    if as_object:
        print(json.dumps(result))
    elif gemv is not None or check:
        for name, value in result.items():
            print(f"{name:<22}{value:,}" if isinstance(value, int) else f"{name:<22}{value}")
    else:
        print_measurement(result, compare)
