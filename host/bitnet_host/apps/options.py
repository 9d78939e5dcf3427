"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ModelOption", "TakeOverOption", "TargetOption", "TargetsOption"]

_TARGET = "sim, reference, udp://HOST[:PORT] or serial:DEVICE"

TargetOption = Annotated[str, typer.Option(help=_TARGET)]
TargetsOption = Annotated[list[str] | None, typer.Option(help=f"{_TARGET}; several share the work")]
ModelOption = Annotated[Path | None,
                        typer.Option(help="image, checkpoint folder, GGUF file, or ORG/NAME on "
                                          "huggingface.co (default: the bundled model)")]
TakeOverOption = Annotated[bool, typer.Option("--take-over",
                                              help="even if another host holds the board")]
