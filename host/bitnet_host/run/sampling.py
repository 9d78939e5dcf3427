"""Choosing the next token: the golden model of firmware/sample.c, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xtvu.semantics import argmax, float_key

from bitnet_host.errors import UserError
from bitnet_host.run.protocol import SAMPLE_CANDIDATES

__all__ = ["Sampler", "SamplingOptions"]

_LOG2_E = np.float32(1.44269504)


@dataclass(frozen=True)
class SamplingOptions:
    """Temperature 0 is greedy; ``top_k`` 0 means no limit but SAMPLE_CANDIDATES. ``full_head``: compute all logits in int8 instead
    of those that the ternary sketch ranks highest. ``all_rows`` and ``all_columns``: a board reads also the rows of up_proj and
    columns of down_proj that count for nothing, for benches."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 1
    full_head: bool = False
    all_rows: bool = False
    all_columns: bool = False

    def check(self) -> None:
        """Raises UserError for values that make no sense."""
        if not (np.isfinite(self.temperature) and 0 <= self.temperature <= 100):
            raise UserError(f"--temperature must lie between 0 (greedy) and 100, not {self.temperature:g}")
        if 0 < self.temperature < 0.01:
            raise UserError(f"--temperature {self.temperature:g} is too small: use 0 for greedy answers or at least 0.01")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p must be above 0 and at most 1, not {self.top_p:g}")
        if not 0 <= self.top_k <= SAMPLE_CANDIDATES:
            raise UserError(f"--top-k must lie between 0 (no limit) and {SAMPLE_CANDIDATES}, not {self.top_k}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed must lie between 0 and {2**32 - 1}, not {self.seed}")


def _power_of_two(t: np.float32) -> np.float32:
    """2^t for t <= 0: 16 fraction bits, 2^f as a cubic in fixed point."""
    if t < np.float32(-100):
        return np.float32(0)
    fixed = int(np.trunc(np.float32(t * np.float32(65536))))
    whole, f = fixed >> 16, fixed & 0xFFFF
    poly = 14814 + (f * 5115 >> 16)
    poly = 45607 + (f * poly >> 16)
    poly = f * poly >> 16
    return np.uint32((whole + 127) << 23 | (poly & 0xFFFF) << 7).view(np.float32)


class Sampler:
    """Keeps the random state (xorshift32) over one answer."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        # neighbouring seeds must not start alike
        self._state = (options.seed * 0x9E3779B9 + 0x7F4A7C15) & 0xFFFFFFFF | 1

    def _random(self) -> int:
        x = self._state
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        self._state = x
        return x

    def choose(self, logits: NDArray[np.float32], tokens: NDArray[np.int64] | None = None) -> int:
        """The next token for float32 logits [n] of the tokens given in rising order, or of the whole vocabulary."""
        place = self._choose(logits)
        return place if tokens is None else int(tokens[place])

    def _choose(self, logits: NDArray[np.float32]) -> int:
        options = self._options
        if options.temperature == 0:
            return argmax(logits)
        order = np.argsort(-float_key(logits), kind="stable")[:SAMPLE_CANDIDATES]
        if options.top_k:
            order = order[:options.top_k]
        factor = np.float32(_LOG2_E / np.float32(options.temperature))
        best = logits[order[0]]
        weights = [_power_of_two(np.float32(np.float32(logits[i] - best) * factor)) for i in order]
        total = np.float32(0)
        for weight in weights:
            total = np.float32(total + weight)
        limit, kept, count = np.float32(total * np.float32(options.top_p)), np.float32(0), 0
        while count < len(weights) and (count == 0 or kept < limit):
            kept = np.float32(kept + weights[count])
            count += 1
        target = np.float32(np.float32(np.float32(self._random() >> 8) * np.float32(2.0**-24)) * kept)
        running = np.float32(0)
        for i in range(count):
            running = np.float32(running + weights[i])
            if target < running:
                return int(order[i])
        return int(order[count - 1])
