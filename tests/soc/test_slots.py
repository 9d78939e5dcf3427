"""Several conversations on one simulated board: each gets the tokens, and every bit of the logits,
that it would have alone on the golden model."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from bitnet_host import Cancel, Sampling, Session, Slots
from bitnet_host.bench.measure import BenchOptions, measure_model
from bitnet_host.errors import BoardError, BoardTaken
from bitnet_host.golden.reference import Cache
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.sources import synthetic
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import over_udp
from bitnet_host.run.protocol import ERRORS, MAILBOX, SLOTS

SHAPE = "hidden=64,intermediate=96,layers=1,heads=4,kv_heads=2,head_dim=32,vocab=128,context=700"
PAGE = 128


@contextmanager
def _opened(image, preset="ug585"):
    simulator = Simulator(preset)
    board = BoardTarget(image, over_udp("127.0.0.1", simulator.ports["udp"]), simulator)
    reference = ReferenceTarget(image)
    try:
        board.prepare()
        reference.prepare()
        yield board, reference
    finally:
        board.close()


@pytest.fixture(scope="module")
def bundled():
    with _opened(convert(open_checkpoint(BUNDLED))) as pair:
        yield pair


@pytest.fixture(scope="module")
def small():
    """Thirteen pages for conversations of up to six."""
    with _opened(convert(synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1),
                         cache_tokens=13 * PAGE)) as pair:
        yield pair


@pytest.fixture(scope="module")
def tight():
    """Three pages for conversations of up to two."""
    shape = SHAPE.replace("context=700", "context=250")
    with _opened(convert(synthetic_checkpoint(parse_shape(shape), 0.6, 1),
                         cache_tokens=3 * PAGE)) as pair:
        yield pair


@pytest.fixture(autouse=True)
def _fresh(request):
    for name in ("bundled", "small", "tight"):
        if name in request.fixturenames:
            for target in request.getfixturevalue(name):
                target.prepare()
                for slot in target.slots:
                    slot.make_room = lambda: False
    yield


def _together(work):
    """Runs functions at once; their results, or what they raised."""
    results = [None] * len(work)

    def run(place):
        try:
            results[place] = work[place]()
        except Exception as error:  # told to the test
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    return results


def _alone(reference, prompt, tokens, sampling=None):
    reference.reset()
    return reference.generate(prompt, tokens, sampling).token_ids


def _filled(slot, tokens):
    """A conversation of so many tokens, whatever they are."""
    if isinstance(slot, BoardTarget):
        slot.fill_cache(tokens)
    else:
        slot.generate([0] * tokens, 0)


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


def _same_logits(slot, reference, tokens):
    for token in tokens:
        np.testing.assert_array_equal(slot.score(token).view(np.uint32),
                                      reference.score(token).view(np.uint32))


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

    answers = _together([lambda place=place: answer(place) for place in range(10)])
    assert slots.busy == 0 and slots.waiting == 0
    for place, said in enumerate(answers):
        alone = _alone(reference, prompts[place], 7 + place, samplings[place])
        assert said == alone[:len(said)], place
        assert (len(said) < len(alone)) == (place in (3, 5)), place
    # and what they left in the cache is what it should be
    for slot in board.slots:
        position = board.info()[f"position{slot.slot}"]
        assert position == len(slot.tokens)
    chosen = max(board.slots, key=lambda slot: len(slot.tokens))
    reference.reset()
    reference.generate(chosen.tokens, 0)
    _same_logits(chosen, reference, [5, 1999])


def test_logits_of_two_at_once(bundled):
    """They lie in one place on the board, and each host reads its own."""
    board, reference = bundled
    texts = [[5, 6, 7, 8], [1999, 12, 900, 44]]
    found = _together([lambda slot=slot, text=text: [slot.score(token) for token in text]
                       for slot, text in zip(board.slots, texts, strict=False)])
    for alone, text, logits in zip(reference.slots, texts, found, strict=False):
        for token, ours in zip(text, logits, strict=True):
            np.testing.assert_array_equal(ours.view(np.uint32), alone.score(token).view(np.uint32))


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
        _same_logits(slot, alone[slot], tokens[-3:])

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
    _same_logits(slot, reference, [5, 6])


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
        _same_logits(second, reference, [5, 6])
    finally:
        board.close()


def test_answers_across_pages_in_one_pass(small):
    """Four conversations at different places of their chunks share passes."""
    board, reference = small
    rng = np.random.default_rng(8)
    prompts = [rng.integers(3, 128, n).tolist() for n in (510, 126, 255, 3)]
    answers = _together([lambda slot=slot, prompt=prompt: slot.generate(prompt, 9).token_ids
                         for slot, prompt in zip(board.slots, prompts, strict=False)])
    for slot, alone, prompt, said in zip(board.slots, reference.slots, prompts, answers,
                                         strict=False):
        assert said == alone.generate(prompt, 9).token_ids
        _same_logits(slot, alone, [said[-1], 5])


def test_the_cache_is_full(tight):
    """Whoever needs the page that nobody has left is told so, on the board and on the golden model
    alike."""
    ends = []
    for target in tight:
        first, second, third, fourth = target.slots[:4]
        for slot in (first, second):
            _filled(slot, 100)
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
            _filled(slot, tokens)
    _by_lease(slots, [9] * 3, 0, Sampling())  # so that the page ends in the middle of a pass
    answer = _by_lease(slots, [9] * prompt, 7, sampling)
    assert answer.stop_reason == "length" and answer.prompt_tokens == prompt - 3
    assert answer.token_ids == _alone(reference, [9] * prompt, 7, sampling)
    assert sorted(len(slot.tokens) for slot in board.slots)[-3:] == [0, 99, prompt + 6]


def _raw(board, slot, prompt, tokens, position=0):
    """The number of a GENERATE whose events somebody else takes."""
    return board.transport.send("GENERATE", [slot, position, tokens, 0, 0, len(prompt), *prompt])


def test_a_fault_in_a_pass_ends_all_of_it(small):
    """Each of three answers is told, and goes on from what it had before the pass."""
    board, reference = small
    prompts = [[4] * n for n in (5, 40, 9)]
    running = [_raw(board, slot, prompt, 600) for slot, prompt in enumerate(prompts)]
    said = {sequence: [] for sequence in running}
    while min(len(tokens) for tokens in said.values()) < 3:
        _take(board, said)
    board.simulator.control("fail 2")
    ends = {}
    while len(ends) < 3:
        event = _take(board, said)
        if event.name == "ERROR":
            ends[event.sequence] = int(event.payload[0])
    board.simulator.control("fail 0")
    assert ends == dict.fromkeys(running, ERRORS["TVU"][0])
    info = board.info()
    for place, (sequence, prompt) in enumerate(zip(running, prompts, strict=True)):
        held = [*prompt, *said[sequence][:-1]]
        assert info[f"position{place}"] == len(held)
        slot, alone = board.slots[place], reference.slots[place]
        slot.tokens, slot._unsure = held, False
        alone.generate(held, 0)
        _same_logits(slot, alone, [3])


def _take(board, said):
    """The next event, whose token is put to those of its answer."""
    event = board.transport.listen(60)
    if event.name == "TOKEN":
        said[event.sequence].append(int(event.payload[0]))
    return event


def test_commands_that_are_refused(small):
    board, _ = small
    running = _raw(board, 2, [5], 600)
    for command, payload, code, detail in (
            ("GENERATE", [2, 0, 5, 0, 0, 1, 3], "BUSY", 2), ("RESET", [2, 0], "BUSY", 2),
            ("SCORE", [2, 3, 0], "BUSY", 2), ("GENERATE", [SLOTS, 0, 5, 0, 0, 1, 3], "ARGUMENT", 8),
            ("RESET", [SLOTS, 0], "ARGUMENT", 0), ("SCORE", [SLOTS, 3, 0], "ARGUMENT", 8),
            ("GENERATE", [1, 0, 5, 0, 0, 2, 3, 128], "ARGUMENT", 128),
            ("GENERATE", [1, 4, 5, 0, 0, 1, 3], "POSITION", 0),
            ("GENERATE", [1, 0, 5, 9, 0, 1, 3], "ARGUMENT", 3)):
        asked = board.transport.send(command, payload)
        while (event := board.transport.listen(60)).sequence != asked:
            assert (event.sequence, event.name) in ((running, "TOKEN"), (running, "PROGRESS"))
        assert (event.name, event.payload.tolist()) == ("ERROR", [ERRORS[code][0], detail]), command
    # anything else ends what is under way
    asked = board.transport.send("CLEAR")
    ends = []
    while not ends or ends[-1] != (asked, "DONE"):
        event = board.transport.listen(60)
        ends.append((event.sequence, event.name))
    assert ends[-2] == (running, "STATS")


def test_a_long_prompt_does_not_stop_the_others(small):
    """Six answers are under way. Between two tokens of one lies at most one pass of eight tokens of
    the prompt, and it gets one whenever they have had a token."""
    board, _ = small
    running = [_raw(board, slot, [5 + slot], 60) for slot in range(6)]
    tokens = dict.fromkeys(running, 0)
    while min(tokens.values()) < 3:
        event = board.transport.listen(60)
        tokens[event.sequence] += event.name == "TOKEN"
    late = _raw(board, 7, [9] * 400, 2)
    since, told = dict.fromkeys(running, 0), 0
    while told < 200:
        event = board.transport.listen(60)
        if event.sequence == late:
            assert event.name == "PROGRESS" and event.payload[0] - told == 8
            tokens = dict.fromkeys(running, 0) if told == 0 else tokens
            told = int(event.payload[0])
            since = {sequence: count + 1 for sequence, count in since.items()}
        elif event.name == "TOKEN":
            assert told == 0 or since[event.sequence] == 1
            since[event.sequence] = 0
            tokens[event.sequence] += 1
    assert min(tokens.values()) >= 200 // 8 - 2
    board.board.ask("CLEAR")


def test_few_answers_and_a_prompt_share_each_pass(small):
    board, _ = small
    running = [_raw(board, slot, [5 + slot], 60) for slot in range(3)]
    late = _raw(board, 7, [9] * 100, 2)
    told = tokens = 0
    while told < 100:
        event = board.transport.listen(60)
        if event.sequence == late:
            assert event.payload[0] - told >= 8 or event.payload[0] == 100
            told = int(event.payload[0])
        elif event.name == "TOKEN" and told and event.sequence == running[1]:
            tokens += 1
    assert tokens >= 100 // 5 - 3  # five tokens of the prompt a pass
    board.board.ask("CLEAR")


def test_a_board_in_a_pass_says_how_far_it_is(bundled):
    """A host with a command waits as long as something moves: a simulated pass takes minutes."""
    board, _ = bundled
    layers, seen, limit = board.image.header.layers, set(), time.monotonic() + 60
    _raw(board, 0, [9] * 200, 50)
    while len(seen) < layers and time.monotonic() < limit:
        done, total = board.transport._state(MAILBOX.done, MAILBOX.total)
        if total == layers:
            seen.add(done)
    board.board.ask("CLEAR")
    assert seen == set(range(layers))


def test_two_prompts_take_turns(small):
    """A short prompt does not wait until a long one is done."""
    board, _ = small
    long = _raw(board, 0, [9] * 600, 2)
    short = _raw(board, 1, [8] * 24, 2)
    done = 0
    while True:
        event = board.transport.listen(60)
        if event.name == "TOKEN":
            break
        done = int(event.payload[0]) if event.sequence == long else done
    assert event.sequence == short and done < 100
    board.board.ask("CLEAR")


def test_heads_of_all_kinds_in_one_pass(bundled):
    """A full head ranks as well, and must not take the place of another slot's candidates."""
    board, reference = bundled
    drawn = {"temperature": 0.9, "seed": 4}
    kinds = [Sampling(full_head=True), Sampling(), Sampling(**drawn), Sampling(),
             Sampling(full_head=True), Sampling(full_head=True, **drawn)]
    prompts = [[0, 9, 400], [0, 9, 400], [0, 9, 400], [0, 500], [0, 500], [0, 9, 400]]
    answers = _together([
        lambda slot=slot, prompt=prompt, kind=kind: slot.generate(prompt, 10, kind).token_ids
        for slot, prompt, kind in zip(board.slots, prompts, kinds, strict=False)])
    assert answers == [_alone(reference, prompt, 10, kind)
                       for prompt, kind in zip(prompts, kinds, strict=True)]


def test_a_model_of_four_vectors_a_pass():
    """2-bit weights of a wide model: more answers than a pass takes have turns."""
    shape = ("hidden=2560,intermediate=64,layers=1,heads=2,kv_heads=1,head_dim=32,vocab=64,"
             "context=40")
    image = convert(synthetic_checkpoint(parse_shape(shape), 0.6, 1), "2bit")
    with _opened(image) as (board, reference):
        prompts = [[3 + n] * (n + 1) for n in range(6)]
        answers = _together([lambda slot=slot, prompt=prompt: slot.generate(prompt, 6).token_ids
                             for slot, prompt in zip(board.slots, prompts, strict=False)])
        assert answers == [_alone(reference, prompt, 6) for prompt in prompts]
        board.prepare()
        running = [_raw(board, slot, [5 + slot], 30) for slot in range(7)]
        tokens = dict.fromkeys(running, 0)
        while max(tokens.values()) < 12:
            event = board.transport.listen(60)
            tokens[event.sequence] += event.name == "TOKEN"
        assert min(tokens.values()) >= 9


def test_nobody_listens(small):
    """The ring of events is full, and the board waits; a command, which it could not take
    otherwise, makes room, and no event is lost."""
    board, _ = small
    running = _raw(board, 2, [5], 400)
    waiting = -1
    while waiting < 900:
        time.sleep(0.5)
        head, tail = board.transport._state(MAILBOX.event_head, MAILBOX.event_tail)
        waiting = head - tail & 0xFFFFFFFF
    time.sleep(1)  # to the last word
    asked, tokens = board.transport.send("INFO"), 0
    while (event := board.transport.listen(60)).name != "STATS":
        assert event.sequence in (running, asked)
        tokens += event.name == "TOKEN"
    assert tokens == 400


def test_an_answer_that_nobody_knows_of(small):
    """Its slot is busy when a host that lost track of it begins anew there."""
    board, reference = small
    _raw(board, 3, [5], 600)
    board.slots[3]._unsure = True
    board.slots[1].generate([7, 8], 0)
    reference.reset()
    _same_logits(board.slots[3], reference, [9, 10])
    assert board.info()["position1"] == 0 and board.slots[1].tokens == []


def test_answers_that_are_cleared_away(small):
    """They do not pass for whole ones, whoever had the board cleared."""
    board, reference = small
    begun = [threading.Event() for _ in range(2)]

    def answer(place):
        def heard(token):
            begun[place].set()
        return board.slots[place].generate([5 + place], 600, on_token=heard)

    def clear():
        for event in begun:
            event.wait(60)
        board.board.ask("CLEAR")

    results = _together([lambda: answer(0), lambda: answer(1), clear])
    assert [type(result) for result in results[:2]] == [BoardTaken] * 2
    assert board.slots[0].tokens == [] == board.slots[1].tokens
    assert board.slots[1].generate([7, 8], 5).token_ids == _alone(reference, [7, 8], 5)


def test_measuring_them_together():
    """Three conversations cost less than three times one, and are counted together."""
    options = BenchOptions(shape="tiny,layers=1", context=40, tokens=4)
    one = measure_model(options)
    three = measure_model(replace(options, slots=3))
    assert one["cycles"] < three["cycles"] < 3 * one["cycles"]
    assert three["tokens_per_second"] == round(3 * three["clock_hz"] / three["cycles"], 2)
    assert three["slots"] == 3 and len(three["tokens"]) == 5
    assert abs(three["total"]["cycles"] - three["cycles"]) < 0.03 * three["cycles"]
