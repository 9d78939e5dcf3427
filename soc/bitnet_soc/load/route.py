"""Whether this computer can reach a board's address at all, by what Linux says of its ports."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path

__all__ = ["why_silent"]


@dataclass(frozen=True)
class _Route:
    port: str
    network: int
    mask: int
    router: int


def _routes(table: str) -> list[_Route]:
    """Lines of /proc/net/route; its numbers are in hex, as the machine keeps them."""
    routes = []
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and int(words[3], 16) & 1:  # it is up
            network, router, mask = (int(words[i], 16) for i in (1, 2, 7))
            routes.append(_Route(words[0], network, mask, router))
    return routes


def why_silent(host: str, root: Path = Path("/")) -> str | None:
    """What keeps datagrams from arriving at a host, as a part of a sentence; None if nothing that
    does is known. ``root``: where proc and sys are."""
    try:
        address, = struct.unpack("=I", socket.inet_aton(socket.gethostbyname(host)))
        routes = _routes((root / "proc/net/route").read_text())
    except (OSError, ValueError):  # no such name; no Linux
        return None
    fitting = [route for route in routes if address & route.mask == route.network]
    if host.startswith("127."):
        return None
    route = max(fitting, key=lambda route: route.mask.bit_count(), default=None)
    if route is None or route.router:
        return (f"this computer has no network port in the network of {host}: give the one with "
                "the board's cable an address beside it (`ip address add`, docs/board.md)")
    try:
        linked = (root / "sys/class/net" / route.port / "carrier").read_text().strip() == "1"
    except OSError:  # the port is switched off
        linked = False
    return None if linked else (f"the network port {route.port}, by which {host} would be reached, "
                                "has no link: is the cable in, and the board on?")
