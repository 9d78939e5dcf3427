"""What each step of a pass has to do, whatever does it: shapes and operations.

Operations are those of the model (docs/profile.md): a multiplication and an addition count as two,
a comparison, a rounding and a special function as one each. What the machine skips counts, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitnet_host.model.header import DdrHeader
from bitnet_host.run.protocol import STEPS

__all__ = ["GROUPS", "Work", "work_of"]

#: Parts of the model that steps belong to.
GROUPS = {
    "attention": ("input_norm", "q_proj", "k_proj", "v_proj", "rope", "attention", "attn_sub_norm",
                  "o_proj"),
    "mlp": ("post_norm", "gate_proj", "up_proj", "ffn_sub_norm", "down_proj"),
    "other": ("embed", "final_norm", "head", "sample"),
}
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "head")
_NORM = 7  # square, add, scale, weight; maximum, scale, round
_CODES = 3  # of what has no norm: maximum, scale, round
_SILU = 4  # power, add, divide, multiply
_SOFTMAX = 6  # scale, maximum, subtract, power, add; scale
_ROPE = 3  # two products, a sum


@dataclass(frozen=True)
class Work:
    """``shape`` for people; ``operations`` of one layer, or of what there is once, in all passes;
    ``fused``: what else is done in the same step."""

    name: str
    group: str
    linear: bool
    shape: str
    operations: int
    fused: str = ""


def work_of(header: DdrHeader, contexts: Sequence[int]) -> dict[str, Work]:
    """The work of tokens that see so many tokens each, themselves among them. The head is for the
    last one alone."""
    h, tokens, seen = header, len(contexts), sum(contexts)
    queries, keys = h.heads * h.head_elements, h.kv_heads * h.head_elements
    inner = h.inner_elements
    matrices = {"q_proj": (queries, h.hidden), "k_proj": (keys, h.hidden),
                "v_proj": (keys, h.hidden), "o_proj": (h.hidden, queries),
                "gate_proj": (inner, h.hidden), "up_proj": (inner, h.hidden),
                "down_proj": (h.hidden, inner)}
    norms = {"input_norm": h.hidden, "attn_sub_norm": queries, "post_norm": h.hidden,
             "ffn_sub_norm": inner}
    shapes = {
        "embed": (f"{h.vocab} x {h.hidden}", tokens * h.hidden),
        "rope": (f"{h.heads + h.kv_heads} x {h.head_elements}",
                 tokens * (_ROPE + _NORM * h.qk_norms) * (queries + keys)),
        "attention": (f"{h.heads} x {h.head_elements} x {_middle(contexts)}",
                      seen * (4 * queries + _SOFTMAX * h.heads)),
        "final_norm": (f"{h.hidden}", _NORM * h.hidden),
        "head": (f"{h.vocab} x {h.hidden}", 2 * h.vocab * h.hidden),
        "sample": (f"{h.vocab}", h.vocab),
        **{name: (f"{rows} x {columns}", tokens * 2 * rows * columns)
           for name, (rows, columns) in matrices.items()},
        **{name: (f"{size}", tokens * (_NORM if h.sub_norms or "sub" not in name else _CODES)
                  * size) for name, size in norms.items()},
    }
    fused = {"gate_proj": ("SiLU", _SILU) if h.activation else ("relu squared", 2),
             "up_proj": ("times the gate", 1)}
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    found = {}
    for name in STEPS:
        shape, operations = shapes[name]
        what, each = fused.get(name, ("", 0))
        found[name] = Work(name, group_of[name], name in _LINEAR, shape,
                           operations + tokens * each * inner, what)
    return found


def _middle(contexts: Sequence[int]) -> str:
    return f"{contexts[0]}" if len(contexts) == 1 else f"{contexts[0]}...{contexts[-1]}"
