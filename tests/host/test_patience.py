"""How long a host waits for a board that says nothing."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from bitnet_host.run import shared
from bitnet_host.run.shared import ANSWER_TIMEOUT, Patience


@pytest.fixture
def wait(monkeypatch):
    """A board whose ``state`` the test sets, and whether somebody who asks ``every`` so many
    seconds is still patient after ``seconds``."""
    now = [1000.0]
    monkeypatch.setattr(shared, "time", SimpleNamespace(monotonic=lambda: now[0]))
    board = SimpleNamespace(
        simulator=None, exchange=SimpleNamespace(told=nullcontext), state=(1, 0, 30),
        transport=SimpleNamespace(progress=lambda: board.state))
    patience = Patience(board)

    def patient(seconds, every=0.25, gets_on=False):
        for step in range(int(seconds / every)):
            now[0] += every
            if gets_on:
                board.state = (1, step, 30)
            if patience.is_over():
                return False
        return True

    return SimpleNamespace(board=board, patient=patient, heard=patience.heard)


def test_it_ends_with_a_board_that_does_not_get_on(wait):
    assert wait.patient(ANSWER_TIMEOUT - 10) and not wait.patient(20)


def test_it_lasts_while_the_board_gets_on_but_not_for_ever(wait):
    assert wait.patient(599, gets_on=True) and not wait.patient(2, gets_on=True)


def test_a_simulated_board_has_longer(wait):
    wait.board.simulator = object()
    patience = Patience(wait.board)
    assert patience._most == 7200


def test_a_word_begins_it_anew(wait):
    for _ in range(4):
        assert wait.patient(ANSWER_TIMEOUT - 10)
        wait.heard()


def test_what_was_not_looked_at_may_have_got_on(wait):
    """A thread that could not ask for a while finds the board at the same place of a later
    pass."""
    assert wait.patient(20) and wait.patient(500, every=250)
    assert not wait.patient(ANSWER_TIMEOUT + 10)
