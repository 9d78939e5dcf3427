"""A checkpoint: what a source gives to the converter, one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["F32", "Checkpoint", "Layer", "LazyLayers", "Linear", "ModelConfig", "Rows",
           "matrix_shapes", "norm_sizes"]

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters, as config.json names them. ``context``: tokens that the image is for;
    ``trained_context``: that the model is for, 0 for the same. ``group``: weights of a row that
    share a scale, 0: all of a matrix. ``rope_scaling``: parameters as in
    config.json's rope_parameters (rope.SCALINGS)."""

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
    activation: str = "relu2"
    sub_norms: bool = True
    qk_norms: bool = False
    tied: bool = True
    group: int = 0
    rope_scaling: dict[str, Any] | None = None
    trained_context: int = 0


@dataclass(frozen=True)
class Linear:
    """A ternary matrix, int8 [out, in], and the float32 factor of its products; or ``scales``,
    float32 [out, ceil(in / group)], of groups of weights of a row, beside a scale of one."""

    weights: NDArray[np.int8]
    scale: float
    scales: F32 | None = None


class Rows(Protocol):
    """A float32 matrix of which only the rows that are asked for are in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> F32: ...


#: q, k, v, o, gate, up and down are Linear; input_norm, post_norm and what else norm_sizes names
#: are float32 vectors.
Layer = dict[str, Any]


def matrix_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of a layer's matrices, by their names in a Layer."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return {"q": (queries, config.hidden), "k": (keys, config.hidden), "v": (keys, config.hidden),
            "o": (config.hidden, queries), "gate": (config.intermediate, config.hidden),
            "up": (config.intermediate, config.hidden),
            "down": (config.hidden, config.intermediate)}


def norm_sizes(config: ModelConfig) -> dict[str, int]:
    """Weights of a layer's norms."""
    sizes = {"input_norm": config.hidden, "post_norm": config.hidden}
    if config.sub_norms:
        sizes |= {"attn_sub_norm": config.heads * config.head_dim,
                  "ffn_sub_norm": config.intermediate}
    if config.qk_norms:
        sizes |= {"q_norm": config.head_dim, "k_norm": config.head_dim}
    return sizes


class LazyLayers(Sequence[Layer]):
    """Layers, each of which is read when it is asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def read(self, index: int) -> Layer:
        raise NotImplementedError  # by a reader

    def masters(self, index: int) -> dict[str, F32] | None:
        """A layer with the float32 matrices that its own were rounded from, if the files hold
        them."""
        return None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Layer]: ...
    def __getitem__(self, index: int | slice) -> Layer | Sequence[Layer]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.read(index)


@dataclass
class Checkpoint:
    """A model on its way into an image. ``layers`` may read each Layer when it is asked for;
    ``head``: the output head if it is not the embedding; ``stored``: packed, masters or values,
    how the matrices of a folder were, or nothing.
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
    head: Rows | None = None
    stored: str = ""
