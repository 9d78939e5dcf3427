"""Slots when memory, vectors or rows are short."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bitnet_host import Sampling, Slots
from bitnet_host.bench.measure import BenchOptions, measure_model
from bitnet_host.errors import BoardError
from bitnet_host.golden.reference import Cache
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.sources import synthetic
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import over_udp
from slots_boards import (
    PAGE,
    SHAPE,
    answer_alone,
    filled,
    opened,
    raw,
    renew,
    same_logits,
    together,
)


def test_a_page_here_and_a_page_there(tmp_path):
    """Fourteen pages, each before the one that follows it: more streams than are queued at once."""
    shape = "hidden=128,intermediate=64,layers=1,heads=1,kv_heads=1,head_dim=128,vocab=64"
    config, pages = parse_shape(f"{shape},context=3600"), 29
    image = convert(synthetic_checkpoint(config, 0.6, 1), cache_tokens=pages * PAGE)
    synthetic._write(tmp_path / "model.ddr", image, 1)
    codes, scales = synthetic._cache(image.header, 1)
    simulator = Simulator("ug585", tmp_path / "model.ddr")
    board = BoardTarget(image, over_udp("127.0.0.1", simulator.ports["udp"]), simulator)
    try:
        board.trust()
        first, second = board.slots[:2]
        first.fill_cache(3600)
        for count in range(1, 15):
            first.fill_cache((pages - count) * PAGE)
            second.fill_cache(count * PAGE)
        second.fill_cache(14 * PAGE - 10)
        reference = ReferenceTarget(image)
        reference.prepare()
        order = np.concatenate([np.arange(PAGE) + PAGE * page for page in range(28, 14, -1)])[:-10]
        reference._cache = Cache(image.header)
        reference._model.cache = reference._cache
        reference._model.fill_cache(codes[:, :, :, order], scales[:, :, :, order])
        reference.tokens = [0] * len(order)
        reference._hold(len(order))
        same_logits(second, reference, [5, 6])
    finally:
        board.close()


def test_a_model_of_four_vectors_a_pass():
    """2-bit weights of a wide model: more answers than a pass takes have turns."""
    shape = ("hidden=2560,intermediate=64,layers=1,heads=2,kv_heads=1,head_dim=32,vocab=64,"
             "context=40")
    image = convert(synthetic_checkpoint(parse_shape(shape), 0.6, 1), "2bit")
    with opened(image) as (board, reference):
        prompts = [[3 + n] * (n + 1) for n in range(6)]
        answers = together([lambda slot=slot, prompt=prompt: slot.generate(prompt, 6).token_ids
                            for slot, prompt in zip(board.slots, prompts, strict=False)])
        assert answers == [answer_alone(reference, prompt, 6) for prompt in prompts]
        board.prepare()
        running = [raw(board, slot, [5 + slot], 30) for slot in range(7)]
        tokens = dict.fromkeys(running, 0)
        while max(tokens.values()) < 12:
            event = board.transport.listen(60)
            tokens[event.sequence] += event.name == "TOKEN"
        assert min(tokens.values()) >= 9


def test_measuring_them_together():
    """Three conversations cost less than three times one, and are counted together."""
    options = BenchOptions(shape="tiny,layers=1", context=40, tokens=4)
    one = measure_model(options)
    three = measure_model(replace(options, slots=3))
    assert one["cycles"] < three["cycles"] < 3 * one["cycles"]
    assert three["tokens_per_second"] == round(3 * three["clock_hz"] / three["cycles"], 2)
    assert three["slots"] == 3 and len(three["tokens"]) == 5
    assert abs(three["total"]["cycles"] - three["cycles"]) < 0.03 * three["cycles"]


@pytest.fixture(scope="module")
def tight():
    """Three pages for conversations of up to two."""
    shape = SHAPE.replace("context=700", "context=250")
    with opened(convert(synthetic_checkpoint(parse_shape(shape), 0.6, 1),
                        cache_tokens=3 * PAGE)) as pair:
        yield pair


@pytest.fixture(autouse=True)
def _fresh(request):
    if "tight" in request.fixturenames:
        renew(request.getfixturevalue("tight"))


def _by_lease(slots, prompt, tokens, sampling):
    """An answer on whichever slot is the conversation's."""
    with slots.lease(prompt) as slot:
        steps, said = slot.stream(prompt, tokens, sampling, reuse=True), []
        while True:
            try:
                said.append(next(steps).token)
            except StopIteration as end:
                assert end.value.token_ids == said
                return end.value


def test_the_cache_is_full(tight):
    """Whoever needs the page that nobody has left is told so, on the board and on the golden model
    alike."""
    ends = []
    for target in tight:
        first, second, third, fourth = target.slots[:4]
        for slot in (first, second):
            filled(slot, 100)
        answer = third.generate([7] * (PAGE - 3), 9)
        late = fourth.generate([8] * 20, 4)
        ends.append((answer.stop_reason, len(answer.token_ids), answer.token_ids,
                     list(third.tokens), late.stop_reason, late.prompt_tokens, list(fourth.tokens)))
        with pytest.raises(BoardError, match="take all 384 tokens of its KV cache: end one"):
            fourth.score(9)
        second.reset()
        assert fourth.generate([8] * 20, 4).stop_reason == "length"
    assert ends[0] == ends[1] and ends[0][:2] == ("memory", 4) and ends[0][4:] == ("memory", 0, [])


@pytest.mark.parametrize("prompt,sampling", [
    (140, Sampling()), (PAGE - 2, Sampling()), (PAGE - 2, Sampling(temperature=0.7, seed=3))],
    ids=["prompt", "greedy", "sampled"])
def test_room_is_made(tight, prompt, sampling):
    """In the middle of a prompt, of a greedy answer, and of a sampled one: the conversation that
    rested longest goes, and the answer is as if nothing had been."""
    board, reference = tight
    slots = Slots(board)
    for tokens in (100, 99):
        with slots.lease([9]) as slot:
            filled(slot, tokens)
    _by_lease(slots, [9] * 3, 0, Sampling())  # so that the page ends in the middle of a pass
    answer = _by_lease(slots, [9] * prompt, 7, sampling)
    assert answer.stop_reason == "length" and answer.prompt_tokens == prompt - 3
    assert answer.token_ids == answer_alone(reference, [9] * prompt, 7, sampling)
    assert sorted(len(slot.tokens) for slot in board.slots)[-3:] == [0, 99, prompt + 6]
