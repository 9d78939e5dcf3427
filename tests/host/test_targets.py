"""BoardTarget against a board that is a script: what it sends, and when it stops."""

from __future__ import annotations

import numpy as np
import pytest
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.transport import Event, Transport
from bitnet_host.run.protocol import GENERATE_FIELDS, MAX_PAYLOAD, STATS_FIELDS, STOP_REASONS
from bitnet_host.run.sampling import Sampling
from bitnet_host.run.target import Cancel

_PART = MAX_PAYLOAD - len(GENERATE_FIELDS)


class _Script(Transport):
    """Answers GENERATE with progress and statistics; a cancelled one ends after eight tokens."""

    name = "script"

    def __init__(self) -> None:
        self.sent: list[tuple[int, list[int]]] = []
        self.cancels = 0

    def ready(self):
        """A script always is."""

    def send(self, command, payload=()):
        assert command == "GENERATE" and len(payload) <= MAX_PAYLOAD
        fields = dict(zip(GENERATE_FIELDS, payload, strict=False))
        self.sent.append((fields["max_tokens"], list(payload[len(GENERATE_FIELDS):])))
        self.steps = iter(("PROGRESS", "STATS"))
        self.cancelled = False
        return len(self.sent)

    def listen(self, timeout):
        name, count = next(self.steps), len(self.sent[-1][1])
        if name == "PROGRESS":
            return Event(len(self.sent), name, np.array([8, count], np.uint32))
        stats = {"stop_reason": STOP_REASONS["cancel" if self.cancelled else "length"],
                 "prefill_cycles_low": 100,
                 "prefill_tokens": 8 if self.cancelled else count, "position": 0}
        return Event(len(self.sent), name,
                     np.array([stats.get(field, 0) for field in STATS_FIELDS], np.uint32))

    def speed_up(self):
        raise AssertionError("nothing large is sent")

    def progress(self):
        return 0, 0, 0

    def cancel(self, slot, sequence):
        assert (slot, sequence) == (0, len(self.sent))
        self.cancels += 1
        self.cancelled = True

    def write_ddr(self, offset, words):
        pytest.fail("generating writes no memory")

    def read_ddr(self, offset, count):
        pytest.fail("generating reads no memory")

    def close(self):
        """A script holds no line."""


@pytest.mark.parametrize("cancel_in,sent,done",
                         [(None, 3,
                           2 * _PART + 100), (0, 1, 8), (1, 2, _PART + 8), (2, 3, 2 * _PART + 8)])
def test_long_prompts_go_in_parts_until_cancelled(monkeypatch, cancel_in, sent, done):
    board = _Script()
    target = BoardTarget(convert(open_checkpoint(BUNDLED)), board)
    # longer than the bundled model's context
    monkeypatch.setattr(target, "check_prompt", lambda prompt: None)
    target._unsure, cancel = False, Cancel()
    prompt = list(range(2 * _PART + 100))

    def progress(*_):
        if cancel_in is not None and len(board.sent) == cancel_in + 1:
            cancel.set()

    answer = target.generate(prompt, 5, Sampling(), lambda _: None, progress, cancel=cancel)
    assert [len(part) for _, part in board.sent] == [_PART, _PART, 100][:sent]
    told = [token for _, part in board.sent for token in part]
    assert told == prompt[:len(told)]
    assert [most for most, _ in board.sent] == [0, 0, 5][:sent]
    assert board.cancels == (cancel_in is not None)
    assert answer.stop_reason == ("length" if cancel_in is None else "cancel")
    assert answer.prompt_tokens == done and answer.prefill_cycles == 100 * sent


def test_ctrl_c_while_a_command_waits_for_the_board_ends_at_once(monkeypatch):
    """Nothing is under way then, and the command before it was answered."""
    board = _Script()
    target = BoardTarget(convert(open_checkpoint(BUNDLED)), board)
    monkeypatch.setattr(target, "check_prompt", lambda prompt: None)
    target._unsure = False
    target.generate([1, 2, 3], 0, Sampling(), lambda _: None)

    def interrupted():
        raise KeyboardInterrupt

    def listen(timeout):
        raise AssertionError("nobody answers")

    board.ready, board.listen = interrupted, listen
    with pytest.raises(KeyboardInterrupt):
        target.generate([1, 2, 3], 0, Sampling(), lambda _: None)
    assert board.cancels == 0 and target._unsure
