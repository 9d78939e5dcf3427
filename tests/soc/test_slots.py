"""Several conversations on one simulated board: each gets the tokens, and every bit of the logits,
that it would have alone on the golden model."""

from __future__ import annotations

import time

import numpy as np
import pytest
from bitnet_host import Cancel, Sampling, Session, Slots
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.run.protocol import MAILBOX
from slots_boards import answer_alone, opened, raw, renew, same_logits, together


@pytest.fixture(scope="module")
def bundled():
    with opened(convert(open_checkpoint(BUNDLED))) as pair:
        yield pair


@pytest.fixture(autouse=True)
def _fresh(bundled):
    renew(bundled)


def test_ten_conversations_at_once(bundled):
    """Greedy and sampled, short prompts and long ones; two wait for a slot; one is cancelled, one
    given up, and three begin while others are in the middle."""
    board, reference = bundled
    slots = Slots(board)
    rng = np.random.default_rng(5)
    prompts = [rng.integers(4, 2048, n).tolist() for n in (3, 40, 14, 33, 2, 24, 7, 21, 12, 11)]
    sampled = {1, 4, 6, 9}
    samplings = [Sampling(temperature=0.9, top_p=0.95, seed=i) if i in sampled else Sampling()
                 for i in range(10)]
    cancel = Cancel()

    def answer(place):
        if place > 6:
            time.sleep(0.5 * (place - 6))
        stream = Session(slots).complete(prompts[place], max_tokens=7 + place,
                                         sampling=samplings[place],
                                         cancel=cancel if place == 3 else None)
        said = []
        for token in stream:
            said.append(token.id)
            if place == 3 and len(said) == 2:
                cancel.set()
            if place == 5 and len(said) == 4:
                break
        return said

    answers = together([lambda place=place: answer(place) for place in range(10)])
    assert slots.busy == 0 and slots.waiting == 0
    for place, said in enumerate(answers):
        alone = answer_alone(reference, prompts[place], 7 + place, samplings[place])
        assert said == alone[:len(said)], place
        assert (len(said) < len(alone)) == (place in (3, 5)), place
    # and what they left in the cache is what it should be
    for slot in board.slots:
        position = board.info()[f"position{slot.slot}"]
        assert position == len(slot.tokens)
    chosen = max(board.slots, key=lambda slot: len(slot.tokens))
    reference.reset()
    reference.generate(chosen.tokens, 0)
    same_logits(chosen, reference, [5, 1999])


def test_logits_of_two_at_once(bundled):
    """They lie in one place on the board, and each host reads its own."""
    board, reference = bundled
    texts = [[5, 6, 7, 8], [1999, 12, 900, 44]]
    found = together([lambda slot=slot, text=text: [slot.score(token) for token in text]
                      for slot, text in zip(board.slots, texts, strict=False)])
    for alone, text, logits in zip(reference.slots, texts, found, strict=False):
        for token, ours in zip(text, logits, strict=True):
            np.testing.assert_array_equal(ours.view(np.uint32), alone.score(token).view(np.uint32))


def test_a_board_in_a_pass_says_how_far_it_is(bundled):
    """A host with a command waits as long as something moves: a simulated pass takes minutes."""
    board, _ = bundled
    layers, seen, limit = board.image.header.layers, set(), time.monotonic() + 60
    raw(board, 0, [9] * 200, 50)
    while len(seen) < layers and time.monotonic() < limit:
        done, total = board.transport._state(MAILBOX.done, MAILBOX.total)
        if total == layers:
            seen.add(done)
    board.board.ask("CLEAR")
    assert seen == set(range(layers))


def test_heads_of_all_kinds_in_one_pass(bundled):
    """A full head ranks as well, and must not take the place of another slot's candidates."""
    board, reference = bundled
    drawn = {"temperature": 0.9, "seed": 4}
    kinds = [Sampling(full_head=True), Sampling(), Sampling(**drawn), Sampling(),
             Sampling(full_head=True), Sampling(full_head=True, **drawn)]
    prompts = [[0, 9, 400], [0, 9, 400], [0, 9, 400], [0, 500], [0, 500], [0, 9, 400]]
    answers = together([
        lambda slot=slot, prompt=prompt, kind=kind: slot.generate(prompt, 10, kind).token_ids
        for slot, prompt, kind in zip(board.slots, prompts, kinds, strict=False)])
    assert answers == [answer_alone(reference, prompt, 10, kind)
                       for prompt, kind in zip(prompts, kinds, strict=True)]
