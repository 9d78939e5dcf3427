"""Sizes that the machine cannot take as they are, filled up: what comes out is what the model's own
sizes give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bitnet_host.golden.reference import rope
from bitnet_host.model.checkpoint import Linear
from bitnet_host.model.padding import fill_up, fill_up_heads, padded_head, padded_inner
from bitnet_host.model.rope import rope_table
from bitnet_host.model.sources.synthetic import parse_shape


def test_sizes():
    assert [padded_head(n) for n in (2, 32, 36, 48, 96, 100, 256)] == [32, 32, 64, 64, 96, 128, 256]
    assert [padded_inner(n) for n in (8, 340, 5460, 6912)] == [8, 344, 5464, 6912]


@pytest.mark.parametrize("head_dim", [36, 48, 100])
def test_rope_turns_the_models_own_pairs(head_dim):
    """rotate_half written out: element i and i + head_dim / 2 turn together."""
    config = replace(parse_shape("tiny"), head_dim=head_dim, context=9)
    rng, half = np.random.default_rng(head_dim), head_dim // 2
    x, table = rng.standard_normal((3, head_dim)).astype(np.float32), rope_table(config)
    padded = padded_head(head_dim)
    row = table[8].reshape(2, padded)
    turned = rope(fill_up_heads(x, head_dim, 1), row[0], row[1])
    for head in range(3):
        for i in range(half):
            angle = 8 / config.rope_theta ** (2 * i / head_dim)
            a, b = float(x[head, i]), float(x[head, i + half])
            expected = (a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a
                        * np.sin(angle))
            own = turned[head, i], turned[head, padded // 2 + i]
            np.testing.assert_allclose(own, expected, atol=1e-5)
    rest = np.delete(turned, [*range(half), *range(padded // 2, padded // 2 + half)], axis=1)
    assert not rest.any()


def test_products_are_those_of_the_models_own_sizes():
    """o . (what q's rows give) by heads of 36, and down . (what gate's rows give) by 340 inner
    elements."""
    config = replace(parse_shape("tiny,hidden=64,heads=2,kv_heads=1,intermediate=340"),
                     head_dim=36)
    rng = np.random.default_rng(1)
    x = rng.integers(-9, 10, 64)
    for first, second, size in (("q", "o", 72), ("gate", "down", 340)):
        into = Linear(rng.integers(-1, 2, (size, 64)).astype(np.int8), 0.5)
        out = Linear(rng.integers(-1, 2, (64, size)).astype(np.int8), 0.25)
        a, b = fill_up(first, into, config), fill_up(second, out, config)
        assert a.weights.shape[0] == b.weights.shape[1] == {72: 128, 340: 344}[size]
        np.testing.assert_array_equal(b.weights.astype(int) @ (a.weights.astype(int) @ x),
                                      out.weights.astype(int) @ (into.weights.astype(int) @ x))
        assert (a.scale, b.scale) == (0.5, 0.25)
    norm = rng.standard_normal(340).astype(np.float32)
    filled = fill_up("ffn_sub_norm", norm, config)
    np.testing.assert_array_equal(filled[:340], norm)
    assert not filled[340:].any() and filled.size == 344
    plain = rng.standard_normal(64).astype(np.float32)
    assert fill_up("input_norm", plain, config) is plain
