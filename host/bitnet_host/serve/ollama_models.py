"""What Ollama's routes say of models."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bitnet_host.serve.engine import Engine
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.models import parameters
from bitnet_host.serve.refused import Refused
from bitnet_host.serve.respond import read_fields

__all__ = ["check_name", "routes"]

_VERSION = "0.6.4"  # of the API that is meant
_REFUSED = (("/api/pull", "POST"), ("/api/push", "POST"), ("/api/create", "POST"),
            ("/api/copy", "POST"), ("/api/delete", "DELETE"), ("/api/embed", "POST"),
            ("/api/embeddings", "POST"), ("/api/blobs/{digest}", "POST"))


def check_name(engine: Engine, fields: Fields) -> None:
    """Raises Refused for a request without the name of a model; any name means the one there is, as
    clients are set up with names of their own."""
    if not fields.text("model", "name"):
        raise Refused(400, "model is required")


def routes(engine: Engine) -> list[Route]:
    async def alive(request: Request) -> Response:
        return PlainTextResponse("Ollama is running")

    async def version(request: Request) -> Response:
        return JSONResponse({"version": _VERSION})

    async def tags(request: Request) -> Response:
        return JSONResponse({"models": [_model(engine)]})

    async def running(request: Request) -> Response:
        size = engine.image.header.total_bytes
        return JSONResponse({"models": [_model(engine) | {
            "expires_at": "2100-01-01T00:00:00Z", "size_vram": size,
            "context_length": engine.context}]})

    async def show(request: Request) -> Response:
        fields = await read_fields(request, engine)
        check_name(engine, fields)
        return JSONResponse(_shown(engine))

    async def refuse(request: Request) -> Response:
        raise Refused(501, "this server has one model, which `bitnet-host serve --model` chooses: "
                           "it does not pull, make, copy, delete or embed")

    return [Route("/api/", alive), Route("/api/version", version), Route("/api/tags", tags),
            Route("/api/ps", running), Route("/api/show", show, methods=["POST"]),
            *(Route(path, refuse, methods=[method]) for path, method in _REFUSED)]


def _details(engine: Engine) -> dict[str, Any]:
    count = parameters(engine)
    size = f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"
    return {"parent_model": "", "format": "bitnet-zynq", "family": "bitnet",
            "families": ["bitnet"], "parameter_size": size,
            "quantization_level": engine.image.meta.get("weights") or "ternary"}


def _model(engine: Engine) -> dict[str, Any]:
    header, name = engine.image.header, engine.settings.name
    since = datetime.fromtimestamp(engine.started, UTC).isoformat().replace("+00:00", "Z")
    return {"name": name, "model": name, "modified_at": since, "size": header.ddr_bytes,
            "digest": f"{header.model_id:08x}" * 8, "details": _details(engine)}


def _shown(engine: Engine) -> dict[str, Any]:
    header = engine.image.header
    return {
        "modelfile": f"FROM {engine.settings.name}\n", "parameters": "", "license": "",
        "template": engine.text.template or "{{ .Prompt }}", "details": _details(engine),
        "model_info": {
            "general.architecture": "bitnet", "general.parameter_count": parameters(engine),
            "bitnet.block_count": header.layers, "bitnet.context_length": engine.context,
            "bitnet.embedding_length": header.hidden,
            "bitnet.feed_forward_length": header.inner_elements,
            "bitnet.attention.head_count": header.heads,
            "bitnet.attention.head_count_kv": header.kv_heads,
            "bitnet.vocab_size": engine.image.vocab},
        "capabilities": ["completion"], "modified_at": _model(engine)["modified_at"],
    }
