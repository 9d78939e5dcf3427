"""Compares the golden model's operators with what transformers computed from the same inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bitnet_host.golden.reference import (
    ReferenceModel,
    bitlinear,
    integer_products,
    quantise_vector,
    rms_norm,
    rope,
)
from bitnet_host.model.header import KINDS

__all__ = ["PROMPT_FIXTURE", "OperatorRecord", "compare_records", "fixture_path", "load_records",
           "save_records"]

_FIXTURES = Path(__file__).resolve().parent / "fixtures"
PROMPT_FIXTURE = _FIXTURES / "prompts.json"
_LINEARS = {"q_proj": "Q", "k_proj": "K", "v_proj": "V", "o_proj": "O", "gate_proj": "GATE",
            "up_proj": "UP", "down_proj": "DOWN"}
_NORMS = {"input_layernorm": "INPUT_NORM", "attn_sub_norm": "ATTN_SUB_NORM",
          "post_attention_layernorm": "POST_NORM",
          "ffn_sub_norm": "FFN_SUB_NORM", "norm": "FINAL_NORM"}


@dataclass
class OperatorRecord:
    """One operator's run: ``kind`` is linear, norm, rope or attention; ``arrays`` hold its input,
    output and exact parts."""

    name: str
    kind: str
    arrays: dict[str, np.ndarray]


def fixture_path(name: str) -> Path:
    return _FIXTURES / f"{name}.npz"


def save_records(path: Path, records: list[OperatorRecord]) -> None:
    path.parent.mkdir(exist_ok=True)
    arrays = {f"{i:03d}|{r.kind}|{r.name}|{key}": value for i, r in enumerate(records)
              for key, value in r.arrays.items()}
    np.savez_compressed(path, **arrays)


def load_records(path: Path) -> list[OperatorRecord]:
    records: dict[str, OperatorRecord] = {}
    with np.load(path) as file:
        for label in file.files:
            index, kind, name, key = label.split("|")
            records.setdefault(index, OperatorRecord(name, kind, {})).arrays[key] = file[label]
    return list(records.values())


def _place(name: str) -> tuple[str, int]:
    """Tensor kind and layer of a transformers module name."""
    parts = name.split(".")
    layer = int(parts[2]) if parts[1] == "layers" else 0
    return {**_LINEARS, **_NORMS}[parts[-1]], layer


def compare_records(model: ReferenceModel, records: list[OperatorRecord]) -> tuple[list[str], str]:
    """Problems (empty if all agree) and a summary line."""
    problems: list[str] = []
    codes = sums = 0
    worst = attention = 0.0

    def close(name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
        nonlocal worst, attention
        error = float(np.max(np.abs(ours - theirs)) / max(float(np.max(np.abs(theirs))), 1e-9))
        if name == "attention":
            attention = error
        else:
            worst = max(worst, error)
        if error > tolerance:
            problems.append(f"{name}: relative error {error:.2e}")

    for r in records:
        x, theirs = r.arrays.get("input"), r.arrays["output"]
        if r.kind == "linear":
            kind, layer = _place(r.name)
            weights = model.matrix(KINDS.index(kind), layer)
            scale = np.float32(model.image.tensor(kind, layer).scale)
            for row in range(x.shape[0]):
                q = quantise_vector(x[row])
                codes += q.codes.size
                sums += weights.shape[0]
                if not np.array_equal(q.codes, r.arrays["codes"][row]):
                    problems.append(f"{r.name}: "
                                    f"{np.count_nonzero(q.codes != r.arrays['codes'][row])} int8 "
                                    f"codes differ")
                if (not np.array_equal(integer_products(weights.astype(np.int8), q.codes),
                                       r.arrays["sums"][row])):
                    problems.append(f"{r.name}: int32 sums differ")
                close(r.name, bitlinear(weights, q, scale), theirs[row], 1e-5)
        elif r.kind == "norm":
            kind, layer = _place(r.name)
            weight = model.floats(kind, x.shape[1], layer)
            h = model.header
            inverse, eps = np.float32(1 / x.shape[1]), np.uint32(h.eps_bits).view(np.float32)
            for row in range(x.shape[0]):
                close(r.name, rms_norm(x[row], weight, inverse, eps), theirs[row], 1e-5)
        elif r.kind == "attention":
            # K, V, q and the weights are int8 here, so this agrees to int8's precision only
            close("attention", model.attend_once(x, r.arrays["k"], r.arrays["v"]), theirs, 0.03)
        elif r.kind == "rope":
            for position in range(x.shape[1]):
                cos, sin = model.rope_row(position)
                close(r.name, rope(x[:, position], cos, sin), theirs[:, position], 1e-5)
    if problems:
        return problems, "DIFFERS"
    return [], (f"{codes} codes and {sums} sums identical, worst float error {worst:.1e}, "
                f"attention {attention:.1e}")
