"""Synthetic checkpoints of any shape, for benches: random weights, with gates that are positive as
often as a real model's.

The first channels of the residual stream hold the same value whatever the token, since no output
writes to them; each gate row has a bias through its weights on these channels. Written once as the
raw contents of the board's DDR, KV cache included, so that a simulation starts with it in place.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xtvu.layout import stripe

from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.files import replacing
from bitnet_host.model.checkpoint import Checkpoint, Linear, ModelConfig, norm_sizes
from bitnet_host.model.convert import check_shape, convert, packing
from bitnet_host.model.families import FAMILIES
from bitnet_host.model.header import (
    ACTIVATIONS,
    BLOCK_BYTES,
    CHUNK_TOKENS,
    FORMAT_VERSION,
    MODEL_BASE,
    DdrHeader,
    Tensor,
)
from bitnet_host.model.image import Image
from bitnet_host.model.open import source_digest

__all__ = ["GATE_ZEROS", "SHAPES", "Bench", "parse_shape", "prepare", "synthetic_checkpoint"]

# share of the 2B model's inner activations that are exactly zero (Neumann-Labs/ternfpga); layers
# 41.6-78.9 %
GATE_ZEROS = 0.598
_LAYER_SPREAD = 0.187
_BIAS_CHANNELS, _BIAS_VALUE = 32, 3.0
_CODE_SIGMA = 34.0  # of int8 codes of a Gaussian vector of some thousand elements
_UPDATE = 0.05  # what a layer adds to the residual stream, in its standard deviations

_TINY = ModelConfig(256, 512, 4, 8, 2, 32, 2048, 256, 500000.0, 1e-5)
#: Shapes that have a name.
SHAPES: dict[str, ModelConfig] = ({name: family.config for name, family in FAMILIES.items()}
                                  | {"tiny": _TINY})
_NAMES = ("hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "vocab", "context")
_SWITCHES = ("sub_norms", "qk_norms", "tied")
_MORE = ("group",)


def parse_shape(text: str) -> ModelConfig:
    """A name of SHAPES, optionally with changes, as in ``2b4t,layers=2`` or ``hidden=512,...``.
    Raises BadArgument."""
    name, _, changes = text.partition(",") if "=" not in text.split(",")[0] else ("", "", text)
    if name and name not in SHAPES:
        raise BadArgument(f"shape {text}: choose {', '.join(SHAPES)} or give "
                          f"{', '.join(f'{n}=N' for n in _NAMES)}")
    values: dict[str, Any] = {}
    for item in filter(None, changes.split(",")):
        key, _, value = item.partition("=")
        if key in (*_NAMES, *_MORE) and re.fullmatch(r"[0-9]{1,7}", value):
            values[key] = int(value)
        elif key in _SWITCHES and value in ("0", "1"):
            values[key] = value == "1"
        elif key == "activation" and value in ACTIVATIONS:
            values[key] = value
        else:
            raise BadArgument(
                f"shape {text}: {item} is not one of {', '.join(f'{n}=N' for n in _NAMES)}, "
                f"activation={'|'.join(ACTIVATIONS)}, "
                f"{', '.join(f'{n}=0|1' for n in _SWITCHES)}")
    missing = [n for n in _NAMES if n not in values and not name]
    if missing:
        raise BadArgument(f"shape {text} lacks {', '.join(missing)}")
    config = SHAPES[name or "tiny"]
    if "context" in values:
        values["trained_context"] = max(values["context"], config.trained_context)
    return replace(config, **values)


@dataclass
class Bench:
    """A synthetic model: ``path`` of the DDR contents, its ``image``, and what the KV cache holds:
    codes int8 [2, layers, kv_heads, cache_tokens, head_dim] and scales float32 [2, layers,
    kv_heads, cache_tokens] of keys and values, page by page."""

    path: Path
    image: Image
    codes: NDArray[np.int8]
    scales: NDArray[np.float32]


def synthetic_checkpoint(config: ModelConfig, gate_zeros: float, seed: int) -> Checkpoint:
    """Random weights of a shape; gates are not positive in ``gate_zeros`` of the cases on
    average."""
    rng = np.random.default_rng(seed)
    hidden, inner, queries = config.hidden, config.intermediate, config.heads * config.head_dim
    keys = config.kv_heads * config.head_dim
    biased = min(_BIAS_CHANNELS, hidden // 8)

    def ternary(rows: int, columns: int) -> NDArray[np.int8]:
        return rng.integers(-1, 2, (rows, columns), np.int8)

    def vector(size: int) -> NDArray[np.float32]:
        return (1 + 0.1 * rng.standard_normal(size, np.float32)).astype(np.float32)

    def linear(weights: NDArray[np.int8], scale: float) -> Linear:
        if not config.group:
            return Linear(weights, scale)
        groups = -(-weights.shape[1] // config.group)
        return Linear(weights, 1.0, (scale * rng.uniform(0.5, 1.5, (weights.shape[0], groups)))
                      .astype(np.float32))

    embedding = rng.standard_normal((config.vocab, hidden), np.float32)
    embedding[:, :biased] = _BIAS_VALUE
    sigma = math.sqrt((hidden - biased) * 2 / 3)  # of a sum of weights times unit-variance inputs
    layers = []
    for layer in range(config.layers):
        turn = math.cos(math.pi * layer / max(1, config.layers - 1)) if config.layers > 1 else 0.0
        share = min(0.98, max(0.02, gate_zeros + _LAYER_SPREAD * turn))
        # the mean that makes a Gaussian non-positive with this probability, in weights on biased
        # channels
        wanted = -NormalDist().inv_cdf(share) * sigma / _BIAS_VALUE
        gate = ternary(inner, hidden)
        places = np.floor(abs(wanted) + rng.random(inner)).astype(int)
        gate[:, :biased] = np.where(np.arange(biased) < places[:, None],
                                    int(math.copysign(1, wanted)), 0)
        o, down = ternary(hidden, queries), ternary(hidden, inner)
        o[:biased] = down[:biased] = 0
        layers.append({
            "q": linear(ternary(queries, hidden), 1 / sigma),
            "k": linear(ternary(keys, hidden), 1 / sigma),
            "v": linear(ternary(keys, hidden), 1 / sigma),
            "o": linear(o, _UPDATE / math.sqrt(queries * 2 / 3)),
            "gate": linear(gate, 1 / sigma), "up": linear(ternary(inner, hidden), 1 / sigma),
            "down": linear(down, _UPDATE / math.sqrt(inner * 2 / 3)),
            **{name: np.ones(size, np.float32) if name == "post_norm" else vector(size)
               for name, size in norm_sizes(config).items()},
        })
    head = None if config.tied else rng.standard_normal((config.vocab, hidden), np.float32)
    return Checkpoint(config, embedding, vector(hidden), layers, head=head)


def _cache(header: DdrHeader, seed: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    rng = np.random.default_rng(seed + 1)
    shape = (2, header.layers, header.kv_heads, header.cache_tokens)
    quantiles = np.array([NormalDist(0, _CODE_SIGMA).inv_cdf((i + 0.5) / 256) for i in range(256)])
    codes = np.clip(np.rint(quantiles), -127,
                    127).astype(np.int8)[rng.integers(0, 256, (*shape, header.head_dim), np.uint8)]
    return codes, (rng.uniform(0.8, 1.2, shape) / _CODE_SIGMA).astype(np.float32)


def _put(memory: NDArray[np.uint8], address: int, data: NDArray[Any]) -> None:
    striped = stripe(np.ascontiguousarray(data).reshape(-1).view(np.uint8))
    memory[address:address + striped.size] = striped


def _fill_cache(memory: NDArray[np.uint8], header: DdrHeader, codes: NDArray[np.int8],
                scales: NDArray[np.float32]) -> None:
    tokens, padded = header.cache_tokens, -(-header.head_dim // 32) * 32
    chunks = -(-tokens // CHUNK_TOKENS)
    for index in range(header.layers * header.kv_heads):
        layer, head = divmod(index, header.kv_heads)
        k = np.zeros((tokens, padded), np.int8)
        k[:, :header.head_dim] = codes[0, layer, head]
        _put(memory, header.k_base + index * header.k_head_bytes, k)
        v = np.zeros((chunks * CHUNK_TOKENS, header.head_dim), np.int8)
        v[:tokens] = codes[1, layer, head]
        _put(memory,
             header.v_base + index * header.v_head_bytes,
             v.reshape(chunks, CHUNK_TOKENS, -1).transpose(0, 2, 1))
        for base, values in ((header.ks_base, scales[0]), (header.vs_base, scales[1])):
            _put(memory, base + index * header.s_head_bytes, values[layer, head])


def _read(path: Path) -> Image:
    memory = np.memmap(path, np.uint8, "r")
    ddr = memory[MODEL_BASE:]
    count = len(fields(DdrHeader))
    header = DdrHeader(*struct.unpack_from(f"<{count}I", ddr[:4 * count].tobytes()))
    table = ddr[4 * count:header.header_bytes].tobytes()
    return Image(header, [Tensor.unpack(table[32 * i:32 * i + 32]) for i in range(header.tensors)],
                 ddr[:header.ddr_bytes], {})


def prepare(config: ModelConfig, folder: Path, weights: str = "",
            gate_zeros: float = GATE_ZEROS, seed: int = 1) -> Bench:
    """Makes the model, or finds the one that an earlier call left in ``folder``. Raises BadArgument
    if the machine cannot run it."""
    weights = packing(config, weights)
    check_shape(config, weights)
    if not 0 < gate_zeros < 1:
        raise BadArgument(f"gate_zeros must lie between 0 and 1, not {gate_zeros}")
    if not 0 <= seed < 2**32:
        raise BadArgument(f"seed must lie between 0 and {2**32 - 1}, not {seed}")
    key = json.dumps([vars(config), weights, gate_zeros, seed, FORMAT_VERSION, source_digest()],
                     default=str)
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.ddr"
    if not path.exists():
        image = convert(synthetic_checkpoint(config, gate_zeros, seed), weights, "synthetic")
        _write(path, image, seed)
    image = _read(path)
    return Bench(path, image, *_cache(image.header, seed))


def _write(path: Path, image: Image, seed: int) -> None:
    """Writes the file whole or not at all, whoever else may be writing it."""
    size = MODEL_BASE + -(-image.header.total_bytes // BLOCK_BYTES) * BLOCK_BYTES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"cannot write {path}: {error.strerror}") from None
    # set aside at once: a full disk says so here, not by a signal later
    with replacing(path, size) as file:
        memory = np.memmap(file, np.uint8, "r+", shape=(size,))
        memory[MODEL_BASE:MODEL_BASE + image.ddr.size] = image.ddr
        _fill_cache(memory, image.header, *_cache(image.header, seed))
        memory.flush()
