"""Several golden models as boards: who answers what, and what becomes of answers when one dies."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest
from bitnet_host import (
    BadArgument,
    BoardError,
    Cancel,
    LinkError,
    LinkTimeout,
    OutOfContext,
    Pool,
    Sampling,
    Session,
    open_board,
)
from bitnet_host.run.grammar import Grammars
from bitnet_host.run.protocol import ERRORS
from serving import quick_image


class Boards:
    """Opens golden models that fail ``after`` so many passes, the next one not, unless
    ``for_ever``. ``opened`` are the names, in order."""

    def __init__(self):
        self.opened, self.away, self.targets = [], set(), {}
        self.passes, self.after, self.for_ever = {}, {}, False

    def open(self, name, image, progress):
        if name in self.away:
            raise LinkError(f"{name} is not there")
        self.opened.append(name)
        target = open_board("reference", image)
        self.targets[name] = target
        self.passes.setdefault(name, 0)
        if not self.for_ever:
            self.after.pop(name, None)
        for slot in target.slots:
            slot._advance = self._counted(name, slot._advance)
        return target

    def _counted(self, name, advance):
        def counted(token):
            self.passes[name] += 1
            if self.passes[name] > self.after.get(name, 1e9):
                raise LinkTimeout(f"{name} has nothing to say")
            time.sleep(0.001)
            return advance(token)
        return counted


@pytest.fixture
def boards():
    return Boards()


@pytest.fixture
def pool(boards):
    with_two = Pool(["one", "two"], quick_image(), 3, open_one=boards.open, patience=1.0)
    yield with_two
    with_two.close()


@pytest.fixture(scope="module")
def alone():
    """The answer of one golden model."""
    with open_board("reference", quick_image()) as board:
        session = Session(board)
        yield lambda prompt, **options: session.complete(prompt, **options).reply


def _until(true, seconds=10):
    limit = time.monotonic() + seconds
    while not true() and time.monotonic() < limit:
        time.sleep(0.01)
    assert true()


def test_work_is_shared_out(pool, boards, alone):
    answers, prompts = {}, [f"Number {n}" for n in range(6)]
    threads = [threading.Thread(target=lambda text=text: answers.update(
        {text: Session(pool).complete(text, max_tokens=40).reply.text})) for text in prompts]
    for thread in threads:
        thread.start()
    _until(lambda: [board.busy for board in pool.boards] == [3, 3])
    for thread in threads:
        thread.join()
    assert answers == {text: alone(text, max_tokens=40).text for text in prompts}
    assert pool.count == 6 and min(boards.passes.values()) > 100


def test_a_conversation_goes_on_where_it_is_held(pool, boards):
    """Unless that board has too much to do."""
    first = Session(pool).complete("Once upon a time", max_tokens=20).reply
    ids = [*Session(pool).text.encode_raw("Once upon a time"), *first.answer.token_ids]
    for _ in range(3):
        reply = Session(pool).complete(ids, max_tokens=2).reply
        assert reply.usage.cached == len(ids) - 1
    other = Session(pool).complete("Another", max_tokens=2).reply
    assert other.usage.cached <= 1


def test_what_a_board_holds_counts_more_than_what_it_has_to_do(pool, boards):
    """As long as that is much of the conversation."""
    def side(slot):
        return next(name for name, target in boards.targets.items() if slot in target.slots)

    said = Session(pool).complete("Once upon a time", max_tokens=20).reply.answer.token_ids
    ids = [*Session(pool).text.encode_raw("Once upon a time"), *said]
    with ExitStack() as others:
        assert [side(others.enter_context(pool.lease([9]))) for _ in range(3)] == [
            "one", "two", "one"]
        with pool.lease(ids) as slot:
            assert side(slot) == "one" and slot.tokens
        with pool.lease([ids[0], *[9] * 20]) as slot:
            assert side(slot) == "two"


SAMPLINGS = {
    "greedy": {}, "warm": {"temperature": 2.0, "seed": 3},
    "penalties": {"temperature": 1.0, "seed": 4, "presence_penalty": 1.5, "logprobs": 2},
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_an_answer_goes_on_with_another_board(pool, boards, alone, name):
    """It has the tokens that it would have had, and none is told twice."""
    sampling = Sampling(**SAMPLINGS[name])
    for prompt, dies_after in (("The cat", 12), ("The dog", 3), ("A bird", 2)):
        boards.after = {"one": boards.passes["one"] + dies_after}
        boards.after |= {"two": boards.passes["two"] + dies_after + 9}
        told = []
        stream = Session(pool).complete(prompt, max_tokens=30, sampling=sampling)
        for token in stream:
            told.append(token.id)
        right = alone(prompt, max_tokens=30, sampling=sampling)
        assert told == stream.reply.answer.token_ids == right.answer.token_ids
        assert stream.reply.text == right.text and stream.reply.usage.prompt == right.usage.prompt
        boards.after = {}
        _until(lambda: not any(board.error for board in pool.boards))
    assert len(boards.opened) >= 4  # they came back


def test_a_grammar_goes_on_with_another_board(pool, boards, alone):
    schema = {"type": "array", "minItems": 12, "maxItems": 12,
              "items": {"enum": ["apple", "pear", "plum"]}}
    sampling = Sampling(temperature=2.0, seed=3, grammar=Grammars(quick_image()).schema(schema))
    boards.after = {"one": boards.passes["one"] + 15, "two": boards.passes["two"] + 22}
    told = Session(pool).complete("Fruit:", max_tokens=200, sampling=sampling).reply
    assert told.text == alone("Fruit:", max_tokens=200, sampling=sampling).text
    assert len(eval(told.text)) == 12


def test_a_board_that_stays_away(boards, alone):
    """The other does all; when nobody is left, an answer waits, and ends with a sentence."""
    pool = Pool(["one", "two"], quick_image(), 2, open_one=boards.open, patience=0.3)
    boards.away, boards.after = {"one", "two"}, {"one": 5, "two": 1000}
    right = alone("The cat", max_tokens=20).text
    assert Session(pool).complete("The cat", max_tokens=20).reply.text == right
    assert [bool(board.error) for board in pool.boards] == [True, False]
    _until(lambda: pool.boards[0].error == "one is not there")
    boards.after["two"] = boards.passes["two"] + 4
    start = time.monotonic()
    with pytest.raises(LinkError, match="no board is there: one is not there"):
        _ = Session(pool).complete("The dog", max_tokens=20).reply
    assert 0.2 < time.monotonic() - start < 0.9  # waited for once
    cancel = Cancel()
    cancel.set()
    waiting = Session(pool).complete("The dog", max_tokens=20, cancel=cancel).reply
    assert waiting.stop_reason == "cancel"
    boards.away, boards.after = set(), {}
    _until(lambda: not any(board.error for board in pool.boards))
    assert Session(pool).complete("The cat", max_tokens=20).reply.text == right
    pool.close()


def test_a_board_that_always_fails_ends_the_answer(boards):
    pool = Pool(["one"], quick_image(), 1, open_one=boards.open, patience=5.0)
    boards.after, boards.for_ever = {"one": 0}, True
    with pytest.raises(LinkTimeout):
        _ = Session(pool).complete("The cat", max_tokens=20).reply
    assert 3 < len(boards.opened) < 12
    pool.close()


@pytest.mark.parametrize("error", [OutOfContext("long"), BadArgument("wrong"),
                                   BoardError("no room", ERRORS["MEMORY"][0])])
def test_what_is_not_the_boards_fault(pool, boards, error):
    with pytest.raises(type(error)), pool.lease([1]):
        raise error
    assert not any(board.error for board in pool.boards)


def test_a_conversation_that_the_board_does_not_have(pool, boards, alone):
    """It is read again, there or elsewhere; the board is well."""
    error, failed = BoardError("elsewhere", ERRORS["POSITION"][0]), []
    for slot in boards.targets["one"].slots:
        def once(token, advance=slot._advance):
            if not failed:
                failed.append(token)
                raise error
            return advance(token)
        slot._advance = once
    right = alone("The cat", max_tokens=20).text
    assert Session(pool).complete("The cat", max_tokens=20).reply.text == right
    assert failed and not any(board.error for board in pool.boards)


def test_a_board_that_cannot_be_opened_at_first(boards):
    boards.away = {"two"}
    with pytest.raises(LinkError, match="two is not there"):
        Pool(["one", "two"], quick_image(), open_one=boards.open)
    with pytest.raises(BadArgument, match="number of slots"):
        Pool(["one"], quick_image(), 9, open_one=boards.open)
