"""What the person who starts a server decides."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """``names`` of the model, the first of which is told; ``keys``, of which clients need one;
    ``origins``: web pages that may use the server from elsewhere. ``queue``: answers that may wait
    for a slot, for ``queue_seconds`` at the most. ``silence``: seconds after which a stream says
    that it is alive. ``patience``: seconds that a client may take to send a request, or to read
    what was sent to it. ``defaults``: fields of requests that have none. ``thinking``: whether a
    model that can thinks aloud."""

    host: str = "127.0.0.1"
    port: int = 8080
    names: tuple[str, ...] = ("bitnet",)
    tags: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    queue: int = 2048
    queue_seconds: float = 600.0
    silence: float = 15.0
    patience: float = 60.0
    connections: int = 4096
    most_bytes: int = 4 << 20
    slots_route: bool = True
    metrics_route: bool = True
    verbose: bool = False
    thinking: bool = True
    ui: str = "own"
    model_path: str = ""
    defaults: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.names[0]
