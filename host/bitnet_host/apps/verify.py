"""``bitnet-host verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitnet_host.apps.progress import ProgressDisplay
from bitnet_host.model.image import read_image
from bitnet_host.model.open import open_source
from bitnet_host.model.verify import compare

__all__ = ["verify"]


def verify(
    image: Annotated[Path, typer.Argument(help="model image", metavar="IMAGE")],
    checkpoint: Annotated[Path, typer.Argument(metavar="SRC", help="what it was made of: folder, "
                                                                   "GGUF file, or ORG/NAME on "
                                                                   "huggingface.co")],
    layout: Annotated[str, typer.Option(help="of a GGUF file, as for convert")] = "",
) -> None:
    """Hold an image against the checkpoint that it was made of. Exit code 1: they differ."""
    display, wrong = ProgressDisplay(), 0
    model, source = read_image(image), open_source(checkpoint, layout)
    try:
        for finding in compare(model, source, display):
            if finding.wrong:
                display.end()
                wrong += 1
                print(f"{finding.name}: {finding.wrong}")
    finally:
        display.end()
    if wrong:
        print(f"{image} is not what {checkpoint} says: convert it again")
        raise typer.Exit(1)
    print(f"{image} holds what {checkpoint} says: every weight, scale, norm and token; the "
          f"embedding rounded to int8")
