"""POST /v1/chat/completions, as OpenAI has it, with llama-server's additions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bitnet_host.run.session import Reply, Token
from bitnet_host.serve.asking import ask, grammar_of
from bitnet_host.serve.board import board_fields
from bitnet_host.serve.engine import Engine, Job, Read
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.messages import chat_prompt, messages_of
from bitnet_host.serve.parts import (
    FINGERPRINT,
    Tokens,
    finish_reason,
    identifier,
    progress_fields,
    usage_fields,
    verbose_fields,
)
from bitnet_host.serve.refused import Refused, error_body
from bitnet_host.serve.respond import Stream, as_event, finished, merged, read_fields

__all__ = ["choices_of", "routes", "top_logprobs"]

_PATH = "/v1/chat/completions"
_MOST_CHOICES = 16


def top_logprobs(fields: Fields) -> int:
    """Alternatives to tell of each token; 0 if nobody asks for probabilities."""
    most = fields.whole("top_logprobs")
    if not fields.flag("logprobs"):
        return 0
    return max(1, most or 0)


def choices_of(fields: Fields) -> int:
    """How many answers a request wants."""
    count = fields.whole("n")
    if count is not None and not 1 <= count <= _MOST_CHOICES:
        raise fields.wrong("n", f"a whole number from 1 to {_MOST_CHOICES}")
    return count or 1


def routes(engine: Engine) -> list[Route]:
    async def complete(request: Request) -> Response:
        fields = await read_fields(request, engine)
        answer = _Answer(engine, fields)
        if fields.flag("stream"):
            return Stream(engine, answer.chunks(),
                          failure=lambda refused: as_event(error_body(refused, _PATH)))
        return JSONResponse(answer.whole(await finished(request, answer.jobs)))

    async def count(request: Request) -> Response:
        fields = await read_fields(request, engine)
        prompt = chat_prompt(engine, messages_of(fields), fields)
        return JSONResponse({"input_tokens": len(prompt.ids), "object": "response.input_tokens"})

    return [*(Route(path, complete, methods=["POST"]) for path in (_PATH, "/chat/completions")),
            *(Route(f"{path}/input_tokens", count, methods=["POST"])
              for path in (_PATH, "/chat/completions"))]


def _begin(engine: Engine, fields: Fields) -> list[Job]:
    # what is wrong is said before anything begins
    told, count, grammar = top_logprobs(fields), choices_of(fields), grammar_of(engine, fields)
    fields.flag("stream")
    if fields.raw("tool_choice") not in (None, "auto", "none"):
        raise Refused(400, "the model calls no tools: leave tool_choice out",
                      param="tool_choice")
    prompt = chat_prompt(engine, messages_of(fields), fields)
    asks = [ask(engine, fields, prompt, limit=("max_completion_tokens", "max_tokens", "n_predict"),
                logprobs=told, grammar=grammar, choice=choice) for choice in range(count)]
    return engine.start(asks)


class _Answer:
    def __init__(self, engine: Engine, fields: Fields) -> None:
        self._engine = engine
        options = fields.inner("stream_options")
        self._usage = options is not None and options.flag("include_usage")
        self._timings = fields.flag("timings_per_token")
        self._progress = fields.flag("return_progress")
        self._logprobs = bool(top_logprobs(fields))
        self._verbose = fields.flag("verbose", engine.settings.verbose)
        self._head = {"id": identifier("chatcmpl-"), "created": int(time.time()),
                      "model": engine.settings.name, "system_fingerprint": FINGERPRINT}
        self.jobs = _begin(engine, fields)  # last: what is refused has begun nothing

    def _tokens(self) -> Tokens:
        return Tokens(self._engine.text, self._engine.image.stop_tokens)

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        choices = []
        for place, (job, reply) in enumerate(zip(self.jobs, replies, strict=True)):
            choice: dict[str, Any] = {
                "index": place, "message": {"role": "assistant", "content": reply.text},
                "logprobs": None, "finish_reason": finish_reason(reply)}
            if self._logprobs:
                tokens = self._tokens()
                choice["logprobs"] = {"content": [
                    one for token in job.tokens if (told := tokens.add(token))
                    for one in tokens.probabilities(told, token.text)]}
            choices.append(choice)
        more = {"__verbose": verbose_fields(self._engine, self.jobs[0])} if self._verbose else {}
        return {**self._head, "object": "chat.completion", "choices": choices,
                "usage": usage_fields(replies), **self._end(replies, self.jobs[0]), **more}

    def _end(self, replies: Sequence[Reply], job: Job) -> dict[str, Any]:
        """What the last object of an answer has beside OpenAI's fields."""
        return {"timings": job.timing.fields(), **board_fields(self._engine.image, replies)}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events up to [DONE]."""
        tokens = [self._tokens() for _ in self.jobs]
        begun = [False for _ in self.jobs]
        async for place, event in merged(self.jobs):
            if not begun[place]:
                begun[place] = True
                yield self._chunk(place, {"role": "assistant", "content": None}, {})
            job = self.jobs[place]
            if isinstance(event, Read):
                if self._progress:
                    more = {"prompt_progress": progress_fields(job, event)}
                    if self._timings:
                        more["timings"] = job.timing.fields(event.processed, event.cached)
                    yield self._chunk(place, {}, more)
            elif event is None:
                yield self._chunk(place, {}, self._end([job.reply], job), finish_reason(job.reply))
            else:
                told = tokens[place].add(event)
                if event.text:
                    yield self._said(place, tokens[place], told, event)
        if self._usage:
            replies = [job.reply for job in self.jobs]
            yield as_event({**self._head, "object": "chat.completion.chunk", "choices": [],
                            "usage": usage_fields(replies), **self._end(replies, self.jobs[0])})
        yield as_event("[DONE]")

    def _said(self, place: int, tokens: Tokens, told: Sequence[Token], event: Token) -> bytes:
        logprobs = ({"content": tokens.probabilities(told, event.text)} if self._logprobs
                    else None)
        more = {"timings": self.jobs[place].timing.fields()} if self._timings else {}
        return self._chunk(place, {"content": event.text}, more, logprobs=logprobs)

    def _chunk(self, place: int, delta: dict[str, Any], more: dict[str, Any],
               reason: str | None = None, logprobs: dict[str, Any] | None = None) -> bytes:
        choice = {"index": place, "delta": delta, "finish_reason": reason}
        if logprobs:
            choice["logprobs"] = logprobs
        return as_event({**self._head, "object": "chat.completion.chunk", "choices": [choice],
                         **more})
