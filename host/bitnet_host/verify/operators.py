"""Compares the golden model's operators with what transformers computed from the same inputs
(forward.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitnet_host.golden.reference import (
    Quantised,
    ReferenceModel,
    bitlinear,
    group_bitlinear,
    integer_products,
    quantise_vector,
    relu2,
    rms_norm,
    rope,
    silu,
)
from bitnet_host.model.checkpoint import F32
from bitnet_host.model.header import GROUP, KINDS
from bitnet_host.verify.places import Places

__all__ = ["OperatorRecord", "compare_records"]

_LINEARS = {"q_proj": "Q", "k_proj": "K", "v_proj": "V", "o_proj": "O", "gate_proj": "GATE",
            "up_proj": "UP", "down_proj": "DOWN"}
_NORMS = {"input_layernorm": "INPUT_NORM", "attn_sub_norm": "ATTN_SUB_NORM",
          "post_attention_layernorm": "POST_NORM",
          "ffn_sub_norm": "FFN_SUB_NORM", "norm": "FINAL_NORM",
          "inner_attn_ln": "ATTN_SUB_NORM", "ffn_layernorm": "FFN_SUB_NORM",
          "q_norm": "Q_NORM", "k_norm": "K_NORM"}


@dataclass
class OperatorRecord:
    """One operator's run: ``kind`` is linear, norm, rope, activation or attention; ``arrays`` hold
    its input, output and exact parts."""

    name: str
    kind: str
    arrays: dict[str, NDArray[Any]]


def _place(name: str) -> tuple[str, int]:
    """Tensor kind and layer of a transformers module name."""
    parts = name.split(".")
    layer = int(parts[2]) if parts[1] == "layers" else 0
    return {**_LINEARS, **_NORMS}[parts[-1]], layer


def _tie(x: F32) -> NDArray[np.bool_]:
    """Which elements lie half-way between two codes, as far as float32 can say. PyTorch computes
    127 / absmax as 127 * (1 / absmax), which may be another float32, and sends those to the other
    side. Where all elements are multiples of one number, as the values of a first token are that
    attention hands on, they are many."""
    exact = np.abs(x.astype(np.float64)) * 127 / max(float(np.abs(x).max()), 1e-5)
    return np.asarray(np.abs(exact - np.floor(exact) - 0.5) < 2e-7 * np.maximum(exact, 1))


class _Comparison:
    """What differs, and how far."""

    def __init__(self, model: ReferenceModel) -> None:
        self.model, self.places, self.problems = model, Places(model.header), list[str]()
        self.codes = self.sums = self.ties = 0
        self.worst = self.attention = 0.0

    def close(self, name: str, ours: F32, theirs: F32, tolerance: float) -> None:
        error = float(np.max(np.abs(ours - theirs)) / max(float(np.max(np.abs(theirs))), 1e-9))
        if name == "attention":
            self.attention = error
        else:
            self.worst = max(self.worst, error)
        if error > tolerance:
            self.problems.append(f"{name}: relative error {error:.2e}")

    def linear(self, r: OperatorRecord) -> None:
        kind, layer = _place(r.name)
        stored = kind if kind != "DOWN" or not self.model.header.activation else "DOWN_ROWS"
        weights = self.places.matrix(kind, self.model.matrix(KINDS.index(stored), layer))
        scale = np.float32(self.model.image.tensor(stored, layer).scale)
        for row, x in enumerate(r.arrays["input"]):
            q, theirs = quantise_vector(x), r.arrays["codes"][row]
            self.codes += q.codes.size
            self.sums += weights.shape[0]
            near = np.abs(q.codes.astype(int) - theirs) <= 1
            ours = np.where(_tie(x) & near, theirs, q.codes)
            if not np.array_equal(ours, theirs):
                self.problems.append(f"{r.name}: {np.count_nonzero(ours != theirs)} int8 codes "
                                     f"differ")
            self.ties += int((q.codes != ours).sum())
            q = Quantised(ours, q.scale)
            if self.model.header.group:
                ours = group_bitlinear(weights, q, self._scales(kind, layer, weights.shape))
            else:
                sums = integer_products(weights.astype(np.int8), q.codes)
                if not np.array_equal(sums, r.arrays["sums"][row]):
                    self.problems.append(f"{r.name}: int32 sums differ")
                ours = bitlinear(weights, q, scale)
            self.close(r.name, ours, r.arrays["output"][row], 1e-5)

    def _scales(self, kind: str, layer: int, shape: tuple[int, ...]) -> F32:
        """float32 [groups, rows]."""
        rows = self.model.image.tensor(kind if kind != "DOWN" else "DOWN_ROWS", layer).rows
        groups = -(-shape[1] // GROUP)
        return self.model.floats(f"{kind}_SCALES", rows * groups,
                                 layer).reshape(groups, rows)[:, :shape[0]]

    def norm(self, r: OperatorRecord) -> None:
        kind, layer = _place(r.name)
        eps = np.uint32(self.model.header.eps_bits).view(np.float32)
        size = r.arrays["input"].shape[-1]
        weight = self.model.floats(kind, self.model.image.tensor(kind, layer).columns, layer)
        for x, theirs in zip(r.arrays["input"].reshape(-1, size),
                             r.arrays["output"].reshape(-1, size), strict=True):
            ours = rms_norm(self.places.vector(kind, x, weight.size), weight, np.float32(1 / size),
                            eps)
            self.close(r.name, self.places.back(kind, ours, size), theirs, 1e-5)

    def other(self, r: OperatorRecord) -> None:
        h, places = self.model.header, self.places
        x, theirs = r.arrays["input"], r.arrays["output"]
        if r.kind == "activation":
            function = silu if h.activation else relu2
            self.close(r.name, function(x.reshape(-1)), theirs.reshape(-1), 1e-5)
        elif r.kind == "attention":
            # K, V, q and the weights are int8 here, so this agrees to int8's precision only
            ours = self.model.attend_once(*(places.heads(part, h.head_dim)
                                            for part in (x, r.arrays["k"], r.arrays["v"])))
            self.close("attention", ours[:, places.head], theirs, 0.03)
        elif r.kind == "rope":
            for position in range(x.shape[1]):
                cos, sin = self.model.rope_row(position)
                ours = rope(places.heads(x[:, position], h.head_dim), cos, sin)
                self.close(r.name, ours[:, places.head], theirs[:, position], 1e-5)


def compare_records(model: ReferenceModel, records: list[OperatorRecord]) -> tuple[list[str], str]:
    """Problems (empty if all agree) and a summary line."""
    found = _Comparison(model)
    for r in records:
        {"linear": found.linear, "norm": found.norm}.get(r.kind, found.other)(r)
    if found.problems:
        return found.problems, "DIFFERS"
    ties = f" but for {found.ties} half-way between two" if found.ties else ""
    return [], (f"{found.codes} codes{ties} and {found.sums} sums identical, worst float error "
                f"{found.worst:.1e}, attention {found.attention:.1e}")
