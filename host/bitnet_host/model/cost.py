"""What a pass costs: cycles of each operator, predicted from a model's shape.

An operator takes a cycle for each stream word, which the shape says, and what it takes beyond that:
starts of operations, vector operations that nothing streams for, waits for memory. The latter is
linear in few numbers. Its coefficients were fitted to runs of the simulated SoC with the memory
model ug585 (tests/cost_check.py has the shapes, and says how far each operator is off);
tests/soc/test_cost.py holds the sum to 3 % of what small shapes are measured to take,
tests/host/test_cost.py of what docs/performance.md says of large ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xtvu.isa import BYTE_VECTORS

from bitnet_host.model.header import ACTIVATIONS, CHUNK_TOKENS, DdrHeader, down_chunks
from bitnet_host.model.header import expected_words as words_of
from bitnet_host.model.rows import scratch_rows, tokens_per_pass

__all__ = ["CLOCK_HZ", "READ_DOWN", "READ_UP", "decode_cycles", "pass_cycles", "prefill_cycles"]

CLOCK_HZ = 125e6
#: Shares of rows of up_proj and columns of down_proj that a single token reads where the activation
#: is squared ReLU: those of the synthetic 2B model (docs/performance.md). A real one may differ.
READ_UP, READ_DOWN = 0.40, 0.26
_START, _SCALE = 77.0, 20.0  # of a product, and of the scale of each token's products
_VECTOR = 52.0  # a vector operation's start


@dataclass(frozen=True)
class _Shape:
    """Scratchpad rows of what a layer works on."""

    header: DdrHeader
    count: int  # tokens of the pass
    kept: int  # of them, those whose residual vectors stay in the scratchpad

    @property
    def hidden(self) -> float:
        return self.header.hidden / 8

    @property
    def queries(self) -> float:
        return self.header.heads * self.header.head_dim / 8

    @property
    def inner(self) -> float:
        return self.header.intermediate / 8


def _product(shape: _Shape, kinds: Sequence[str]) -> float:
    """Products with these matrices: words, starts and, with scales of groups, their sums."""
    h, c, total = shape.header, shape.count, 0.0
    for kind in kinds:
        words = words_of(h, kind)
        total += words + _START + _SCALE * c
        if not h.group:
            continue
        total += words_of(h, f"{kind.removesuffix('_ROWS')}_SCALES")
        rows = words // _groups(h, kind)
        for start in range(0, rows, 1024):
            n = min(1024, rows - start)
            added = c * n / 8 + _VECTOR
            # results of eight vectors leave every second cycle
            each = 100 + added + max(0.0, c * n / 4 - n)
            # the first group's products are the sum so far, unless there is one already
            total += _groups(h, kind) * each - added * (kind not in ("O", "DOWN_ROWS"))
    return total


def _groups(h: DdrHeader, kind: str) -> int:
    columns = {"O": h.heads * h.head_dim, "DOWN_ROWS": h.intermediate}.get(kind, h.hidden)
    return -(-columns // h.group)


def _norms(shape: _Shape) -> float:
    h = shape.header
    last = 308 + 2.8 * shape.queries if h.sub_norms else 155 + 2.1 * shape.queries
    return shape.count * (2 * (308 + 2.8 * shape.hidden) + last)


def _rope(shape: _Shape) -> float:
    h = shape.header
    heads = h.heads + h.kv_heads
    loads = h.head_dim / 4 if shape.count > 1 else h.head_dim / 4 / h.layers
    norms = h.qk_norms * (heads * 213.5 + h.head_dim / 4)
    start = 234 if shape.count > 1 else 197
    return shape.count * (loads + start + 3 * heads * h.head_dim / 8 + norms)


def _attention(shape: _Shape, positions: Sequence[int]) -> float:
    """K, V and their scales; the softmax; and waits for V's transposed store, where that takes
    longer than what is done meanwhile."""
    h = shape.header
    heads = h.heads // h.kv_heads
    parts, each = -(-heads // BYTE_VECTORS), min(heads, BYTE_VECTORS)
    rows, total = h.head_dim / 8, 0.0
    for position in positions:
        tokens = position + 1
        eighths = -(-tokens // 8)
        chunks = [min(CHUNK_TOKENS, tokens - at) for at in range(0, tokens, CHUNK_TOKENS)]
        values = h.head_dim * sum(-(-n // 32) for n in chunks)
        words = tokens * (-(-h.head_dim // 32)) + 2 * eighths + values
        total += h.kv_heads * parts * (words + 563 + 90 * (len(chunks) - 1))
        total += h.heads * (140 + 6.06 * eighths) + h.kv_heads * 15.2 * rows
        chain = 100 + each * (60 + 6 * tokens / 8)
        total += h.kv_heads * 1.77 * max(0.0, 26.5 * rows - chain)
    return total


def _mlp(shape: _Shape, down_rows: bool) -> dict[str, float]:
    h, c = shape.header, shape.count
    squared = h.activation == ACTIVATIONS["relu2"]
    waiting = (c - shape.kept) * (123 + 13.4 * shape.hidden)
    chunks = len(down_chunks(h))
    codes = c * (250 + 60 * chunks + 2.85 * shape.inner if h.sub_norms
                 else 95 + 60 * chunks + 2.0 * shape.inner)
    by_rows = (down_rows and c > 1) or not squared
    out = {"activation": codes}
    if squared and c == 1:
        up = READ_UP * words_of(h, "UP")
        out["gate_up"] = words_of(h, "GATE") + up + 580 + 0.02 * (words_of(h, "GATE") + up)
    else:
        gates = _product(shape, ("GATE", "UP")) + waiting
        pieces = -(-h.intermediate // 2048)
        silu = 0 if squared else c * (20 + 45 * pieces + 3.1 * shape.inner)
        # a gate that waits for a norm's codes, and what fills the queues again
        out["gate_up"] = gates + silu + 0.009 * words_of(h, "GATE") + 100
        if h.group:
            out["gate_up"] += -(-h.intermediate // 1024) * _VECTOR + 2 * c * shape.inner
    if by_rows:
        sums = c * (2.0 * shape.hidden + 30) + (c - shape.kept) * 0.5 * shape.hidden
        out["down_proj"] = _product(shape, ("DOWN_ROWS",)) + chunks * 85 - 50 + sums
    else:
        read = READ_DOWN * words_of(h, "DOWN")
        out["down_proj"] = c * (read + 480 + 0.075 * read)
    return out


def _head(header: DdrHeader) -> float:
    rescored = min((1 << header.rank_levels) - 1, header.vocab)
    chunks = -(-header.vocab // 8192)
    words = (words_of(header, "SKETCH") + header.vocab / 8 + rescored * header.hidden / 32
             + header.hidden / 4)
    if rescored < 100:
        return words + 6400 + 780_000 / header.hidden
    return words + 14000 + 2200 * chunks


def pass_cycles(header: DdrHeader, positions: Sequence[int], down_rows: bool,
                head: bool) -> dict[str, float]:
    """Cycles by operator of a pass of one conversation's tokens at these positions, and with
    ``head`` of what chooses the next token."""
    count = len(positions)
    rows = scratch_rows(vars(header), count, positions[-1] + 1,
                        down_rows or bool(header.activation))
    shape = _Shape(header, count, rows["kept"])
    layer = {"norm": _norms(shape), "qkv": _product(shape, ("Q", "K", "V")), "rope": _rope(shape),
             "attention": _attention(shape, positions), "o_proj": _product(shape, ("O",)),
             **_mlp(shape, down_rows)}
    cycles = {name: header.layers * value for name, value in layer.items()}
    cycles["embed"] = 590 + count * (30 + shape.hidden)
    cycles["head"] = _head(header) if head else 0.0
    cycles["sample"] = 5000.0
    return cycles


def decode_cycles(header: DdrHeader, context: int) -> float:
    """Cycles of a token that is decoded with ``context`` tokens in the KV cache, itself among
    them."""
    return sum(pass_cycles(header, [context - 1], True, True).values())


def prefill_cycles(header: DdrHeader, tokens: int, cached: int, down_rows: bool) -> float:
    """Cycles per token of a prompt of ``tokens`` behind ``cached`` others. A prompt from the
    beginning includes the head of its last token."""
    total, at, end = 0.0, cached, cached + tokens
    between = 0 if cached else 2000  # passes of a command that has a head at its end
    while at < end:
        count = min(end - at, tokens_per_pass(vars(header), down_rows, at))
        total += sum(pass_cycles(header, range(at, at + count), down_rows,
                                 at + count == end and not cached).values())
        total += between
        at += count
    return total / tokens
