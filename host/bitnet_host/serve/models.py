"""GET /v1/models."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bitnet_host.serve.engine import Engine
from bitnet_host.serve.refused import Refused

__all__ = ["parameters", "routes"]


def parameters(engine: Engine) -> int:
    """Weights of the model, those of a tied head once."""
    header = engine.image.header
    attention = header.hidden * header.head_elements * 2 * (header.heads + header.kv_heads)
    layer = attention + 3 * header.hidden * header.inner_elements
    return header.layers * layer + (1 + header.untied) * engine.image.vocab * header.hidden


def routes(engine: Engine) -> list[Route]:
    settings = engine.settings
    model: dict[str, Any] = {
        "id": settings.name, "object": "model", "created": engine.started,
        "owned_by": "bitnet-zynq", "aliases": list(settings.names), "tags": list(settings.tags),
        "meta": {"n_vocab": engine.image.vocab, "n_ctx_train": engine.context,
                 "n_embd": engine.image.header.hidden, "n_params": parameters(engine),
                 "size": engine.image.header.ddr_bytes}}

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    async def one(request: Request) -> Response:
        if request.path_params["name"] not in settings.names:
            raise Refused(404, f"there is no such model: this server has {settings.name}",
                          param="model")
        return JSONResponse(model)

    return [Route("/v1/models", models), Route("/models", models),
            Route("/v1/models/{name:path}", one)]
