"""Where a model's own rows, columns and elements are among those that the machine has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitnet_host.model.checkpoint import F32
from bitnet_host.model.header import DdrHeader

__all__ = ["Places"]


def _of_head(size: int, padded: int) -> NDArray[np.int64]:
    """Places of a head's own elements among those that the machine has."""
    half = size // 2
    return np.concatenate([np.arange(half), padded // 2 + np.arange(half)])


class Places:
    """Where the model's own rows and columns are in the machine's matrices and vectors."""

    def __init__(self, header: DdrHeader) -> None:
        h = header
        self.head = _of_head(h.head_elements, h.head_dim)
        self._heads = {count: (np.arange(count)[:, None] * h.head_dim + self.head).reshape(-1)
                       for count in (h.heads, h.kv_heads)}
        self._rows = {"Q": h.heads, "K": h.kv_heads, "V": h.kv_heads}
        self._columns = {"O": h.heads, "ATTN_SUB_NORM": h.heads}
        self._inner = h.inner_elements

    def matrix(self, kind: str, weights: NDArray[Any]) -> NDArray[Any]:
        if kind in self._rows:
            return np.asarray(weights[self._heads[self._rows[kind]]])
        if kind in self._columns:
            return np.asarray(weights[:, self._heads[self._columns[kind]]])
        return weights[:, :self._inner] if kind == "DOWN" else weights[:self._inner]

    def vector(self, kind: str, x: F32, size: int) -> F32:
        """A vector of the model as the machine has it, zeros where it has more."""
        out = np.zeros(size, np.float32)
        out[self._own(kind, x.size)] = x
        return out

    def back(self, kind: str, x: F32, size: int) -> F32:
        return x[self._own(kind, size)]

    def _own(self, kind: str, size: int) -> NDArray[np.int64]:
        if kind in ("Q_NORM", "K_NORM"):
            return self.head
        return self._heads[self._columns[kind]] if kind in self._columns else np.arange(size)

    def heads(self, x: F32, padded: int) -> F32:
        """[..., head_dim] with zeros where the machine has more."""
        out = np.zeros((*x.shape[:-1], padded), np.float32)
        out[..., self.head] = x
        return out
