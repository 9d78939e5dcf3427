"""Who may use the server: keys, and which web pages."""

from __future__ import annotations

import asyncio
import hmac
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitnet_host.serve.refused import Refused
from bitnet_host.serve.respond import refused_response
from bitnet_host.serve.settings import Settings
from bitnet_host.serve.ui import page_files

__all__ = ["Guard", "is_loopback"]

_PUBLIC = {"/", "/health", "/v1/health", "/api/"}
_DRAIN_SECONDS = 5.0
_METHODS = "GET, POST, DELETE, OPTIONS"


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _host(value: str) -> str:
    """The name in a Host header, without its port."""
    with suppress(ValueError):
        return (urlsplit(f"//{value}").hostname or "").lower()
    return ""


class Guard:
    """Refuses what must not reach ``app``. Without a key the names in the Host header are those of
    this machine, so that a name elsewhere cannot be made to mean it, and web pages are its own or
    others of this machine. With one, the key tells who may."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._keys = [key.encode() for key in settings.keys]
        self._public = _PUBLIC | set(page_files(settings.ui))  # a page asks for the key itself

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        try:
            self._check_host(headers)
            allowed = self._origin_allowed(origin, headers)
            if scope["method"] == "OPTIONS" and origin:
                await self._preflight(origin if allowed else None)(scope, receive,
                                                                   _spelled(send, None))
                return
            if origin and not allowed:
                raise Refused(403, f"web pages of {origin} may not use this server: name it with "
                                   f"--origin")
            self._check_key(headers, scope["path"])
        except Refused as refused:
            response = refused_response(refused, scope["path"])
            if not await _drained(receive, headers, self._settings.most_bytes):
                response.headers["Connection"] = "close"
            await response(scope, receive, _spelled(send, None))
            return
        await self._app(scope, receive, _spelled(send, origin))

    def _check_host(self, headers: Headers) -> None:
        if "host" not in headers:  # HTTP/1.0: a health check, and no browser
            return
        host = _host(headers["host"])
        if self._keys or is_loopback(host) or host == self._settings.host.lower():
            return
        raise Refused(403, f"this server is not {host or 'what the Host header says'}: use its "
                           f"address, or start it with --api-key")

    def _origin_allowed(self, origin: str | None, headers: Headers) -> bool:
        """Whether a page of ``origin`` may use the server."""
        if origin is None:
            return True
        if self._settings.origins:
            return any(_matches(origin, asked) for asked in self._settings.origins)
        if self._keys:
            return True
        parts = _parts(origin)
        return (parts is not None and (is_loopback(parts[1])
                                       or origin.endswith(f"://{headers.get('host')}")))

    def _check_key(self, headers: Headers, path: str) -> None:
        if not self._keys or path in self._public:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        found = [given.strip()] if kind.lower() == "bearer" else []
        found += [value for value in (headers.get("x-api-key"),) if value]
        tried = [value.encode("latin-1") for value in found]  # as it came or [b""]
        # each with each, whatever came out before
        fits = [hmac.compare_digest(key, value) for key in self._keys for value in tried]
        if not any(fits):
            raise Refused(401, "the API key is missing or wrong: send it as a bearer token")

    @staticmethod
    def _preflight(origin: str | None) -> PlainTextResponse:
        response = PlainTextResponse("")
        response.headers["Vary"] = "Origin"
        if origin:
            response.headers.update({
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Allow-Credentials": "true",
                "Access-Control-Allow-Methods": _METHODS, "Access-Control-Allow-Headers": "*",
                "Access-Control-Max-Age": "600"})
        return response


def _parts(origin: str) -> tuple[str, str] | None:
    """Scheme and name of an origin."""
    with suppress(ValueError):
        parts = urlsplit(origin)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts.scheme, parts.hostname.lower()
    return None


def _matches(origin: str, asked: str) -> bool:
    if asked == "*":
        return True
    if asked == "localhost":
        parts = _parts(origin)
        return parts is not None and is_loopback(parts[1])
    return origin.rstrip("/") == asked.rstrip("/")


def _spelled(send: Send, origin: str | None) -> Send:
    """Tells the browser that a page of ``origin`` may read the response; and spells headers with
    capitals, as some clients look for them."""
    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if origin:
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Allow-Credentials"] = "true"
                headers.append("Vary", "Origin")
            message["headers"] = [(name.title(), value) for name, value in headers.raw]
        await send(message)
    return tell


async def _drained(receive: Receive, headers: Headers, most: int) -> bool:
    """Whether the rest of a request could be read, without which the connection is of no use."""
    size = 0
    if not headers.get("content-length") and not headers.get("transfer-encoding"):
        return True
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while size <= most:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return bool(message["type"] == "http.request")
    return False
