"""Measurements on the simulated board. Cycles and beats, which repeat exactly; no wall-clock time."""

from __future__ import annotations

import re
from typing import Any

from xtvu.isa import COUNTERS
from xtvu.layout import WEIGHTS_PER_WORD, row_words

from .checkpoint.convert import convert
from .checkpoint.hf import open_checkpoint
from .errors import UserError
from .image import WEIGHT_MODES
from .link.simulator import Simulator
from .link.transport import MailboxTransport
from .models import BUNDLED
from .sampling import SamplingOptions
from .targets import BoardTarget, Progress

__all__ = ["PRESETS", "measure_decode", "measure_gemv"]

PRESETS = ("ug585", "conservative")


def _check(weights: str, preset: str) -> None:
    if weights not in WEIGHT_MODES:
        raise UserError(f"--weights must be base3 or 2bit, not {weights}")
    if preset not in PRESETS:
        raise UserError(f"--ddr must be {' or '.join(PRESETS)}, not {preset}")


def measure_decode(context: int, weights: str = "base3", preset: str = "ug585", progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Cycles of one decoded token of the bundled model when ``context`` tokens are in the KV cache with it.

    Raises UserError for a context that the model does not have.
    """
    _check(weights, preset)
    image = convert(open_checkpoint(BUNDLED), weights)
    if not 2 <= context <= image.header.context:
        raise UserError(f"--context must lie between 2 and the bundled model's {image.header.context}, not {context}")
    simulator = Simulator(preset)
    try:
        board = BoardTarget(image, MailboxTransport("127.0.0.1", simulator.ports["udp"]), simulator)
        board.prepare(progress)
        # Ids of common words; which ones does not matter, stop tokens do not occur among a greedy answer's first two.
        prompt = [0, *(400 + i for i in range(context - 2))]
        answer = board.generate(prompt, 2, SamplingOptions(), lambda token: None, progress)
        board.transport.close()
    finally:
        simulator.close()
    if answer.decode_cycles_per_token is None:
        raise UserError("the model ended its answer at once; choose another context")
    return {"context": context, "weights": weights, "ddr": preset, "prefill_cycles": answer.prefill_cycles,
            "decode_cycles": round(answer.decode_cycles_per_token), **answer.operators}


def measure_gemv(shape: str, weights: str = "base3", preset: str = "ug585") -> dict[str, Any]:
    """Streams a matrix of ``ROWSxCOLUMNS`` once through the dot lanes and reads the counters.

    ``beats_granted`` are the 64-bit beats that the memory model could have moved while the unit was awake: beats moved plus
    what its data bus was idle for want of a request. Raises UserError for a shape that the lanes do not take.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", shape)
    if not match:
        raise UserError(f"--gemv {shape}: write ROWSxCOLUMNS, for example 2560x2560")
    _check(weights, preset)
    rows, columns = int(match[1]), int(match[2])
    words = row_words(columns, weights)
    if not (1 <= rows <= 16384 and 1 <= words <= 64):
        raise UserError(f"--gemv takes 1 to 16384 rows and 1 to {64 * WEIGHTS_PER_WORD[weights]} columns in {weights}")
    simulator = Simulator(preset)
    try:
        transport = MailboxTransport("127.0.0.1", simulator.ports["udp"])
        before = simulator.stats()
        transport.send("GEMV", [rows, words, WEIGHT_MODES[weights]])
        name, payload = transport.receive(300)
        after = simulator.stats()
        transport.close()
        if name != "COUNTERS":
            raise UserError(f"the board answered {name} {payload.tolist()} to the GEMV command: run `make build` again")
    finally:
        simulator.close()
    counters = dict(zip(COUNTERS, (int(c) for c in payload), strict=True))
    granted, used = (after[key] - before[key] for key in ("granted", "used"))
    return {"gemv": shape, "weights": weights, "ddr": preset, **counters, "beats_granted": granted, "beats_used": used,
            "share_of_granted": round(used / granted, 4) if granted else None}
