"""``bitnet-host plan``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from bitnet_soc import boards

from bitnet_host.errors import BadArgument
from bitnet_host.files import replacing
from bitnet_host.model.checkpoint import ModelConfig
from bitnet_host.model.convert import make_header
from bitnet_host.model.header import MEMORY_BYTES, MODEL_BASE, PAGE_TOKENS, WEIGHT_MODES, DdrHeader
from bitnet_host.model.image import read_image
from bitnet_host.model.memory import as_bar, as_svg, parts
from bitnet_host.model.open import is_image, open_source
from bitnet_host.model.plan import Plan, broken_limit, make_plan
from bitnet_host.model.sources.synthetic import SHAPES, parse_shape

__all__ = ["plan"]

_MODES = {code: name for name, code in WEIGHT_MODES.items()}


def plan(
    source: Annotated[str, typer.Argument(
        metavar="MODEL", help=f"image, checkpoint folder, GGUF file, ORG/NAME on huggingface.co, "
                              f"or a shape ({', '.join(SHAPES)}, also with changes: "
                              f"2b4t,layers=20)")],
    board: Annotated[str, typer.Option(help=f"whose memory: {', '.join(boards.names())} (default: "
                                            f"1 GB)")] = "",
    context: Annotated[int, typer.Option(help="tokens of the longest conversation; 0: the "
                                              "model's")] = 0,
    cache: Annotated[int, typer.Option(help="tokens of all conversations together; 0: as many as "
                                            "fit")] = 0,
    weights: Annotated[str, typer.Option(help="base3 or 2bit")] = "base3",
    as_object: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    svg: Annotated[Path | None, typer.Option(help="picture of the memory to write")] = None,
) -> None:
    """Show what a model takes of a board, and how fast it will be. Exit code 1: it does not fit."""
    memory = _memory(board)
    header = _header(source, context, weights)
    limit = broken_limit(vars(header) | {"cache_tokens": -(-header.context // PAGE_TOKENS)
                                         * PAGE_TOKENS})
    made = make_plan(header, cache_tokens=cache, memory_bytes=memory)
    found = parts(header, made)
    advice = "" if made.fits or limit else _advice(header, made)
    if svg is not None:
        with replacing(svg) as file:
            file.write(as_svg(found, memory, f"{source}, context {made.context:,}").encode())
    if as_object:
        print(json.dumps({
            "fits": made.fits and not limit, "limit": limit or None, "advice": advice or None,
            "weights": _MODES[header.weight_mode], "context": made.context,
            "cache_tokens": made.cache_tokens, "down_rows": made.down_rows,
            "memory_bytes": memory, "used_bytes": MODEL_BASE + made.total_bytes,
            "upload_bytes": made.model_bytes, "token_bytes": made.token_bytes,
            "tokens_per_pass": made.batch, "decode": made.decode, "prefill": made.prefill,
            "parts": {part.name: part.bytes for part in found}}))
    else:
        print(as_bar(found, memory))
        print(made if not limit else f"this machine cannot run it: {limit}")
        if not limit:
            print(f"each token streams {made.token_bytes / 2**20:.1f} MB of weights; tokens of a "
                  f"prompt share a pass, {made.batch} at a time")
        if advice:
            print(advice)
    if limit or not made.fits:
        raise typer.Exit(1)


def _memory(board: str) -> int:
    if not board:
        return MEMORY_BYTES
    try:
        return min(boards.load(board).dram.bytes, MEMORY_BYTES)
    except KeyError:
        raise BadArgument(f"--board must be {', '.join(boards.names())}, not {board}") from None


def _header(source: str, context: int, weights: str) -> DdrHeader:
    if weights not in WEIGHT_MODES:
        raise BadArgument(f"--weights must be {' or '.join(WEIGHT_MODES)}, not {weights}")
    path = Path(source)
    if is_image(path):
        header = read_image(path).header
        return replace(header, context=_shorter(context, header.context))
    config: ModelConfig = (
        open_source(path).config
        if path.exists() or not (source.split(",")[0] in SHAPES or "=" in source)
        else parse_shape(source))
    return make_header(replace(config, context=_shorter(context, config.context)), weights)


def _shorter(context: int, longest: int) -> int:
    if not 0 <= context <= longest:
        raise BadArgument(f"--context must lie between 1 and {longest}, as many as the model was "
                          f"made for")
    return context or longest


def _advice(header: DdrHeader, made: Plan) -> str:
    """What would fit instead."""
    over = (MODEL_BASE + made.total_bytes - made.memory_bytes) / 2**20
    longest = _longest(header, made.memory_bytes)
    if longest:
        return (f"it is {over:.0f} MB too large; the longest context that fits is {longest:,} "
                f"tokens (--context {longest})")
    least = make_plan(replace(header, context=PAGE_TOKENS), cache_tokens=1,
                      memory_bytes=made.memory_bytes)
    needed = (MODEL_BASE + least.total_bytes) / 2**20
    smaller = ", or base3 weights" if _MODES[header.weight_mode] != "base3" else ""
    return (f"it is {over:.0f} MB too large, and with a context of {PAGE_TOKENS} tokens it needs "
            f"{needed:.0f} MB: a board with more memory{smaller}, or a smaller model")


def _longest(header: DdrHeader, memory_bytes: int) -> int:
    """Whole pages."""
    for pages in range(header.context // PAGE_TOKENS, 0, -1):
        shorter = replace(header, context=pages * PAGE_TOKENS)
        if make_plan(shorter, False, 1, memory_bytes).fits:
            return shorter.context
    return 0
