"""Each family's architecture on the simulated board: tokens of an answer and every bit of the
logits are those of the golden model, with prompts of several passes."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.convert import convert
from bitnet_host.model.rows import scratch_rows, tokens_per_pass
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.open import open_board
from xtvu.semantics import argmax

_BASE = "layers=2,vocab=1000,context=100"
_SILU = "activation=silu,sub_norms=0,tied=0"
#: What makes a family hard for the machine, in small: its heads above all.
SHAPES = {
    # one query head for each of many KV heads, sub-norms, heads that are filled up
    "1bitLLM large": f"{_BASE},hidden=192,intermediate=424,heads=4,kv_heads=4,head_dim=48,"
                     "activation=silu",
    "1bitLLM xl": f"{_BASE},hidden=128,intermediate=340,heads=4,kv_heads=4,head_dim=32,"
                  "activation=silu,vocab=1002",
    "1bitLLM 3B": f"{_BASE},hidden=192,intermediate=520,heads=4,kv_heads=4,head_dim=36,"
                  "activation=silu",
    # more heads than REP has runs
    "many heads": "layers=1,vocab=64,context=100,hidden=192,intermediate=200,heads=36,kv_heads=36,"
                  "head_dim=32,activation=silu",
    "Llama": f"{_BASE},hidden=192,intermediate=424,heads=8,kv_heads=2,head_dim=32,{_SILU}",
    "Falcon3": f"{_BASE},hidden=256,intermediate=1032,heads=3,kv_heads=1,head_dim=256,{_SILU}",
    "Falcon-E": f"{_BASE},hidden=256,intermediate=1160,heads=16,kv_heads=2,head_dim=32,{_SILU}",
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
    "Qwen3": f"{_BASE},hidden=160,intermediate=424,heads=8,kv_heads=4,head_dim=64,{_SILU},"
             "qk_norms=1",
    "Bonsai": f"{_BASE},hidden=256,intermediate=424,heads=8,kv_heads=4,head_dim=32,{_SILU},"
              "qk_norms=1,group=128",
    # queries that are no whole groups, more rows than go at once, chunks of down_proj
    "BitCPM": f"layers=1,vocab=64,context=64,hidden=288,intermediate=2600,heads=16,kv_heads=1,"
              f"head_dim=32,{_SILU},group=128",
}
PROMPT = [3, 17, 40, 5, 6, 7, 8, 9, 10, 11, 12]
TOKENS = 16


@pytest.mark.parametrize("family", SHAPES)
def test_answers_and_logits(family):
    shape = SHAPES[family]
    image = convert(synthetic_checkpoint(parse_shape(shape), 0.6, 1),
                    "2bit" if "group" in shape else "base3")
    reference = ReferenceModel(image)
    batch = tokens_per_pass(vars(image.header), True)
    kept = scratch_rows(vars(image.header), batch, batch, True)["kept"]
    assert (kept < batch) == ("in prompts" in family)
    with closing(open_board("sim", image)) as board:
        assert isinstance(board, BoardTarget)
        count = TOKENS if "prompts" not in family else 2  # which are slow, and are about prompts
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
