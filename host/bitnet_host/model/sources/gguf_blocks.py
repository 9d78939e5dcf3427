"""Ternary matrices and rows of floats as GGUF files store them.

A row is stored in blocks of neighbouring weights, and a code of two bits is the weight plus one.
Sources of the layouts: microsoft/BitNet (src/ggml-bitnet-mad.cpp, I2_S), llama.cpp (ggml-quants,
TQ1_0 and TQ2_0), the model cards of Ternary-Bonsai (Q2_0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from numpy.typing import NDArray

from bitnet_host.errors import BadModel
from bitnet_host.model.checkpoint import F32, Linear
from bitnet_host.model.header import GROUP
from bitnet_host.model.sources.gguf import GgufTensor
from bitnet_host.model.sources.matrices import group_scales, refuse_holes

__all__ = ["I2S", "LAYOUTS", "FloatRows", "TokenRows", "i2s_codes", "read_linear"]

TQ1_0, TQ2_0, I2S, TL1, TL2, Q2_0 = 34, 35, 36, 38, 39, 42
_TERNARY = (TQ1_0, TQ2_0, I2S, TL1, TL2, Q2_0)
_BLOCK = 256  # weights to a scale in TQ1_0 and TQ2_0

Codes = NDArray[np.uint8]
_LOW = np.uint8(3)


def _planes(data: Codes, width: int) -> Codes:
    """uint8 [bytes] to codes, where a block of ``4 * width`` stands in ``width`` bytes: a quarter
    of it in each two bits, the first one in the highest."""
    blocks = data.reshape(-1, 1, width)
    shifts = np.array([6, 4, 2, 0], np.uint8)[:, None]
    return (blocks >> shifts & _LOW).reshape(-1)


def _four_rows(data: Codes, columns: int) -> Codes:
    """Bytes of four rows each, the first one in the highest bits."""
    groups = data.reshape(-1, 1, columns)
    shifts = np.array([6, 4, 2, 0], np.uint8)[:, None]
    return (groups >> shifts & _LOW).reshape(-1)


#: The layouts of I2_S, which nothing in a file tells apart: weights of a block, from bytes and
#: columns of a row. The first is what all published files have.
LAYOUTS: dict[str, tuple[int, Callable[[Codes, int], Codes]]] = {
    "128": (128, lambda data, columns: _planes(data, 32)),
    "64": (64, lambda data, columns: _planes(data, 16)),
    "rows": (4, _four_rows),
}


@dataclass(frozen=True)
class _Blocks:
    """Codes (weight + 1) [rows, columns], and scales float32 of every ``group`` weights of a
    row."""

    codes: Codes
    scales: F32
    group: int


def read_linear(tensor: GgufTensor, layout: str) -> Linear:
    """The matrix [out, in], with ``layout`` one of LAYOUTS, with a scale or with those of groups
    of GROUP weights. Raises BadModel if it is none of three values, or has scales of smaller
    groups."""
    place = f"{tensor.file}: tensor {tensor.name}"
    if tensor.kind in (TL1, TL2):
        raise BadModel(f"{place} is packed as TL{tensor.kind - TL1 + 1}: how depends on tables of "
                       f"the program that wrote it and is not in the file: get an I2_S file, or "
                       f"the safetensors")
    if tensor.kind not in _TERNARY:
        return _of_floats(tensor, place)
    blocks = _READERS[tensor.kind](tensor, layout)
    weights = _signed(blocks, place)
    used = np.unique(np.abs(blocks.scales[weights.reshape(-1, blocks.group).any(axis=1)]))
    if used.size > 1:
        refuse_holes(weights, place)
        return Linear(weights, 1.0, _by_group(weights, blocks, place))
    return _checked(weights, np.float32(used[0] if used.size else 0), place)


def _signed(blocks: _Blocks, place: str) -> NDArray[np.int8]:
    """Weights as scales without a sign mean them; none where a scale is zero."""
    if (blocks.codes == 3).any():
        raise BadModel(f"{place} holds a code that is no weight: it is damaged or packed in "
                       f"another way")
    if not np.isfinite(blocks.scales).all():
        raise BadModel(f"{place} has a scale that is an infinity or NaN: it is damaged")
    weights = blocks.codes.astype(np.int8) - 1
    groups = weights.reshape(-1, blocks.group)
    groups[blocks.scales == 0] = 0
    groups[blocks.scales < 0] *= -1
    return weights


def _by_group(weights: NDArray[np.int8], blocks: _Blocks, place: str) -> F32:
    """float32 [rows, columns / GROUP]: the scales of larger groups repeated, those of two smaller
    ones made one. Raises BadModel where they differ."""
    rows, columns = weights.shape
    if blocks.group >= GROUP and blocks.group % GROUP == 0:
        scales = np.repeat(np.abs(blocks.scales), blocks.group // GROUP)
        return scales.reshape(rows, columns // GROUP)
    each, per = np.abs(blocks.scales).reshape(rows, -1), GROUP // blocks.group
    each = np.where(weights.reshape(rows, -1, blocks.group).any(axis=2), each, 0)
    missing = -each.shape[1] % per
    parts = np.pad(each, ((0, 0), (0, missing))).reshape(rows, -1, per)
    largest: F32 = parts.max(axis=2)
    if not ((parts == 0) | (parts == largest[:, :, None])).all():
        raise BadModel(f"{place} has scales for {blocks.group} weights each; this machine has one "
                       f"for {GROUP}, and neighbours differ")
    return largest


def _checked(weights: NDArray[np.int8], scale: np.float32, place: str) -> Linear:
    refuse_holes(weights, place)
    if not np.isfinite(scale) or scale == 0:
        raise BadModel(f"{place} has the scale {scale:g}, which is none: it is damaged")
    return Linear(weights, float(scale))


def _of_floats(tensor: GgufTensor, place: str) -> Linear:
    """Floats of three values, minus and plus one magnitude and zero, of the matrix or of groups of
    a row."""
    values = FloatRows(tensor)[:]
    if not np.isfinite(values).all():
        raise BadModel(f"{place} holds an infinity or NaN: it is damaged")
    magnitudes = np.unique(np.abs(values))
    magnitudes = magnitudes[magnitudes > 0]
    if magnitudes.size > 1:
        groups = group_scales(values)
        if groups is not None:
            weights = np.sign(values).astype(np.int8)
            refuse_holes(weights, place)
            return Linear(weights, 1.0, groups)
        raise BadModel(f"{place} has {magnitudes.size:,} different magnitudes: these are no "
                       f"ternary weights; give the safetensors checkpoint, or an I2_S file")
    return _checked(np.sign(values).astype(np.int8),
                    np.float32(magnitudes[0] if magnitudes.size else 0), place)


def i2s_codes(tensor: GgufTensor, layout: str) -> Codes:
    """Weights plus one of an I2_S matrix [out, in], as they are in the file."""
    block, unpack = LAYOUTS[layout]
    count = tensor.shape[0] * tensor.shape[1]
    if count % block or (layout == "rows" and tensor.shape[0] % 4):
        raise BadModel(f"{tensor.file}: tensor {tensor.name} has {count} weights, which are no "
                       f"whole blocks of I2_S in the layout {layout}")
    return unpack(tensor.raw(0, count // 4), tensor.shape[1]).reshape(tensor.shape)


def _i2s(tensor: GgufTensor, layout: str) -> _Blocks:
    codes, count = i2s_codes(tensor, layout), tensor.shape[0] * tensor.shape[1]
    scale = tensor.raw(count // 4, 4).view("<f4").astype(np.float32)
    return _Blocks(codes, scale, count)


def _blocks(tensor: GgufTensor, group: int, size: int) -> Codes:
    """uint8 [blocks, size]."""
    if tensor.shape[1] % group:
        raise BadModel(f"{tensor.file}: tensor {tensor.name} has rows of {tensor.shape[1]} "
                       f"weights, which are no whole blocks of {group}")
    count = tensor.shape[0] * tensor.shape[1] // group
    return tensor.raw(0, count * size).reshape(count, size)


def _half(data: Codes) -> F32:
    """float16 [n, 2 bytes] as float32 [n]."""
    return np.ascontiguousarray(data).view("<f2").astype(np.float32).reshape(-1)


def _tq2(tensor: GgufTensor, _: str) -> _Blocks:
    data = _blocks(tensor, _BLOCK, 66)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    codes = data[:, :64].reshape(-1, 2, 1, 32) >> shifts & _LOW
    return _Blocks(codes.reshape(tensor.shape), _half(data[:, 64:]), _BLOCK)


def _tq1(tensor: GgufTensor, _: str) -> _Blocks:
    """Five weights to a byte q: q times a power of three, modulo 256, times three, by 256."""
    data = _blocks(tensor, _BLOCK, 54)

    def digits(part: Codes, count: int) -> Codes:
        powers = np.array([3**i for i in range(count)], np.uint16)[:, None]
        turned = part.astype(np.uint16)[:, None] * powers & 255
        return (turned * 3 >> 8).astype(np.uint8).reshape(len(data), -1)

    codes = np.concatenate([digits(data[:, :32], 5), digits(data[:, 32:48], 5),
                            digits(data[:, 48:52], 4)], axis=1)
    return _Blocks(codes.reshape(tensor.shape), _half(data[:, 52:]), _BLOCK)


def _q2(tensor: GgufTensor, _: str) -> _Blocks:
    """Of the two sizes of blocks under this number, the one that fills the tensor's place."""
    count = tensor.shape[0] * tensor.shape[1]
    fitting = [group for group in (64, 128)
               if tensor.shape[1] % group == 0
               and 0 <= tensor.room - count // group * (2 + group // 4) < tensor.alignment]
    if len(fitting) != 1:
        raise BadModel(f"{tensor.file}: tensor {tensor.name} takes {tensor.room} bytes, which "
                       f"{'either' if fitting else 'neither'} blocks of 64 or of "
                       f"128 weights (Q2_0) do: it is damaged or of another kind under the same "
                       f"number")
    (group,) = fitting
    data = _blocks(tensor, group, 2 + group // 4)
    codes = data[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8) & _LOW
    return _Blocks(codes.reshape(tensor.shape), _half(data[:, :2]), group)


_READERS: dict[int, Callable[[GgufTensor, str], _Blocks]] = {
    I2S: _i2s, TQ2_0: _tq2, TQ1_0: _tq1, Q2_0: _q2}


class FloatRows:
    """Rows of a tensor [rows, columns], or a vector as one column, as float32."""

    def __init__(self, tensor: GgufTensor) -> None:
        self._tensor = tensor
        rows, columns = tensor.shape if len(tensor.shape) == 2 else (1, tensor.shape[0])
        known = {kind.value for kind in GGMLQuantizationType} - set(_TERNARY)
        if tensor.kind not in known or len(tensor.shape) > 2:
            raise BadModel(f"{tensor.file}: tensor {tensor.name} has the type {tensor.kind}, "
                           f"which is no row of floats that this tool reads")
        self._kind = GGMLQuantizationType(tensor.kind)
        block, size = GGML_QUANT_SIZES[self._kind]
        if columns % block:
            raise BadModel(f"{tensor.file}: tensor {tensor.name} has rows of {columns}, which are "
                           f"no whole blocks of {self._kind.name}")
        self._row_bytes = columns // block * size
        self.shape: tuple[int, ...] = (rows, columns)

    def __getitem__(self, rows: slice) -> F32:
        start, stop, _ = rows.indices(self.shape[0])
        count = max(0, stop - start)
        raw = self._tensor.raw(start * self._row_bytes, count * self._row_bytes)
        raw = raw.reshape(count, self._row_bytes)
        if self._kind.name in ("F32", "F16"):
            values = raw.view("<f4" if self._kind.name == "F32" else "<f2").astype(np.float32)
        elif count:
            try:
                values = np.asarray(dequantize(raw, self._kind), np.float32)
            except NotImplementedError:  # of types that the library names but cannot unpack
                raise BadModel(f"{self._tensor.file}: tensor {self._tensor.name} is packed as "
                               f"{self._kind.name}, which this tool does not read") from None
        else:
            values = np.zeros((0, self.shape[1]), np.float32)
        return values

    def vector(self) -> F32:
        """All of it in one row. Raises BadModel if it is not finite."""
        values = self[:].reshape(-1)
        if not np.isfinite(values).all():
            raise BadModel(f"{self._tensor.file}: tensor {self._tensor.name} holds an infinity or "
                           f"NaN: it is damaged or was not trained to its end")
        return values


class TokenRows:
    """Rows of an embedding or head [tokens, hidden] as float32, which may be ternary themselves."""

    def __init__(self, tensor: GgufTensor) -> None:
        self._tensor, self.shape = tensor, tensor.shape
        self._rows = None if tensor.kind in (TQ1_0, TQ2_0, Q2_0) else FloatRows(tensor)
        self._ternary: tuple[NDArray[np.int8], F32] | None = None

    def __getitem__(self, rows: slice) -> F32:
        if self._rows is not None:
            return self._rows[rows]
        if self._ternary is None:  # bytes of weights, a quarter of the floats'
            linear = read_linear(self._tensor, "128")
            scales = linear.scales
            if scales is None:
                groups = -(-self.shape[1] // GROUP)
                scales = np.full((self.shape[0], groups), np.float32(linear.scale))
            self._ternary = linear.weights, scales
        weights, scales = self._ternary
        return (weights[rows] * np.repeat(scales[rows], GROUP, axis=1)[:, :self.shape[1]]
                ).astype(np.float32)
