"""What a board's counters say of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xtvu.isa import WORD_BYTES

from bitnet_host.model.header import KINDS
from bitnet_host.model.image import Image
from bitnet_host.run.protocol import PARTS
from bitnet_host.run.session import Reply

__all__ = ["board_fields", "dense_bytes"]

_MATRICES = {"Q", "K", "V", "O", "GATE", "UP", "DOWN", "EMBEDDING"}
_OPERATORS = ("qkv", "o_proj", "gate_up", "down_proj", "head")  # which read them


def dense_bytes(image: Image) -> int:
    """Bytes of all matrices of a token, the int8 head among them: what is read if nothing is
    skipped."""
    return WORD_BYTES * sum(tensor.words for tensor in image.tensors
                            if KINDS[tensor.kind] in _MATRICES)


def board_fields(image: Image, replies: Sequence[Reply]) -> dict[str, Any]:
    """Cycles per token by operator and by kind, bytes read and skipped, of the first answer; with
    what other slots did in the same passes. Empty for the golden model, and for answers of a single
    token."""
    answer = replies[0].answer
    if not answer.counters or answer.decode_cycles_per_token is None or not answer.clock_hz:
        return {}
    counters = answer.counters
    kinds = {part: sum(parts[part] for parts in counters.values()) for part in PARTS}
    read = WORD_BYTES * sum(counters[name]["moving"] for name in _OPERATORS)
    return {"board": {
        "clock_hz": answer.clock_hz, "cycles_per_token": round(answer.decode_cycles_per_token),
        "tokens_per_second": answer.clock_hz / answer.decode_cycles_per_token,
        "operators": answer.operators, "kinds": kinds,
        "bytes_per_token": WORD_BYTES * kinds["moving"],
        "skipped_bytes_per_token": max(0, dense_bytes(image) - read)}}
