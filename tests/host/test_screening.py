"""The screened head against the full one, on stories that the bundled model tells itself."""

from __future__ import annotations

import numpy as np
from bitnet_host.checkpoint.convert import convert, sketch_rows
from bitnet_host.checkpoint.hf import open_checkpoint
from bitnet_host.models import BUNDLED
from bitnet_host.reference import ReferenceModel
from bitnet_host.sampling import Sampler, SamplingOptions
from xtvu.semantics import argmax

POSITIONS = 10_000


def test_same_argmax_as_the_full_head_on_ten_thousand_positions():
    model = ReferenceModel(convert(open_checkpoint(BUNDLED)))
    seen, worst = 0, 0
    for seed in range(1, POSITIONS):
        model.reset()
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed))
        token = 0
        while model.position < model.header.context:
            x = model.advance(token)
            logits = model.logits(x)
            tokens, candidates = model.candidates(x)
            best = argmax(logits)
            assert int(tokens[argmax(candidates)]) == best, f"seed {seed}, position {model.position}"
            np.testing.assert_array_equal(candidates, logits[tokens])
            scores = model.sketch_scores(x)
            worst = max(worst, int(np.count_nonzero(scores > scores[best])))
            seen += 1
            token = sampler.choose(logits)
            if token <= 2:  # the story has ended
                break
        if seen >= POSITIONS:
            break
    assert seen >= POSITIONS
    print(f"{seen} positions, the full head's choice at worst at rank {worst} of the sketch")


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
