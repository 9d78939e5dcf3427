"""The server as an ASGI application."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from bitnet_host.errors import UserError
from bitnet_host.model.text import TextModel
from bitnet_host.run.pool import Pool
from bitnet_host.serve import (
    anthropic,
    llama_state,
    llama_text,
    models,
    ollama,
    ollama_models,
    openai_chat,
    openai_responses,
    openai_text,
    ui,
)
from bitnet_host.serve.engine import Engine
from bitnet_host.serve.guard import Guard
from bitnet_host.serve.refused import Refused
from bitnet_host.serve.respond import refused_response
from bitnet_host.serve.settings import Settings

__all__ = ["application"]

_log = logging.getLogger("bitnet_host.serve")
_APIS = (openai_chat, openai_text, openai_responses, anthropic, ollama, ollama_models, llama_text,
         llama_state, models, ui)


def application(pool: Pool, text: TextModel, settings: Settings) -> ASGIApp:
    """All routes, behind the guard. ``pool`` is the caller's to close."""
    engine = Engine(pool, text, settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await engine.close()

    async def refused(request: Request, error: Exception) -> Response:
        answer = engine.refusal(error)
        if answer.status == 500:
            _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return refused_response(answer, request.url.path)

    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        if status == 405:
            text = f"{request.url.path} is not for {request.method}"
        else:
            text = f"this server has no {request.url.path}"
        return refused_response(Refused(status, text), request.url.path)

    routes = [route for api in _APIS for route in api.routes(engine)]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={
        Refused: refused, UserError: refused, Exception: refused, HTTPException: unknown})
    return Guard(app, settings)
