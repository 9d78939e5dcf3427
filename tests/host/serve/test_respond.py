"""What of an answer reaches a client, part by part."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest
from bitnet_host import Sampling
from bitnet_host.model.text import TextModel
from bitnet_host.run.session import Prompt, Token
from bitnet_host.serve.engine import Job
from bitnet_host.serve.model import Ask
from bitnet_host.serve.parts import Tokens
from bitnet_host.serve.refused import Refused
from bitnet_host.serve.respond import Stream, merged
from bitnet_host.serve.settings import Settings
from serving import quick_image


def test_tokens_wait_for_their_text():
    """Those of half a character come with its rest; one that ends the answer never does."""
    tokens = Tokens(TextModel(quick_image()), frozenset({9}))
    half, rest, plain = Token(1, ""), Token(2, "é"), Token(3, "a")
    assert tokens.add(half) == []
    assert tokens.add(rest) == [half, rest]
    assert tokens.add(Token(9, "")) == []
    assert tokens.add(plain) == [plain]
    assert tokens.add(Token(9, "<end>")) == []


def _job(ended):
    return Job(Ask(Prompt("x", [1, 2]), 5, Sampling()), ended)


def test_the_end_is_counted_before_the_client_hears_of_it():
    """Who asks for the slots next finds this one free."""
    heard = []

    async def run():
        job = _job(lambda job: heard.append(job._events.empty()))
        job._take(Token(1, "a"))
        assert heard == []
        await job._events.get()
        job._take(Refused(500, "x"))
    asyncio.run(run())
    assert heard == [True]


class _Stream:
    """A stream of ``chunks``, and what it did."""

    def __init__(self, chunks, **settings):
        self.ended, self.sent = [], []
        engine = SimpleNamespace(settings=Settings(**settings), refusal=lambda error: error)
        self.stream = Stream(engine, self._chunks(chunks), alive=b"ALIVE",
                             failure=lambda refused: refused.args[0].encode())

    async def _chunks(self, chunks):
        try:
            for chunk in chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                if isinstance(chunk, float):
                    await asyncio.sleep(chunk)
                else:
                    yield chunk
        finally:
            self.ended.append(True)

    def run(self, send=None, gone=None):
        async def receive():
            await asyncio.sleep(60 if gone is None else gone)
            return {"type": "http.disconnect"}

        async def take(message):
            self.sent.append(message.get("body", message.get("status")))
            if send is not None:
                await send(message)

        async def run():
            await self.stream({"type": "http", "path": "/v1/chat/completions"}, receive, take)
            assert self.ended == [True]  # not when somebody collects what is left
        asyncio.run(run())
        return self.sent


def test_a_stream():
    assert _Stream([b"a", b"b"]).run() == [200, b"a", b"b", b""]
    assert _Stream([b"a", 0.25, b"b"], silence=0.1).run() == [200, b"a", b"ALIVE", b"ALIVE", b"b",
                                                              b""]
    assert _Stream([b"a", Refused(503, "no")]).run() == [200, b"a", b"no", b""]
    assert _Stream([Refused(503, "no")]).run()[0] == 503


@pytest.mark.parametrize("chunks", [[b"a", 30.0], [b"a"] * 1000])
def test_a_stream_whose_client_leaves(chunks):
    sent = _Stream(chunks, silence=60).run(send=lambda message: asyncio.sleep(0.01), gone=0.1)
    assert sent[-1] == b"a" and len(sent) < 100


def test_a_stream_that_nobody_reads(caplog):
    """It ends, and that is no fault of the server."""
    async def stuck(message):
        await asyncio.sleep(30 if message["type"] == "http.response.body" else 0)

    with caplog.at_level(logging.INFO, "bitnet_host.serve"):
        assert _Stream([b"a"] * 5, patience=0.1).run(send=stuck) == [200, b"a"]
    assert ["does not read" in record.message for record in caplog.records] == [True]


def test_answers_side_by_side():
    """Each with its place and its end; when one fails, the others are cancelled."""
    async def run():
        jobs = [_job(lambda job: None) for _ in range(2)]
        for job, text in zip(jobs, "ab", strict=True):
            job._take(Token(1, text))
        events = merged(jobs)
        found = [await anext(events), await anext(events)]
        assert sorted((place, event.text) for place, event in found) == [(0, "a"), (1, "b")]
        jobs[0]._take(Refused(500, "x"))
        with pytest.raises(Refused):
            await anext(events)
        assert jobs[1].cancelled
    asyncio.run(run())
