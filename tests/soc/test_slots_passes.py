"""What a pass of several slots takes, what ends it, and who hears of it."""

from __future__ import annotations

import threading
import time

import pytest
from bitnet_host.errors import BoardTaken
from bitnet_host.run.protocol import ERRORS, MAILBOX, SLOTS
from slots_boards import answer_alone, raw, renew, same_logits, small_pair, take, together


@pytest.fixture(scope="module")
def small():
    with small_pair() as pair:
        yield pair


@pytest.fixture(autouse=True)
def _fresh(small):
    renew(small)


def test_a_fault_in_a_pass_ends_all_of_it(small):
    """Each of three answers is told, and goes on from what it had before the pass."""
    board, reference = small
    prompts = [[4] * n for n in (5, 40, 9)]
    running = [raw(board, slot, prompt, 600) for slot, prompt in enumerate(prompts)]
    said = {sequence: [] for sequence in running}
    while min(len(tokens) for tokens in said.values()) < 3:
        take(board, said)
    board.simulator.control("fail 2")
    ends = {}
    while len(ends) < 3:
        event = take(board, said)
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
        same_logits(slot, alone, [3])


def test_commands_that_are_refused(small):
    board, _ = small
    running = raw(board, 2, [5], 600)
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
    running = [raw(board, slot, [5 + slot], 60) for slot in range(6)]
    tokens = dict.fromkeys(running, 0)
    while min(tokens.values()) < 3:
        event = board.transport.listen(60)
        tokens[event.sequence] += event.name == "TOKEN"
    late = raw(board, 7, [9] * 400, 2)
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
    running = [raw(board, slot, [5 + slot], 60) for slot in range(3)]
    late = raw(board, 7, [9] * 100, 2)
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


def test_two_prompts_take_turns(small):
    """A short prompt does not wait until a long one is done."""
    board, _ = small
    long = raw(board, 0, [9] * 600, 2)
    short = raw(board, 1, [8] * 24, 2)
    done = 0
    while True:
        event = board.transport.listen(60)
        if event.name == "TOKEN":
            break
        done = int(event.payload[0]) if event.sequence == long else done
    assert event.sequence == short and done < 100
    board.board.ask("CLEAR")


def test_nobody_listens(small):
    """The ring of events is full, and the board waits; a command, which it could not take
    otherwise, makes room, and no event is lost."""
    board, _ = small
    running = raw(board, 2, [5], 400)
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
    raw(board, 3, [5], 600)
    board.slots[3]._unsure = True
    board.slots[1].generate([7, 8], 0)
    reference.reset()
    same_logits(board.slots[3], reference, [9, 10])
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

    results = together([lambda: answer(0), lambda: answer(1), clear])
    assert [type(result) for result in results[:2]] == [BoardTaken] * 2
    assert board.slots[0].tokens == [] == board.slots[1].tokens
    assert board.slots[1].generate([7, 8], 5).token_ids == answer_alone(reference, [7, 8], 5)
