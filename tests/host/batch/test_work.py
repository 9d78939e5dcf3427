"""Requests of a batch that get in each other's way, and boards of a cluster that come and go."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from bitnet_host import Cancel, LinkError, Pool, open_board
from bitnet_host.batch.cluster import Cluster, _Board
from bitnet_host.batch.requests import Request
from bitnet_host.batch.work import answers
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.model.text import TextModel
from bitnet_host.serve.model import Model
from serving import quick_image

REQUESTS = [Request(line, line, {"prompt": [line + 1] * 150, "max_tokens": 60}, "k", 0)
            for line in range(1, 7)]


def test_conversations_that_do_not_fit_side_by_side():
    """Each has a cache of 210 tokens, and there are 256 for four slots: all are whole."""
    shape = "hidden=32,intermediate=32,layers=1,heads=1,kv_heads=1,head_dim=32,vocab=128"
    checkpoint = synthetic_checkpoint(parse_shape(f"{shape},context=256"), 0.6, 2)
    meta = quick_image().meta
    checkpoint.tokenizer, checkpoint.special = meta["tokenizer"], meta["special"]
    image = convert(checkpoint, cache_tokens=256)
    model = Model(image, TextModel(image), {})
    pool = Pool(["reference"], image, 4)
    rows = list(answers(model, pool, REQUESTS, Cancel()))
    pool.close()
    assert sorted(row["line"] for row in rows) == [1, 2, 3, 4, 5, 6]
    with open_board("reference", image) as alone:
        for row in rows:
            alone.reset()
            right = alone.generate(REQUESTS[row["line"] - 1].body["prompt"], 60)
            assert row["stop_reason"] == "length" and row["usage"]["completion_tokens"] == 60
            assert row["text"] == model.text.decode(right.token_ids)


# -- a cluster whose actors do as a script says ----------------------------------------------------


class _Reference:
    def __init__(self, value, event=None):
        self.value, self.event = value, event


class _Ray:
    """Answers are (seconds that they take, what comes)."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def wait(self, references, timeout):
        limit = time.monotonic() + timeout
        while time.monotonic() < limit:
            ready = [one for one in references if one.event.is_set()]
            if ready:
                return ready, []
            time.sleep(0.01)
        return [], references

    def get(self, reference):
        value = reference.value
        if isinstance(value, Exception):
            raise value
        return value


def _cluster(script, count=1, patience=0.4):
    """Of one board; what is asked of it is in ``asked``."""
    asked = []

    def remote(held, request, alone):
        seconds, value = script[len(asked)]
        asked.append((request.line, alone))
        event = threading.Event()
        threading.Timer(seconds, event.set).start()
        return _Reference({"line": request.line} if value is True else value, event)

    cluster = Cluster.__new__(Cluster)
    cluster._ray, cluster._patience, cluster._held = _Ray(), patience, None
    board = _Board("one", SimpleNamespace(answer=SimpleNamespace(remote=remote)))
    board.count = count
    cluster._boards = [board]
    return cluster, asked


def _lines(cluster, requests):
    return [row["line"] for row in cluster.answers(requests, Cancel())]


def test_a_board_that_fails_after_a_long_answer():
    """It has its time to come back from then on, not from the last row."""
    cluster, asked = _cluster([(0.8, "gone"), (0, True)], patience=1.0)
    assert _lines(cluster, REQUESTS[:1]) == [1] and len(asked) == 2


def test_a_board_that_stays_away():
    cluster, asked = _cluster([(0, "gone")] * 9, patience=0.9)
    start = time.monotonic()
    with pytest.raises(LinkError, match="no board is there: gone"):
        _lines(cluster, REQUESTS[:1])
    assert 0.8 < time.monotonic() - start < 3 and len(asked) > 1


def test_an_actor_that_dies():
    cluster, _ = _cluster([(0, _Ray.exceptions.RayError("killed\nand more")), (0, True)],
                          patience=2.0)
    assert _lines(cluster, REQUESTS[:1]) == [1]
    assert cluster._boards[0].error == ""


def test_requests_that_are_crowded_out():
    """They are repeated with fewer beside them, at the end alone."""
    cluster, asked = _cluster([(0.05, None), (0.1, None), (0, True), (0, True), (0, True)], count=2)
    assert sorted(_lines(cluster, REQUESTS[:3])) == [1, 2, 3]
    assert [alone for _, alone in asked] == [False, False, True, True, True]


def test_an_actor_that_does_not_start():
    cluster, _ = _cluster([])
    value = _Ray.exceptions.RayError("ModuleNotFoundError: bitnet_host")
    cluster._boards[0].actor.open = SimpleNamespace(
        remote=lambda held: _Reference(value))
    with pytest.raises(LinkError, match=r"actor for one does not run.*ModuleNotFound"):
        cluster._open()
