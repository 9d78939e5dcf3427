"""What becomes of a model: memory, tokens per pass, and the rates to expect."""

from __future__ import annotations

from dataclasses import dataclass, replace

from xtvu.isa import WORD_BYTES

from bitnet_host.errors import BadArgument
from bitnet_host.model.cost import (
    CLOCK_HZ,
    READ_DOWN,
    READ_UP,
    decode_cycles,
    prefill_cycles,
)
from bitnet_host.model.header import (
    ACTIVATIONS,
    KINDS,
    MEMORY_BYTES,
    MODEL_BASE,
    PAGE_TOKENS,
    SLOTS,
    DdrHeader,
    expected_words,
    lay_out,
)
from bitnet_host.model.rows import broken_limit, scratch_rows, tokens_per_pass

__all__ = ["Plan", "longest_context", "make_plan"]

_PROMPT, _CONTEXT = 64, 128  # tokens of the prompt, and in the KV cache, that speeds are for


@dataclass(frozen=True)
class Plan:
    """What becomes of a model: tokens of a conversation and of all together, whether down_proj is
    also stored by rows (fast prompts), memory in bytes, and that of the board, tokens per pass of a
    prompt, bytes that a decoded token streams (but for the KV cache), and predicted tokens per
    second: of a prompt of 64 tokens, and of an answer with 128 in the KV cache."""

    context: int
    cache_tokens: int
    down_rows: bool
    model_bytes: int
    total_bytes: int
    memory_bytes: int
    batch: int
    token_bytes: int
    prefill: float
    decode: float

    @property
    def fits(self) -> bool:
        return MODEL_BASE + self.total_bytes <= self.memory_bytes

    def __str__(self) -> str:
        rows = "down_proj by rows" if self.down_rows else "down_proj by columns only"
        return (f"context {self.context:,}, {self.cache_tokens:,} tokens of all conversations: "
                f"{(MODEL_BASE + self.total_bytes) / 2**20:.0f} MB of "
                f"{self.memory_bytes / 2**20:.0f}, {rows}, "
                f"{self.prefill:.1f} tokens/s of prompt and {self.decode:.1f} of answer "
                f"(predicted, 125 MHz)")


def _pool(header: DdrHeader, down_rows: bool, wanted: int, memory_bytes: int) -> int:
    """Tokens of the KV cache: ``wanted``, or as many as eight conversations can take and memory
    has, but always one conversation's."""
    least = -(-header.context // PAGE_TOKENS)
    if wanted:
        return max(least, -(-wanted // PAGE_TOKENS)) * PAGE_TOKENS
    low, high = least, SLOTS * least
    while low < high:
        header.cache_tokens = (low + high + 1) // 2 * PAGE_TOKENS
        lay_out(header, down_rows)
        if MODEL_BASE + header.total_bytes <= memory_bytes:
            low = (low + high + 1) // 2
        else:
            high = (low + high + 1) // 2 - 1
    return low * PAGE_TOKENS


def make_plan(header: DdrHeader, down_rows: bool | None = None, cache_tokens: int = 0,
              memory_bytes: int | None = None) -> Plan:
    """The plan for a header that keeps the limits, on a board with ``memory_bytes``, or
    MEMORY_BYTES. By default down_proj by rows is stored if the firmware would use it and it fits
    beside one conversation. ``cache_tokens``: of all conversations together, 0 for as many as fit.
    The header stays as it is. Raises BadArgument for a cache of less than nothing."""
    if cache_tokens < 0:
        raise BadArgument(f"the KV cache cannot hold {cache_tokens} tokens: choose 0 for as many "
                          f"as fit, or more")
    memory_bytes = memory_bytes or MEMORY_BYTES
    laid = replace(header)
    rows = scratch_rows(vars(laid), 2, 2, True)
    if laid.activation != ACTIVATIONS["relu2"]:
        down_rows = True  # it has no other
    if down_rows is None:
        laid.cache_tokens = _pool(laid, True, cache_tokens or 1, memory_bytes)
        lay_out(laid, bool(rows["down_rows"]))
        down_rows = bool(rows["down_rows"]) and MODEL_BASE + laid.total_bytes <= memory_bytes
    laid.cache_tokens = _pool(laid, down_rows, cache_tokens, memory_bytes)
    tensors = lay_out(laid, down_rows)
    words = {kind: 0 for kind in KINDS}
    for tensor in tensors:
        words[KINDS[tensor.kind]] += expected_words(laid, KINDS[tensor.kind])
    whole = sum(words[kind] for kind in KINDS
                if kind in ("Q", "K", "V", "O", "GATE") or kind.endswith("_SCALES"))
    rescored = (1 << laid.rank_levels) - 1
    head = (words["SKETCH"]
            + rescored * words["HEAD" if laid.untied else "EMBEDDING"] // laid.vocab)
    inner = (words["UP"] + words["DOWN_ROWS"] if laid.activation
             else READ_UP * words["UP"] + READ_DOWN * words["DOWN"])
    return Plan(laid.context, laid.cache_tokens, down_rows, laid.ddr_bytes, laid.total_bytes,
                memory_bytes, tokens_per_pass(vars(laid), down_rows),
                round(WORD_BYTES * (whole + inner + head)),
                CLOCK_HZ / prefill_cycles(laid, min(_PROMPT, laid.context), 0, down_rows),
                CLOCK_HZ / decode_cycles(laid, min(_CONTEXT, laid.context)))


def longest_context(header: DdrHeader, memory_bytes: int) -> int:
    """Tokens, whole pages, of the longest conversation that the machine and a board's memory have
    room for, up to the header's context; 0: there is none."""
    low, high = 0, header.context // PAGE_TOKENS
    while low < high:
        pages = (low + high + 1) // 2
        shorter = replace(header, context=pages * PAGE_TOKENS, cache_tokens=pages * PAGE_TOKENS)
        if (not broken_limit(vars(shorter))
                and make_plan(shorter, False, 1, memory_bytes).fits):
            low = pages
        else:
            high = pages - 1
    return low * PAGE_TOKENS
