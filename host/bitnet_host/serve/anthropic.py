"""POST /v1/messages, as Anthropic has it, without tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bitnet_host.run.session import Prompt, Reply
from bitnet_host.serve.asking import ask
from bitnet_host.serve.engine import Engine, Read
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.messages import chat_prompt, content_text, messages_of
from bitnet_host.serve.parts import identifier
from bitnet_host.serve.refused import error_body
from bitnet_host.serve.respond import Stream, as_event, finished, read_fields

__all__ = ["routes"]

_PATH = "/v1/messages"
_REASONS = {"stop": "end_turn", "text": "stop_sequence", "cancel": "end_turn"}


def routes(engine: Engine) -> list[Route]:
    async def speak(request: Request) -> Response:
        fields = await read_fields(request, engine)
        answer = _Answer(engine, fields)
        if fields.flag("stream"):
            return Stream(engine, answer.chunks(), alive=as_event({"type": "ping"}, "ping"),
                          failure=lambda refused: as_event(error_body(refused, _PATH), "error"))
        await finished(request, [answer.job])
        return JSONResponse(answer.message(answer.job.reply))

    async def count(request: Request) -> Response:
        fields = await read_fields(request, engine)
        return JSONResponse({"input_tokens": len(_prompt(engine, fields).ids)})

    return [Route(_PATH, speak, methods=["POST"]),
            Route(f"{_PATH}/count_tokens", count, methods=["POST"])]


def _prompt(engine: Engine, fields: Fields) -> Prompt:
    messages = messages_of(fields)
    system = content_text(fields.raw("system"), "system")
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    return chat_prompt(engine, messages, Fields({}))


class _Answer:
    def __init__(self, engine: Engine, fields: Fields) -> None:
        most = fields.whole("max_tokens")
        if most is None or most < 1:
            raise fields.wrong("max_tokens", "a whole number from 1")
        fields.flag("stream")
        self._engine, self._id = engine, identifier("msg_")
        self.job = engine.start([ask(engine, fields, _prompt(engine, fields),
                                     limit=("max_tokens",), stops="stop_sequences")])[0]

    def message(self, reply: Reply | None) -> dict[str, Any]:
        """The message object; without a reply, as it begins."""
        usage = {"input_tokens": len(self.job.ask.prompt.ids), "output_tokens": 0,
                 "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        if reply:
            usage |= {"input_tokens": reply.usage.prompt - reply.usage.cached,
                      "cache_read_input_tokens": reply.usage.cached,
                      "output_tokens": reply.usage.completion}
        return {"id": self._id, "type": "message", "role": "assistant",
                "model": self._engine.settings.name,
                "content": [{"type": "text", "text": reply.text}] if reply else [],
                "stop_reason": _REASONS.get(reply.stop_reason, "max_tokens") if reply else None,
                "stop_sequence": (reply.stop or None) if reply else None, "usage": usage}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events up to message_stop."""
        begun = False
        async for event in self.job:
            if not begun:
                begun = True
                for chunk in self._beginning():
                    yield chunk
            if not isinstance(event, Read) and event.text:
                yield _event("content_block_delta", index=0,
                             delta={"type": "text_delta", "text": event.text})
        if not begun:
            for chunk in self._beginning():
                yield chunk
        whole = self.message(self.job.reply)
        yield _event("content_block_stop", index=0)
        yield _event("message_delta", usage=whole["usage"], delta={
            "stop_reason": whole["stop_reason"], "stop_sequence": whole["stop_sequence"]})
        yield _event("message_stop")

    def _beginning(self) -> list[bytes]:
        return [_event("message_start", message=self.message(None)),
                _event("content_block_start", index=0, content_block={"type": "text", "text": ""})]


def _event(kind: str, **more: Any) -> bytes:
    return as_event({"type": kind, **more}, kind)
