"""Counters for Prometheus: the names of llama-server, and the board's own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from xtvu.isa import WORD_BYTES

from bitnet_host.run.protocol import PARTS

if TYPE_CHECKING:
    from bitnet_host.serve.engine import Engine, Job

__all__ = ["Metrics"]

_COUNTERS = {
    "prompt_tokens_total": "Tokens of prompts that were read.",
    "prompt_tokens_cached_total": "Tokens of prompts that the KV cache had already.",
    "prompt_seconds_total": "Seconds in which prompts were read.",
    "tokens_predicted_total": "Tokens that were written.",
    "tokens_predicted_seconds_total": "Seconds in which tokens were written.",
    "n_decode_total": "Tokens computed: of prompts, and written ones.",
    "n_tokens_max": "Most tokens that a conversation had.",
    "spec_decode_num_draft_tokens_total": "Tokens that were guessed.",
    "spec_decode_num_accepted_tokens_total": "Tokens that were guessed rightly.",
    "spec_decode_num_drafts_total": "Guesses.",
}
_GAUGES = {
    "prompt_tokens_seconds": "Tokens of prompts per second.",
    "predicted_tokens_seconds": "Tokens written per second and conversation.",
    "requests_processing": "Answers that are being written.",
    "requests_deferred": "Answers that wait for a slot.",
    "n_busy_slots_per_decode": "Slots that were busy, on average over answers.",
}
_BOARD = {
    "bytes_total": "Bytes of weights and KV cache that were read for tokens.",
    **{f"{part}_cycles_total": f"Cycles of tokens: {part} (docs/performance.md)."
       for part in PARTS},
}


class Metrics:
    """What has happened since the server was started."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._seconds = {"prompt": 0.0, "predicted": 0.0}
        self._steps = self._busy = self._answers = 0

    def count(self, job: Job) -> None:
        """Takes note of an answer that is over."""
        timing = job.timing
        self._sums["prompt_tokens_total"] += timing.prompt - timing.cached
        self._sums["prompt_tokens_cached_total"] += timing.cached
        self._sums["tokens_predicted_total"] += timing.said
        steps = max(0, timing.said - 1)
        self._sums["n_decode_total"] += timing.prompt - timing.cached + steps
        self._sums["n_tokens_max"] = max(self._sums["n_tokens_max"], timing.prompt + timing.said)
        self._sums["spec_decode_num_drafts_total"] += timing.drafts
        self._sums["spec_decode_num_draft_tokens_total"] += timing.drafted
        self._sums["spec_decode_num_accepted_tokens_total"] += timing.accepted
        self._seconds["prompt"] += timing.prompt_seconds
        self._seconds["predicted"] += timing.seconds
        self._steps += steps
        self._busy += job.busy
        self._answers += 1
        answer = job.answer
        for parts in answer.counters.values() if answer else ():
            for part, cycles in parts.items():
                self._sums[f"{part}_cycles_total"] += cycles * max(1, steps)
                if part == "moving":
                    self._sums["bytes_total"] += cycles * WORD_BYTES * max(1, steps)

    def text(self, engine: Engine) -> str:
        """In Prometheus' text format."""
        prompt, predicted = self._seconds["prompt"], self._seconds["predicted"]
        values = {
            **self._sums, "prompt_seconds_total": round(prompt, 3),
            "tokens_predicted_seconds_total": round(predicted, 3),
            "prompt_tokens_seconds": self._sums["prompt_tokens_total"] / prompt if prompt else 0.0,
            "predicted_tokens_seconds": self._steps / predicted if predicted else 0.0,
            "requests_processing": len(engine.running), "requests_deferred": engine.waiting,
            "n_busy_slots_per_decode": self._busy / self._answers if self._answers else 0.0,
        }
        lines = []
        for prefix, kind, names in (("llamacpp:", "counter", _COUNTERS),
                                    ("llamacpp:", "gauge", _GAUGES),
                                    ("bitnet:", "counter", _BOARD)):
            for name, text in names.items():
                lines += [f"# HELP {prefix}{name} {text}", f"# TYPE {prefix}{name} {kind}",
                          f"{prefix}{name} {values.get(name, 0)}"]
        lines += ["# HELP bitnet:board_up Whether a board is there.",
                  "# TYPE bitnet:board_up gauge"]
        for place, board in enumerate(engine.pool.boards):
            name = board.name.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'bitnet:board_up{{board="{place}",target="{name}"}} '
                         f"{int(not board.error)}")
        return "\n".join(lines) + "\n"
