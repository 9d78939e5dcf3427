"""Drafts from the conversation's own text: the same tokens as without, in fewer passes, wherever an
answer ends and whatever the conversation was before."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from bitnet_host import Cancel, Sampling
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import over_udp

SHAPE = "hidden=64,intermediate=96,layers=1,heads=4,kv_heads=2,head_dim=32,vocab=128,context=160"


@pytest.fixture(scope="module")
def checkpoint():
    """Its answers run in circles soon, as those of random weights do."""
    return synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1)


@pytest.fixture(scope="module")
def simulator():
    simulator = Simulator()
    yield simulator
    simulator.close()


def _pair(simulator, image):
    board = BoardTarget(image, over_udp("127.0.0.1", simulator.ports["udp"], take_over=True),
                        simulator)
    reference = ReferenceTarget(image)
    assert not board.board.lookup  # of so small a model
    board.board.lookup = True
    board.prepare()
    reference.prepare()
    return board, reference


@pytest.fixture
def pair(simulator, checkpoint):
    board, reference = _pair(simulator, convert(checkpoint))
    yield board, reference
    board.transport.close()


def _both(pair, prompt, tokens, **options):
    """The board's answer, which is the golden model's; the KV caches hold the same."""
    board, reference = pair
    answer, right = (target.generate(prompt, tokens, **options) for target in pair)
    assert answer.token_ids == right.token_ids and answer.stop_reason == right.stop_reason
    assert board.tokens == reference.tokens
    return answer


def _anew(pair):
    for target in pair:
        target.reset()


def test_a_circle(pair):
    """Most tokens are guessed. Without drafts there are as many passes as tokens."""
    board, _ = pair
    answer = _both(pair, [3, 17, 90], 70)
    assert answer.accepted_tokens > 20 and answer.drafted_tokens >= answer.accepted_tokens
    _anew(pair)
    board.board.lookup = False
    plain = _both(pair, [3, 17, 90], 70)
    assert plain.drafted_tokens == plain.accepted_tokens == 0
    assert plain.decode_cycles_per_token > 0.9 * answer.decode_cycles_per_token


def test_wherever_it_ends(pair):
    """In the middle of a draft, too; and what is said next goes on from there."""
    for tokens in range(24, 32, 2):
        _anew(pair)
        assert len(_both(pair, [3, 17, 90], tokens).token_ids) == tokens
        _both(pair, [5, 6], 3)


def test_the_end_of_the_context(pair):
    answer = _both(pair, [3, 17, 90], 1000)
    assert answer.stop_reason == "context" and answer.accepted_tokens


def test_a_stop_token(simulator, checkpoint):
    """One that comes in the circle again and again is the end when it comes first."""
    board, reference = _pair(simulator, convert(checkpoint))
    said = reference.generate([3, 17, 90], 60).token_ids
    board.transport.close()
    for stop in list(dict.fromkeys(said))[-3:]:
        image = convert(replace(checkpoint, config=replace(checkpoint.config, stop_tokens=(stop,))))
        pair = _pair(simulator, image)
        answer = _both(pair, [3, 17, 90], 60)
        assert answer.stop_reason == "stop" and answer.token_ids[-1] == stop
        _both(pair, said[:9] * 3, 60)
        pair[0].transport.close()


def test_memory_that_is_full(simulator, checkpoint):
    """Of two conversations one has the pages that the other wants for its draft."""
    board, reference = _pair(simulator, convert(checkpoint, cache_tokens=256))
    other = board.slots[1]
    other.generate([1] * 100, 1)
    cut = board.generate([3, 17, 90], 150)
    right = reference.generate([3, 17, 90], 150)
    assert cut.stop_reason == "memory" and len(cut.token_ids) > 60
    assert cut.token_ids == right.token_ids[:len(cut.token_ids)] and cut.accepted_tokens
    board.transport.close()


def test_a_conversation_that_was_cut_back(pair):
    """What was learnt of what is gone does not come into what is said now."""
    for keep, prompt in ((10, [7, 8, 9]), (25, [3, 17, 90, 3, 17, 90]), (3, [90, 3, 17, 90])):
        _both(pair, [3, 17, 90, 11, 3, 17, 90], 25)
        for target in pair:
            target.truncate(keep)
        _both(pair, prompt, 25)
        _anew(pair)


def test_text_of_all_kinds(pair):
    """Prompts that repeat themselves in odd ways, at random."""
    source = np.random.default_rng(5)
    for _ in range(4):
        part = source.integers(0, 6, source.integers(2, 9)).tolist()
        prompt = (part * 9)[:source.integers(3, 60)]
        _anew(pair)
        _both(pair, prompt, int(source.integers(1, 60)))


def _returning(reference):
    """Two turns, of which the second ends as it and the first meet, when the model says what stood
    behind that place: first [..., 70], second [71, said, ..., 70, 71]."""
    first, between = [3, 17, 90, 11, 70], [40, 41, 42, 43, 44, 45]
    for said in range(128):
        second = [71, said, *between, 70, 71]
        reference.reset()
        if said != 70 and reference.generate(first + second, 1).token_ids == [said]:
            return first, second
    raise AssertionError("no such turns")


def test_a_turn_begins_with_what_the_cache_holds(pair):
    """What was said last is not in it, and something else may follow: guesses are those of the
    same text in one go."""
    first, second = _returning(pair[1])
    _anew(pair)
    _both(pair, first, 1)
    turns = _both(pair, second, 4)
    _anew(pair)
    whole = _both(pair, first + second, 4)
    assert turns.token_ids == whole.token_ids
    assert turns.drafts == whole.drafts and turns.drafted_tokens == whole.drafted_tokens > 0


def test_a_cancel(pair):
    board, reference = pair
    cancel = Cancel()
    answer = board.generate([3, 17, 90], 150, cancel=cancel,
                            on_token=lambda token: len(board.tokens) or cancel.set())
    right = reference.generate([3, 17, 90], 150).token_ids
    assert answer.stop_reason == "cancel"
    assert answer.token_ids == right[:len(answer.token_ids)]
    assert board.tokens == [3, 17, 90, *right][:len(board.tokens)]


def test_others_beside_it(pair):
    """Two at a time have none; nor has who draws."""
    board, reference = pair
    told = {}

    def beside(place, prompt):
        told[place] = board.slots[place].generate(prompt, 30)

    threads = [threading.Thread(target=beside, args=(place, [3, 17, 90 + place]))
               for place in (0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, answer in told.items():
        reference.reset()
        assert reference.generate([3, 17, 90 + place], 30).token_ids == answer.token_ids
    _anew(pair)
    drawn = _both(pair, [3, 17, 90], 30, sampling=Sampling(temperature=1.0, seed=2))
    assert drawn.drafted_tokens == 0
