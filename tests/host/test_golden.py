"""The golden model against recorded runs of transformers (tests/oracle.py made them)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.verify.operators import compare_records
from golden import PROMPT_FIXTURE, fixture_path, load_records
from models import RECORDED, write_checkpoint
from xtvu import semantics


def test_bundled_model_operators():
    problems, _ = compare_records(ReferenceModel(convert(open_checkpoint(BUNDLED))),
                                  load_records(fixture_path("bundled")))
    assert not problems


@pytest.mark.parametrize("weights", ["base3", "2bit"])
@pytest.mark.parametrize("shape", RECORDED, ids=lambda s: f"random{s.seed}")
def test_random_model_operators(tmp_path, shape, weights):
    model = ReferenceModel(convert(open_checkpoint(write_checkpoint(tmp_path, shape)), weights))
    problems, _ = compare_records(model, load_records(fixture_path(f"random{shape.seed}")))
    assert not problems


def test_a_wrong_code_is_noticed():
    records = load_records(fixture_path("bundled"))
    linear = next(r for r in records if r.kind == "linear")
    linear.arrays["codes"] = linear.arrays["codes"].copy()
    linear.arrays["codes"][0, 0] ^= 1
    problems, _ = compare_records(ReferenceModel(convert(open_checkpoint(BUNDLED))), records)
    assert len(problems) == 1 and "codes differ" in problems[0]


def test_greedy_answers_follow_transformers():
    """Rounding ties part the two sooner or later; most of the first 20 tokens must agree, and the
    first logits closely."""
    model = ReferenceModel(convert(open_checkpoint(BUNDLED)))
    agreed = 0
    prompts = json.loads(PROMPT_FIXTURE.read_text())
    for prompt in prompts:
        model.reset()
        for token in prompt["prompt_ids"]:
            logits = model.forward(token)
        for token, value in prompt["first_logits_top20"]:
            assert abs(float(logits[token]) - value) < 0.5
        for expected in prompt["greedy_ids"][:20]:
            token = semantics.argmax(logits)
            if token != expected:
                break
            agreed += 1
            logits = model.forward(token)
    assert agreed >= 0.6 * 20 * len(prompts)


def test_packings_give_the_same_logits():
    checkpoint = open_checkpoint(BUNDLED)
    first, second = (ReferenceModel(convert(checkpoint, weights)) for weights in ("base3", "2bit"))
    for token in (0, 807, 29):
        np.testing.assert_array_equal(first.forward(token), second.forward(token))
