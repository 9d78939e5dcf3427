"""Writes GGUF files with llama.cpp's own writer; blocks of BitNet's types are packed here, one
weight after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from bitnet_host.model.checkpoint import Checkpoint

__all__ = ["NAMES", "pack_i2s", "pack_q2", "pack_tq", "write_gguf"]

NAMES = {"q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
         "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate",
         "up": "ffn_up", "down": "ffn_down", "input_norm": "attn_norm",
         "attn_sub_norm": "attn_sub_norm", "post_norm": "ffn_norm",
         "ffn_sub_norm": "ffn_sub_norm"}
I2_S, Q2_0 = 36, 42


def pack_i2s(weights: np.ndarray, scale: float, layout: str = "128") -> np.ndarray:
    """As microsoft/BitNet's src/ggml-bitnet-mad.cpp: bytes, the scale, and 28 bytes of anything."""
    columns, out = weights.shape[1], bytearray(-(-weights.size // 128) * 32)
    for place, weight in enumerate(weights.reshape(-1).tolist()):
        if layout == "rows":
            row, column = divmod(place, columns)
            out[row // 4 * columns + column] |= weight + 1 << 6 - 2 * (row % 4)
        else:
            quarter = int(layout) // 4
            block, j = divmod(place, int(layout))
            out[block * quarter + j % quarter] |= weight + 1 << 6 - 2 * (j // quarter)
    codes, tail = bytes(out[:weights.size // 4]), np.float32(scale).tobytes() + b"\xa5" * 28
    return np.frombuffer(codes + tail, np.uint8)


def pack_q2(weights: np.ndarray, scales: np.ndarray, group: int) -> np.ndarray:
    """uint8 [rows, bytes] of blocks: a float16 scale, then four weights to a byte, the first one in
    the lowest bits. ``scales`` [rows, columns / group]."""
    rows = []
    for row, row_scales in zip(weights, scales, strict=True):
        raw = b""
        for start, scale in zip(range(0, len(row), group), row_scales, strict=True):
            raw += np.float16(scale).tobytes()
            for at in range(start, start + group, 4):
                raw += bytes([sum(int(row[at + i] + 1) << 2 * i for i in range(4))])
        rows.append(np.frombuffer(raw, np.uint8))
    return np.stack(rows)


def pack_tq(weights: np.ndarray, scale: float, kind: str) -> np.ndarray:
    """By llama.cpp's Python package."""
    return gguf.quants.quantize(weights.astype(np.float32) * np.float32(scale),
                                gguf.GGMLQuantizationType[kind])


def _matrix(writer: gguf.GGUFWriter, name: str, linear: Any, kind: str) -> None:
    shape = linear.weights.shape
    if kind.startswith("I2_S"):
        data = pack_i2s(linear.weights, linear.scale, kind.partition("/")[2] or "128")
        writer.add_tensor(name, data.view(np.int8), raw_shape=shape, raw_dtype=I2_S)
    elif kind.startswith("Q2_0"):
        group = int(kind.partition("/")[2])
        scales = np.full((shape[0], shape[1] // group), linear.scale)
        if linear.scales is not None:
            scales = np.repeat(linear.scales, 128 // group, axis=1)
        data = pack_q2(linear.weights, scales, group)
        writer.add_tensor(name, data.view(np.int8), raw_shape=shape, raw_dtype=Q2_0)
    elif kind in ("TQ1_0", "TQ2_0"):
        writer.add_tensor(name, pack_tq(linear.weights, linear.scale, kind),
                          raw_dtype=gguf.GGMLQuantizationType[kind])
    else:
        values = linear.weights.astype(np.float32) * np.float32(linear.scale)
        if linear.scales is not None:
            values *= np.repeat(linear.scales, 128, axis=1)[:, :shape[1]]
        writer.add_tensor(name, values)


def _permuted(linear: Any, heads: int) -> Any:
    """Rows of q or k as files of the architecture llama have them: of each head the first of the
    first half, the first of the second half, and so on."""
    size = len(linear.weights) // heads
    order = [head * size + half * size // 2 + pair
             for head in range(heads) for pair in range(size // 2) for half in range(2)]
    scales = None if linear.scales is None else linear.scales[order]
    return replace(linear, weights=linear.weights[order], scales=scales)


def write_gguf(path: Path, checkpoint: Checkpoint, kind: str = "I2_S", *,
               embedding: str = "F32", architecture: str = "bitnet-b1.58", tied: bool = True,
               tokens: list[str] | None = None, merges: tuple[str, ...] = ("a b",),
               fields: dict[str, Any] | None = None,
               ternary_embedding: np.ndarray | None = None,
               tensors: dict[str, np.ndarray] | None = None) -> Path:
    """A file of the model with matrices of ``kind`` (I2_S, I2_S/64, I2_S/rows, TQ1_0, TQ2_0,
    Q2_0/64, Q2_0/128, F32). ``fields`` (None: without it) and ``tensors`` come beside its own."""
    config = checkpoint.config
    writer = gguf.GGUFWriter(path, architecture)
    own: dict[str, Any] = {
        f"{architecture}.{name}": value for name, value in {
            "vocab_size": config.vocab, "context_length": config.context,
            "embedding_length": config.hidden, "block_count": config.layers,
            "feed_forward_length": config.intermediate, "rope.dimension_count": config.head_dim,
            "attention.head_count": config.heads, "attention.head_count_kv": config.kv_heads,
            "attention.layer_norm_rms_epsilon": float(config.eps),
            "rope.freq_base": float(config.rope_theta)}.items()}
    own |= {"general.file_type": 40, "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": tokens or [f"t{i}" for i in range(config.vocab)],
            "tokenizer.ggml.token_type": [1] * len(tokens or range(config.vocab)),
            "tokenizer.ggml.merges": list(merges), "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.add_bos_token": True}
    for name, value in (own | (fields or {})).items():
        if value is None:
            continue
        if name == "general.alignment":
            writer.add_custom_alignment(value)
            continue
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
               str: writer.add_string, list: writer.add_array}[type(value)]
        add(name, value)
    rows = np.ascontiguousarray(checkpoint.embedding[:])
    raw = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[embedding])
    if ternary_embedding is not None:
        writer.add_tensor("token_embd.weight", ternary_embedding.view(np.int8),
                          raw_shape=rows.shape, raw_dtype=Q2_0)
    names = ("token_embd.weight", *(() if tied else ("output.weight",)))
    for name in names if ternary_embedding is None else ():
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[embedding])
    if checkpoint.head is not None:
        writer.add_tensor("output.weight", np.ascontiguousarray(checkpoint.head[:]))
    for index, layer in enumerate(checkpoint.layers):
        for key, name in NAMES.items():
            if key not in layer:
                continue
            place = f"blk.{index}.{name}.weight"
            if key.endswith("norm"):
                writer.add_tensor(place, np.asarray(layer[key], np.float32))
            elif architecture == "llama" and key in ("q", "k"):
                heads = config.heads if key == "q" else config.kv_heads
                _matrix(writer, place, _permuted(layer[key], heads), kind)
            else:
                _matrix(writer, place, layer[key], kind)
    writer.add_tensor("output_norm.weight", np.asarray(checkpoint.final_norm, np.float32))
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
