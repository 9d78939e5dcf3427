"""Fills a model's sizes up to those that the machine takes at once, with weights of zero.

Heads become a multiple of 32 elements, of which the first half of the model's own begins the first
half and the second the second, as RoPE turns pairs of them; inner vectors become whole scratchpad
rows. Zeros add nothing to a sum, so that no result changes but by the order of float32 sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import LANES

from bitnet_host.model.checkpoint import Linear, ModelConfig

__all__ = ["fill_up", "fill_up_heads", "padded_head", "padded_inner"]

_HEAD = 32  # one stream word of int8 codes
#: Axis of what is by heads or by inner elements, by its name in a Layer.
_HEADS = {"q": 0, "k": 0, "v": 0, "o": 1, "attn_sub_norm": 0, "q_norm": 0, "k_norm": 0}
_INNER = {"gate": 0, "up": 0, "down": 1, "ffn_sub_norm": 0}


def padded_head(head_dim: int) -> int:
    """Elements of a head in the machine."""
    return -(-head_dim // _HEAD) * _HEAD


def padded_inner(intermediate: int) -> int:
    """Inner elements in the machine."""
    return -(-intermediate // LANES) * LANES


def fill_up_heads(array: NDArray[Any], head_dim: int, axis: int) -> NDArray[Any]:
    """An array whose ``axis`` has heads of ``head_dim`` elements, one behind the other, with zeros
    for what the machine has beyond them. ``head_dim`` is even."""
    padded, half = padded_head(head_dim), head_dim // 2
    if padded == head_dim:
        return array
    front = np.moveaxis(array, axis, 0)
    heads = front.reshape(-1, head_dim, *front.shape[1:])
    out = np.zeros((heads.shape[0], padded, *front.shape[1:]), array.dtype)
    out[:, :half], out[:, padded // 2:padded // 2 + half] = heads[:, :half], heads[:, half:]
    return np.moveaxis(out.reshape(-1, *front.shape[1:]), 0, axis)


def fill_up(key: str, value: Any, config: ModelConfig) -> Any:
    """A Linear or vector of a Layer as the machine has it."""
    array = value.weights if isinstance(value, Linear) else value
    if key in _HEADS:
        array = fill_up_heads(array, config.head_dim, _HEADS[key])
    elif key in _INNER:
        missing = padded_inner(config.intermediate) - config.intermediate
        widths = [(0, missing if axis == _INNER[key] else 0) for axis in range(array.ndim)]
        array = np.pad(array, widths) if missing else array
    if not isinstance(value, Linear):
        return array
    scales = value.scales
    if scales is not None and array.shape[0] > scales.shape[0]:  # rows of zeros
        scales = np.pad(scales, ((0, array.shape[0] - scales.shape[0]), (0, 0)))
    return Linear(array, value.scale, scales)
