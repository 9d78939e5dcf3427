"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitnet_host.errors import BadArgument

__all__ = ["ModelOption", "TakeOverOption", "TargetOption", "TargetsOption", "full_head"]

_TARGET = "sim, reference, udp://HOST[:PORT] or serial:DEVICE"

TargetOption = Annotated[str, typer.Option(help=_TARGET)]
TargetsOption = Annotated[list[str] | None, typer.Option(help=f"{_TARGET}; several share the work")]
ModelOption = Annotated[Path | None,
                        typer.Option(help="image, checkpoint folder, GGUF file, or ORG/NAME on "
                                          "huggingface.co (default: the bundled model)")]
TakeOverOption = Annotated[bool, typer.Option("--take-over",
                                              help="even if another host holds the board")]


def full_head(head: str) -> bool:
    """Whether --head asks for the full one. Raises BadArgument for what it cannot be."""
    if head not in ("screened", "full"):
        raise BadArgument(f"--head must be screened or full, not {head}")
    return head == "full"
