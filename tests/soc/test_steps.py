"""Steps of a pass told apart by the firmware: all of them, each with the stream's words that it
needs, and nothing else changes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from bitnet_host import BadArgument, Cancel, Sampling
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import over_udp
from bitnet_host.run.protocol import OPERATORS, PARTS, STEPS

SHAPE = "hidden=96,intermediate=160,layers=3,heads=4,kv_heads=2,head_dim=32,vocab=640,context=300"
NAMES = list(STEPS)
MATRICES = {"q_proj": "Q", "k_proj": "K", "v_proj": "V", "o_proj": "O", "gate_proj": "GATE"}


@pytest.fixture(scope="module")
def image():
    return convert(synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1))


@pytest.fixture(scope="module")
def board(image):
    simulator = Simulator()
    board = BoardTarget(image, over_udp("127.0.0.1", simulator.ports["udp"]), simulator)
    board.prepare()
    yield board
    board.close()


@pytest.fixture(scope="module")
def reference(image):
    target = ReferenceTarget(image)
    target.prepare()
    return target


def _profiled(target, prompt, tokens, **options):
    """The answer and its profile, from an empty KV cache."""
    target.reset()
    target.profile = np.zeros((target.image.header.layers + 2, len(NAMES), len(PARTS)), np.int64)
    try:
        return target.generate(prompt, tokens, **options), target.profile
    finally:
        target.profile = None


def test_each_step_of_a_pass(board, image):
    """One token, one pass: a norm reads its weights, a product its matrix, by the tables of the
    image; each step is where it belongs, and what is between them is nobody's."""
    answer, profile = _profiled(board, [5], 1)
    cycles, moving = profile.sum(2), profile[:, :, PARTS.index("moving")]
    places = np.zeros_like(cycles, bool)
    places[0, NAMES.index("embed")] = True
    first, last = NAMES.index("input_norm"), NAMES.index("final_norm")
    places[1:-1, first:last] = places[-1, last:] = True
    np.testing.assert_array_equal(cycles > 0, places)
    for layer in range(image.header.layers):
        for step, kind in MATRICES.items():
            assert moving[1 + layer, NAMES.index(step)] == image.tensor(kind, layer).words, step
        for step, kind in (("input_norm", "INPUT_NORM"), ("attn_sub_norm", "ATTN_SUB_NORM"),
                           ("post_norm", "POST_NORM"), ("ffn_sub_norm", "FFN_SUB_NORM")):
            assert moving[1 + layer, NAMES.index(step)] == image.tensor(kind, layer).words, step
        assert 0 < moving[1 + layer, NAMES.index("up_proj")] <= image.tensor("UP", layer).words
        assert moving[1 + layer, NAMES.index("attention")] > 0
    assert moving[-1, NAMES.index("final_norm")] == image.tensor("FINAL_NORM").words
    for place, name in enumerate(OPERATORS[:-1]):  # sample also has what was before the pass
        steps = [i for i, step in enumerate(NAMES) if STEPS[step] == name]
        assert profile[:, steps].sum((0, 1)).tolist() == [
            answer.counters[name][part] for part in PARTS], OPERATORS[place]


def test_the_same_answers(board, reference):
    """With prompts of several passes, and then without steps again: counters are as before."""
    prompt = [(7 * i + 3) % 640 for i in range(20)]
    board.reset()
    before = board.generate(prompt, 6)
    answer, profile = _profiled(board, prompt, 6)
    reference.reset()
    right = reference.generate(prompt, 6).token_ids
    board.reset()
    after = board.generate(prompt, 6)
    assert before.token_ids == answer.token_ids == after.token_ids == right
    names = [name for name in OPERATORS if name not in ("sample", "embed", "head")]
    for name in names:  # the wait after each layer takes little
        assert after.operators[name] == pytest.approx(before.operators[name], rel=0.05)
        assert answer.operators[name] == pytest.approx(before.operators[name], rel=0.25)
    # 20 tokens of the prompt and five of the answer read the embedding
    assert profile[0, 0, PARTS.index("moving")] == 25 * 96 // 32


def test_others_do_not_hear_of_it(board, reference):
    """An answer beside it has its tokens and no steps; a cancel ends the profiled one as any."""
    other, told = board.slots[1], []
    other.reset()

    def beside():
        told.extend(other.generate([9, 8, 7], 40).token_ids)

    thread = threading.Thread(target=beside)
    thread.start()
    answer, _ = _profiled(board, [1, 2, 3], 12, sampling=Sampling(temperature=1.0, seed=3))
    thread.join()
    cancel = Cancel()
    cut, _ = _profiled(board, [1, 2, 3], 200, cancel=cancel,
                       on_token=lambda token: cancel.set())
    for prompt, count, sampling, said in (([9, 8, 7], 40, Sampling(), told), ([1, 2, 3], 12,
                                          Sampling(temperature=1.0, seed=3), answer.token_ids)):
        reference.reset()
        assert reference.generate(prompt, count, sampling).token_ids == said
    assert cut.stop_reason == "cancel" and len(cut.token_ids) < 200
    assert other.profile is None


def test_what_follows_is_answered(board, reference, image):
    """A score behind a profile is told as one."""
    _profiled(board, [1, 2, 3], 3)
    board.reset()
    reference.reset()
    np.testing.assert_array_equal(board.score(7), reference.score(7))
    _profiled(board, [1, 2, 3], 3)
    board.reset()
    with pytest.raises(BadArgument):
        board.generate([image.vocab], 1)
    assert board.generate([7], 1).token_ids
