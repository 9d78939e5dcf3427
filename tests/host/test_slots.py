"""Which slot answers which conversation, on the golden model."""

from __future__ import annotations

import threading
import time

import pytest
from bitnet_host import Cancel, Sampling, Session, Slots
from bitnet_host.errors import BadArgument
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint


@pytest.fixture(scope="module")
def shared():
    target = ReferenceTarget(convert(open_checkpoint(BUNDLED), cache_tokens=512))
    target.prepare()
    return target


@pytest.fixture
def target(shared):
    shared.prepare()
    yield shared
    for slot in shared.slots:
        slot.make_room = lambda: False


def _answer(slots, prompt, tokens=0):
    """Which slot it was, and the tokens."""
    with slots.lease(prompt) as slot:
        return list(slots.target.slots).index(slot), slot.generate(
            prompt[slot._keep_common(prompt):], tokens).token_ids


def test_a_conversation_goes_on_in_its_slot(target):
    slots = Slots(target)
    a, b = [5, 6, 7, 8], [9, 10, 11]
    first, second = _answer(slots, a)[0], _answer(slots, b)[0]
    assert first != second
    assert _answer(slots, [*a, 20, 21])[0] == first and target.slots[first].cached == 0
    assert _answer(slots, [*b, 20])[0] == second
    assert _answer(slots, [*a, 20, 22])[0] == first  # most of it is kept
    assert _answer(slots, [5, 6, 30])[0] not in (first, second)  # too little would be


def test_the_one_that_rested_longest_makes_way(target):
    slots = Slots(target, 3)
    places = [_answer(slots, [token, token])[0] for token in (5, 6, 7)]
    assert sorted(places) == [0, 1, 2]
    assert _answer(slots, [5, 5, 9])[0] == places[0]
    assert _answer(slots, [8, 8])[0] == places[1]
    assert _answer(slots, [9, 9])[0] == places[2]


def test_an_empty_slot_comes_before_one_that_rests(target):
    slots = Slots(target, 3)
    places = [_answer(slots, [token, token])[0] for token in (5, 6, 7)]
    target.slots[places[2]].reset()
    assert _answer(slots, [8, 8])[0] == places[2]


def test_one_slot_is_used_for_all(target):
    slots = Slots(target, 1)
    assert [_answer(slots, [token] * 3)[0] for token in (5, 6, 7)] == [0, 0, 0]
    assert target.tokens == [7] * 3


@pytest.mark.parametrize("count", [-1, 9])
def test_a_number_that_makes_no_sense(target, count):
    with pytest.raises(BadArgument, match=f"between 1 and 8, not {count}"):
        Slots(target, count)


def test_who_finds_all_busy_waits_in_order(target):
    slots, order = Slots(target, 2), []
    gates = [slots.lease([token]) for token in (5, 6)]
    for gate in gates:
        gate.__enter__()
    assert (slots.busy, slots.waiting) == (2, 0)

    def wait(place):
        with slots.lease([place]):
            order.append(place)
            time.sleep(0.05)

    threads = []
    for place in range(4):
        threads.append(threading.Thread(target=wait, args=(place,)))
        threads[-1].start()
        while slots.waiting <= place:
            time.sleep(0.01)
    assert order == []
    gates[0].__exit__(None, None, None)
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3] and (slots.busy, slots.waiting) == (1, 0)
    gates[1].__exit__(None, None, None)


def test_a_cancel_ends_the_wait(target):
    slots, cancel = Slots(target, 1), Cancel()
    replies = []
    with slots.lease([5]):
        threading.Timer(0.2, cancel.set).start()
        other = threading.Thread(target=lambda: replies.append(
            Session(slots).complete("The cat", max_tokens=4, cancel=cancel).reply))
        other.start()
        other.join(10)
        with pytest.raises(BadArgument, match="has all slots in the middle of an answer"):
            list(Session(slots).complete("The cat", max_tokens=4))
    reply, = replies
    assert reply.stop_reason == "cancel" and reply.text == "" and slots.waiting == 0
    assert Session(slots).complete("The cat", max_tokens=4).reply.usage.completion == 4


def test_who_gave_its_slot_back_waits_like_others(target):
    slots, cancel, held, done = Slots(target, 1), Cancel(), threading.Event(), threading.Event()
    _answer(slots, [5, 6])

    def hold():
        with slots.lease([7]):
            held.set()
            done.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(10)
    threading.Timer(0.2, cancel.set).start()
    assert Session(slots).complete("The cat", cancel=cancel).reply.stop_reason == "cancel"
    done.set()
    other.join(10)


def test_sessions_of_threads_answer_as_if_alone(target):
    prompts = ["The cat", "Once upon a time", "Tell me", "A dog", "Why"]
    alone = []
    for seed, prompt in enumerate(prompts):
        target.reset()
        alone.append(Session(target).complete(
            prompt, max_tokens=8, sampling=Sampling(temperature=0.9, seed=seed)).reply.text)
    slots, said = Slots(target, 3), {}

    def answer(seed, prompt):
        said[seed] = Session(slots).complete(
            prompt, max_tokens=8, sampling=Sampling(temperature=0.9, seed=seed)).reply.text

    threads = [threading.Thread(target=answer, args=item) for item in enumerate(prompts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [said[seed] for seed in range(5)] == alone


def test_leaving_a_loop_gives_the_slot_back(target):
    slots = Slots(target, 1)
    for _ in Session(slots).complete("The cat", max_tokens=20):
        break
    assert slots.busy == 0


@pytest.mark.parametrize("prompt,tokens", [(140, 3), (126, 7)])
def test_room_is_made_twice(target, prompt, tokens):
    """For a prompt and its answer, which need the two pages that two others have."""
    alone = target.generate([9] * prompt, tokens).token_ids
    target.reset()
    slots = Slots(target)
    for token in (5, 6, 7, 8):
        _answer(slots, [token] * 100)
    assert _answer(slots, [9] * prompt, tokens)[1] == alone
    assert sorted(len(slot.tokens) for slot in target.slots)[5:] == [100, 100, prompt + tokens - 1]


def test_room_is_made_for_who_needs_it(target):
    """512 tokens are four pages. The slot that made room is the next to be taken."""
    slots = Slots(target)
    for token in (5, 6, 7, 8):
        _answer(slots, [token] * 100)
    place, _ = _answer(slots, [9, 9])
    assert [len(slot.tokens) for slot in target.slots[:4]].count(0) == 1
    assert target.slots[place].tokens == [9, 9]
    assert not any(slot.tokens[:1] == [5] for slot in target.slots)


def test_room_is_made_for_what_is_appended(target):
    """To a conversation that is there, without naming it again."""
    expected = []
    for crowd in (False, True):
        target.prepare()
        slots = Slots(target)
        for slot in target.slots[1:4] if crowd else ():
            slot.generate([7] * 100, 0)
        assert len(slots.target.slots) == 8
        target.generate([5] * 20, 0)
        expected.append(target.generate([6] * 120, 3).token_ids)
    assert expected[0] == expected[1] and len(target.tokens) == 142
