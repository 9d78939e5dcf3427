"""What the machine can hold: limits of a model's shape, rows of the scratchpad, tokens per pass.

Limits and rows are stated once, as expressions that are valid in Python and in C. The firmware gets
them as a generated header (``c_header``) and lays out its passes with it; the host refuses a model
before it is converted.

In an expression stand fields of the image's header, constants of the machine, names of rows above
it, and the functions of ``_FUNCTIONS``. All values are unsigned and below 2^32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from xtvu import isa
from xtvu.layout import WEIGHTS_PER_WORD

from bitnet_host.model.header import (
    GROUP,
    MAX_LAYERS,
    MAX_STOPS,
    PAGE_TOKENS,
    SLOTS,
    DdrHeader,
)

__all__ = ["LIMITS", "ROWS", "broken_limit", "c_header", "scratch_rows", "tokens_per_pass"]

_CONSTANTS = {
    "LANES": isa.LANES, "VECTORS": isa.VECTORS, "BYTE_VECTORS": isa.BYTE_VECTORS,
    "SCRATCH_ROWS": isa.SCRATCH_ROWS,
    "ACT_WORDS": isa.ACT_WORDS, "SHARED_WORDS": isa.SHARED_WORDS, "COLUMN_WORDS": isa.COLUMN_WORDS,
    "ROW_WORDS": isa.largest("DOT", "words"), "ELEMENTS": isa.largest("MULS", "n"),
    "REPEATS": isa.largest("REP", "count"),
    "NUMBERS": isa.largest("EPI", "base") + 1, "LAYERS": MAX_LAYERS, "STOPS": MAX_STOPS,
    "BASE3": WEIGHTS_PER_WORD["base3"], "TWO_BIT": WEIGHTS_PER_WORD["2bit"], "LOGITS": 8192,
    "PAGE": PAGE_TOKENS, "POOL": SLOTS * isa.largest("MULS", "n"),
    # heads of the least size that fill an activation vector; rows of sigmoids at once
    "HEADS": isa.ACT_WORDS * WEIGHTS_PER_WORD["base3"] // 32, "SIGMOIDS": 256,
    # weights that share a scale; rows of products of such a group at once
    "GROUP": GROUP, "PARTS": 128,
}
#: name: parameters, and the body in Python and in C.
_FUNCTIONS = {
    "even": ("a",
             "a + a % 2", "a + a % 2"), "words": ("a, n", "(a + n - 1) // n", "(a + n - 1) / n"),
    "larger": ("a, b", "max(a, b)", "a > b ? a : b"),
    "smaller": ("a, b", "min(a, b)", "a < b ? a : b"),
    "choose": ("c, a, b", "a if c else b", "c ? a : b"),
}

#: What has to hold, in this order, and what is said if it does not. Everything that a line computes
#: is kept small by those above.
LIMITS: tuple[tuple[str, str], ...] = (
    ("(layers >= 1) & (layers <= LAYERS)", "{layers} layers: this machine takes 1 to {LAYERS}"),
    ("(kv_heads >= 1) & (heads >= kv_heads) & (heads <= HEADS)",
     "{heads} query and {kv_heads} key/value heads: this machine takes 1 to {HEADS} query heads "
     "and no more key/value heads than those"),
    ("heads % kv_heads == 0",
     "{heads} query heads cannot be shared among {kv_heads} key/value heads"),
    ("(activation <= 1) & (sub_norms <= 1) & (qk_norms <= 1) & (untied <= 1)",
     "activation {activation}, sub-norms {sub_norms}, QK-norms {qk_norms} or untied head {untied}: "
     "this machine knows 0 and 1 of each"),
    ("(hidden >= 32) & (hidden % 32 == 0)",
     "hidden_size is {hidden}; this machine needs a positive multiple of 32"),
    ("(head_dim >= 32) & (head_dim % 32 == 0)",
     "head_dim is {head_dim}; this machine needs a positive multiple of 32"),
    ("(head_elements >= 1) & (head_elements <= head_dim) & (inner_elements >= 1) & "
     "(inner_elements <= intermediate)",
     "{head_elements} of {head_dim} elements of a head or {inner_elements} of {intermediate} inner "
     "ones: the model's own are at least one and at most all"),
    ("(intermediate >= LANES) & (intermediate % LANES == 0)",
     "intermediate_size is {intermediate}; this machine needs a positive multiple of {LANES}"),
    ("(vocab >= LANES) & (vocab % LANES == 0) & (vocab <= NUMBERS)",
     "vocab_size is {vocab}; this machine ranks 1 to {NUMBERS} tokens"),
    ("(weight_mode <= 1) & (stop_count <= STOPS)",
     "{stop_count} stop tokens or weights of kind {weight_mode}: this machine takes "
     "{STOPS} and two kinds"),
    ("(hidden <= ROW_WORDS * 32) & (head_dim <= ACT_WORDS * 32)",
     "hidden_size {hidden} or head_dim {head_dim} is too large: int8 products take rows of "
     "{ROW_WORDS} and {ACT_WORDS} times 32"),
    ("intermediate <= ELEMENTS",
     "intermediate_size is {intermediate}; this machine takes {ELEMENTS}"),
    ("(group == 0) | ((group == GROUP) & (weight_mode == 1) & (activation == 1))",
     "scales for groups of {group} weights, packed as {weight_mode}, activation {activation}: this "
     "machine takes groups of {GROUP}, in 2 bit, with SiLU"),
    ("(activation == 0) | (intermediate >= hidden)",
     "intermediate_size {intermediate} is smaller than hidden_size {hidden}: with SiLU this "
     "machine needs it to be as large"),
    ("(context >= 1) & (context <= ELEMENTS)",
     "the context is {context} tokens; this machine takes 1 to {ELEMENTS}: choose a shorter "
     "context"),
    ("(cache_tokens % PAGE == 0) & (cache_tokens >= context) & (cache_tokens <= POOL)",
     "a KV cache of {cache_tokens} tokens: this machine needs a multiple of {PAGE}, at least as "
     "many as the context of {context}"),
    ("words(larger(hidden, heads * head_dim), choose(weight_mode, TWO_BIT, BASE3)) <= ACT_WORDS",
     "rows of hidden_size {hidden} or {heads} heads of {head_dim} do not fit the activation "
     "memory: {ACT_WORDS} words of {BASE3} "
     "base-3 or {TWO_BIT} two-bit weights"),
    ("words(hidden, choose(weight_mode, TWO_BIT, BASE3)) <= COLUMN_WORDS",
     "hidden_size {hidden} is too large for columns of {COLUMN_WORDS} words"),
)

#: Where vectors stand in the scratchpad during a pass of ``batch`` tokens, in rows; ``tokens``: in
#: the KV cache of that of them that sees most; ``by_rows``: the image has DOWN_ROWS. Operands that
#: are read together lie in different banks: one starts at an even, the other at an odd row.
ROWS: dict[str, str] = {
    "per_word": "choose(weight_mode, TWO_BIT, BASE3)",
    "head_rows": "head_dim // LANES",
    # a pass of several tokens needs room, so it has scores for the tokens that there are, not for
    # all that there may be
    "context_rows": "even(words(choose(batch > 1, tokens, context), LANES))",
    "hidden_words": "words(hidden, per_word)",
    "query_words": "words(heads * head_dim, per_word)",
    # words of inner vectors that down_proj by rows takes at once
    "chunk_words": "choose(larger(hidden_words, query_words) > SHARED_WORDS, ACT_WORDS, "
                   "SHARED_WORDS)",
    # queries of a key/value head that are attended to at once
    "query_heads": "smaller(heads // kv_heads, BYTE_VECTORS)",
    "head_words": "words(head_dim, 32)",
    "x_rows": "hidden // LANES",  # from one token's to the next's
    "qkv_rows": "(heads + 2 * kv_heads) * head_rows",
    "gate_rows": "intermediate // LANES",
    "x": "0",
    "t": "x + batch * x_rows",
    # beside what norms leave there, norms of queries and keys
    "rope": "even(t + larger(larger(hidden, heads * head_dim), 2 * head_dim) // LANES) + 1",
    "qkv": "even(rope + 2 * head_rows)",
    "sums": "t + 1",  # of a chunk's values, where nothing else is needed then
    "scores": "qkv + batch * qkv_rows",
    "cached": "scores + query_heads * context_rows + 1",
    "direct": "scores",
    "swapped": "direct + (heads + kv_heads) * head_rows + 1",
    # down_proj by rows, for all tokens at once: its products overwrite inner vectors that are
    # already quantised
    "down_rows": "((batch > 1) | activation) & by_rows & (x_rows <= gate_rows)",
    # of a piece of a gate, and one to put it into the bank that the gate is not in
    "sigmoid_rows": "choose(activation, smaller(gate_rows, SIGMOIDS) + 1, 0)",
    # products of one group and their sums for each token, and their scales
    "group_rows": "choose(group, (2 * batch + 1) * PARTS + 3, 0)",
    "inner_rows": "batch * gate_rows + sigmoid_rows + group_rows",
    # if inner vectors need the room, the residual vectors of later tokens are kept in DDR meanwhile
    "gate": "choose(down_rows & (qkv + inner_rows > SCRATCH_ROWS) & (inner_rows + x_rows <= "
            "SCRATCH_ROWS), SCRATCH_ROWS - inner_rows, qkv)",
    "sigmoid": "gate + batch * gate_rows",
    "parts": "even(larger(scores, sigmoid + sigmoid_rows)) + 1",
    "part_sums": "parts + batch * PARTS + 1",
    "factors": "part_sums + batch * PARTS",
    "kept": "smaller(gate // x_rows, batch)",  # tokens whose residual vectors stay
    "logits": "qkv",
    "logits_chunk": "smaller((SCRATCH_ROWS - logits) * LANES, LOGITS)",
    "end": "larger(larger(larger(cached + context_rows, swapped + (heads + kv_heads) * head_rows), "
           "gate + inner_rows), choose(group, factors + PARTS, 0))",
}

Words = Mapping[str, int]


def _evaluate(text: str, values: dict[str, Any]) -> int:
    """An expression of this module; the constants and functions are among ``values``."""
    return int(eval(text, {"__builtins__": {}}, values))


def _scope(header: Words) -> dict[str, Any]:
    functions: dict[str, Any] = {
        name: eval(f"lambda {parameters}: {body}", {"max": max, "min": min})
        for name, (parameters, body, _) in _FUNCTIONS.items()}
    return {**functions, **_CONSTANTS, **header}


def scratch_rows(header: Words, batch: int = 1, tokens: int = 1,
                 by_rows: bool = False) -> dict[str, int]:
    """ROWS, worked out for a header that keeps LIMITS."""
    values = _scope(header) | {"batch": batch, "tokens": tokens, "by_rows": int(by_rows)}
    for name, expression in ROWS.items():
        values[name] = _evaluate(expression, values)
    return {name: values[name] for name in ROWS}


def broken_limit(header: Words) -> str:
    """The sentence of the first limit that a header's fields break, or nothing."""
    values = _scope(header)
    for holds, sentence in LIMITS:
        if not _evaluate(holds, values):
            return sentence.format(**values)
    end = scratch_rows(header, by_rows=True)["end"]
    if end > isa.SCRATCH_ROWS:
        return (f"the model needs {end} of {isa.SCRATCH_ROWS} scratchpad rows: choose a shorter "
                f"context")
    return ""


def tokens_per_pass(header: Words, by_rows: bool, position: int = 0) -> int:
    """How many tokens of a prompt that goes on from ``position`` are processed at once, as the
    firmware chooses it."""
    wide = scratch_rows(header)["chunk_words"] > isa.SHARED_WORDS
    batch = isa.BYTE_VECTORS if wide else isa.VECTORS
    by_rows = by_rows or bool(header["activation"])
    while (batch > 1
           and scratch_rows(header, batch, position + batch, by_rows)["end"] > isa.SCRATCH_ROWS):
        batch -= 1
    return batch


def _c_expression(text: str, prefix: Mapping[str, str]) -> str:
    def name(match: re.Match[str]) -> str:
        word = match[0]
        if word in _CONSTANTS:
            return f"{_CONSTANTS[word]}u"
        return f"plan_{word}" if word in _FUNCTIONS else prefix.get(word, word)

    return re.sub(r"[A-Za-z_][A-Za-z_0-9]*", name, text.replace("//", "/"))


def c_header() -> str:
    """The firmware's view: ``struct plan``, the function that lays one out, and the limits."""
    header = {f.name: f"h->{f.name}" for f in fields(DdrHeader)}
    lines = ["// Generated from host/bitnet_host/model/rows.py.", "#pragma once",
             "#include <generated/image.h>", ""]
    for name, (parameters, _, body) in _FUNCTIONS.items():
        signature = ", ".join(f"uint32_t {p.strip()}" for p in parameters.split(","))
        lines += [f"static inline uint32_t plan_{name}({signature})", "{", f"    return {body};",
                  "}", ""]
    lines += [f"#define PLAN_PARTS {_CONSTANTS['PARTS']}u", "", "struct plan {",
              "    uint32_t batch;", *(f"    uint32_t {name};" for name in ROWS),
              "};", "",
              "// Lays out the scratchpad for a pass of `batch` tokens, of which the one that sees "
              "most sees `tokens`; returns the rows it takes.",
              "static inline uint32_t plan_lay(struct plan *p, const struct image_header *h, "
              "uint32_t batch, uint32_t tokens,",
              "                                uint32_t by_rows)",
              "{", "    p->batch = batch;"]
    own = {name: f"p->{name}" for name in ROWS}
    lines += [f"    p->{name} = {_c_expression(expression, header | own)};"
              for name, expression in ROWS.items()]
    lines += ["    return p->end;", "}", "",
              "// The number of the limit that a model breaks, from 1 on, or 0.",
              "static inline uint32_t plan_broken_limit(const struct image_header *h)", "{"]
    for number, (holds, _) in enumerate(LIMITS, 1):
        lines += [f"    if (!({_c_expression(holds, header)}))", f"        return {number};"]
    return "\n".join([*lines, "    return 0;", "}"]) + "\n"
