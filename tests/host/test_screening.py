"""The screened head against the full one; tests/screening.py does the same on more positions."""

from __future__ import annotations

import numpy as np
from bitnet_host.model.convert import sketch_rows
from screening import compare_heads


def test_same_choice_as_the_full_head():
    wrong, worst = compare_heads(600)
    assert wrong == 0
    assert 0 < worst < 63, "the sketch is no sketch, or its worst rank is beyond what is kept"


def test_sketch_keeps_large_codes():
    rng = np.random.default_rng(1)
    codes = np.clip(np.rint(rng.standard_normal((50, 333)) * 34), -127, 127).astype(np.int8)
    signs, factors = sketch_rows(codes, np.full(50, 0.5, np.float32))
    for row in range(50):
        threshold = 0.7 * np.mean(np.abs(codes[row].astype(float)))
        kept = np.abs(codes[row].astype(float)) > threshold
        np.testing.assert_array_equal(signs[row], np.sign(codes[row]) * kept)
        assert abs(factors[row] - 0.5 * np.abs(codes[row][kept].astype(float)).mean()) < 1e-3
        assert np.corrcoef(signs[row], codes[row])[0, 1] > 0.85
