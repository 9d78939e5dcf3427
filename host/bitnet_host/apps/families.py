"""``bitnet-host models`` and ``bitnet-host synthetic``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bitnet_host.apps.plan import memory_of
from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.model.convert import make_header, packing
from bitnet_host.model.families import FAMILIES
from bitnet_host.model.header import MODEL_BASE, PAGE_TOKENS
from bitnet_host.model.plan import longest_context, make_plan
from bitnet_host.model.rows import broken_limit
from bitnet_host.model.sources.random_folders import FORMS, small_checkpoint, write_folder

__all__ = ["models", "synthetic"]


def models(
    board: Annotated[str, typer.Option(help="whose memory, by the name that soc/build.py knows it "
                                            "by (default: 1 GB)")] = "",
    as_object: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List the published ternary models: whether each fits a board, and how fast it would be."""
    memory = memory_of(board)
    rows = [_row(name, memory) for name in FAMILIES]
    if as_object:
        print(json.dumps(rows))
        return
    print(f"{'shape':<14} {'model':<37} {'MB':>6} {'context':>8} {'tokens/s':>9}")
    for row in rows:
        speed = f"{row['decode']:.1f}" if row["fits"] else "-"
        context = f"{row['context']:,}" if row["fits"] else "-"
        print(f"{row['shape']:<14} {row['model']:<37} {row['used_bytes'] / 2**20:>6.0f} "
              f"{context:>8} {speed:>9}{'' if row['fits'] else '  ' + row['why']}")
    print(f"MB: of the board's {memory / 2**20:.0f} with that context, or with {PAGE_TOKENS} "
          f"tokens; tokens/s: of an answer at 125 MHz, predicted")


def _row(name: str, memory: int) -> dict[str, Any]:
    family = FAMILIES[name]
    config = replace(family.config, context=family.config.trained_context or family.config.context)
    header = make_header(config, packing(config))
    row: dict[str, Any] = {"shape": name, "model": family.title, "fits": False, "context": 0,
                           "used_bytes": 0, "decode": 0.0, "prefill": 0.0, "why": ""}
    least = replace(header, context=PAGE_TOKENS, cache_tokens=PAGE_TOKENS)
    limit = broken_limit(vars(least))
    if limit:
        return row | {"why": limit}
    context = longest_context(header, memory)
    plan = make_plan(replace(least, context=context or PAGE_TOKENS), cache_tokens=1,
                     memory_bytes=memory)
    used = MODEL_BASE + plan.total_bytes
    row |= {"used_bytes": used, "decode": plan.decode, "prefill": plan.prefill}
    if not context:
        return row | {"why": f"{(used - memory) / 2**20:.0f} MB too large"}
    return row | {"fits": True, "context": context}


def synthetic(
    family: Annotated[str, typer.Option(help=f"{', '.join(FORMS)}")],
    output: Annotated[Path, typer.Option("-o", "--output", help="folder to make")],
    form: Annotated[str, typer.Option(help="how weights are stored, of those that the family has "
                                           "(default: the first)")] = "",
    seed: Annotated[int, typer.Option(help="of its random weights")] = 1,
) -> None:
    """Write a small random checkpoint with the structure and names of a family."""
    if family not in FORMS:
        raise BadArgument(f"--family must be {', '.join(FORMS)}, not {family}")
    chosen = form or FORMS[family][0]
    if chosen not in FORMS[family]:
        raise BadArgument(f"--form of {family} must be {' or '.join(FORMS[family])}, not {form}")
    if not 0 <= seed < 2**32:
        raise BadArgument(f"--seed must lie between 0 and {2**32 - 1}, not {seed}")
    try:
        output.mkdir()
    except OSError as error:
        raise BadFile(f"cannot make {output}: {error.strerror}") from None
    write_folder(output, small_checkpoint(family, chosen, seed), family, chosen)
    print(f"wrote {output}: a random model of {FAMILIES[family].title}'s kind, {chosen}")
