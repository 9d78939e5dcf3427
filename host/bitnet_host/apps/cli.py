"""The command line: chat, convert, score, info, bench."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from bitnet_host.apps.chat import ProgressDisplay, answer_once, as_json, converse, statistics
from bitnet_host.bench.measure import CLOCK_HZ, BenchOptions, check_model, measure_gemv, measure_model, print_measurement
from bitnet_host.errors import UserError
from bitnet_host.model.convert import convert as convert_checkpoint
from bitnet_host.model.convert import convert_file, shorten
from bitnet_host.model.header import KINDS
from bitnet_host.model.image import Image, read_image
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.synthetic import GATE_ZEROS
from bitnet_host.model.text import Conversation, TextModel
from bitnet_host.run.board import open_target
from bitnet_host.run.sampling import SamplingOptions

__all__ = ["main"]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Talk to a BitNet b1.58 model on a Zynq-7020 board or its simulation.")
_TARGET = typer.Option(help="sim, reference, udp://HOST[:PORT] or serial:DEVICE")
_MODEL = typer.Option(help="model image or checkpoint folder (default: the bundled model)")


def _open_model(path: Path | None) -> Image:
    source = path or BUNDLED
    if source.is_dir():
        return convert_checkpoint(open_checkpoint(source), name=source.name)
    return read_image(source)


def _full_head(head: str) -> bool:
    if head not in ("screened", "full"):
        raise UserError(f"--head must be screened or full, not {head}")
    return head == "full"


@app.command()
def chat(
    target: Annotated[str, _TARGET] = "sim",
    model: Annotated[Path | None, _MODEL] = None,
    prompt: Annotated[str | None, typer.Option(help="answer this once and exit")] = None,
    system: Annotated[str | None, typer.Option(help="system message")] = None,
    max_tokens: Annotated[int, typer.Option(help="most tokens per answer")] = 256,
    temperature: Annotated[float, typer.Option(help="0: greedy")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0: no limit but the 64 best")] = 0,
    top_p: Annotated[float, typer.Option(help="share of the probability kept")] = 1.0,
    seed: Annotated[int, typer.Option(help="of the random choice")] = 1,
    head: Annotated[str, typer.Option(help="screened: int8 logits of the best tokens only; full: of all")] = "screened",
    raw: Annotated[bool, typer.Option("--raw", help="the prompt is plain text, without the chat template")] = False,
    as_object: Annotated[bool, typer.Option("--json", help="print one JSON object as the last line")] = False,
) -> None:
    """Chat with a model."""
    options = SamplingOptions(temperature, top_k, top_p, seed, _full_head(head))
    options.check()
    if max_tokens < 1:
        raise UserError(f"--max-tokens must be at least 1, not {max_tokens}")
    if raw and prompt is None:
        raise UserError("--raw needs --prompt TEXT")
    image = _open_model(model)
    text = TextModel(image.meta)
    ids: list[int] | None = None
    if prompt is not None:
        ids = text.encode_raw(prompt) if raw else Conversation(text, system).ask(prompt)[0]
    board = open_target(target, image)
    display = ProgressDisplay()
    try:
        if ids is not None:
            board.check_prompt(ids)
        board.prepare(display)
        display.end()
        if ids is None:
            converse(board, text, system, max_tokens, options, display)
            return
        answer, words = answer_once(board, text, ids, max_tokens, options, display, show=not as_object)
        print(statistics(answer), file=sys.stderr)
        if as_object:
            print(as_json(answer, words))
    finally:
        display.end()
        board.close()


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="folder of a Hugging Face checkpoint", metavar="SRC")],
    output: Annotated[Path, typer.Option("-o", "--output", help="image to write")],
    weights: Annotated[str, typer.Option(help="base3 (1.6 bit) or 2bit")] = "base3",
    context: Annotated[int, typer.Option(help="tokens in the KV cache; 0: as many as the checkpoint was made for")] = 0,
) -> None:
    """Convert a packed Hugging Face checkpoint to a model image."""
    if weights not in ("base3", "2bit"):
        raise UserError(f"--weights must be base3 or 2bit, not {weights}")
    if not source.is_dir():
        raise UserError(f"{source} is not a folder: give the folder of a Hugging Face checkpoint")
    checkpoint = open_checkpoint(source)
    if context:
        checkpoint = shorten(checkpoint, context)
    display = ProgressDisplay()
    try:
        plan = convert_file(checkpoint, output, weights, source.resolve().name, display)
    finally:
        display.end()
    print(f"wrote {output}: {plan.model_bytes / 2**20:.1f} MB for the board, "
          f"{plan.total_bytes / 2**20:.1f} MB with KV cache for {plan.context} tokens")
    print(plan)


@app.command()
def score(
    tokens: Annotated[Path, typer.Option(help="JSON list of token ids")],
    output: Annotated[Path, typer.Option("-o", "--output", help=".npy to write: float32 [tokens, vocab]")],
    target: Annotated[str, _TARGET] = "sim",
    model: Annotated[Path | None, _MODEL] = None,
) -> None:
    """Teacher-forced logits for a list of token ids."""
    try:
        ids = json.loads(tokens.read_text())
    except OSError as error:
        raise UserError(f"cannot read {tokens}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{tokens} is not JSON: it must hold a list of token ids") from None
    if not isinstance(ids, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise UserError(f"{tokens} must hold a JSON list of token ids")
    image = _open_model(model)
    board = open_target(target, image)
    display = ProgressDisplay()
    try:
        board.check_prompt(ids)
        board.prepare(display)
        rows = []
        for place, token in enumerate(ids):
            rows.append(board.score(token))
            display("score", place + 1, len(ids))
    finally:
        display.end()
        board.close()
    partial = output.with_name(output.name + ".partial")
    try:
        with partial.open("wb") as file:
            np.save(file, np.stack(rows))
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {output}: {error.strerror}") from None


@app.command()
def info(
    image: Annotated[Path, typer.Argument(help="model image", metavar="IMAGE")],
    as_object: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show what an image holds."""
    model = read_image(image)
    header = model.header
    fields = {
        "name": model.meta.get("name"), "weights": model.meta.get("weights"), "layers": header.layers, "hidden": header.hidden,
        "intermediate": header.intermediate, "heads": header.heads, "kv_heads": header.kv_heads, "head_dim": header.head_dim,
        "vocab": header.vocab, "context": header.context, "tensors": header.tensors, "model_id": f"{header.model_id:08x}",
        "ddr_bytes": header.ddr_bytes, "total_bytes": header.total_bytes,
    }
    if as_object:
        fields["tensor_table"] = [vars(t) | {"kind": KINDS[t.kind]} for t in model.tensors]
        print(json.dumps(fields))
        return
    for name, value in fields.items():
        print(f"{name:<14}{value:,}" if isinstance(value, int) else f"{name:<14}{value}")


@app.command()
def bench(
    shape: Annotated[str, typer.Option(help="bundled, 2b4t, tiny, or explicit dimensions (hidden=..., 2b4t,layers=2)")] = "bundled",
    context: Annotated[int, typer.Option(help="tokens in the KV cache, the decoded one included")] = 64,
    tokens: Annotated[int, typer.Option(help="tokens to decode")] = 1,
    prefill: Annotated[int, typer.Option(help="measure a prompt of so many tokens instead of decoding")] = 0,
    gemv: Annotated[str | None, typer.Option(help="measure only a matrix-vector product of ROWSxCOLUMNS")] = None,
    weights: Annotated[str, typer.Option(help="base3 or 2bit")] = "base3",
    ddr: Annotated[str, typer.Option(help="memory model: ug585 or conservative")] = "ug585",
    clock: Annotated[float, typer.Option(help="Hz that seconds are reckoned with")] = CLOCK_HZ,
    head: Annotated[str, typer.Option(help="screened or full")] = "screened",
    all_rows: Annotated[bool, typer.Option("--all-rows", help="read rows of up_proj whose gate is not positive, too")] = False,
    all_columns: Annotated[bool, typer.Option("--all-columns", help="read columns of down_proj whose code is zero, too")] = False,
    gate_zeros: Annotated[float, typer.Option(help="share of gates that are not positive, of synthetic shapes")] = GATE_ZEROS,
    seed: Annotated[int, typer.Option(help="of synthetic weights")] = 1,
    compare: Annotated[bool, typer.Option("--compare", help="print the roofline beside the measurement")] = False,
    check: Annotated[bool, typer.Option("--check", help="instead of measuring, compare with the golden model bit for bit")] = False,
    as_object: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure cycles on the simulated board."""
    if gemv is not None:
        result = measure_gemv(gemv, weights, ddr)
    else:
        options = BenchOptions(shape, context, tokens, prefill, weights, ddr, clock, _full_head(head), all_rows, all_columns,
                               gate_zeros, seed)
        display = ProgressDisplay()
        try:
            result = check_model(options, display) if check else measure_model(options, display)
        finally:
            display.end()
    if as_object:
        print(json.dumps(result))
    elif gemv is not None or check:
        for name, value in result.items():
            print(f"{name:<22}{value:,}" if isinstance(value, int) else f"{name:<22}{value}")
    else:
        print_measurement(result, compare)


def main() -> None:
    """Entry point: every expected failure is one sentence on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"bitnet-host: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
