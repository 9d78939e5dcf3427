"""``bitnet-host batch``."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bitnet_host.apps.chat import interruptible
from bitnet_host.apps.options import ModelOption, TakeOverOption, TargetsOption
from bitnet_host.apps.progress import ProgressDisplay
from bitnet_host.batch.answers import Answers, Row
from bitnet_host.batch.cluster import Cluster
from bitnet_host.batch.requests import Request, read_requests
from bitnet_host.batch.work import answers
from bitnet_host.errors import BadArgument
from bitnet_host.model.open import open_model
from bitnet_host.model.text import TextModel
from bitnet_host.run.open import open_board
from bitnet_host.run.pool import Pool
from bitnet_host.run.target import Cancel
from bitnet_host.serve.model import Model

__all__ = ["batch"]


def batch(
    prompts: Annotated[Path, typer.Argument(help="JSON Lines: an object with messages or a prompt "
                                                 "on each", metavar="PROMPTS")],
    output: Annotated[Path, typer.Option("-o", "--output",
                                         help="answers, a line each; if there are some already, "
                                              "the batch goes on with the rest")],
    target: TargetsOption = None,
    model: ModelOption = None,
    slots: Annotated[int, typer.Option(help="prompts at a time per board; 0: as many as there "
                                            "are", min=0)] = 0,
    ray: Annotated[str | None,
                   typer.Option(help="address of a Ray cluster on which each board gets an actor; "
                                     "auto, or local for one of this machine alone")] = None,
    max_tokens: Annotated[int, typer.Option(help="of lines that do not say; -1: no limit",
                                            min=-1)] = 256,
    temperature: Annotated[float | None,
                           typer.Option(help="of lines that have none (default: the model's)",
                                        min=0, max=100)] = None,
    seed: Annotated[int | None,
                    typer.Option(help="of the first line that has none; each has the next "
                                      "(default: another one each time)", min=0,
                                 max=2**64 - 1)] = None,
    take_over: TakeOverOption = False,
) -> int:
    """Answer a file of prompts. What is stopped goes on with the same command."""
    if ray is not None and take_over:
        raise BadArgument("--take-over does not go with --ray: a board that another host holds is "
                          "left to it")
    defaults: dict[str, float] = {"max_tokens": max_tokens}
    if temperature is not None:
        defaults["temperature"] = temperature
    display = ProgressDisplay()
    try:
        image = open_model(model, progress=display)
        reader = Model(image, TextModel(image), defaults)
        requests = read_requests(prompts, reader, secrets.randbits(32) if seed is None else seed)
        with closing(Answers(output, requests, (prompts,), seed is not None)) as file:
            left = [request for request in requests if request.line not in file.done]
            with interruptible() as cancel:
                if left:
                    names = target or ["sim"]
                    rows = (_on_ray(ray, names, reader, slots, left, cancel) if ray is not None
                            else _here(names, reader, slots, left, cancel, display, take_over))
                    with closing(rows):
                        _write(rows, file, len(requests), display)
            return _said(file, requests, output)
    finally:
        display.end()


def _on_ray(address: str, names: Sequence[str], model: Model, slots: int,
            requests: Sequence[Request], cancel: Cancel) -> Generator[Row, None, None]:
    with closing(Cluster(address, names, model.image, slots, model.defaults)) as cluster:
        yield from cluster.answers(requests, cancel)


def _here(names: Sequence[str], model: Model, slots: int, requests: Sequence[Request],
          cancel: Cancel, display: ProgressDisplay, take_over: bool) -> Generator[Row, None, None]:
    pool = Pool(names, model.image, slots, display,
                open_one=partial(open_board, take_over=take_over))
    with closing(pool):
        yield from answers(model, pool, requests, cancel)


def _write(rows: Iterable[Row], file: Answers, count: int, display: ProgressDisplay) -> None:
    display("answer", len(file.done), count)
    for row in rows:
        file.add(row)
        display("answer", len(file.done), count)


def _said(file: Answers, requests: Sequence[Request], output: Path) -> int:
    """The exit code, and a sentence for people."""
    left = len(requests) - len(file.done)
    if left:
        print(f"stopped: {len(file.done)} of {len(requests)} answers are in {output}; the same "
              f"command goes on")
        return 130
    if file.failed:
        raise BadArgument(f"{file.failed} of {len(requests)} prompts have no answer: their lines "
                          f"in {output} say why")
    print(f"{len(requests)} answers are in {output}")
    return 0
