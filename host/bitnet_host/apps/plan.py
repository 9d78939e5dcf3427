"""``bitnet-host plan``."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bitnet_host.errors import BadArgument
from bitnet_host.files import replacing
from bitnet_host.model.convert import make_header, packing, suitable_context, what_does_not_run
from bitnet_host.model.header import (
    KINDS,
    MEMORY_BYTES,
    MODEL_BASE,
    PAGE_TOKENS,
    WEIGHT_MODES,
    DdrHeader,
    mode_of,
)
from bitnet_host.model.image import read_image
from bitnet_host.model.memory import Part, as_bar, as_svg, parts
from bitnet_host.model.open import is_image, open_source
from bitnet_host.model.plan import Plan, longest_context, make_plan
from bitnet_host.model.sources.synthetic import SHAPES, parse_shape

__all__ = ["memory_of", "plan"]



def plan(
    source: Annotated[str, typer.Argument(
        metavar="MODEL", help=f"image, checkpoint folder, GGUF file, ORG/NAME on huggingface.co "
                              f"(which is downloaded), or a shape ({', '.join(SHAPES)}, also with "
                              f"changes: 2b4t,layers=20)")],
    board: Annotated[str, typer.Option(help="whose memory, by the name that soc/build.py knows it "
                                            "by, such as zedboard (default: 1 GB)")] = "",
    context: Annotated[int, typer.Option(help="tokens of the longest conversation; 0: the "
                                              "model's")] = 0,
    cache: Annotated[int, typer.Option(help="tokens of all conversations together; 0: as many as "
                                            "fit")] = 0,
    weights: Annotated[str, typer.Option(help="base3 or 2bit (default: what suits the "
                                              "model)")] = "",
    as_object: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    svg: Annotated[Path | None, typer.Option(help="picture of the memory to write")] = None,
) -> None:
    """Show what a model takes of a board, and how fast it will be. Exit code 1: it does not fit."""
    asked = _Asked(source, memory_of(board), context, cache, weights)
    header, made, inputs, limit = _image(asked) if is_image(Path(source)) else _model(asked)
    found = parts(header, made) if made else []
    advice = "" if not made or made.fits else _advice(header, made, asked)
    if svg is not None and made:
        with replacing(svg, inputs=inputs) as file:
            title = f"{source}, context {made.context:,}"
            file.write(as_svg(found, made.memory_bytes, title).encode())
    if as_object:
        print(json.dumps(_object(header, made, found, limit, advice)))
    elif not made:
        print(f"this machine cannot run it: {limit}")
    else:
        print(as_bar(found, made.memory_bytes))
        print(made)
        print(f"each token streams {made.token_bytes / 2**20:.1f} MB of weights; tokens of a "
              f"prompt share a pass, {made.batch} at a time")
        if advice:
            print(advice)
    if not made or not made.fits:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Asked:
    source: str
    memory: int
    context: int
    cache: int
    weights: str


def _object(header: DdrHeader, made: Plan | None, found: list[Part], limit: str,
            advice: str) -> dict[str, Any]:
    out: dict[str, Any] = {"fits": bool(made and made.fits), "limit": limit or None,
                           "advice": advice or None, "weights": mode_of(header)}
    if made:
        out |= {"context": made.context, "cache_tokens": made.cache_tokens,
                "down_rows": made.down_rows, "memory_bytes": made.memory_bytes,
                "used_bytes": MODEL_BASE + made.total_bytes, "upload_bytes": made.model_bytes,
                "token_bytes": made.token_bytes, "tokens_per_pass": made.batch,
                "decode": made.decode, "prefill": made.prefill,
                "parts": {part.name: part.bytes for part in found}}
    return out


def memory_of(board: str) -> int:
    """Bytes of a board's memory, by the name that soc/build.py knows it by, or of 1 GB. Raises
    BadArgument."""
    if not board:
        return MEMORY_BYTES
    try:  # the host works without what describes boards
        from bitnet_soc import boards
    except ImportError:
        raise BadArgument("--board needs the descriptions of boards, which are not installed here: "
                          "leave it out") from None
    try:
        return min(boards.load(board).dram.bytes, MEMORY_BYTES)
    except KeyError:
        raise BadArgument(f"--board must be {', '.join(boards.names())}, not {board}") from None


def _image(asked: _Asked) -> _Found:
    """An image as it is: what it holds was decided when it was made."""
    if asked.context or asked.cache or asked.weights:
        raise BadArgument(f"{asked.source} is an image and keeps its context, cache and weights: "
                          f"give the checkpoint it was made of, or convert that again")
    image = read_image(Path(asked.source))
    rows = any(KINDS[tensor.kind] == "DOWN_ROWS" for tensor in image.tensors)
    header = image.header
    return (header, make_plan(header, rows, header.cache_tokens, asked.memory),
            (Path(asked.source),), "")


_Found = tuple[DdrHeader, Plan | None, tuple[Path, ...], str]


def _model(asked: _Asked) -> _Found:
    """A model that is still to be converted; without a plan, and why, if the machine cannot run
    it."""
    if asked.weights and asked.weights not in WEIGHT_MODES:
        raise BadArgument(f"--weights must be {' or '.join(WEIGHT_MODES)}, not {asked.weights}")
    path, inputs, shape = Path(asked.source), tuple[Path, ...](), False
    if not path.exists() and (asked.source.split(",")[0] in SHAPES or "=" in asked.source):
        config, shape = parse_shape(asked.source), True
    else:
        checkpoint = open_source(path)
        config, inputs = checkpoint.config, checkpoint.files
    weights = packing(config, asked.weights)
    if not 0 <= asked.context <= config.context:
        raise BadArgument(f"--context must lie between 1 and {config.context}, as many as the "
                          f"model was made for")
    context = asked.context or config.context
    if not asked.context and not shape:
        context = suitable_context(config, weights, asked.cache, asked.memory)
    header = make_header(replace(config, context=context), weights)
    limit = what_does_not_run(replace(config, context=context), weights)
    if limit:
        return header, None, inputs, limit
    return (header, make_plan(header, cache_tokens=asked.cache, memory_bytes=asked.memory), inputs,
            "")


def _advice(header: DdrHeader, made: Plan, asked: _Asked) -> str:
    """What would fit instead."""
    over = f"it is {(MODEL_BASE + made.total_bytes - made.memory_bytes) / 2**20:.0f} MB too large"
    free = make_plan(header, False, memory_bytes=made.memory_bytes)
    if asked.cache and free.fits:
        return (f"{over}; the largest cache beside this context is that of {free.cache_tokens:,} "
                f"tokens (--cache {free.cache_tokens})")
    longest = longest_context(header, made.memory_bytes)
    again = "convert it again with " if is_image(Path(asked.source)) else ""
    if longest:
        return (f"{over}; the longest context that fits is {longest:,} tokens ({again}--context "
                f"{longest})")
    least = make_plan(replace(header, context=PAGE_TOKENS), cache_tokens=1,
                      memory_bytes=made.memory_bytes)
    needed = (MODEL_BASE + least.total_bytes) / 2**20
    packed = mode_of(header) == "base3" or header.group
    smaller = "" if packed else ", or base3 weights"
    return (f"{over}, and with a context of {PAGE_TOKENS} tokens it needs {needed:.0f} MB: a board "
            f"with more memory{smaller}, or a smaller model")
