"""Checkpoint to image: packs weights, quantises the embedding, builds the RoPE table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import ACT_WORDS, BYTE_VECTORS, COLUMN_WORDS, LANES, RANK_LEVELS, SCRATCH_ROWS, largest
from xtvu.layout import WEIGHTS_PER_WORD, pack_ternary, row_words

from bitnet_host.errors import UserError
from bitnet_host.model.image import (
    KINDS,
    LARGE_VOCABULARY,
    MAX_LAYERS,
    SMALL_LEVELS,
    WEIGHT_MODES,
    DdrHeader,
    Image,
    Part,
    build_image,
    down_chunks,
    expected_words,
)
from bitnet_host.model.sources.hf import Checkpoint, ModelConfig

__all__ = ["check_shape", "convert", "make_header", "quantise_rows", "rope_table", "sketch_rows"]

_MAX_HEADS = 63  # of a REP
_MAX_BYTE_WORDS = largest("DOT", "words")  # of an int8 row
_MAX_ELEMENTS = largest("MULS", "n")  # of a vector operation
_MAX_VOCABULARY = 1 << 20  # numbers of the ranking


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def check_shape(config: ModelConfig, weights: str) -> None:
    """Raises UserError, in terms of config.json, if the firmware cannot run such a model."""
    queries = config.heads * config.head_dim
    for name, value, multiple in (("hidden_size", config.hidden, 32), ("intermediate_size", config.intermediate, LANES),
                                  ("head_dim", config.head_dim, 32), ("vocab_size", config.vocab, LANES)):
        if value < multiple or value % multiple:
            raise UserError(f"{name} is {value}; this machine needs a positive multiple of {multiple}")
    if config.kv_heads < 1 or config.heads < 1 or config.heads % config.kv_heads or config.heads // config.kv_heads > BYTE_VECTORS:
        raise UserError(f"{config.heads} query heads on {config.kv_heads} key/value heads: this machine needs 1 to {BYTE_VECTORS} "
                        "query heads per key/value head")
    if not 1 <= config.layers <= MAX_LAYERS or config.heads + config.kv_heads > _MAX_HEADS:
        raise UserError(f"{config.layers} layers with {config.heads} query and {config.kv_heads} key heads: this machine takes "
                        f"{MAX_LAYERS} layers and {_MAX_HEADS} heads in all")
    widest = max(config.hidden, queries)
    if row_words(widest, weights) > ACT_WORDS:
        raise UserError(f"rows of {widest} elements do not fit the activation memory of {ACT_WORDS * WEIGHTS_PER_WORD[weights]}")
    if row_words(config.hidden, "int8") > _MAX_BYTE_WORDS or row_words(config.head_dim, "int8") > ACT_WORDS:
        raise UserError(f"hidden_size {config.hidden} or head_dim {config.head_dim} is too large: int8 products take "
                        f"{_MAX_BYTE_WORDS * WEIGHTS_PER_WORD['int8']} and {ACT_WORDS * WEIGHTS_PER_WORD['int8']}")
    if row_words(config.hidden, weights) > COLUMN_WORDS or config.intermediate > _MAX_ELEMENTS:
        raise UserError(f"hidden_size {config.hidden} or intermediate_size {config.intermediate} is too large: this machine takes "
                        f"{COLUMN_WORDS * WEIGHTS_PER_WORD[weights]} and {_MAX_ELEMENTS}")
    if config.vocab > _MAX_VOCABULARY:
        raise UserError(f"vocab_size is {config.vocab}; this machine ranks {_MAX_VOCABULARY} tokens at most")
    if scratch_rows(config) > SCRATCH_ROWS:
        raise UserError(f"the model needs {scratch_rows(config)} scratchpad rows of {SCRATCH_ROWS}: shorten max_position_embeddings")
    if not 1 <= config.context <= _MAX_ELEMENTS:
        raise UserError(f"max_position_embeddings is {config.context}; this machine takes 1 to {_MAX_ELEMENTS}: give --context")


def scratch_rows(config: ModelConfig) -> int:
    """Scratchpad rows that the firmware's plan needs (firmware/transformer.c, `plan_scratch`)."""
    queries = config.heads * config.head_dim
    fixed = (config.hidden + max(config.hidden, queries) + 2 * config.head_dim) // LANES + 2
    group = config.heads // config.kv_heads
    context_rows = 2 * -(-config.context // (2 * LANES))
    qkv = (queries + 2 * config.kv_heads * config.head_dim) // LANES
    rotated = 2 * (queries + config.kv_heads * config.head_dim) // LANES
    attention = qkv + max((group + 1) * context_rows, rotated) + 1
    return fixed + max(attention, config.intermediate // LANES)


def quantise_rows(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 per row: float32 [r, c] to codes int8 [r, c] and scales float32 [r] with row = codes * scale."""
    scales = np.maximum(np.abs(matrix).max(axis=1), np.float32(1e-8)) / np.float32(127)
    return np.rint(matrix / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def sketch_rows(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Ternary sketch of an int8 matrix: signs int8 [r, c] and factors float32 [r] with codes * scale close to signs * factor.

    Codes below 0.7 of the row's mean magnitude become zero; the factor is the mean magnitude of the others (Li, Liu: Ternary
    Weight Networks, arXiv 1605.04711).
    """
    signs, factors = np.zeros(codes.shape, np.int8), np.zeros(codes.shape[0], np.float32)
    for start in range(0, codes.shape[0], 8192):
        part = codes[start:start + 8192]
        size = np.abs(part.astype(np.int16))
        kept = size > np.float32(0.7) * size.mean(axis=1, dtype=np.float32)[:, None]
        signs[start:start + 8192] = np.where(kept, np.sign(part), 0)
        factors[start:start + 8192] = (size * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)
    return signs, (factors * scales).astype(np.float32)


def rope_table(config: ModelConfig) -> NDArray[np.float32]:
    """float32 [context, 2 * head_dim]: the cosines for all dimensions, then the sines, negated for the first half.

    Angles as transformers' BitNetRotaryEmbedding computes them: float32 position times float32 inverse frequency.
    """
    half = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    inverse = (1.0 / np.power(np.float32(config.rope_theta), half)).astype(np.float32)
    angles = np.arange(config.context, dtype=np.float32)[:, None] * inverse[None, :]
    cos, sin = np.cos(angles.astype(np.float64)), np.sin(angles.astype(np.float64))
    return np.concatenate([cos, cos, -sin, sin], axis=1).astype(np.float32)


def make_header(config: ModelConfig, weights: str) -> DdrHeader:
    """What the image's header says of a model; ``build_image`` adds where things lie."""
    queries = config.heads * config.head_dim
    header = DdrHeader(
        layers=config.layers, hidden=config.hidden, intermediate=config.intermediate, heads=config.heads,
        kv_heads=config.kv_heads, head_dim=config.head_dim, vocab=config.vocab, context=config.context,
        weight_mode=WEIGHT_MODES[weights], eps_bits=_bits(config.eps),
        inverse_hidden_bits=_bits(1 / config.hidden), inverse_query_bits=_bits(1 / queries),
        inverse_intermediate_bits=_bits(1 / config.intermediate),
        score_scale_bits=_bits(math.log2(math.e) / math.sqrt(config.head_dim)), stop_count=len(config.stop_tokens),
        rank_levels=RANK_LEVELS if config.vocab >= LARGE_VOCABULARY else SMALL_LEVELS)
    for place, token in enumerate(config.stop_tokens):
        setattr(header, f"stop{place}", token)
    return header


def _rows_serve(config: ModelConfig, weights: str) -> bool:
    """Whether the firmware would use DOWN_ROWS: its products go where inner vectors were (firmware/transformer.c, `plan_mlp`)."""
    return config.hidden <= down_chunks(config.intermediate, weights)[0]


def _by_rows(matrix: NDArray[np.int8], weights: str) -> NDArray[np.uint8]:
    """The chunks of DOWN_ROWS, one behind the other."""
    ends = np.cumsum(down_chunks(matrix.shape[1], weights))
    return np.concatenate([pack_ternary(chunk, weights).reshape(-1) for chunk in np.split(matrix, ends[:-1], axis=1)])


def _check_finite(checkpoint: Checkpoint) -> None:
    """Raises UserError if a weight, or a scale that divides or multiplies, is no finite number."""
    tensors: list[tuple[str, Any]] = [("embed_tokens.weight", checkpoint.embedding), ("norm.weight", checkpoint.final_norm)]
    for index, layer in enumerate(checkpoint.layers):
        tensors += [(f"layers.{index}.{key}", value if key.endswith("norm") else value.scale) for key, value in layer.items()]
    for name, values in tensors:
        if not np.all(np.isfinite(np.asarray(values, np.float32))):
            raise UserError(f"the checkpoint's {name} holds an infinity or NaN: it is damaged or was not trained to its end")


def convert(checkpoint: Checkpoint, weights: str = "base3", name: str = "model") -> Image:
    """Builds the image with ``weights`` packed as base3 or 2bit. Raises UserError if the machine cannot run the model."""
    config = checkpoint.config
    check_shape(config, weights)
    _check_finite(checkpoint)
    codes, scales = quantise_rows(checkpoint.embedding)
    signs, factors = sketch_rows(codes, scales)

    parts: list[Part] = [
        ("EMBEDDING", 0, codes, config.vocab, config.hidden, 1.0),
        ("EMBEDDING_SCALE", 0, scales, 1, config.vocab, 1.0),
        ("SKETCH", 0, pack_ternary(signs, weights), config.vocab, config.hidden, 1.0),
        ("SKETCH_SCALE", 0, factors, 1, config.vocab, 1.0),
        ("ROPE", 0, rope_table(config), config.context, 2 * config.head_dim, 1.0),
        ("FINAL_NORM", 0, checkpoint.final_norm, 1, config.hidden, 1.0),
    ]
    for index, layer in enumerate(checkpoint.layers):
        for key, value in layer.items():
            if key.endswith("norm"):
                parts.append((key.upper(), index, value, 1, value.size, 1.0))
            else:
                matrix = value.weights.T if key == "down" else value.weights
                parts.append((key.upper(), index, pack_ternary(matrix, weights), *matrix.shape, value.scale))
        if _rows_serve(config, weights):
            down = layer["down"]
            parts.append(("DOWN_ROWS", index, _by_rows(down.weights, weights), *down.weights.shape, down.scale))
    meta = {"name": name, "tokenizer": checkpoint.tokenizer, "chat_template": checkpoint.chat_template,
            "special": checkpoint.special, "config": vars(config) | {"stop_tokens": list(config.stop_tokens)}, "weights": weights}
    image = build_image(make_header(config, weights), parts, meta)
    assert all(tensor.words == expected_words(image.header, KINDS[tensor.kind]) for tensor in image.tensors)
    return image
