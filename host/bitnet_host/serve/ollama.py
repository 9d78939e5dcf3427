"""The routes of Ollama: it answers, and says what it has; models are not pulled or made here."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bitnet_host.model.template import Message
from bitnet_host.run.grammar import Grammar
from bitnet_host.run.session import Prompt, Reply
from bitnet_host.serve.asking import ask
from bitnet_host.serve.engine import Engine, Job, Read
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.messages import chat_prompt, messages_of
from bitnet_host.serve.ollama_models import check_name
from bitnet_host.serve.refused import Refused, error_body
from bitnet_host.serve.respond import Stream, as_line, finished, read_fields

__all__ = ["routes"]


def routes(engine: Engine) -> list[Route]:
    async def chat(request: Request) -> Response:
        fields = await read_fields(request, engine)
        check_name(engine, fields)
        if not fields.objects("messages"):
            return JSONResponse(_loaded(engine, {"message": _message("")}))
        if any(message.get("images") for message in fields.objects("messages")):
            raise Refused(400, "the model reads text only, no images")
        prompt = chat_prompt(engine, messages_of(fields), _template_fields(fields))
        return await _answer(request, engine, fields, prompt, _Chat)

    async def generate(request: Request) -> Response:
        fields = await read_fields(request, engine)
        check_name(engine, fields)
        text = fields.text("prompt")
        if fields.raw("images"):
            raise Refused(400, "the model reads text only, no images")
        if fields.text("suffix"):
            raise Refused(400, "the model cannot fill in before a suffix: leave it out")
        if not text:
            return JSONResponse(_loaded(engine, {"response": ""}))
        return await _answer(request, engine, fields, _generate_prompt(engine, fields, text),
                             _Generate)

    return [Route("/api/chat", chat, methods=["POST"]),
            Route("/api/generate", generate, methods=["POST"])]


def _template_fields(fields: Fields) -> Fields:
    """What of an Ollama request the template may see."""
    think = fields.raw("think")
    kwargs = {"enable_thinking": think} if isinstance(think, bool) else {}
    return Fields({"tools": fields.raw("tools"), "chat_template_kwargs": kwargs})


def _generate_prompt(engine: Engine, fields: Fields, text: str) -> Prompt:
    before = fields.raw("context") or []
    if not isinstance(before, list) or not all(isinstance(token, int) for token in before):
        raise fields.wrong("context", "a list of token ids")
    if fields.flag("raw") or engine.text.template is None:
        return Prompt("", [*before, *(engine.text.encode_part(text) if before
                                      else engine.text.encode_raw(text))])
    system = fields.text("system")
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    prompt = chat_prompt(engine, [*messages, {"role": "user", "content": text}],
                         _template_fields(fields))
    return Prompt("", [*before, *prompt.ids]) if before else prompt


def _grammar(engine: Engine, fields: Fields) -> Grammar | None:
    form = fields.raw("format")
    if form is None or form == "":
        return None
    if form == "json":
        return engine.grammars.json_object()
    if isinstance(form, dict):
        return engine.grammars.schema(form)
    raise fields.wrong("format", "json or a JSON schema")


async def _answer(request: Request, engine: Engine, fields: Fields, prompt: Prompt,
                  kind: type[_Said]) -> Response:
    options = fields.inner("options") or Fields({})
    stream = fields.flag("stream", True)
    told = (max(1, fields.whole("top_logprobs") or 0) if fields.flag("logprobs") else 0)
    job = engine.start([ask(engine, options, prompt, limit=("num_predict",), logprobs=told,
                            grammar=_grammar(engine, fields))])[0]
    said = kind(engine, job)
    if stream:
        # no sign of life: each line is an object, and an empty one would be taken for text
        return Stream(engine, said.chunks(), media_type="application/x-ndjson",
                      alive=as_line(said.piece("")),
                      failure=lambda refused: as_line(error_body(refused, "/api/chat")))
    await finished(request, [job])
    return JSONResponse(said.end(job.reply, job.reply.text))


def _message(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _loaded(engine: Engine, more: dict[str, Any]) -> dict[str, Any]:
    """For a request without anything to answer, which loads a model where it is not loaded."""
    return {"model": engine.settings.name, "created_at": _now(), **more, "done": True,
            "done_reason": "load"}


class _Said:
    """An answer in objects of this API."""

    def __init__(self, engine: Engine, job: Job) -> None:
        self.engine, self.job = engine, job
        self._start = time.monotonic()

    def text(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def more(self, reply: Reply) -> dict[str, Any]:
        return {}

    def piece(self, text: str) -> dict[str, Any]:
        return {"model": self.engine.settings.name, "created_at": _now(), **self.text(text),
                "done": False}

    def end(self, reply: Reply, text: str = "") -> dict[str, Any]:
        """The last object, with durations in nanoseconds."""
        timing = self.job.timing
        reason = "stop" if reply.stop_reason in ("stop", "text", "cancel") else "length"
        return self.piece(text) | {
            "done": True, "done_reason": reason, **self.more(reply),
            "total_duration": round(1e9 * (time.monotonic() - self._start)), "load_duration": 0,
            "prompt_eval_count": timing.prompt,
            "prompt_eval_duration": round(1e9 * timing.prompt_seconds),
            "eval_count": timing.said, "eval_duration": round(1e9 * timing.seconds)}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        async for event in self.job:
            if not isinstance(event, Read) and event.text:
                yield as_line(self.piece(event.text))
        yield as_line(self.end(self.job.reply))


class _Chat(_Said):
    def text(self, text: str) -> dict[str, Any]:
        return {"message": _message(text)}


class _Generate(_Said):
    def text(self, text: str) -> dict[str, Any]:
        return {"response": text}

    def more(self, reply: Reply) -> dict[str, Any]:
        return {"context": [*self.job.ask.prompt.ids, *reply.answer.token_ids]}
