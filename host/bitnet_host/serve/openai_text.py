"""POST /v1/completions, as OpenAI has it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bitnet_host.run.session import Reply, Token
from bitnet_host.serve.asking import ask, grammar_of
from bitnet_host.serve.engine import Engine, Job, Read
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.messages import text_prompts
from bitnet_host.serve.openai_chat import choices_of
from bitnet_host.serve.parts import (
    FINGERPRINT,
    Tokens,
    finish_reason,
    identifier,
)
from bitnet_host.serve.refused import Refused, error_body
from bitnet_host.serve.respond import Stream, as_event, finished, merged, read_fields

__all__ = ["routes"]

_PATH = "/v1/completions"


def routes(engine: Engine) -> list[Route]:
    async def complete(request: Request) -> Response:
        fields = await read_fields(request, engine)
        answer = _Answer(engine, fields)
        if fields.flag("stream"):
            return Stream(engine, answer.chunks(),
                          failure=lambda refused: as_event(error_body(refused, _PATH)))
        return JSONResponse(answer.whole(await finished(request, answer.jobs)))

    return [Route(_PATH, complete, methods=["POST"])]


class _Answer:
    def __init__(self, engine: Engine, fields: Fields) -> None:
        if fields.text("suffix"):
            raise Refused(400, "the model cannot fill in before a suffix: leave it out",
                          param="suffix")
        self._engine, self._logprobs = engine, fields.whole("logprobs") or 0
        count, grammar = choices_of(fields), grammar_of(engine, fields)
        self._echo = fields.flag("echo")
        fields.flag("stream")
        options = fields.inner("stream_options")
        self._usage = options is not None and options.flag("include_usage")
        prompts, _ = text_prompts(engine, fields.raw("prompt"))
        asks = [ask(engine, fields, prompt, limit=("max_tokens", "n_predict"),
                    logprobs=self._logprobs, grammar=grammar, choice=choice)
                for prompt in prompts for choice in range(count)]
        self._head = {"id": identifier("cmpl-"), "object": "text_completion",
                      "created": int(time.time()), "model": engine.settings.name,
                      "system_fingerprint": FINGERPRINT}
        self._choices = count
        self.jobs = engine.start(asks)

    def _before(self, job: Job) -> str:
        return self._engine.text.decode(job.ask.prompt.ids) if self._echo else ""

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        choices = [self._choice(place, self._before(job) + reply.text, finish_reason(reply),
                                job.tokens)
                   for place, (job, reply) in enumerate(zip(self.jobs, replies, strict=True))]
        return {**self._head, "choices": choices, "usage": self._usage_of(replies),
                "timings": self.jobs[0].timing.fields()}

    def _usage_of(self, replies: Sequence[Reply]) -> dict[str, Any]:
        read = replies[::self._choices]
        prompt = sum(reply.usage.prompt for reply in read)
        said = sum(reply.usage.completion for reply in replies)
        return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said,
                "prompt_tokens_details": {
                    "cached_tokens": sum(reply.usage.cached for reply in read)}}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events up to [DONE]."""
        held: list[list[Token]] = [[] for _ in self.jobs]
        for place, job in enumerate(self.jobs if self._echo else ()):
            yield as_event({**self._head, "choices": [self._choice(place, self._before(job))]})
        async for place, event in merged(self.jobs):
            job = self.jobs[place]
            if event is None:
                choice = self._choice(place, "", finish_reason(job.reply))
                yield as_event({**self._head, "choices": [choice],
                                "timings": job.timing.fields()})
            elif not isinstance(event, Read):
                held[place].append(event)
                if event.text:
                    yield as_event({**self._head, "choices": [
                        self._choice(place, event.text, None, held[place])]})
                    held[place] = []
        if self._usage:
            yield as_event({**self._head, "choices": [],
                            "usage": self._usage_of([job.reply for job in self.jobs])})
        yield as_event("[DONE]")

    def _choice(self, place: int, text: str, reason: str | None = None,
                tokens: Sequence[Token] = ()) -> dict[str, Any]:
        return {"index": place, "text": text, "finish_reason": reason,
                "logprobs": self._told(tokens) if self._logprobs and tokens else None}

    def _told(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """Probabilities in the form of this route, which is older than that of chats."""
        keeper = Tokens(self._engine.text, self._engine.image.stop_tokens)
        ones = [one for token in tokens if (told := keeper.add(token))
                for one in keeper.probabilities(told, token.text)]
        offsets, length = [], 0
        for one in ones:
            offsets.append(length)
            length += len(one["token"])
        return {"tokens": [one["token"] for one in ones],
                "token_logprobs": [one["logprob"] for one in ones],
                "top_logprobs": [{top["token"]: top["logprob"] for top in one["top_logprobs"]}
                                 for one in ones],
                "text_offset": offsets, "content": ones}
