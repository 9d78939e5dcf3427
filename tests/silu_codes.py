"""How many int8 codes behind SiLU differ from those of float32, by how sigmoid is computed: what
docs/notes.md says of the next families. Run it by itself: python tests/silu_codes.py
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from xtvu.semantics import exp2
from xtvu.semantics import sigmoid as tables

VECTORS, SIZE = 300, 8192
Sigmoid = Callable[[np.ndarray], np.ndarray]


def exact(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def by_exp2(x: np.ndarray) -> np.ndarray:
    """With an exact division."""
    return 1 / (1 + exp2(-x * np.float32(np.log2(np.e))).astype(np.float64))


def by_table(starts: np.ndarray, steps: np.ndarray, quadratic: bool = False) -> Sigmoid:
    """Of the magnitude, which ends with the last step; values of 23 bits behind the point."""
    rows = 2.0**23
    first, last = (np.round(exact(at) * rows) / rows for at in (starts, starts + steps))
    bend = 2 * (exact(starts) - 2 * exact(starts + steps / 2) + exact(starts + steps)) * quadratic
    top = starts[-1] + steps[-1]

    def sigmoid(x: np.ndarray) -> np.ndarray:
        size = np.minimum(np.abs(x.astype(np.float64)), top - 2**-20)
        size = np.floor(size * 2**20) / 2**20
        place = np.searchsorted(starts, size, "right") - 1
        rest = (size - starts[place]) / steps[place]
        slope = last[place] - first[place] - bend[place]
        value = first[place] + slope * rest + bend[place] * rest**2
        value = np.floor(value * rows + 0.5 * quadratic) / rows
        return np.where(x < 0, 1 - value, value)

    return sigmoid


def codes(gate: np.ndarray, up: np.ndarray, sigmoid: np.ndarray) -> np.ndarray:
    y = (gate * sigmoid.astype(np.float32)).astype(np.float32) * up
    return np.rint(y * (np.float32(127) / np.abs(y).max()))


def main() -> None:
    even, rows_of_one = np.arange(1024) / 64, 2.0**23
    two = np.concatenate([np.arange(1024) / 256, 4 + np.arange(768) / 64])
    steps = np.concatenate([np.full(1024, 1 / 256), np.full(768, 1 / 64)])
    kinds: dict[str, Sigmoid] = {
        "EXP2 and a division": by_exp2, "steps of 1/64": by_table(even, np.full(1024, 1 / 64)),
        "steps of 1/64, quadratic": by_table(even, np.full(1024, 1 / 64), True),
        "1/256 below 4, 1/64 above": by_table(two, steps),
        "the machine's (SIGMOID)": lambda x: tables(x) / rows_of_one}
    rng, different = np.random.default_rng(1), dict.fromkeys(kinds, 0)
    for _ in range(VECTORS):
        gate = (rng.standard_normal(SIZE) * rng.uniform(0.5, 3)).astype(np.float32)
        up = rng.standard_normal(SIZE).astype(np.float32)
        right = codes(gate, up, 1 / (1 + np.exp(-gate)))
        for name, sigmoid in kinds.items():
            different[name] += int((codes(gate, up, sigmoid(gate)) != right).sum())
    for name, count in different.items():
        print(f"{name:<28}{count:>5} of {VECTORS * SIZE:,} codes differ")


if __name__ == "__main__":
    main()
