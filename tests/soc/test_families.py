"""Each family's architecture on the simulated board: tokens of an answer and every bit of the
logits are those of the golden model, with prompts of several passes."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.convert import convert
from bitnet_host.model.open import open_source
from bitnet_host.model.rows import scratch_rows, tokens_per_pass
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.open import open_board
from families import FORMS, small, write_family
from xtvu.semantics import argmax

_BASE = "layers=2,vocab=1000,context=100"
_SILU = "activation=silu,sub_norms=0,tied=0"
#: What is hard for the machine beyond the families' own small checkpoints.
SHAPES = {
    # more heads than REP has runs
    "many heads": "layers=1,vocab=64,context=100,hidden=192,intermediate=200,heads=36,kv_heads=36,"
                  "head_dim=32,activation=silu",
    # rows of more than 16 words, of which four vectors fit the activation memory
    "wide": f"layers=1,vocab=64,context=64,hidden=64,intermediate=5300,heads=84,kv_heads=4,"
            f"head_dim=32,{_SILU}",
    # more pieces of a gate than one
    "long gate": f"layers=1,vocab=64,context=64,hidden=64,intermediate=4600,heads=2,kv_heads=1,"
                 f"head_dim=32,{_SILU}",
    # inner vectors that take the place of later tokens' residual vectors, which wait in DDR for the
    # next layer
    "Falcon-E in prompts": f"layers=2,vocab=64,context=64,hidden=384,intermediate=7600,heads=2,"
                           f"kv_heads=1,head_dim=32,{_SILU}",
    "groups in prompts": f"layers=2,vocab=64,context=64,hidden=384,intermediate=5600,heads=2,"
                         f"kv_heads=1,head_dim=32,{_SILU},group=128",
    "squared ReLU without sub-norms": f"{_BASE},hidden=160,intermediate=424,heads=4,kv_heads=2,"
                                      "head_dim=32,sub_norms=0",
    # inputs that are no whole groups, more rows than go at once, chunks of down_proj
    "groups": f"layers=1,vocab=64,context=64,hidden=288,intermediate=2600,heads=16,kv_heads=1,"
              f"head_dim=32,{_SILU},group=128",
}
PROMPT = [3, 17, 40, 5, 6, 7, 8, 9, 10, 11, 12]
TOKENS = 16


@pytest.mark.parametrize("family,form", [(family, forms[-1]) for family, forms in FORMS.items()])
def test_a_checkpoint_of_each_family(tmp_path, family, form):
    """From its files, in the last of the forms that it is stored in."""
    path = write_family(tmp_path / "model", small(family, form), family, form)
    _check(convert(open_source(path)), TOKENS)


@pytest.mark.parametrize("name", SHAPES)
def test_answers_and_logits(name):
    image = convert(synthetic_checkpoint(parse_shape(SHAPES[name]), 0.6, 1))
    batch = tokens_per_pass(vars(image.header), True)
    kept = scratch_rows(vars(image.header), batch, batch, True)["kept"]
    assert (kept < batch) == ("in prompts" in name)
    _check(image, 2 if "in prompts" in name else TOKENS)  # which are slow


def _check(image, count):
    reference = ReferenceModel(image)
    with closing(open_board("sim", image)) as board:
        assert isinstance(board, BoardTarget)
        answer = board.generate(PROMPT, count).token_ids
        for token in PROMPT:
            x = reference.advance(token)
        for place in range(count):
            tokens, logits = reference.candidates(x)
            assert answer[place] == tokens[argmax(logits)], place
            if place < count - 1:
                x = reference.advance(answer[place])
        theirs = board.score(answer[-1])
        ours = reference.logits(reference.advance(answer[-1]))
        assert np.isfinite(ours).all() and ours.std() > 0.1
        np.testing.assert_array_equal(theirs.view(np.uint32), ours.view(np.uint32))
