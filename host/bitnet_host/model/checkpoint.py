"""A checkpoint: what a source gives to the converter, one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["F32", "Checkpoint", "Layer", "Linear", "ModelConfig", "Rows"]

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters, as config.json names them."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope_theta: float
    eps: float
    stop_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Linear:
    """A ternary matrix, int8 [out, in], and the float32 factor of its products."""

    weights: NDArray[np.int8]
    scale: float


class Rows(Protocol):
    """A float32 matrix of which only the rows that are asked for are in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> F32: ...


#: q, k, v, o, gate, up and down are Linear; input_norm, attn_sub_norm, post_norm and ffn_sub_norm
#: float32 vectors.
Layer = dict[str, Any]


@dataclass
class Checkpoint:
    """A model on its way into an image. ``layers`` may read each Layer when it is asked for.
    ``files`` are what it was read from; ``defaults`` what its generation_config.json says of
    sampling."""

    config: ModelConfig
    embedding: Rows
    final_norm: F32
    layers: Sequence[Layer]
    tokenizer: dict[str, Any] | None = None
    chat_template: str | None = None
    special: dict[str, Any] | None = None
    defaults: dict[str, Any] | None = None
    files: tuple[Path, ...] = ()
