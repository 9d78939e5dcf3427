"""Holds an image's matrices against a GGUF file once more, by code that shares nothing with the
reader but where a tensor lies: of types that llama.cpp's Python package knows as that unpacks them,
of the others each weight by the place that its type's definition gives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from numpy.typing import NDArray

from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.checkpoint import F32
from bitnet_host.model.header import GROUP, KINDS
from bitnet_host.model.sources.gguf import GgufFile, GgufTensor
from bitnet_host.verify.image import Finding
from bitnet_host.verify.places import Places

__all__ = ["compare_gguf"]

_NAMES = {"Q": "attn_q", "K": "attn_k", "V": "attn_v", "O": "attn_output", "GATE": "ffn_gate",
          "UP": "ffn_up", "DOWN": "ffn_down"}
_I2_S, _Q2_0 = 36, 42
_PIECE = 2**24  # weights at a time


def compare_gguf(model: ReferenceModel, path: Path, layout: str) -> Iterator[Finding]:
    """A finding for each layer. ``layout``: of I2_S, nothing for 128."""
    file, places = GgufFile(path), Places(model.header)
    permuted = file.fields["general.architecture"] == "llama"
    for layer in range(model.header.layers):
        wrong = []
        for kind, name in _NAMES.items():
            theirs = _values(file.tensors[f"blk.{layer}.{name}.weight"], layout)
            if permuted and kind in ("Q", "K"):
                theirs = theirs[_file_rows(len(theirs), model.header.head_elements)]
            ours = places.matrix(kind, _ours(model, kind, layer))[:, :theirs.shape[1]]
            different = int((ours != theirs).sum())
            if different:
                wrong.append(f"{different:,} values of {kind.lower()} are not those of {path.name}")
        yield Finding(f"layer {layer}", ", ".join(wrong))


def _file_rows(rows: int, head_dim: int) -> NDArray[np.int64]:
    """Where llama.cpp's rotation of neighbours wants each row: the i-th of a head's first half is
    number 2 i there, and that of the second half number 2 i + 1."""
    row = np.arange(rows)
    head, i = row // head_dim, row % head_dim
    half = head_dim // 2
    return np.asarray(head * head_dim + 2 * (i % half) + i // half)


def _ours(model: ReferenceModel, kind: str, layer: int) -> F32:
    """Weights times scales."""
    rows = "DOWN_ROWS" if kind == "DOWN" and model.header.activation else kind
    weights = model.matrix(KINDS.index(rows), layer).astype(np.float32)
    tensor = model.image.tensor(rows, layer)
    if not model.header.group:
        return weights * np.float32(tensor.scale)
    groups = -(-weights.shape[1] // GROUP)
    scales = model.floats(f"{kind}_SCALES", tensor.rows * groups, layer).reshape(groups, -1).T
    return weights * np.repeat(scales[:len(weights)], GROUP, axis=1)[:, :weights.shape[1]]


def _values(tensor: GgufTensor, layout: str) -> F32:
    """float32 [rows, columns]."""
    if tensor.kind not in (_I2_S, _Q2_0):
        kind = GGMLQuantizationType(tensor.kind)
        block, size = GGML_QUANT_SIZES[kind]
        raw = tensor.raw(0, tensor.shape[0] * tensor.shape[1] // block * size)
        return np.asarray(dequantize(raw, kind), np.float32).reshape(tensor.shape)
    count = tensor.shape[0] * tensor.shape[1]
    out = np.empty(count, np.float32)
    for start in range(0, count, _PIECE):
        places = np.arange(start, min(start + _PIECE, count))
        out[places] = (_of_i2s(tensor, places, layout) if tensor.kind == _I2_S
                       else _of_q2(tensor, places))
    return out.reshape(tensor.shape)


def _of_i2s(tensor: GgufTensor, place: NDArray[np.int64], layout: str) -> F32:
    """Weight ``place`` is two bits of a byte: of a block's quarter as long as the block has bytes,
    or, by rows, of the byte that a column has for four rows. The scale stands after all of them."""
    count, columns = tensor.shape[0] * tensor.shape[1], tensor.shape[1]
    raw = tensor.raw(0, count // 4 + 4)
    if layout == "rows":
        row, column = place // columns, place % columns
        byte, pair = row // 4 * columns + column, row % 4
    else:
        block = int(layout or 128)
        inside = place % block
        byte, pair = place // block * (block // 4) + inside % (block // 4), inside // (block // 4)
    code = raw[byte] >> (6 - 2 * pair).astype(np.uint8) & 3
    scale = raw[count // 4:].view("<f4")
    return np.asarray((code.astype(np.float32) - 1) * scale, np.float32)


def _of_q2(tensor: GgufTensor, place: NDArray[np.int64]) -> F32:
    """A block: a float16 scale, then four weights to a byte, the first one in the lowest bits. Its
    size is that of the tensor's place in the file."""
    count = tensor.shape[0] * tensor.shape[1]
    group = 64 if tensor.room >= count // 64 * 18 else 128
    size = 2 + group // 4
    raw = tensor.raw(0, count // group * size)
    start, inside = place // group * size, place % group
    code = raw[start + 2 + inside // 4] >> (2 * (inside % 4)).astype(np.uint8) & 3
    scale = np.stack([raw[start], raw[start + 1]], axis=1).view("<f2")[:, 0].astype(np.float32)
    return np.asarray((code.astype(np.float32) - 1) * scale, np.float32)
