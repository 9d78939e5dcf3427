"""The command line: chat, serve, batch, convert, plan, models, verify, score, info, bench, profile,
selftest, synthetic, train."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import bitnet_host
from bitnet_host.apps.batch import batch
from bitnet_host.apps.bench import bench
from bitnet_host.apps.chat import Conversation, as_json, interruptible, show, statistics
from bitnet_host.apps.families import models, synthetic
from bitnet_host.apps.images import convert, info
from bitnet_host.apps.options import ModelOption, TakeOverOption, TargetOption, full_head
from bitnet_host.apps.plan import plan
from bitnet_host.apps.profile import profile
from bitnet_host.apps.progress import ProgressDisplay
from bitnet_host.apps.prompt import Prompt
from bitnet_host.apps.serve import serve
from bitnet_host.apps.train import train
from bitnet_host.apps.verify import verify
from bitnet_host.errors import BadArgument, UserError
from bitnet_host.files import read_text, replacing
from bitnet_host.model.open import open_model
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.open import open_target, open_transport
from bitnet_host.run.sampling import Sampling
from bitnet_host.run.session import Session
from bitnet_host.run.target import Target
from bitnet_host.selftest.diagnosed import Diagnosed
from bitnet_host.selftest.report import examine
from bitnet_host.selftest.speed import preset_file

__all__ = ["main"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Talk to a BitNet b1.58 model on a Zynq-7020 board or its simulation.")
_SLOW_UPLOAD = typer.Option("--slow-upload", help="even if the upload takes hours")
_MOST_TOKENS = 2**31 - 1


def _version(wanted: bool) -> None:
    if wanted:
        print(f"bitnet-host {bitnet_host.__version__}")
        raise typer.Exit


def _log_if(wanted: bool) -> None:
    if wanted:
        logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s: %(message)s",
                            stream=sys.stderr)


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", help="print the version", callback=_version,
                                          is_eager=True)] = False,
    verbose: Annotated[bool,
                       typer.Option("-v",
                                    "--verbose",
                                    help="log what goes over the link on stderr")] = False,
) -> None:
    _log_if(verbose)


@contextmanager
def _opened(target: str, model: Path | None, display: ProgressDisplay, take_over: bool,
            slow_upload: bool) -> Iterator[Target]:
    """The target, not prepared yet, so that bad prompts are refused before a model is uploaded."""
    try:
        with open_target(target, open_model(model, progress=display), take_over=take_over) as board:
            if isinstance(board, BoardTarget):
                board.board.slow_upload = slow_upload
            yield board
    finally:
        display.end()


def _standard_input(option: str) -> str:
    if sys.stdin is None:
        raise BadArgument(f"{option} reads standard input, which is closed")
    return sys.stdin.buffer.read(64 << 20).decode("utf-8", "replace")


def _prompts(prompt: str | None, prompts: Path | None) -> list[str]:
    """The prompts to answer; none means a conversation."""
    if prompt is not None and prompts is not None:
        raise BadArgument("give --prompt or --prompts, not both")
    if prompts is not None:
        text = _standard_input("--prompts -") if str(prompts) == "-" else read_text(prompts)
        found = [line for line in text.splitlines() if line.strip()]
        if not found:
            raise BadArgument(f"{prompts} holds no prompt: write one a line")
        return found
    if prompt == "-":
        return [_standard_input("--prompt -")]
    return [] if prompt is None else [prompt]


@app.command()
def chat(
    context: typer.Context,
    target: TargetOption = "sim",
    model: ModelOption = None,
    prompt: Annotated[str
                      | None,
                      typer.Option(help="answer this once and exit; - reads it from standard "
                                        "input")] = None,
    prompts: Annotated[Path
                       | None,
                       typer.Option(help="answer each line of a file, or of standard "
                                         "input (-)")] = None,
    system: Annotated[str | None, typer.Option(help="system message")] = None,
    max_tokens: Annotated[int, typer.Option(help="most tokens per answer")] = 256,
    temperature: Annotated[float, typer.Option(help="0: greedy")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0: no limit but the 64 best")] = 0,
    top_p: Annotated[float, typer.Option(help="share of the probability kept")] = 1.0,
    min_p: Annotated[float,
                     typer.Option(help="least probability, relative to the best token's")] = 0.0,
    repetition_penalty: Annotated[float,
                                  typer.Option(help="above 1: tokens that were there already are "
                                                    "less likely")] = 1.0,
    presence_penalty: Annotated[float,
                                typer.Option(help="taken from the logit of a token that the "
                                                  "answer has")] = 0.0,
    frequency_penalty: Annotated[float,
                                 typer.Option(help="the same, times how often it has it")] = 0.0,
    seed: Annotated[int
                    | None,
                    typer.Option(help="of the random choice (default: another one each "
                                      "time)")] = None,
    model_defaults: Annotated[bool,
                              typer.Option("--model-defaults",
                                           help="sample as the model's generation_config.json "
                                                "says")] = False,
    stop: Annotated[list[str] | None,
                    typer.Option(help="end the answer before this text; may be given several "
                                      "times")] = None,
    head: Annotated[str,
                    typer.Option(help="screened: int8 logits of the best tokens only; full: "
                                      "of all")] = "screened",
    raw: Annotated[bool,
                   typer.Option("--raw",
                                help="the prompt is plain text, without the chat "
                                     "template")] = False,
    as_object: Annotated[bool,
                         typer.Option("--json",
                                      help="print a JSON object for each prompt")] = False,
    take_over: TakeOverOption = False,
    slow_upload: Annotated[bool, _SLOW_UPLOAD] = False,
    verbose: Annotated[bool,
                       typer.Option("-v",
                                    "--verbose",
                                    help="log what goes over the link on stderr")] = False,
) -> None:
    """Chat with a model."""
    _log_if(verbose)
    given = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
                     frequency_penalty, seed=seed,
                     full_head=full_head(head))
    said = {f.name
            for f in fields(Sampling) if getattr(context.get_parameter_source(f.name), "name",
                                                 "") == "COMMANDLINE"}
    own = {name: getattr(given, name) for name in said} | {"full_head": given.full_head}
    if not 1 <= max_tokens <= _MOST_TOKENS:
        raise BadArgument(f"--max-tokens must lie between 1 and {_MOST_TOKENS}, not {max_tokens}")
    asked = _prompts(prompt, prompts)
    if (raw or as_object) and not asked:
        raise BadArgument(f"{'--raw' if raw else '--json'} needs --prompt TEXT or --prompts FILE")
    display = ProgressDisplay()
    with _opened(target, model, display, take_over, slow_upload) as board:
        session, sampling = (Session(board),
                             Sampling.of_model(board.image, **own) if model_defaults else given)
        before: list[Any] = [{"role": "system", "content": system}] if system else []
        options: dict[str, Any] = {"max_tokens": max_tokens, "sampling": sampling,
                                   "stop": stop or (), "progress": display}

        def answer(text: str, **more: Any) -> Any:
            if raw:
                return session.complete(text, **options, **more)
            return session.chat([*before, {"role": "user", "content": text}], **options, **more)

        for text in asked:
            # what is too long, or refused by the template, shows before the model is uploaded
            answer(text).close()
            if raw:
                board.check_prompt(session.text.encode_raw(text))
        board.prepare(display)
        display.end()
        if not asked:
            Conversation(session, system, max_tokens, sampling, display).run(Prompt())
        for text in asked:
            with interruptible() as cancel:
                reply = show(answer(text, cancel=cancel), display, visible=not as_object)
            print(statistics(reply), file=sys.stderr)
            if as_object:
                print(as_json(reply), flush=True)


for _command in (serve, batch, convert, plan, models, verify, info, bench, profile, synthetic,
                 train):
    app.command()(_command)


@app.command()
def score(
    tokens: Annotated[Path, typer.Option(help="JSON list of token ids")],
    output: Annotated[Path,
                      typer.Option("-o",
                                   "--output", help=".npy to write: float32 [tokens, vocab]")],
    target: TargetOption = "sim",
    model: ModelOption = None,
    take_over: TakeOverOption = False,
    slow_upload: Annotated[bool, _SLOW_UPLOAD] = False,
) -> None:
    """Teacher-forced logits for a list of token ids."""
    try:
        ids = json.loads(read_text(tokens))
    except (ValueError, RecursionError):
        raise BadArgument(f"{tokens} is not JSON: it must hold a list of token ids") from None
    if (not isinstance(ids,
                       list)
        or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids)):
        raise BadArgument(f"{tokens} must hold a JSON list of token ids")
    display = ProgressDisplay()
    with _opened(target, model, display, take_over, slow_upload) as board:
        board.check_prompt(ids)
        board.prepare(display)
        rows = []
        for place, token in enumerate(ids):
            rows.append(board.score(token)[:board.image.vocab])
            display("score", place + 1, len(ids))
    with replacing(output, inputs=(tokens,)) as file:
        np.save(file, np.stack(rows))


@app.command()
def selftest(
    target: TargetOption = "sim",
    whole: Annotated[bool,
                     typer.Option("--whole",
                                  help="try every cell of memory; the model that it holds is "
                                       "lost")] = False,
    memory: Annotated[Path | None,
                      typer.Option(help="write what was measured as a memory model for `bench "
                                        "--ddr`")] = None,
    as_object: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    take_over: TakeOverOption = False,
) -> int:
    """Examine a board's memory, ports, clocks and link; exit code 1 if something is wrong."""
    if target == "reference":
        raise BadArgument("the golden model is no board: choose sim, udp://HOST[:PORT] or "
                          "serial:DEVICE")
    display = ProgressDisplay()
    transport, simulator = open_transport(target, take_over=take_over)
    try:
        report = examine(Diagnosed(transport, simulator), target, whole=whole, progress=display)
    finally:
        display.end()
        transport.close()
        if simulator is not None:
            simulator.close()
    print(json.dumps(report.as_dict()) if as_object else report.text(), flush=True)
    if memory is not None and not report.rates:
        raise BadArgument(f"{memory} was not written: memory speed could not be measured")
    if memory is not None:
        with replacing(memory) as file:
            file.write(preset_file(report.rates, report.info["clock_hz"]).encode())
    return 1 if report.wrong else 0


def _say(sentence: str) -> None:
    if sys.stderr is not None:
        print(f"bitnet-host: {sentence}", file=sys.stderr)


def _run() -> int:
    """The exit code; every expected failure is one sentence on stderr and 2."""
    try:
        return int(app(standalone_mode=False) or 0)
    except UserError as error:
        _say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 2  # whoever read the output has gone
    except OSError as error:
        _say(f"cannot write the output: {error.strerror}")
        return 2
    except Exception as error:
        explain = getattr(error, "format_message", None)  # what the command line library refuses
        if explain is None:
            if type(error).__name__ == "Abort":
                return 130
            raise
        text = " ".join(explain().split()).rstrip(".")
        if text:
            _say(f"{text}; `bitnet-host --help` lists commands and options")
        return 2 if text else 0


def main() -> None:
    """Entry point."""
    if sys.stdout is None:
        _say("standard output is closed: nothing can be shown")
        sys.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    code = _run()
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            _say(f"cannot write the output: {error.strerror}")
        # so that Python does not try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 2
    sys.exit(code)
