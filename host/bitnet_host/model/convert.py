"""Checkpoint to image: packs weights, quantises the embedding, builds the RoPE table, a piece at a
time."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import LANES, RANK_LEVELS, WORD_BYTES
from xtvu.layout import pack_ternary

from bitnet_host.errors import BadArgument, BadModel
from bitnet_host.files import replacing
from bitnet_host.model.checkpoint import Checkpoint, ModelConfig, Rows
from bitnet_host.model.header import (
    ACTIVATIONS,
    LARGE_VOCABULARY,
    MEMORY_BYTES,
    MODEL_BASE,
    PAGE_TOKENS,
    SMALL_LEVELS,
    WEIGHT_MODES,
    DdrHeader,
    down_chunks,
    float_bits,
    lay_out,
)
from bitnet_host.model.image import FILE_HEAD, Image, file_head, json_part
from bitnet_host.model.padding import fill_up, padded_head, padded_inner
from bitnet_host.model.plan import Plan, make_plan
from bitnet_host.model.rope import one_kind_of_rope, rope_table
from bitnet_host.model.rows import broken_limit
from bitnet_host.model.writer import FileStore, ImageWriter, MemoryStore
from bitnet_host.reporting import Progress, quiet

__all__ = [
    "check_shape", "convert", "convert_file", "longest_fast_context", "make_header",
    "packing", "quantise_rows", "shorten", "suit", "suitable_context",
    "what_does_not_run",
    "sketch_rows",
]

_STEP = 256  # in which a context is tried
_PIECE = 4096  # rows of the embedding at once; a multiple of a block in every packing


def check_shape(config: ModelConfig, weights: str) -> None:
    """Raises BadModel, in terms of config.json, if the firmware cannot run such a model."""
    problem = what_does_not_run(config, weights)
    if problem:
        raise BadModel(problem)


def what_does_not_run(config: ModelConfig, weights: str) -> str:
    """The sentence that says why this machine cannot run such a model, or nothing."""
    problem = ("" if config.head_dim % 2 == 0 else
               f"head_dim is {config.head_dim}, which RoPE cannot turn in pairs")
    if config.group and padded_head(config.head_dim) != config.head_dim:
        problem = (f"head_dim is {config.head_dim} and scales are those of groups of weights, "
                   f"which this machine takes only if heads are multiples of 32")
    return problem or broken_limit(vars(make_header(config, weights)))


def quantise_rows(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 per row: float32 [r, c] to codes int8 [r, c] and scales float32 [r] with row =
    codes * scale."""
    scales = np.maximum(np.abs(matrix).max(axis=1), np.float32(1e-8)) / np.float32(127)
    return np.rint(matrix / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def sketch_rows(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> tuple[NDArray[np.int8],
        NDArray[np.float32]]:
    """Ternary sketch of an int8 matrix: signs int8 [r, c] and factors float32 [r] with codes *
    scale close to signs * factor.

    Codes below 0.7 of the row's mean magnitude become zero; the factor is the mean magnitude of the
    others (Li, Liu: Ternary Weight Networks, arXiv 1605.04711).
    """
    signs, factors = np.zeros(codes.shape, np.int8), np.zeros(codes.shape[0], np.float32)
    for start in range(0, codes.shape[0], 8192):
        part = codes[start:start + 8192]
        size = np.abs(part.astype(np.int16))
        kept = size > np.float32(0.7) * size.mean(axis=1, dtype=np.float32)[:, None]
        signs[start:start + 8192] = np.where(kept, np.sign(part), 0)
        factors[start:start + 8192] = (size * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)
    return signs, (factors * scales).astype(np.float32)


def make_header(config: ModelConfig, weights: str) -> DdrHeader:
    """What the image's header says of a model; ``lay_out`` adds where things lie. The vocabulary is
    padded to a multiple of eight, heads and inner vectors as padding.py has it."""
    hidden, queries, intermediate, head_dim = (
        # limits come later
        max(1, n)
        for n in (config.hidden, config.heads * config.head_dim, config.intermediate,
                  config.head_dim))
    header = DdrHeader(
        layers=config.layers, hidden=config.hidden,
        intermediate=padded_inner(config.intermediate), heads=config.heads,
        kv_heads=config.kv_heads, head_dim=padded_head(config.head_dim),
        vocab=-(-config.vocab // LANES) * LANES, context=config.context,
        cache_tokens=-(-config.context // PAGE_TOKENS) * PAGE_TOKENS,
        weight_mode=WEIGHT_MODES[weights], activation=ACTIVATIONS[config.activation],
        sub_norms=int(config.sub_norms), qk_norms=int(config.qk_norms),
        untied=int(not config.tied), group=config.group, head_elements=config.head_dim,
        inner_elements=config.intermediate, eps_bits=float_bits(config.eps),
        inverse_hidden_bits=float_bits(1 / hidden), inverse_query_bits=float_bits(1 / queries),
        inverse_head_bits=float_bits(1 / head_dim),
        inverse_intermediate_bits=float_bits(1 / intermediate),
        score_scale_bits=float_bits(math.log2(math.e) / math.sqrt(head_dim)),
        stop_count=len(config.stop_tokens),
        rank_levels=SMALL_LEVELS)
    if header.vocab >= LARGE_VOCABULARY:
        header.rank_levels = RANK_LEVELS
    for place, token in enumerate(config.stop_tokens):
        setattr(header, f"stop{place}", token)
    return header


def packing(config: ModelConfig, weights: str = "") -> str:
    """How weights are packed, unless ``weights`` says it: as small as the machine takes them.
    Raises BadArgument for another name."""
    if weights and weights not in WEIGHT_MODES:
        raise BadArgument(f"weights must be {' or '.join(WEIGHT_MODES)}, not {weights}")
    return weights or ("2bit" if config.group else "base3")


def shorten(checkpoint: Checkpoint, context: int) -> Checkpoint:
    """The checkpoint with a KV cache for ``context`` tokens. Raises BadArgument."""
    config = checkpoint.config
    if not 0 < context <= config.context:
        raise BadArgument(f"the context must lie between 1 and {config.context}, as many as the "
                          f"checkpoint was made for")
    return replace(checkpoint, config=_of_context(config, context))


def _of_context(config: ModelConfig, context: int) -> ModelConfig:
    return replace(config, context=context,
                   trained_context=config.trained_context or config.context)


def suit(checkpoint: Checkpoint, weights: str = "", cache_tokens: int = 0) -> Checkpoint:
    """The checkpoint with the context of ``suitable_context``."""
    context = suitable_context(checkpoint.config, weights, cache_tokens)
    return checkpoint if context == checkpoint.config.context else shorten(checkpoint, context)


def suitable_context(config: ModelConfig, weights: str = "", cache_tokens: int = 0,
                     memory_bytes: int | None = None) -> int:
    """The context that the model was made for or, if the machine or its memory has no room for
    that, the longest that fits, in steps of 256 tokens. Where RoPE has other factors beyond a
    length, up to that length. For a model that does not fit at all, its own."""
    weights = packing(config, weights)

    def fits(context: int) -> bool:
        header = make_header(_of_context(config, context), weights)
        return (not broken_limit(vars(header))
                and make_plan(header, cache_tokens=cache_tokens, memory_bytes=memory_bytes).fits)

    longest = one_kind_of_rope(config)
    if fits(longest):
        return longest
    low, high = 0, longest // _STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * _STEP) else (low, middle - 1)
    return low * _STEP or config.context


def longest_fast_context(checkpoint: Checkpoint, weights: str) -> Plan | None:
    """The plan with the longest context, in steps of 256 tokens, in which down_proj is stored by
    rows too, for fast prompts."""
    for context in range(checkpoint.config.context // _STEP * _STEP, 0, -_STEP):
        plan = make_plan(make_header(replace(checkpoint.config, context=context), weights))
        if plan.down_rows:
            return plan
    return None


def _finite(name: str, values: Any) -> None:
    """Raises BadModel if a weight, or a scale that divides or multiplies, is no finite number."""
    if not np.all(np.isfinite(np.asarray(values, np.float32))):
        raise BadModel(f"the checkpoint's {name} holds an infinity or NaN: it is damaged or was "
                       f"not trained to its end")


def _by_rows(matrix: NDArray[np.int8], header: DdrHeader, weights: str) -> NDArray[np.uint8]:
    """The chunks of DOWN_ROWS, one behind the other."""
    ends = np.cumsum(down_chunks(header))
    return np.concatenate([pack_ternary(chunk, weights).reshape(-1)
                           for chunk in np.split(matrix, ends[:-1], axis=1)])


def _by_group(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Words of rows, uint8 [rows, words * 32], in the order [words, rows]."""
    return np.ascontiguousarray(packed.reshape(len(packed), -1, WORD_BYTES).transpose(1, 0, 2))


def _put_rows(rows: Rows, kind: str, sketch: str, writer: ImageWriter, progress: Progress) -> None:
    """A matrix by tokens in int8 and, packed as ``sketch`` says if at all, its ternary sketch. Rows
    that pad the vocabulary repeat the last one: the machine prefers the smaller of tokens that are
    alike, so they are never chosen."""
    vocab, count = rows.shape[0], writer.header.vocab
    name = "lm_head.weight" if kind == "HEAD" else "embed_tokens.weight"
    scales, factors = np.zeros(count, np.float32), np.zeros(count, np.float32)
    for start in range(0, count, _PIECE):
        part = rows[start:min(start + _PIECE, vocab)]
        _finite(name, part)
        missing = min(start + _PIECE, count) - start - part.shape[0]
        part = (np.concatenate([part,
                                np.repeat(part[-1:]
                                          if len(part) else rows[vocab - 1:vocab], missing,
                                          axis=0)])
                if missing else part)
        end = start + part.shape[0]
        codes, scales[start:end] = quantise_rows(part)
        writer.put(kind, 0, codes)
        if sketch:
            signs, factors[start:end] = sketch_rows(codes, scales[start:end])
            writer.put("SKETCH", 0, pack_ternary(signs, sketch))
        progress("head" if kind == "HEAD" else "embedding", end, count)
    writer.put(f"{kind}_SCALE", 0, scales)
    if sketch:
        writer.put("SKETCH_SCALE", 0, factors)


def _put_layers(checkpoint: Checkpoint, weights: str, writer: ImageWriter, down_rows: bool,
                progress: Progress) -> None:
    columns = checkpoint.config.activation == "relu2"
    for index in range(checkpoint.config.layers):
        for key, value in checkpoint.layers[index].items():
            _finite(f"layers.{index}.{key}", value if key.endswith("norm") else value.scale
                    if value.scales is None else value.scales)
            value = fill_up(key, value, checkpoint.config)
            if key.endswith("norm"):
                writer.put(key.upper(), index, value)
                continue
            if value.scales is not None:
                writer.put("DOWN_ROWS" if key == "down" else key.upper(), index,
                           _by_group(pack_ternary(value.weights, weights)))
                writer.put(f"{key.upper()}_SCALES", index, value.scales.T)
                continue
            if key != "down":
                writer.put(key.upper(), index, pack_ternary(value.weights, weights), value.scale)
                continue
            if columns:
                writer.put("DOWN", index, pack_ternary(value.weights.T, weights), value.scale)
            if down_rows:
                writer.put("DOWN_ROWS", index, _by_rows(value.weights, writer.header, weights),
                           value.scale)
        progress("layers", index + 1, checkpoint.config.layers)


def _prepare(checkpoint: Checkpoint, weights: str, cache_tokens: int) -> tuple[DdrHeader, Plan]:
    check_shape(checkpoint.config, weights)
    header = make_header(checkpoint.config, weights)
    plan = make_plan(header, cache_tokens=cache_tokens)
    header.cache_tokens = plan.cache_tokens
    if not plan.fits:
        raise BadModel(f"the model needs {(MODEL_BASE + plan.total_bytes) / 2**20:.0f} MB of the "
                       f"board's {MEMORY_BYTES / 2**20:.0f} MB: "
                       "choose a smaller model, base3 weights, a shorter context or a smaller "
                       "cache")
    return header, plan


def _fill(checkpoint: Checkpoint, weights: str, writer: ImageWriter, plan: Plan,
          progress: Progress) -> int:
    _put_rows(checkpoint.embedding, "EMBEDDING", weights if checkpoint.head is None else "", writer,
              progress)
    if checkpoint.head is not None:
        _put_rows(checkpoint.head, "HEAD", weights, writer, progress)
    writer.put("ROPE", 0, rope_table(checkpoint.config))
    _finite("norm.weight", checkpoint.final_norm)
    writer.put("FINAL_NORM", 0, checkpoint.final_norm)
    _put_layers(checkpoint, weights, writer, plan.down_rows, progress)
    return writer.finish()


def _meta(checkpoint: Checkpoint, weights: str, name: str) -> dict[str, Any]:
    config = vars(checkpoint.config) | {"stop_tokens": list(checkpoint.config.stop_tokens)}
    return {"name": name,
            "tokenizer": checkpoint.tokenizer, "chat_template": checkpoint.chat_template,
            "special": checkpoint.special,
            "defaults": checkpoint.defaults, "config": config, "weights": weights}


def convert(checkpoint: Checkpoint, weights: str = "", name: str = "model",
            progress: Progress = quiet, *, cache_tokens: int = 0) -> Image:
    """The image, in memory, with ``weights`` packed as base3, 2bit or as ``packing`` has it.
    ``cache_tokens``: of all conversations together, 0 for as many as fit. Raises BadModel if the
    machine cannot run the model."""
    weights = packing(checkpoint.config, weights)
    header, plan = _prepare(checkpoint, weights, cache_tokens)
    tensors = lay_out(header, plan.down_rows)
    store = MemoryStore(header.ddr_bytes)
    _fill(checkpoint, weights, ImageWriter(header, tensors, store), plan, progress)
    return Image(header, tensors, store.ddr, _meta(checkpoint, weights, name))


def convert_file(checkpoint: Checkpoint, path: Path, weights: str = "", name: str = "model",
                 progress: Progress = quiet, *, cache_tokens: int = 0) -> Plan:
    """Writes ``convert``'s image to a file, whole or not at all, in some hundred megabytes of
    memory whatever the model's size. Raises BadModel, BadArgument for a path that must not be
    written, BadFile if the disk does not take it."""
    weights = packing(checkpoint.config, weights)
    header, plan = _prepare(checkpoint, weights, cache_tokens)
    tensors = lay_out(header, plan.down_rows)
    text = json_part(_meta(checkpoint, weights, name))
    start = FILE_HEAD.size + len(text)
    with replacing(path, start + header.ddr_bytes, checkpoint.files) as file:
        crc = _fill(checkpoint, weights, ImageWriter(header, tensors, FileStore(file, start)),
                    plan, progress)
        file.write(file_head(text, header.ddr_bytes, crc) + text)
    return plan
