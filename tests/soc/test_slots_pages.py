"""Pages of the KV cache of several slots, wherever they lie."""

from __future__ import annotations

import numpy as np
import pytest
from slots_boards import PAGE, renew, same_logits, small_pair, together


@pytest.fixture(scope="module")
def small():
    with small_pair() as pair:
        yield pair


@pytest.fixture(autouse=True)
def _fresh(small):
    renew(small)


def test_pages_anywhere(small):
    """Six conversations of a page each leave holes, and two others grow by turns into them, so that
    their chunks are of two and three pieces, in the second chunk too. Every logit around the ends
    of pages and chunks is as if they were alone."""
    board, reference = small
    a, b, *others = board.slots
    rng = np.random.default_rng(7)
    texts = {slot: rng.integers(3, 128, 700).tolist() for slot in (a, b)}
    alone = dict(zip((a, b), reference.slots, strict=False))
    for other in others:
        other.fill_cache(100)  # pages 0, 4, 8, 1, 5 and 9 of 13

    def grow(slot, pages):
        tokens = texts[slot][len(slot.tokens):min(700, pages * PAGE + 5)]
        for target in (slot, alone[slot]):
            target.generate(tokens[:-3], 0)
        same_logits(slot, alone[slot], tokens[-3:])

    for pages in range(4):  # a gets 2, 3, 10 and 4, b 6, 7, 11 and 9
        if pages == 3:
            for other in (others[1], others[5]):
                other.reset()
        grow(a, pages)
        grow(b, pages)
    for other in (others[0], others[4]):
        other.reset()
    grow(a, 4)  # 5, the last of its chunk
    grow(b, 4)
    grow(a, 5)  # 12
    assert board.info()["free_tokens"] == 0


def test_pages_in_a_row_across_chunks(small):
    """Pages 2, 3, 4 and 5 follow one another, but values of the last two lie in another chunk."""
    board, reference = small
    slot, *others = board.slots
    for other, tokens in zip(others, (200, 500, 500), strict=False):
        other.fill_cache(tokens)  # pages 0 and 1, 4 to 7, 8 to 11
    text = np.random.default_rng(9).integers(3, 128, 400).tolist()
    slot.generate(text[:200], 0)
    others[1].reset()
    slot.generate(text[200:], 0)
    reference.generate(text, 0)
    same_logits(slot, reference, [5, 6])


def test_answers_across_pages_in_one_pass(small):
    """Four conversations at different places of their chunks share passes."""
    board, reference = small
    rng = np.random.default_rng(8)
    prompts = [rng.integers(3, 128, n).tolist() for n in (510, 126, 255, 3)]
    answers = together([lambda slot=slot, prompt=prompt: slot.generate(prompt, 9).token_ids
                        for slot, prompt in zip(board.slots, prompts, strict=False)])
    for slot, alone, prompt, said in zip(board.slots, reference.slots, prompts, answers,
                                         strict=False):
        assert said == alone.generate(prompt, 9).token_ids
        same_logits(slot, alone, [said[-1], 5])
