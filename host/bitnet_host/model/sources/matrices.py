"""Ternary matrices as checkpoints store them: packed, or as the floats they were trained as.

A packed byte [r, c] holds W[i * (out / 4) + r, c] + 1 in bits 2i and 2i + 1; the linear class
``autobitlinear`` multiplies by weight_scale, ``bitlinear`` (the default) divides. Masters, the
floats of training, are rounded when a model is loaded: s = 1 / max(mean |W|, 1e-5) of the whole
matrix, codes = clamp(round_half_even(W * s), -1, 1), which are worth 1 / s each (both: transformers
5.23, integrations/bitnet.py).
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

from bitnet_host.errors import BadModel
from bitnet_host.model.checkpoint import Linear
from bitnet_host.model.header import GROUP
from bitnet_host.model.sources.tensors import StoredTensor

__all__ = ["Storage", "absmean", "from_masters", "from_packed", "from_values", "group_of_values",
           "group_scales", "refuse_holes", "unpack_hf"]

_ROWS = 1024  # of masters in memory at once
_DEAD = 64  # neighbouring rows that may be zero everywhere
_FEW = 32  # weights of a row that may be alike by chance


class Storage(Enum):
    """How a checkpoint keeps its matrices."""

    MULTIPLIES = "packed, products are multiplied by weight_scale"
    DIVIDES = "packed, products are divided by weight_scale"
    MASTERS = "floats that are rounded to three values when they are read"
    VALUES = "floats that have three values"


def unpack_hf(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """uint8 [out / 4, in] to int8 [out, in]. Raises ValueError for the code 3, which is no
    weight."""
    if (packed & packed >> 1 & 0x55).any():
        raise ValueError("code 3")
    return np.concatenate([(packed >> 2 * i & 3).astype(np.int8) - 1 for i in range(4)])


def from_packed(packed: StoredTensor, stored_scale: StoredTensor, storage: Storage) -> Linear:
    """Raises BadModel for what is no packed ternary matrix."""
    place = f"{packed.file}: tensor {packed.name}"
    if packed.kind != "U8":
        raise BadModel(f"{place} is not packed ternary ({packed.kind}): give the packed "
                       f"checkpoint")
    try:
        weights = unpack_hf(packed[:])
    except ValueError:
        raise BadModel(f"{place} holds a code that is no weight: it is damaged or packed in "
                       f"another way") from None
    refuse_holes(weights, place)
    scale = np.float32(stored_scale.floats()[0])
    with np.errstate(divide="ignore", over="ignore"):
        factor = np.float32(1) / scale if storage is Storage.DIVIDES else scale
    if not np.isfinite(factor) or factor == 0:
        raise BadModel(f"{stored_scale.file}: tensor {stored_scale.name} is {scale:g}, which "
                       f"is no scale")
    return Linear(weights, float(factor))


def absmean(total: float, count: int) -> np.float32:
    """What masters are multiplied by, of the sum of their magnitudes."""
    return np.float32(np.float32(1) / max(np.float32(total / count), np.float32(1e-5)))


def from_masters(stored: StoredTensor) -> Linear:
    """Float masters [out, in], rounded. The mean is exact before it is rounded to float32. Raises
    BadModel for what is not floats, not finite or zero everywhere."""
    place = f"{stored.file}: tensor {stored.name}"
    if stored.kind == "U8":
        raise BadModel(f"{place} is packed, but config.json says that weights are rounded when "
                       f"they are read (quantization_mode online): one of them is another "
                       f"checkpoint's")
    rows, columns = stored.shape
    pieces = range(0, rows, _ROWS)
    total = 0.0
    for start in pieces:
        total += float(np.abs(stored[start:start + _ROWS]).sum(dtype=np.float64))
    if not np.isfinite(total):
        raise BadModel(f"{place} holds an infinity or NaN: it is damaged or was not trained to "
                       f"its end")
    scale = absmean(total, rows * columns)
    weights, used = np.empty((rows, columns), np.int8), np.zeros(rows, bool)
    for start in pieces:
        part = stored[start:start + _ROWS]
        used[start:start + _ROWS] = part.any(axis=1)
        np.clip(np.rint(part * scale), -1, 1, out=weights[start:start + _ROWS], casting="unsafe")
    refuse_holes(weights, place, used)
    return Linear(weights, float(np.float32(1) / scale))


def group_scales(weights: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The magnitude of each group of GROUP weights of a row, float32 [rows, groups], zero of one
    that is zero everywhere; None if a group has several."""
    rows, columns = weights.shape
    padded = np.zeros((rows, -(-columns // GROUP) * GROUP), np.float32)
    padded[:, :columns] = np.abs(weights)
    groups = padded.reshape(rows, -1, GROUP)
    scales: NDArray[np.float32] = groups.max(axis=2)
    same = (groups == 0) | (groups == scales[:, :, None])
    return scales if same.all() else None


def group_of_values(stored: StoredTensor) -> int | None:
    """How many weights share the magnitude that each of them has or is zero: 0 for all of the
    matrix, GROUP, or None if a group has several. Looks at the first rows."""
    part = stored[:_ROWS]
    if stored.kind == "U8" or not np.isfinite(part).all():
        return None
    magnitudes = np.unique(np.abs(part))
    if (magnitudes > 0).sum() <= 1:
        return 0
    return None if group_scales(part) is None else GROUP


def from_values(stored: StoredTensor, group: int) -> Linear:
    """Floats [out, in] that are zero or one magnitude, of all of the matrix or, with ``group``, of
    each group of a row. Raises BadModel for others."""
    place = f"{stored.file}: tensor {stored.name}"
    if stored.kind == "U8":
        raise BadModel(f"{place} is packed, where others of this checkpoint are floats: one of "
                       f"them is another checkpoint's")
    weights, scales = np.empty(stored.shape, np.int8), []
    for start in range(0, stored.shape[0], _ROWS):
        part = stored[start:start + _ROWS]
        found = group_scales(part) if np.isfinite(part).all() else None
        if found is None:
            raise BadModel(f"{place} has groups of {GROUP} weights of more than three values: it "
                           f"is not ternary throughout")
        scales.append(found)
        weights[start:start + _ROWS] = np.sign(part)
    refuse_holes(weights, place)
    groups = np.concatenate(scales)
    if group:
        return Linear(weights, 1.0, groups)
    one = groups.max()
    if not ((groups == 0) | (groups == one)).all():
        raise BadModel(f"{place} has groups of weights with scales of their own, where the first "
                       f"matrix of this checkpoint has one for all of it")
    return Linear(weights, float(one))


def refuse_holes(weights: NDArray[np.int8], place: str,
                 used: NDArray[np.bool_] | None = None) -> None:
    """Raises BadModel for a matrix int8 [out, in] that is zero everywhere, or has rows of nothing
    but -1, or many neighbouring ones of zeros. That is what bytes of zero stand for where weights
    are packed, or are floats or have scales of groups, and a file has those where a download left a
    hole. ``used``: which rows hold anything in the file. (Single rows of zeros are known in trained
    models.)"""
    if not weights.any():
        raise BadModel(f"{place} is zero everywhere, so the model cannot answer sensibly; "
                       f"uploads like that are known: "
                       "get another one")
    full = np.asarray(weights.any(axis=1)) if used is None else used
    ends = np.flatnonzero(np.diff(np.concatenate([[True], full, [True]])))
    longest = int(np.diff(ends)[::2].max(initial=0))
    if longest > _DEAD:
        raise BadModel(f"{place} has {longest} neighbouring rows of nothing but zeros, as where a "
                       f"download left a hole: get the file again")
    holes = int((weights == -1).all(axis=1).sum()) if weights.shape[1] >= _FEW else 0
    if holes:
        raise BadModel(f"{place} has {holes} rows in which every weight is -1, as where a download "
                       f"left a hole: get the file again")
