"""What llama-server's other routes say: health, properties, slots, tokens, templates, counters."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bitnet_host import __version__
from bitnet_host.run.session import Prompt
from bitnet_host.serve.asking import ask
from bitnet_host.serve.engine import Engine
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.llama_text import settings_fields
from bitnet_host.serve.messages import chat_prompt, messages_of
from bitnet_host.serve.refused import Refused
from bitnet_host.serve.respond import read_fields

__all__ = ["routes"]

_ABSENT = ("/infill", "/embedding", "/embeddings", "/v1/embeddings", "/reranking", "/rerank",
           "/v1/rerank", "/v1/reranking", "/v1/audio/transcriptions", "/v1/images/generations")


def routes(engine: Engine) -> list[Route]:
    settings, started = engine.settings, {"Process-Start-Time-Unix": str(engine.started)}

    async def health(request: Request) -> Response:
        boards = engine.pool.boards
        if all(board.error for board in boards):
            raise Refused(503, f"no board is there: {boards[0].error}", retry_after=5)
        return JSONResponse({"status": "ok", "boards": [
            {"target": board.name, "status": "away" if board.error else "ok"}
            for board in boards]})

    async def props(request: Request) -> Response:
        return JSONResponse(_props(engine))

    async def slots(request: Request) -> Response:
        if not settings.slots_route:
            raise Refused(501, "this server does not tell of its slots: start it without "
                               "--no-slots")
        return JSONResponse([_slot(engine, place) for place in range(engine.pool.count)])

    async def metrics(request: Request) -> Response:
        if not settings.metrics_route:
            raise Refused(501, "this server does not tell of its counters: start it without "
                               "--no-metrics")
        return PlainTextResponse(engine.metrics.text(engine), headers=started,
                                 media_type="text/plain; version=0.0.4")

    async def tokenize(request: Request) -> Response:
        fields = await read_fields(request, engine)
        text = fields.text("content")
        ids = (engine.text.encode_raw(text) if fields.flag("add_special")
               else engine.text.encode_part(text))
        if fields.flag("with_pieces"):
            return JSONResponse({"tokens": [{"id": token, "piece": _piece(engine, token)}
                                            for token in ids]})
        return JSONResponse({"tokens": ids})

    async def detokenize(request: Request) -> Response:
        fields = await read_fields(request, engine)
        ids = fields.raw("tokens") or []
        if not isinstance(ids, list) or not all(
                isinstance(token, int) and not isinstance(token, bool)
                and 0 <= token < engine.image.vocab for token in ids):
            raise fields.wrong("tokens", f"a list of numbers below {engine.image.vocab}")
        return JSONResponse({"content": engine.text.decode(ids)})

    async def template(request: Request) -> Response:
        fields = await read_fields(request, engine)
        prompt = chat_prompt(engine, messages_of(fields), fields)
        return JSONResponse({"prompt": engine.text.shown(prompt.rendered)})

    async def adapters(request: Request) -> Response:
        return JSONResponse([])

    async def absent(request: Request) -> Response:
        raise Refused(501, "this model does not do that: it writes text")

    return [Route("/health", health), Route("/v1/health", health), Route("/props", props),
            Route("/slots", slots), Route("/metrics", metrics),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/detokenize", detokenize, methods=["POST"]),
            Route("/apply-template", template, methods=["POST"]),
            Route("/lora-adapters", adapters),
            *(Route(path, absent, methods=["POST"]) for path in _ABSENT)]


def _piece(engine: Engine, token: int) -> str | list[int]:
    """A token's text, or its bytes if it is part of a character."""
    text = engine.text.piece(token)
    return list(engine.grammars.bytes_of(token)) if "\ufffd" in text else text


def _props(engine: Engine) -> dict[str, Any]:
    settings, meta = engine.settings, engine.image.meta
    special = meta.get("special") or {}
    params = settings_fields(ask(engine, Fields({}), Prompt("", [0]), limit=()))
    return {
        "default_generation_settings": {"n_ctx": engine.context, "params": params},
        "total_slots": engine.pool.count, "model_alias": settings.name,
        "model_path": settings.model_path, "modalities": {"vision": False, "audio": False},
        "chat_template": engine.text.template or "", "bos_token": special.get("bos_token") or "",
        "eos_token": special.get("eos_token") or "", "build_info": f"bitnet-zynq {__version__}",
        "is_sleeping": False,
    }


def _slot(engine: Engine, place: int) -> dict[str, Any]:
    job = engine.running.get(place)
    said = job.timing.said if job else 0
    left = job.ask.max_tokens - said if job else -1
    return {"id": place, "n_ctx": engine.context, "speculative": False,
            "is_processing": job is not None,
            "next_token": [{"has_next_token": job is not None, "n_remain": left,
                            "n_decoded": said}]}
