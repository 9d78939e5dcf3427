"""``bitnet-host train``."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.model.checkpoint import ModelConfig
from bitnet_host.model.sources.synthetic import parse_shape

if TYPE_CHECKING:
    from bitnet_host.train.job import Job, Settings
    from bitnet_host.train.run import Run

__all__ = ["SIZES", "train"]

#: Sizes by name; small is that of the bundled model.
SIZES = {
    "tiny": ModelConfig(128, 256, 2, 4, 1, 32, 1024, 128, 5e5, 1e-5),
    "small": ModelConfig(256, 512, 4, 8, 2, 32, 2048, 256, 5e5, 1e-5),
}
_MINUTES = 20.0
#: Rows of a step: some 4,000 tokens.
_TOKENS = 4096
_DIMENSIONS = ("hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "vocab",
               "context")
_LONG = 300.0  # seconds of a run that is worth compiling for
_CONTEXT = 512  # tokens of a row where a model could have more
_FINE = 0.1  # of the learning rate, where a run goes on from a model


def train(
    texts: Annotated[list[Path] | None, typer.Argument(
        help="text files, or .jsonl of objects with a text or with messages",
        metavar="TEXT...")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="folder of the checkpoint")] = Path(
        "checkpoint"),
    size: Annotated[str | None, typer.Option(
        help=f"{', '.join(SIZES)} (default: small) or dimensions, as hidden=256,layers=4,...",
    )] = None,
    minutes: Annotated[float | None, typer.Option(
        help=f"of the run, which always ends with a learning rate of zero (default: "
             f"{_MINUTES:g})")] = None,
    steps: Annotated[int | None, typer.Option(help="of the run instead of minutes")] = None,
    vocab: Annotated[int | None, typer.Option(help="tokens of the new tokenizer")] = None,
    context: Annotated[int | None, typer.Option(help="tokens of a row")] = None,
    seed: Annotated[int | None, typer.Option(help="of all that is random (default: 1)")] = None,
    device: Annotated[str | None, typer.Option(help="cpu (default) or cuda")] = None,
    precision: Annotated[str | None, typer.Option(
        help="of products while learning: float32 (default) or bfloat16")] = None,
    batch: Annotated[int | None, typer.Option(
        help=f"rows of a step (default: some {_TOKENS:,} tokens)")] = None,
    at_once: Annotated[int | None, typer.Option(
        help="rows of a forward pass; the gradients of a step's are added up (default: 4)")] = None,
    rate: Annotated[float | None, typer.Option(
        help=f"factor of the learning rates (default: 1, with --from {_FINE})")] = None,
    threads: Annotated[int | None, typer.Option(
        help="of the CPU (default: PyTorch's choice)")] = None,
    compiled: Annotated[bool | None, typer.Option(
        "--compile/--no-compile",
        help="let torch.compile make the kernels (default: for runs of five minutes and more, "
             "where there is a C++ compiler)")] = None,
    packed: Annotated[bool, typer.Option(
        "--packed", help="write ternary weights, four to a byte, instead of float32 "
                         "masters")] = False,
    start: Annotated[Path | None, typer.Option(
        "--from", help="folder of a checkpoint to go on from")] = None,
    compare: Annotated[bool, typer.Option(
        "--compare", help="train a float model as well, with as many steps, and show the losses "
                          "of it, of the same rounded afterwards, and of the ternary "
                          "one")] = False,
    resume: Annotated[bool, typer.Option(
        "--resume", help="go on with the run in the folder")] = False,
) -> int:
    """Train a ternary model on texts, from scratch or from a checkpoint. Ctrl-C keeps what there
    is."""
    given = {key: value for key, value in locals().items()
             if key not in ("texts", "output", "resume")}
    if not find_spec("torch"):
        raise BadArgument("training needs PyTorch: pip install 'bitnet-zynq[train]'")
    from bitnet_host.train.job import Job, resumed, settings_of

    if resume:
        names = {"start": "from", "compiled": "compile"}
        named = [f"--{names.get(key, key.replace('_', '-'))}" for key, value in given.items()
                 if value is not None and (value is not False or key == "compiled")]
        if texts or named:
            raise BadArgument(f"--resume goes on with the texts and settings of the run: leave out "
                              f"{', '.join(named) or 'the texts'}")
        if not resumed(output):
            raise BadArgument(f"{output} holds no run to resume: leave out --resume")
        settings = settings_of(output)
    else:
        if output.exists() and (not output.is_dir()
                                or any(not path.is_dir() for path in output.rglob("*"))):
            raise BadFile(f"{output} is there: give another folder, or --resume to go on with the "
                          f"run in it")
        settings = _settings(texts or [], given)
    try:
        return _run(Job(output, settings))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("memory|alloc", str(error)):
            raise
        raise BadArgument("there is too little memory for this model: give a smaller --size, "
                          "--at-once or --context") from None


def _say(text: str) -> None:
    print(text, flush=True)


def _settings(texts: list[Path], given: dict[str, Any]) -> Settings:
    """What was asked for, with the defaults of the rest. Raises BadArgument."""
    from bitnet_host.train.job import Settings, check_machine

    if not texts:
        raise BadArgument("there is nothing to learn from: name text files or .jsonl files")
    _check(given)
    start = given["start"]
    if start:
        beside = [name for name in ("size", "vocab", "packed") if given[name]]
        if beside:
            raise BadArgument(f"--from takes the checkpoint's own: leave out --{beside[0]}")
        if given["compare"]:
            raise BadArgument("--compare compares with a model that learnt in float, which one "
                              "that learnt with rounding is not: leave out --from or --compare")
        context = _context_of(start, given["context"])
        config = {}
    else:
        new = _config(given)
        check_machine(new)
        context, config = new.context, asdict(new)
    at_once = given["at_once"] or 4
    batch = given["batch"] or max(at_once, _TOKENS // context // at_once * at_once)
    steps = given["steps"] or 0
    seconds = 60.0 * (given["minutes"] or _MINUTES)
    return Settings(
        texts=[os.path.abspath(path) for path in texts], config=config,
        start=os.path.abspath(start) if start else "", context=context, seconds=seconds,
        steps=steps, batch=batch, at_once=min(at_once, batch),
        seed=1 if given["seed"] is None else given["seed"],
        scale=given["rate"] or (_FINE if start else 1.0), device=given["device"] or "cpu",
        bfloat16=given["precision"] == "bfloat16",
        compiled=_compiled(given["compiled"], not steps and seconds >= _LONG),
        threads=given["threads"] or 0, packed=given["packed"], compare=given["compare"],
        command=shlex.join(["bitnet-host", *sys.argv[1:]]))


def _compiled(wanted: bool | None, long: bool) -> bool:
    """Whether kernels are compiled: tried out first, as that takes a C++ compiler and Python's
    headers. Raises BadArgument if it was asked for and does not work."""
    if wanted is False or (wanted is None and not (long and shutil.which("g++"))):
        return False
    import torch

    try:
        torch.compile(lambda x: x * 2 + 1)(torch.zeros(4))
    except Exception as error:  # the compiler's, of whatever kind
        if wanted:
            raise BadArgument(f"torch.compile does not work here ({type(error).__name__}): leave "
                              f"out --compile") from error
        return False
    return True


def _context_of(start: Path, wanted: int | None) -> int:
    """Tokens of a row, of a model that is gone on from. Raises BadArgument."""
    from bitnet_host.train.folder import form_of

    most = form_of(start)[0].config.context
    if wanted and wanted > most:
        raise BadArgument(f"--context {wanted} is more than the {most} that {start} was made for")
    return wanted or min(most, _CONTEXT)


def _config(given: dict[str, Any]) -> ModelConfig:
    name = given["size"] or "small"
    first, _, changes = name.partition(",")
    if first not in SIZES and "=" not in first:
        raise BadArgument(f"--size must be {', '.join(SIZES)} or dimensions, as "
                          f"hidden=256,intermediate=512,layers=4,heads=8,kv_heads=2,head_dim=32,"
                          f"vocab=2048,context=256, not {name}")
    if first in SIZES:
        own = ",".join(f"{key}={getattr(SIZES[first], key)}" for key in _DIMENSIONS)
        name = f"{own},{changes}" if changes else own
    config = parse_shape(name)
    config = replace(config, vocab=given["vocab"] or config.vocab,
                     context=given["context"] or config.context)
    if config.activation != "relu2" or not (config.sub_norms and config.tied) or config.qk_norms:
        raise BadArgument("a new model is of 2B-4T's architecture: leave out activation, "
                          "sub_norms, qk_norms and tied")
    small = [key for key in _DIMENSIONS if getattr(config, key) < (8 if key == "context" else 1)]
    if small:
        raise BadArgument(f"{small[0]}={getattr(config, small[0])} is too small")
    if config.heads % config.kv_heads or config.head_dim * config.heads != config.hidden:
        raise BadArgument(f"{config.heads} heads of {config.head_dim} must make up hidden="
                          f"{config.hidden}, and be a multiple of {config.kv_heads} kv_heads")
    return replace(config, trained_context=config.context)


def _check(given: dict[str, Any]) -> None:
    """Raises BadArgument for numbers that make no sense."""
    if given["minutes"] is not None and given["steps"] is not None:
        raise BadArgument("--minutes and --steps are two ways to say when a run ends: give one")
    limits = {"minutes": (0.01, 1e6), "steps": (1, 10**9), "vocab": (1, 2**20),
              "context": (8, 2**15), "seed": (0, 2**31), "batch": (1, 2**16),
              "at_once": (1, 2**16), "rate": (1e-6, 1e3), "threads": (1, 1024)}
    for name, (least, most) in limits.items():
        value = given[name]
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            raise BadArgument(f"--{name.replace('_', '-')} must lie between {least:g} and "
                              f"{most:g}, not {value}")
    for name, known in (("device", ("cpu", "cuda")), ("precision", ("float32", "bfloat16"))):
        if given[name] not in (None, *known):
            raise BadArgument(f"--{name} must be {' or '.join(known)}, not {given[name]}")


@contextmanager
def _stoppable(stop: Any) -> Iterator[None]:
    """The first Ctrl-C asks the run to end after its step; the second one ends it at once."""
    def asked(number: int, _: Any) -> None:
        stop.ask()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(job: Job) -> int:
    from bitnet_host.train.report import HEADING, curve, line
    from bitnet_host.train.run import Stop

    job.prepare()
    _say(f"{job.heading()}\n{HEADING}")
    stop, lines = Stop(), list[Any]()

    def tell(record: Any, said: str) -> None:
        _say(line(record, lines[-1] if lines else None))
        if said:
            _say(f"{'':>7} says: {' '.join(said.split())}")
        lines.append(record)

    with _stoppable(stop):
        run = job.train("state", True, tell, stop)
        other: Run | None = None
        if run.done and job.settings.compare:
            _say("the same in float:")
            lines.clear()
            other = job.train("float", False, tell, stop)
    ended, where = other or run, shlex.quote(os.fspath(job.folder))
    if not ended.done:
        _say(f"stopped after {ended.state.step:,} steps: `bitnet-host train --resume -o {where}` "
             f"goes on")
        return 130
    comparison = job.compared(run, other) if other else None
    said = job.finish(run, comparison)
    _say(f"\n{curve(run.state.history)}\n\nIt says: {said}\n")
    for name, loss in (comparison or {}).items():
        _say(f"{name:<20} {loss:.3f} nats per token")
    _say(f"wrote {job.folder}; `bitnet-host chat --model {where}` talks to it")
    return 0
