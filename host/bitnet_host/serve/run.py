"""Runs the server until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from bitnet_host.errors import BadArgument
from bitnet_host.model.text import TextModel
from bitnet_host.run.pool import Pool
from bitnet_host.serve.app import application
from bitnet_host.serve.guard import is_loopback
from bitnet_host.serve.settings import Settings

__all__ = ["check", "listen", "serve", "server"]

_LAST_SECONDS = 3  # for answers under way when the server ends
_MOST_HEAD = 64 << 10  # bytes of a request's head


def check(settings: Settings) -> None:
    """Raises BadArgument for a server that anybody on the network could use."""
    if not is_loopback(settings.host) and not settings.keys:
        raise BadArgument(f"--host {settings.host} lets other machines use the board: give "
                          f"--api-key too")
    if any(not key.strip() for key in settings.keys):
        raise BadArgument("the API key is empty: give one of some length")


def listen(settings: Settings) -> socket.socket:
    """The server's socket. Raises BadArgument if it is not to be had."""
    where = f"{settings.host} port {settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM,
                                   flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise BadArgument(f"--host {settings.host} is no address of this machine") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise BadArgument(f"{where} is in use: choose another --port") from None
        raise BadArgument(f"cannot listen on {where}: {error.strerror}") from None
    return listener


def _protocol(patience: float) -> type[H11Protocol]:
    class Hasty(H11Protocol):
        """Closes connections on which no request arrives in time."""

        _due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._due is not None:
                self._due.cancel()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Has a time for a head that is awaited, and none while a request is answered."""
            answering = self.cycle is not None and not self.cycle.response_complete
            if self._due is not None and answering:
                self._due.cancel()
                self._due = None
            elif self._due is None and not answering:
                self._due = self.loop.call_later(patience, self.transport.close)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

    return Hasty


def server(pool: Pool, text: TextModel, settings: Settings) -> uvicorn.Server:
    """The server, to be run with a socket of ``listen``."""
    log = logging.getLogger("uvicorn")
    log.setLevel(logging.INFO if settings.verbose else logging.WARNING)
    config = uvicorn.Config(
        application(pool, text, settings), http=_protocol(settings.patience), ws="none",
        lifespan="on", log_config=None, access_log=settings.verbose, server_header=False,
        proxy_headers=False, limit_concurrency=settings.connections, timeout_keep_alive=30,
        timeout_graceful_shutdown=_LAST_SECONDS, h11_max_incomplete_event_size=_MOST_HEAD)
    return uvicorn.Server(config)


def serve(pool: Pool, text: TextModel, settings: Settings, listener: socket.socket) -> None:
    """Answers requests until SIGINT or SIGTERM."""
    server(pool, text, settings).run(sockets=[listener])
