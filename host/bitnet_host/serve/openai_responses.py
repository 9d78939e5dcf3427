"""POST /v1/responses, as OpenAI has it, without tools and without memory of earlier responses."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bitnet_host.model.template import Message
from bitnet_host.run.grammar import Grammar
from bitnet_host.run.session import Reply
from bitnet_host.serve.asking import ask
from bitnet_host.serve.engine import Engine, Job, Read
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.messages import chat_prompt, content_text, messages_of
from bitnet_host.serve.parts import identifier, progress_fields
from bitnet_host.serve.refused import Refused
from bitnet_host.serve.respond import Stream, as_event, finished, read_fields

__all__ = ["routes"]


def routes(engine: Engine) -> list[Route]:
    async def respond(request: Request) -> Response:
        fields = await read_fields(request, engine)
        answer = _Answer(engine, fields)
        if fields.flag("stream"):
            return Stream(engine, answer.chunks(), failure=answer.failed)
        await finished(request, [answer.job])
        return JSONResponse(answer.response("completed"))

    return [Route(path, respond, methods=["POST"]) for path in ("/v1/responses", "/responses")]


def _conversation(fields: Fields) -> list[Message]:
    before = []
    instructions = fields.text("instructions")
    if instructions:
        before.append({"role": "system", "content": instructions})
    given = fields.raw("input")
    if isinstance(given, str):
        return [*before, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise fields.wrong("input", "text or a list of messages")
    spoken = []
    for place, item in enumerate(given):
        if not isinstance(item, dict) or item.get("type", "message") not in ("message",
                                                                             "reasoning"):
            raise Refused(400, f"input[{place}] is no message: the model calls no tools",
                          param="input")
        if item.get("type", "message") == "message":
            spoken.append({"role": item.get("role"), "content": content_text(
                item.get("content"), f"input[{place}].content")})
    return [*before, *messages_of(Fields({"input": spoken}), "input")]


def _grammar(engine: Engine, fields: Fields) -> Grammar | None:
    text = fields.inner("text")
    form = text.inner("format") if text else None
    kind = form.text("type", default="text") if form else "text"
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        return engine.grammars.json_object()
    if kind == "json_schema":
        return engine.grammars.schema(form.raw("schema"))
    raise form.wrong("type", "text, json_object or json_schema")


class _Answer:
    def __init__(self, engine: Engine, fields: Fields) -> None:
        if fields.raw("previous_response_id") is not None:
            raise Refused(400, "responses are not kept here: send the whole conversation as input",
                          param="previous_response_id")
        fields.flag("stream")
        self._engine, self._fields = engine, fields
        self._timings = fields.flag("timings_per_token")
        self._progress = fields.flag("return_progress")
        prompt = chat_prompt(engine, _conversation(fields), fields)
        self.job: Job = engine.start([ask(engine, fields, prompt, limit=("max_output_tokens",),
                                          grammar=_grammar(engine, fields))])[0]
        self._id, self._item = identifier("resp_"), identifier("msg_")
        self._created, self._number = int(time.time()), 0

    def response(self, status: str, error: dict[str, Any] | None = None) -> dict[str, Any]:
        """The response object; whole if it is ``completed``."""
        reply = self.job.reply if status == "completed" else None
        cut = reply is not None and reply.stop_reason not in ("stop", "text")
        return {
            "id": self._id, "object": "response", "created_at": self._created,
            "status": "incomplete" if cut else status, "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "model": self._engine.settings.name, "output": [self._message(reply)] if reply else [],
            "parallel_tool_calls": False, "tool_choice": "auto", "tools": [],
            "instructions": self._fields.raw("instructions"),
            "max_output_tokens": self._fields.raw("max_output_tokens"),
            "temperature": self.job.ask.sampling.temperature,
            "top_p": self.job.ask.sampling.top_p, "metadata": {}, "usage": self._usage(reply),
        }

    @staticmethod
    def _usage(reply: Reply | None) -> dict[str, Any] | None:
        if reply is None:
            return None
        usage = reply.usage
        return {"input_tokens": usage.prompt, "output_tokens": usage.completion,
                "total_tokens": usage.prompt + usage.completion,
                "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens_details": {"reasoning_tokens": 0}}

    def _message(self, reply: Reply | None) -> dict[str, Any]:
        return {"id": self._item, "type": "message", "role": "assistant",
                "status": "completed" if reply else "in_progress",
                "content": [self._part(reply.text)] if reply else []}

    @staticmethod
    def _part(text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _event(self, kind: str, **more: Any) -> bytes:
        self._number += 1
        return as_event({"type": kind, "sequence_number": self._number - 1, **more}, kind)

    def failed(self, refused: Refused) -> bytes:
        error = {"code": "server_error", "message": str(refused)}
        return self._event("response.failed", response=self.response("failed", error))

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events up to response.completed."""
        place = {"output_index": 0, "item_id": self._item, "content_index": 0}
        begun = False
        async for event in self.job:
            if not begun:
                begun = True
                for chunk in self._beginning(place):
                    yield chunk
            if isinstance(event, Read):
                if self._progress:
                    yield self._event("response.in_progress",
                                      response=self.response("in_progress"),
                                      prompt_progress=progress_fields(self.job, event))
            elif event.text:
                more = {"timings": self.job.timing.fields()} if self._timings else {}
                yield self._event("response.output_text.delta", **place, delta=event.text,
                                  logprobs=[], **more)
        if not begun:
            for chunk in self._beginning(place):
                yield chunk
        for chunk in self._end(place):
            yield chunk

    def _beginning(self, place: dict[str, Any]) -> list[bytes]:
        whole = self.response("in_progress")
        return [self._event("response.created", response=whole),
                self._event("response.in_progress", response=whole),
                self._event("response.output_item.added", output_index=0,
                            item=self._message(None)),
                self._event("response.content_part.added", **place, part=self._part(""))]

    def _end(self, place: dict[str, Any]) -> list[bytes]:
        reply = self.job.reply
        whole = self.response("completed")
        return [self._event("response.output_text.done", **place, text=reply.text, logprobs=[]),
                self._event("response.content_part.done", **place, part=self._part(reply.text)),
                self._event("response.output_item.done", output_index=0,
                            item=self._message(reply)),
                # also if it is incomplete: clients wait for this name
                self._event("response.completed", response=whole,
                            timings=self.job.timing.fields())]
