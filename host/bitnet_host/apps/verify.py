"""``bitnet-host verify``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from bitnet_host.apps.progress import ProgressDisplay
from bitnet_host.errors import BadArgument, BadModel
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.checkpoint import Checkpoint
from bitnet_host.model.image import Image, read_image
from bitnet_host.model.open import open_source
from bitnet_host.reporting import Progress
from bitnet_host.verify.gguf import compare_gguf
from bitnet_host.verify.image import Finding, compare
from bitnet_host.verify.operators import compare_records

__all__ = ["verify"]

_LAYERS = 2  # that transformers loads: all of 2B-4T in float32 would take 10 GB
_TOKENS = 5


def verify(
    image: Annotated[Path, typer.Argument(help="model image", metavar="IMAGE")],
    checkpoint: Annotated[Path, typer.Argument(metavar="SRC", help="what it was made of: folder, "
                                                                   "GGUF file, or ORG/NAME on "
                                                                   "huggingface.co")],
    layout: Annotated[str, typer.Option(help="of a GGUF file, as for convert")] = "",
    operators: Annotated[bool | None, typer.Option(
        "--operators/--no-operators",
        help="compute the first layers with transformers and compare operator by operator "
             "(default: if it is installed and reads SRC)")] = None,
) -> None:
    """Hold an image against the checkpoint that it was made of. Exit code 1: they differ."""
    display = ProgressDisplay()
    model, source = read_image(image), open_source(checkpoint, layout)
    missing = _missing(source)
    if operators and missing:
        raise BadArgument(f"operators cannot be compared: {missing}")
    wrong = []
    try:
        for finding in _findings(model, source, layout, display):
            if finding.wrong:
                display.end()
                wrong.append(finding.name)
                print(f"{finding.name}: {finding.wrong}")
    finally:
        display.end()
    computed = f" (operators were not compared: {missing or 'not wanted'})"
    if "dimensions" not in wrong and not missing and operators is not False:
        computed, problems = _operators(model, source)
        wrong += problems
        for problem in problems:
            print(f"operator {problem}")
    if wrong:
        print(f"{image} is not what {checkpoint} says: convert it again")
        raise typer.Exit(1)
    print(f"{image} holds what {checkpoint} says: every weight, scale, norm and token; the "
          f"embedding rounded to int8{computed}")


def _findings(image: Image, source: Checkpoint, layout: str,
              progress: Progress) -> Iterator[Finding]:
    wrong = False
    for finding in compare(image, source, progress):
        wrong = wrong or bool(finding.wrong)
        yield finding
    if not wrong and not source.stored:
        yield from compare_gguf(ReferenceModel(image), source.files[0], layout)


def _missing(source: Checkpoint) -> str:
    """Why transformers cannot run it, or nothing."""
    if not all(find_spec(name) for name in ("torch", "transformers")):
        return "PyTorch or transformers is missing: pip install 'bitnet-zynq[oracle]'"
    return "" if source.stored else "transformers reads folders only"


def _operators(image: Image, source: Checkpoint) -> tuple[str, list[str]]:
    """What to say of the comparison if all is well, and what differs."""
    from bitnet_host.verify.forward import load, record  # takes seconds, and a library

    folder, layers = source.files[0].parent, min(_LAYERS, source.config.layers)
    try:
        records = record(load(folder, source.stored, layers),
                         [token % source.config.vocab for token in range(3, 3 + _TOKENS)])
    except Exception as error:  # a library's, of whatever kind
        raise BadModel(f"{folder}: transformers cannot run it ({type(error).__name__}: "
                       f"{str(error)[:200]}); --no-operators does without") from error
    problems, summary = compare_records(ReferenceModel(image), records)
    return f"; {layers} layers compute what transformers does ({summary})", problems
