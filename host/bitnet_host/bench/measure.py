"""Measurements on the simulated board: cycles, stream words and beats from hardware counters; no
wall-clock time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from xtvu.isa import ACT_WORDS, COUNTERS, WORD_BYTES
from xtvu.layout import WEIGHTS_PER_WORD, row_words
from xtvu.semantics import argmax

from bitnet_host.bench.together import decode_together
from bitnet_host.errors import UserError
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.convert import convert
from bitnet_host.model.header import WEIGHT_MODES, mode_of
from bitnet_host.model.image import Image
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.synthetic import GATE_ZEROS, Bench, parse_shape, prepare
from bitnet_host.reporting import Progress
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.exchange import Exchange
from bitnet_host.run.link.simulator import Simulator, build_folder
from bitnet_host.run.link.transport import over_udp
from bitnet_host.run.protocol import PARTS, SLOTS
from bitnet_host.run.sampling import Sampling
from bitnet_host.run.target import Answer

__all__ = ["CLOCK_HZ", "DDR_PEAK", "PRESETS", "BenchOptions", "bench_board", "bench_model",
           "bench_words", "check_model", "measure_gemv", "measure_model",
           "print_measurement", "stream_share"]

CLOCK_HZ = 125_000_000
DDR_PEAK = 4_266_640_000  # bytes per second of 32-bit DDR3-1066
#: Memory models that come with the simulator; any other name is that of a file.
PRESETS = ("ug585", "conservative")


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. ``shape``: ``bundled`` or what ``parse_shape`` takes; ``context``: tokens in
    the KV cache with the decoded one; ``tokens``: passes to average over; ``prefill``: tokens of a
    prompt to measure instead of decoding, 0 for none; ``ddr``: one of PRESETS or a file;
    ``slots``: conversations that are decoded together, each at that context; ``cached``: tokens
    before those of ``prefill``, which then are a part of a longer prompt; ``weights``: base3, 2bit
    or nothing for what suits the model."""

    shape: str = "2b4t"
    context: int = 128
    tokens: int = 1
    prefill: int = 0
    weights: str = ""
    ddr: str = "ug585"
    clock: float = CLOCK_HZ
    full_head: bool = False
    all_rows: bool = False
    all_columns: bool = False
    gate_zeros: float = GATE_ZEROS
    seed: int = 1
    slots: int = 1
    cached: int = 0

    def check(self, model_context: int) -> None:
        """Raises UserError for values that make no sense."""
        if self.weights and self.weights not in WEIGHT_MODES:
            raise UserError(f"--weights must be base3 or 2bit, not {self.weights}")
        _check_ddr(self.ddr)
        if not 1 <= self.tokens <= 1000 or not 0 < self.clock < 1e12:
            raise UserError("--tokens must lie between 1 and 1000, --clock between 0 and 1e12")
        if not 1 <= self.slots <= SLOTS or (self.prefill and self.slots > 1):
            raise UserError(f"--slots must lie between 1 and {SLOTS}, and is not for --prefill")
        if self.cached < 0 or (self.cached and not self.prefill):
            raise UserError("--cached is how many tokens stand before those of --prefill")
        longest = self.cached + self.prefill if self.prefill else self.context + self.tokens
        if self.prefill < 0 or longest > model_context or (not self.prefill and self.context < 2):
            raise UserError(f"the model has a context of {model_context} tokens: choose a "
                            f"--context of 2 or more, and --tokens or "
                            "--prefill and --cached, that fit in it")


def _check_ddr(ddr: str) -> None:
    if ddr not in PRESETS and not Path(ddr).is_file():
        raise UserError(f"--ddr must be {' or '.join(PRESETS)} or a file that describes memory, "
                        f"not {ddr}")


@contextmanager
def _board(preset: str, image: Image, path: Path | None) -> Iterator[BoardTarget]:
    simulator = Simulator(preset, path)
    try:
        board = BoardTarget(image, over_udp("127.0.0.1", simulator.ports["udp"]), simulator)
        try:
            yield board
        finally:
            board.transport.close()
    finally:
        simulator.close()


def bench_model(options: BenchOptions) -> tuple[Image, Path | None]:
    """The model, and the file with memory's contents if they need not be uploaded. Raises
    UserError."""
    if options.shape != "bundled":
        bench = _synthetic(options)
        return bench.image, bench.path
    checkpoint = open_checkpoint(BUNDLED)
    options.check(checkpoint.config.context)
    return convert(checkpoint, options.weights), None


@contextmanager
def bench_board(options: BenchOptions, image: Image, path: Path | None,
                progress: Progress) -> Iterator[BoardTarget]:
    """A simulated board that is ready for the model."""
    with _board(options.ddr, image, path) as board:
        if path is None:
            board.prepare(progress)
        else:
            board.trust()
        yield board


def bench_words(image: Image) -> list[int]:
    """As many ids as the context has tokens: of common words in the bundled model; any will do
    elsewhere."""
    return [(400 + i % 1000) % image.header.vocab for i in range(image.header.context)]


def _synthetic(options: BenchOptions) -> Bench:
    config = parse_shape(options.shape)
    options.check(config.context)
    return prepare(config, build_folder() / "bench", options.weights, options.gate_zeros,
                   options.seed)


def _measured(board: BoardTarget, prompt: list[int], tokens: int, options: BenchOptions,
              progress: Progress) -> tuple[Answer, int, int]:
    """The answer, and 64-bit beats meanwhile: at the DRAM's peak, and used."""
    assert board.simulator is not None
    before = board.simulator.stats()
    board.board.all_rows, board.board.all_columns = options.all_rows, options.all_columns
    board.board.lookup = False
    sampling = Sampling(full_head=options.full_head)
    answer = (board.generate(prompt, tokens, sampling, progress=progress) if options.slots == 1
              else decode_together(board, options.slots, prompt, options.tokens, sampling))
    after = board.simulator.stats()
    return answer, after["peak"] - before["peak"], after["used"] - before["used"]


def measure_model(options: BenchOptions, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Decodes (or prefills) with a synthetic model of the shape, or the bundled one, on the
    simulated board.

    ``operators`` has, per pass: cycles = moving + stall_memory + stall_compute + stall_control
    (each cycle is one of these), ``bytes`` consumed from the stream, and ``exposed`` =
    stall_compute + stall_control. ``beats_granted`` are the 64-bit beats that a stream over four
    ports would have moved during all passes (``stream_share``). Raises UserError.
    """
    image, path = bench_model(options)
    with bench_board(options, image, path, progress) as board:
        words = bench_words(image)
        if options.prefill:
            # a part of a prompt that goes on has no head
            passes, prompt, tokens = (options.prefill, words[:options.prefill],
                                      0 if options.cached else 1)
            if path is not None:
                board.fill_cache(options.cached)
            elif options.cached:
                board.generate([0, *words[:options.cached - 1]], 0)
        elif options.slots > 1:
            for slot in board.slots[:options.slots]:
                assert isinstance(slot, BoardTarget)
                if path is None:
                    slot.generate([0, *words[:options.context - 3]], 0)
                else:
                    slot.fill_cache(options.context - 2)
            passes, prompt, tokens = options.tokens, words[:1], options.tokens + 1
        elif path is None:
            passes, prompt, tokens = (options.tokens, [0, *words[:options.context - 2]],
                                      options.tokens + 1)
        else:
            # One pass is measured as a prompt of one token, more as what follows one.
            board.fill_cache(options.context - 1 - (options.tokens > 1))
            passes, prompt, tokens = (options.tokens, words[:1],
                                      options.tokens + (options.tokens > 1))
        answer, peak, used = _measured(board, prompt, tokens, options, progress)
    if len(answer.token_ids) != tokens:
        raise UserError("the model ended its answer at once; choose another context")
    decoded = not options.prefill and tokens > 1
    assert answer.prefill_cycles is not None
    cycles = (round(answer.decode_cycles_per_token or 0) if decoded
              else round(answer.prefill_cycles / len(prompt)))
    operators = {
        name: {"cycles": sum(parts.values()), "bytes": WORD_BYTES * parts["moving"], **parts,
               "exposed": parts["stall_compute"] + parts["stall_control"]}
        for name, parts in answer.counters.items()}
    total = {key: sum(parts[key] for parts in operators.values())
             for key in next(iter(operators.values()))}
    result: dict[str, Any] = {
        "shape": options.shape, "context": options.context, "prefill": options.prefill,
        "cached": options.cached, "weights": mode_of(image.header), "ddr": options.ddr,
        "head": "full" if options.full_head else "screened", "all_rows": options.all_rows,
        "all_columns": options.all_columns,
        "clock_hz": options.clock, "passes": passes, "tokens": answer.token_ids, "cycles": cycles,
        "slots": options.slots,
        "tokens_per_second": round(options.slots * options.clock / cycles, 2),
        "operators": operators, "total": total,
        "exposed_share": round(total["exposed"] / total["cycles"], 4),
        "ddr_peak_share": round(total["bytes"] * options.clock / cycles / DDR_PEAK, 4),
    }
    share = stream_share(options.ddr)
    # else the counters of memory also cover the prompt
    if options.slots == 1 and (not decoded or path is not None):
        result |= {"beats_granted": round(share * peak), "beats_used": used,
                   "share_of_granted": round(used / (share * peak), 4)}
    result["stream_share"] = round(share, 4)
    bytes_per_cycle = min(4 * 8.0, share * DDR_PEAK / options.clock)
    result["roofline"] = {
        "bytes_per_cycle": round(bytes_per_cycle, 2),
        "cycles": round(total["bytes"] / bytes_per_cycle),
        "tokens_per_second": round(options.slots * options.clock * bytes_per_cycle
                                   / total["bytes"], 2),
    }
    return result


def check_model(options: BenchOptions, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Decodes ``options.tokens`` tokens of a synthetic shape on the simulated board and on the
    golden model.

    Compared are the tokens that the screened head chooses and, for the same tokens, every bit of
    the full head's logits. Raises UserError where they differ.
    """
    if (options.shape == "bundled" or options.prefill or options.full_head or options.all_rows
        or options.all_columns):
        raise UserError("--check takes a synthetic --shape, --context and --tokens, and compares "
                        "the screened and the full head")
    bench = _synthetic(options)
    reference, before, token = (ReferenceModel(bench.image), options.context - 1,
                                400 % bench.image.header.vocab)
    reference.fill_cache(bench.codes[:, :, :, :before], bench.scales[:, :, :, :before])
    with _board(options.ddr, bench.image, bench.path) as board:
        board.trust()
        board.fill_cache(before)
        chosen = board.generate([token], options.tokens, Sampling(), lambda token: None,
                                progress).token_ids
        board.fill_cache(before)
        same = 0
        for place, input_token in enumerate([token, *chosen[:-1]]):
            x = reference.advance(input_token)
            tokens, logits = reference.candidates(x)
            if int(tokens[argmax(logits)]) != chosen[place]:
                raise UserError(f"token {place}: the board chose {chosen[place]}, the golden model "
                                f"{int(tokens[argmax(logits)])}")
            theirs, ours = (board.score(input_token).view(np.uint32),
                            reference.logits(x).view(np.uint32))
            if not np.array_equal(theirs, ours):
                raise UserError(f"token {place}: {np.count_nonzero(theirs != ours)} of {ours.size} "
                                f"logits differ from the golden model's")
            same += ours.size
            progress("check", place + 1, options.tokens)
    return {"shape": options.shape, "context": options.context,
            "weights": mode_of(bench.image.header), "ddr": options.ddr, "tokens": chosen,
            "identical_logits": same}


def measure_gemv(shape: str, weights: str = "base3", preset: str = "ug585") -> dict[str, Any]:
    """Streams a matrix of ``ROWSxCOLUMNS`` once through the dot lanes and reads the counters.

    ``beats_used`` are 64-bit beats, ``share_of_peak`` how many of those that the DRAM's peak would
    have moved while the unit was awake. Raises UserError for a shape that the lanes do not take.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", shape)
    if not match:
        raise UserError(f"--gemv {shape}: write ROWSxCOLUMNS, for example 2560x2560")
    if weights not in WEIGHT_MODES:
        raise UserError(f"--weights must be base3 or 2bit, not {weights}")
    _check_ddr(preset)
    rows, columns = int(match[1]), int(match[2])
    words = row_words(columns, weights)
    if not (1 <= rows <= 16384 and 1 <= words <= ACT_WORDS):
        raise UserError(f"--gemv takes 1 to 16384 rows and 1 to "
                        f"{ACT_WORDS * WEIGHTS_PER_WORD[weights]} columns in {weights}")
    counters, peak, used = _gemv(rows, words, weights, preset)
    return {"gemv": shape, "weights": weights, "ddr": preset,
            "cycles": sum(counters[part] for part in PARTS), **counters, "beats_used": used,
            "share_of_peak": round(used / peak, 4)}


@cache
def stream_share(preset: str) -> float:
    """Share of the DRAM's peak that a stream over four ports reaches with a memory model, measured
    with a matrix of 2 MB."""
    _, peak, used = _gemv(4096, 16, "base3", preset)
    return used / peak


def _gemv(rows: int, words: int, weights: str, preset: str) -> tuple[dict[str, int], int, int]:
    """The vector unit's counters, and 64-bit beats meanwhile: at the DRAM's peak, and used."""
    simulator = Simulator(preset)
    try:
        transport = over_udp("127.0.0.1", simulator.ports["udp"])
        before = simulator.stats()
        exchange = Exchange(transport)
        asked = exchange.send("GEMV", [rows, words, WEIGHT_MODES[weights]])
        name, payload = exchange.receive(asked, 300)
        after = simulator.stats()
        transport.close()
        if name != "COUNTERS":
            raise UserError(f"the board answered {name} {payload.tolist()} to the GEMV command: "
                            f"run `make build` again")
    finally:
        simulator.close()
    counters = dict(zip(COUNTERS, (int(c) for c in payload), strict=True))
    return counters, after["peak"] - before["peak"], after["used"] - before["used"]


def print_measurement(result: dict[str, Any], compare: bool = False) -> None:
    """Prints what ``measure_model`` gave as a table; ``compare`` adds the cycles that memory alone
    would take."""
    behind = f" behind {result['cached']}" if result["cached"] else ""
    what = (f"prefill of {result['prefill']} tokens{behind}" if result["prefill"]
            else f"decode at context {result['context']}")
    print(f"{result['shape']}, {what}, {result['weights']} weights, {result['head']} head, DDR "
          f"{result['ddr']}; per "
          f"{'token' if result['slots'] == 1 else 'pass of {} tokens'.format(result['slots'])}:")
    columns = ["cycles", "bytes", "moving", "stall_memory", "stall_compute", "stall_control",
               "exposed"]
    print(f"{'':<12}"
          + "".join(f"{name:>15}" for name in columns) + (f"{'roofline':>15}" if compare else ""))
    rate = result["roofline"]["bytes_per_cycle"]
    for name, values in [*result["operators"].items(), ("total", result["total"])]:
        roofline = f"{round(values['bytes'] / rate):>15,}" if compare else ""
        print(f"{name:<12}" + "".join(f"{values[column]:>15,}" for column in columns) + roofline)
    print(f"{result['cycles']:,} cycles = {result['tokens_per_second']} tokens/s at "
          f"{result['clock_hz'] / 1e6:g} MHz, "
          f"{100 * result['ddr_peak_share']:.1f} % of the DDR peak, "
          f"{100 * result['exposed_share']:.2f} % exposed")
    if "share_of_granted" in result:
        print(f"beats granted {result['beats_granted']:,}, used {result['beats_used']:,}: "
              f"{100 * result['share_of_granted']:.1f} %")
    if compare:
        line = result["roofline"]
        print(f"roofline: {line['bytes_per_cycle']} bytes per cycle, {line['cycles']:,} cycles, "
              f"{line['tokens_per_second']} tokens/s")
