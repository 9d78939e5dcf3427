"""What the firmware and the host plan from one definition, held against what must be true of any
plan."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from bitnet_host.model.convert import convert, make_header, rope_table
from bitnet_host.model.header import GROUP, DdrHeader
from bitnet_host.model.image import check_image
from bitnet_host.model.plan import make_plan
from bitnet_host.model.rows import (
    LIMITS,
    ROWS,
    broken_limit,
    scratch_rows,
    tokens_per_pass,
)
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint


def _headers(count=300):
    rng = np.random.default_rng(1)
    for _ in range(count):
        kv = int(rng.integers(1, 9))
        heads, activation = kv * int(rng.integers(1, 9)), int(rng.integers(2))
        header = DdrHeader(layers=1, kv_heads=kv, heads=heads,
                           head_dim=32 * int(rng.integers(1, 5)),
                           hidden=32 * int(rng.integers(1, 81)),
                           intermediate=8 * int(rng.integers(1, 900)), vocab=64,
                           context=int(rng.integers(1, 5000)), cache_tokens=5120,
                           weight_mode=int(rng.integers(2)), activation=activation,
                           head_elements=1, inner_elements=1)
        if activation and header.weight_mode and rng.random() < 0.5:
            header.group = GROUP
        if not broken_limit(vars(header)):
            yield header


@pytest.mark.parametrize("by_rows", [False, True])
def test_what_is_live_together_does_not_overlap(by_rows):
    """Written from what the firmware keeps where, not from the plan's own sums."""
    seen = 0
    for header in _headers():
        h, queries = header, header.heads * header.head_dim
        batch = tokens_per_pass(vars(h), by_rows, 7)
        for tokens in {1, batch}:
            rows = by_rows or bool(h.activation)
            r = scratch_rows(vars(h), tokens, 7 + tokens, rows)
            group = min(4, h.heads // h.kv_heads)
            context = h.context if tokens == 1 else 7 + tokens
            places = sorted([
                (r["x"],
                 tokens * h.hidden // 8), (r["t"], max(h.hidden, queries, 2 * h.head_dim) // 8),
                (r["rope"], 2 * h.head_dim // 8),
                (r["qkv"],
                 tokens * (queries + 2 * h.kv_heads * h.head_dim) // 8),
                (r["scores"], group * math.ceil(context / 8)),
                (r["cached"], math.ceil(context / 8))])
            assert all(start + size <= after for (start, size), (after, _) in pairwise(places))
            assert places[-1][0] + places[-1][1] <= r["end"] <= 8192
            both = (h.heads + h.kv_heads) * h.head_dim // 8
            assert r["direct"] >= r["qkv"] + tokens * (queries + 2 * h.kv_heads * h.head_dim) // 8
            assert r["direct"] + both <= r["swapped"] and r["swapped"] + both <= r["end"]
            inner = tokens * h.intermediate // 8
            assert r["gate"] + inner <= r["end"] and (r["gate"] >= r["qkv"] or rows)
            assert r["kept"] == tokens or r["gate"] >= r["kept"] * h.hidden // 8
            # read together, so in different banks
            assert ((r["rope"] - r["qkv"]) % 2 and (r["scores"] - r["cached"]) % 2
                    and r["context_rows"] % 2 == 0)
            if h.activation:
                _check_silu(h, r, tokens, inner)
            seen += 1
    assert seen > 200


def _check_silu(h, r, tokens, inner):
    """A piece of a gate's sigmoids, in either bank; products of a group, their sums and scales."""
    after = r["sigmoid"] + min(h.intermediate // 8, 256) + 1
    assert r["gate"] + inner <= r["sigmoid"] and after <= r["end"] and r["down_rows"]
    if h.group:
        assert r["parts"] >= max(after, r["qkv"] + tokens * r["qkv_rows"])
        assert r["parts"] + 128 * tokens <= r["part_sums"]
        assert r["part_sums"] + 128 * tokens <= r["factors"] and r["factors"] + 128 <= r["end"]
        assert r["parts"] % 2 and not r["qkv"] % 2 and not r["part_sums"] % 2


def test_names_of_rows_are_their_own():
    assert not set(ROWS) & {field.name for field in fields(DdrHeader)}


def test_the_2b_model():
    """Figures worked out by hand from its shape: rows of the scratchpad, tokens per pass, and
    memory."""
    header = make_header(parse_shape("2b4t,context=4096"), "base3")
    rows = scratch_rows(vars(header))
    assert ((rows["x_rows"], rows["qkv_rows"], rows["context_rows"], rows["hidden_words"])
            == (320, 480, 512, 16))
    assert rows["end"] == 320 + 320 + (1 + 32 + 1) + 480 + 4 * 512 + 1 + 512 == 3715
    assert tokens_per_pass(vars(header), True) == 8
    plan = make_plan(header)
    assert not plan.down_rows and plan.fits and 770 < plan.model_bytes / 2**20 < 790
    short = make_plan(make_header(parse_shape("2b4t,context=2048"), "base3"))
    assert short.down_rows and short.fits and 45 < short.prefill < 65 and 9.5 < short.decode < 11.5
    # 255 rows of the head are looked at again, 192 more than in a small vocabulary, 80 words each
    # and what names them
    fewer = make_plan(replace(header, rank_levels=6))
    assert header.rank_levels == 8 and plan.token_bytes - fewer.token_bytes == 192 * 80 * 32
    assert 15_000 < 125e6 / plan.decode - 125e6 / fewer.decode < 70_000


@pytest.mark.parametrize("field,value", [
    ("layers", 0),
    ("layers", 65),
    ("heads", 0), ("heads", 61), ("heads", 162), ("kv_heads", 0), ("kv_heads", 3),
    ("hidden", 0), ("hidden", 48),
    ("hidden", 4096 + 32),
    ("head_dim", 16),
    ("head_dim", 1056), ("intermediate", 4), ("intermediate", 16384), ("vocab", 12),
    ("vocab",
     (1 << 20) + 8), ("weight_mode", 2), ("stop_count", 5), ("context", 0), ("context", 16384),
    ("cache_tokens", 128), ("cache_tokens", 300), ("cache_tokens", 1 << 18),
])
def test_each_limit_is_kept(field, value):
    header = vars(make_header(parse_shape("tiny"), "base3"))
    assert broken_limit(header) == "" and len(LIMITS) >= 12
    assert broken_limit(header | {field: value}) != ""


def test_the_scratchpad_is_a_limit():
    header = vars(make_header(parse_shape("tiny"), "base3")) | {"cache_tokens": 16384}
    assert (broken_limit(header | {"context": 8192}) == ""
            and "scratchpad rows" in broken_limit(header | {"context": 16376}))


def test_conversations_share_what_memory_is_left():
    """Eight whole contexts where they fit; what fits beside the 2B model's weights; what was asked
    for."""
    assert make_plan(make_header(parse_shape("tiny"), "base3")).cache_tokens == 8 * 256
    large = make_header(parse_shape("2b4t,context=2048"), "base3")
    plan = make_plan(large)
    # 3,900 would fit, but V is laid out in chunks of 512
    assert plan.fits and plan.down_rows and plan.cache_tokens == 3584
    more = make_plan(large, cache_tokens=plan.cache_tokens + 1)
    assert more.cache_tokens == 3584 + 128 and more.fits and not more.down_rows
    assert make_plan(large, cache_tokens=1).cache_tokens == 2048
    odd = make_plan(make_header(parse_shape("tiny,context=200"), "base3"), cache_tokens=300)
    assert (odd.context, odd.cache_tokens) == (200, 384)


def test_an_image_keeps_its_own_check():
    image = convert(synthetic_checkpoint(parse_shape("tiny,layers=1"), 0.6, 1))
    assert check_image(image) == ""
    for name in ("eps_bits", "rank_levels", "score_scale_bits", "inverse_query_bits", "k_base",
                 "total_bytes", "stop3"):
        before = getattr(image.header, name)
        setattr(image.header, name, before ^ 1 << 12)
        assert name.split("_")[0] in check_image(image) or "stop" in check_image(image)
        setattr(image.header, name, before)


def test_rope_at_every_position():
    """Angles in float32 as transformers computes them, cosines in float64, here one by one."""
    config = parse_shape("tiny,context=2048,head_dim=64,hidden=512")
    table = rope_table(config)
    for position in (0, 1, 127, 128, 129, 1000, 2047):
        for pair in (0, 1, 17, 31):
            inverse = np.float32(1) / np.float32(np.float32(500000.0) ** np.float32(2 * pair / 64))
            angle = float(np.float32(position) * inverse)
            cos, sin = math.cos(angle), math.sin(angle)
            row = table[position]
            np.testing.assert_allclose([row[pair], row[pair + 32], row[64 + pair], row[96 + pair]],
                                       [cos, cos, -sin, sin], atol=2e-4)
