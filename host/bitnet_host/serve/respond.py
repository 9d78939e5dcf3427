"""Reading requests and writing responses: within limits of size and time, and with an end if the
client is gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from bitnet_host.run.session import Reply, Token
from bitnet_host.serve.engine import Engine, Job, Read
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.refused import Refused, error_body

__all__ = ["Stream", "as_event", "as_line", "finished", "merged", "read_fields", "refused_response"]

_log = logging.getLogger("bitnet_host.serve")


async def read_fields(request: Request, engine: Engine) -> Fields:
    """The JSON object that a request holds. Raises Refused."""
    try:
        body = await asyncio.wait_for(_body(request, engine.settings.most_bytes),
                                      engine.settings.patience)
    except TimeoutError:
        raise Refused(408, "the request did not arrive in time") from None
    except ClientDisconnect:
        raise Refused(400, "the request has no end") from None
    try:
        return Fields(json.loads(body or b"{}"))
    except (ValueError, RecursionError):
        raise Refused(400, "the body of the request is no JSON") from None


async def _body(request: Request, most: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Refused(413, f"the request is longer than {most} bytes")
        parts.append(part)
    return b"".join(parts)


def refused_response(refused: Refused, path: str) -> Response:
    return JSONResponse(error_body(refused, path), refused.status, refused.headers)


async def _gone(receive: Receive) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def finished(request: Request, jobs: Sequence[Job]) -> list[Reply]:
    """The whole answers. Raises Refused if the client does not wait for them."""
    answers = asyncio.gather(*(job.whole() for job in jobs))
    gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({answers, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            raise Refused(499, "the client closed the connection")
        return answers.result()
    finally:
        for job in jobs:
            job.cancel()
        for task in (answers, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def merged(jobs: Sequence[Job]) -> AsyncIterator[tuple[int, Token | Read | None]]:
    """What several answers have so far, each with the place of its answer; None is its end."""
    events: asyncio.Queue[tuple[int, Token | Read | None] | Exception] = asyncio.Queue()

    async def follow(place: int, job: Job) -> None:
        try:
            async for event in job:
                events.put_nowait((place, event))
            events.put_nowait((place, None))
        except Exception as error:  # told to whoever follows all
            events.put_nowait(error)

    tasks = [asyncio.create_task(follow(place, job)) for place, job in enumerate(jobs)]
    left = len(jobs)
    try:
        while left:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            left -= event[1] is None
            yield event
    finally:
        for job, task in zip(jobs, tasks, strict=True):
            job.cancel()
            task.cancel()


def as_event(data: Any, name: str = "") -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n" if name else ""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"{head}data: {text}\n\n".encode()


def as_line(data: Any) -> bytes:
    """A line of NDJSON."""
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


class Stream(Response):
    """Sends ``chunks`` as they come. Nothing is sent before the first, so that what is refused
    until then has its own status. ``alive`` is sent when there was nothing else for a while;
    ``failure`` makes a chunk of a refusal that comes later."""

    def __init__(self, engine: Engine, chunks: AsyncGenerator[bytes, None], *,
                 failure: Callable[[Refused], bytes], media_type: str = "text/event-stream",
                 alive: bytes = b": still here\n\n") -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-cache",
                                                         "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._engine, self._chunks, self._failure = engine, chunks, failure
        self._alive, self._started = alive, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(receive))
        chunk: asyncio.Future[Any] = asyncio.ensure_future(self._next())
        try:
            while True:
                done, _ = await asyncio.wait({gone, chunk}, timeout=self._engine.settings.silence,
                                             return_when=asyncio.FIRST_COMPLETED)
                if gone in done:
                    return
                if chunk not in done:
                    await self._send(send, self._alive)
                    continue
                data = chunk.result()
                if data is None:
                    break
                await self._send(send, data)
                chunk = asyncio.ensure_future(self._next())
            await self._send(send, b"", more=False)
        except TimeoutError:  # it does not read
            _log.info("a client does not read its answer, which ends")
        except Exception as error:
            await self._fail(error, scope, receive, send)
        finally:
            gone.cancel()
            chunk.cancel()
            for task in (gone, chunk):
                with suppress(asyncio.CancelledError, Exception):
                    await task
            await self._chunks.aclose()

    async def _next(self) -> bytes | None:
        return await anext(self._chunks, None)

    async def _send(self, send: Send, data: bytes, more: bool = True) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if data or not more:
            await asyncio.wait_for(send({"type": "http.response.body", "body": data,
                                         "more_body": more}), self._engine.settings.patience)

    async def _fail(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._engine.refusal(error)
        if refused.status >= 500:
            _log.warning("an answer failed: %s", error, exc_info=refused.status == 500)
        if not self._started:
            await refused_response(refused, scope["path"])(scope, receive, send)
            return
        with suppress(TimeoutError):
            await self._send(send, self._failure(refused))
            await self._send(send, b"", more=False)
