"""What is counted and timed, and what is told of boards that are away."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest
from bitnet_host import BadArgument, BoardError, LinkError, OutOfContext, open_board
from bitnet_host.run.session import Reply, Usage
from bitnet_host.run.target import Answer
from bitnet_host.serve.metrics import Metrics
from bitnet_host.serve.refused import error_body, refusal
from bitnet_host.serve.timing import Timing
from serving import quick_image, serving


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("bitnet_host.serve.timing.time.monotonic", lambda: now[0])
    return now


def _timing(clock, drafted=0):
    """Of 20 tokens, 5 of them cached: read in 3 s; and 5 that are written in 2 s."""
    timing = Timing(20)
    timing.begin()
    clock[0] += 3
    for _ in range(5):
        timing.token()
        clock[0] += 0.5
    timing.end(Reply("x", "stop", Usage(20, 5, 5),
                     Answer(drafts=drafted // 4, drafted_tokens=drafted,
                            accepted_tokens=drafted // 2)))
    return timing


def test_times(clock):
    assert _timing(clock).fields() == {
        "cache_n": 5, "prompt_n": 15, "prompt_ms": 3000, "prompt_per_token_ms": 200,
        "prompt_per_second": 5, "predicted_n": 5, "predicted_ms": 2000,
        "predicted_per_token_ms": 500, "predicted_per_second": 2}
    assert Timing(20).fields()["prompt_per_second"] == 0  # it has not begun
    told = _timing(clock, 4).fields()
    assert (told["draft_n"], told["draft_n_accepted"]) == (4, 2)


def _values(metrics, boards=()):
    engine = SimpleNamespace(running={1: 1}, waiting=3, pool=SimpleNamespace(boards=boards))
    lines = metrics.text(engine).splitlines()
    return {name: float(value) for name, value in
            (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_counters(clock):
    metrics = Metrics()
    counters = {name: {"moving": 10, "stall_memory": 4, "stall_compute": 0, "stall_control": 0}
                for name in ("qkv", "head")}
    for answer in (Answer(counters=counters), None):
        metrics.count(SimpleNamespace(timing=_timing(clock, 4), busy=2, answer=answer))
    values = _values(metrics)
    assert {name.removeprefix("llamacpp:"): value for name, value in values.items()
            if name.startswith("llamacpp:") and value} == {
        "prompt_tokens_total": 30, "prompt_tokens_cached_total": 10, "prompt_seconds_total": 6,
        "tokens_predicted_total": 10, "tokens_predicted_seconds_total": 4, "n_decode_total": 38,
        "n_tokens_max": 25, "prompt_tokens_seconds": 5, "predicted_tokens_seconds": 2,
        "requests_processing": 1, "requests_deferred": 3, "n_busy_slots_per_decode": 2,
        "spec_decode_num_drafts_total": 2,
        "spec_decode_num_draft_tokens_total": 8, "spec_decode_num_accepted_tokens_total": 4}
    assert values["bitnet:bytes_total"] == 2 * 10 * 32 * 4  # four tokens after the first
    assert values["bitnet:stall_memory_cycles_total"] == 2 * 4 * 4


def test_a_name_is_quoted():
    boards = [SimpleNamespace(name='a"\\b', error="")]
    assert _values(Metrics(), boards)['bitnet:board_up{board="0",target="a\\"\\\\b"}'] == 1


def test_boards_that_are_away():
    """One of two is told; without any, the server is not well."""
    opened = []

    def once(name, image, progress):
        if name in opened:
            raise LinkError(f"{name} is gone")
        opened.append(name)
        return open_board("reference", image)

    with serving(quick_image(), targets=("one", "two"), open_one=once) as (url, pool):
        assert httpx.get(f"{url}/health").json()["status"] == "ok"
        for name, status, up in (("one", 200, [0, 1]), ("two", 503, [0, 0])):
            board = next(board for board in pool._boards if board.name == name)
            pool._lose(board, board.slots, LinkError(f"{name} is gone"))
            health = httpx.get(f"{url}/health")
            assert health.status_code == status
            if status == 200:
                assert [one["status"] for one in health.json()["boards"]] == ["away", "ok"]
            else:
                assert "no board is there: one is gone" in health.text
                assert int(health.headers["retry-after"]) > 0
            text = httpx.get(f"{url}/metrics").text
            assert [f'target="{board}"}} {here}\n' in text
                    for board, here in zip(("one", "two"), up, strict=True)] == [True, True]


@pytest.mark.parametrize("error,status,kind", [
    (OutOfContext("long", 300), 400, "exceed_context_size_error"),
    (BadArgument("wrong"), 400, "invalid_request_error"),
    (LinkError("gone"), 503, "unavailable_error"),
    (BoardError("gone", 5), 503, "unavailable_error"),
])
def test_errors(error, status, kind):
    refused = refusal(error, 256)
    assert (refused.status, refused.kind) == (status, kind)
    assert bool(refused.headers.get("Retry-After")) == (status == 503)
    assert error_body(refused, "/v1/chat/completions")["error"]["message"] == str(error)
    assert error_body(refused, "/api/chat") == {"error": str(error)}
    assert error_body(refused, "/v1/messages")["error"]["type"] == (
        "overloaded_error" if status == 503 else kind)
