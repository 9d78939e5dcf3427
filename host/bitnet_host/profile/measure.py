"""Measures the steps of a pass on the simulated board."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitnet_host.bench.measure import (
    DDR_PEAK,
    BenchOptions,
    bench_board,
    bench_model,
    bench_words,
    measure_model,
    stream_share,
)
from bitnet_host.files import replacing
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.model.image import Image
from bitnet_host.model.open import open_model
from bitnet_host.reporting import Progress
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.simulator import build_folder
from bitnet_host.run.protocol import PARTS, STEPS
from bitnet_host.run.sampling import Sampling

__all__ = ["Measured", "measure_steps", "over_context"]

_UPLOADED = 16 << 20  # bytes; a larger model is put into the simulator's memory instead


@dataclass(frozen=True)
class Measured:
    """``cycles`` int64 [layers + 2, steps, parts] of all passes, before the layers, in each, and
    behind them. ``contexts``: tokens that each token saw. ``whole``: cycles of the same passes
    when steps are not told apart. ``bytes_per_cycle`` that a stream over four ports gets."""

    name: str
    image: Image
    options: BenchOptions
    contexts: tuple[int, ...]
    cycles: NDArray[np.int64]
    whole: int
    bytes_per_cycle: float


def measure_steps(options: BenchOptions, model: Path | None, progress: Progress) -> Measured:
    """One token at ``options.context``, or a prompt of ``options.prefill`` tokens; of ``model``, if
    there is one, or of the shape. Raises UserError."""
    image, path = (bench_model(options) if model is None
                   else _loaded(open_model(model, progress=progress), options))
    count = options.prefill or 1
    start = 0 if options.prefill else options.context - 1
    words = bench_words(image)[:count]
    with bench_board(options, image, path, progress) as board:
        plain, _ = _pass(board, start, words, options, steps=False)
        _, cycles = _pass(board, start, words, options, steps=True)
    name = options.shape if model is None else str(image.meta.get("name") or model.stem)
    rate = min(32.0, stream_share(options.ddr) * DDR_PEAK / options.clock)
    return Measured(name, image, options, tuple(range(start + 1, start + 1 + count)), cycles, plain,
                    rate)


def _pass(board: BoardTarget, start: int, prompt: list[int], options: BenchOptions,
          steps: bool) -> tuple[int, NDArray[np.int64]]:
    """Cycles of the passes, and of their steps."""
    board.fill_cache(start)
    board.board.all_rows, board.board.all_columns = options.all_rows, options.all_columns
    layers = board.image.header.layers
    cycles = np.zeros((layers + 2, len(STEPS), len(PARTS)), np.int64)
    board.profile = cycles if steps else None
    answer = board.generate(prompt, 1, Sampling(full_head=options.full_head))
    board.profile = None
    assert answer.prefill_cycles is not None
    return answer.prefill_cycles, cycles


def _loaded(image: Image, options: BenchOptions) -> tuple[Image, Path | None]:
    """An image, and the file with memory's contents if it would take long to upload."""
    options.check(image.header.context)
    if image.ddr.nbytes <= _UPLOADED:
        return image, None
    folder = build_folder() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model-{image.header.model_id:08x}.ddr"
    if not path.exists():
        with replacing(path) as file:
            file.seek(MODEL_BASE)
            image.ddr.tofile(file)
            file.truncate(MODEL_BASE + image.header.total_bytes)
    return image, path


def over_context(options: BenchOptions, contexts: list[int],
                 progress: Progress) -> list[tuple[int, float]]:
    """Tokens per second of the shape at other contexts, each measured. Raises UserError."""
    found = []
    for place, context in enumerate(contexts):
        result = measure_model(replace(options, context=context, prefill=0, tokens=1))
        found.append((context, float(result["tokens_per_second"])))
        progress("contexts", place + 1, len(contexts))
    return found
