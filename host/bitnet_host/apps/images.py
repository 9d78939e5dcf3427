"""``bitnet-host convert`` and ``bitnet-host info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bitnet_host.apps.progress import ProgressDisplay
from bitnet_host.errors import BadArgument
from bitnet_host.model.convert import (
    convert_file,
    longest_fast_context,
    packing,
    shorten,
    suit,
)
from bitnet_host.model.header import ACTIVATIONS, KINDS, WEIGHT_MODES
from bitnet_host.model.image import read_image
from bitnet_host.model.open import name_of, open_source

__all__ = ["convert", "info"]


def convert(
    source: Annotated[Path,
                      typer.Argument(help="folder of a Hugging Face checkpoint, or a GGUF file",
                                     metavar="SRC")],
    output: Annotated[Path, typer.Option("-o", "--output", help="image to write")],
    weights: Annotated[str, typer.Option(help="base3 (1.6 bit) or 2bit (default: what "
                                              "suits the model)")] = "",
    context: Annotated[int,
                       typer.Option(help="tokens of the longest conversation; 0: as many as the "
                                         "checkpoint was made for, or fit")] = 0,
    cache: Annotated[int,
                     typer.Option(help="tokens of all conversations together; 0: as many as fit "
                                       "the board")] = 0,
    layout: Annotated[str,
                      typer.Option(help="how a GGUF file's I2_S matrices lie: 128 (all published "
                                        "files), 64 or rows")] = "",
) -> None:
    """Convert a checkpoint to a model image."""
    if weights and weights not in WEIGHT_MODES:
        raise BadArgument(f"--weights must be base3 or 2bit, not {weights}")
    checkpoint = open_source(source, layout)
    weights = packing(checkpoint.config, weights)
    checkpoint = (shorten(checkpoint, context) if context
                  else suit(checkpoint, weights, cache))
    display = ProgressDisplay()
    try:
        plan = convert_file(checkpoint, output, weights, name_of(source), display,
                            cache_tokens=cache)
    finally:
        display.end()
    print(f"wrote {output}: {plan.model_bytes / 2**20:.1f} MB for the board, "
          f"{plan.total_bytes / 2**20:.1f} MB with KV cache for {plan.cache_tokens} tokens")
    print(plan)
    faster = None if plan.down_rows else longest_fast_context(checkpoint, weights)
    if faster:
        print(f"with --context {faster.context}: {faster}")


def info(
    image: Annotated[Path, typer.Argument(help="model image", metavar="IMAGE")],
    as_object: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show what an image holds."""
    model = read_image(image)
    header = model.header
    values = {
        "name": model.meta.get("name"), "weights": model.meta.get("weights"),
        "layers": header.layers, "hidden": header.hidden,
        "intermediate": header.inner_elements, "heads": header.heads,
        "kv_heads": header.kv_heads, "head_dim": header.head_elements,
        "activation": next(name for name, value in ACTIVATIONS.items()
                           if value == header.activation),
        "sub_norms": bool(header.sub_norms), "qk_norms": bool(header.qk_norms),
        "tied": not header.untied, "group": header.group,
        "vocab": header.vocab, "context": header.context,
        "cache_tokens": header.cache_tokens, "tensors": header.tensors,
        "model_id": f"{header.model_id:08x}",
        "ddr_bytes": header.ddr_bytes, "total_bytes": header.total_bytes,
    }
    if as_object:
        values["tensor_table"] = [vars(t) | {"kind": KINDS[t.kind]} for t in model.tensors]
        print(json.dumps(values))
        return
    for name, value in values.items():
        print(f"{name:<14}{value:,}" if isinstance(value, int) else f"{name:<14}{value}")
