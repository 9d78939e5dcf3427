"""What tests do to boards that users do not."""

from __future__ import annotations

from bitnet_host.run.board import BoardTarget
from bitnet_host.run.exchange import Exchange
from bitnet_host.run.link.transport import Transport

__all__ = ["reach_by"]


def reach_by(target: BoardTarget, transport: Transport) -> None:
    """Another way to the same board from now on."""
    target.board.transport = transport
    target.board.exchange = Exchange(transport)
