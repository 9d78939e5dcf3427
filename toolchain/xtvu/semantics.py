"""The exact arithmetic of the TVU, in NumPy.

float32, round to nearest even, no fused operations. Subnormals do not exist: a subnormal operand
counts as a zero of its sign, and a result whose exact value is smaller in magnitude than 2^-126
becomes a zero of its sign. NaN does not occur: what would make one or an infinity sets the sticky
``overflow`` error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .isa import LANES, WORD_BYTES

__all__ = [
    "CONSTANTS", "RunningChecksum",
    "EXP2_BITS", "EXP2_SLOPE", "EXP2_TABLE", "SIGMOID_BITS", "SIGMOID_SLOPE", "SIGMOID_TABLE",
    "SLOTS", "add", "argmax", "absmax", "checksum",
    "divide", "exp2", "float_key", "flush",
    "maximum", "multiply", "quantise", "reduce_sum", "sigmoid", "sqrt",
]

_MASK = 0xFFFFFFFF

#: Numbers that firmware and golden model quantise with: codes reach MAX_CODE, and a vector whose
#: largest magnitude is below SMALLEST is quantised as if that were it (DESIGN.md).
CONSTANTS = {"ONE": np.float32(1), "MAX_CODE": np.float32(127),
             "MAX_CODE_INVERSE": np.float32(1 / 127), "SMALLEST": np.float32(1e-5),
             "SIGMOID_UNIT": np.float32(2.0**-23)}  # what SIGMOID counts in

F32 = NDArray[np.float32]

SLOTS = 8  #: running sums per lane in ``reduce_sum``; covers the adder's latency
EXP2_BITS = 7  #: index bits of the table of 2^f

_TINY = np.float32(2.0**-126)
_grid = np.rint((2.0 ** (np.arange(2**EXP2_BITS + 1) / 2**EXP2_BITS) - 1) * 2**23).astype(np.int64)
EXP2_TABLE: NDArray[np.int64] = _grid[:-1]  #: 23-bit fractions of 2^(i/128)
EXP2_SLOPE: NDArray[np.int64] = np.diff(_grid)

SIGMOID_BITS = 10  #: index bits of each of the two tables of the logistic function
_FINE, _COARSE, _TOP = 8, 6, 16  # a fine step is 2^-8, a coarse one 2^-6, which reach 4 and 16


def _logistic(step: float) -> NDArray[np.int64]:
    x = np.arange(2**SIGMOID_BITS + 1) * step
    return np.rint(2**23 / (1 + np.exp(-x))).astype(np.int64)


#: 1 / (1 + e^-x) in units of 2^-23, for x in steps of 2^-8 up to 4 and then of 2^-6 up to 16.
SIGMOID_TABLE: NDArray[np.int64] = np.stack([_logistic(2.0**-_FINE)[:-1],
                                             _logistic(2.0**-_COARSE)[:-1]])
SIGMOID_SLOPE: NDArray[np.int64] = np.stack([np.diff(_logistic(2.0**-_FINE)),
                                             np.diff(_logistic(2.0**-_COARSE))])


def flush(x: ArrayLike) -> F32:
    """Subnormal float32 values become zeros of the same sign."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return np.where(bits & 0x7F800000, bits, bits & 0x80000000).view(np.float32)


def multiply(a: ArrayLike, b: ArrayLike) -> F32:
    """a * b."""
    exact = flush(a).astype(np.float64) * flush(b).astype(np.float64)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    return np.where(np.abs(exact) < float(_TINY), np.copysign(np.float32(0), rounded), rounded)


def add(a: ArrayLike, b: ArrayLike) -> F32:
    """a + b. A subnormal sum of two normal numbers is exact, so it can be flushed after
    rounding."""
    with np.errstate(over="ignore"):
        return flush(flush(a) + flush(b))


def divide(a: ArrayLike, b: ArrayLike) -> F32:
    """a / b; division by zero, of zero too, gives an infinity (and the overflow error)."""
    with np.errstate(over="ignore", divide="ignore", under="ignore", invalid="ignore"):
        x, y = flush(a), flush(b)
        exact = x.astype(np.float64) / y.astype(np.float64)
        # The float64 quotient, rounded again, equals the correctly rounded one (53 >= 2 * 24 + 2).
        rounded = exact.astype(np.float32)
        infinity = np.copysign(np.float32(np.inf),
                               np.copysign(np.float32(1), x) * np.copysign(np.float32(1), y))
    return np.where(y == 0,
                    infinity,
                    np.where(np.abs(exact) < float(_TINY), np.copysign(np.float32(0), rounded),
                             rounded))


def sqrt(a: ArrayLike) -> F32:
    """Square root; of a negative number, minus infinity (and the overflow error)."""
    x = flush(a)
    return np.where(x < 0, np.float32(-np.inf), np.sqrt(np.abs(x)) * np.copysign(np.float32(1), x))


def float_key(x: ArrayLike) -> NDArray[np.int64]:
    """Integers in the order of the float32 values, with -0 below +0."""
    bits = np.asarray(x, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF) - 1, bits)


def maximum(x: F32) -> np.float32:
    """max(x) in the order of ``float_key``."""
    return np.float32(x[int(np.argmax(float_key(x)))])


def argmax(x: F32) -> int:
    """Index of the first maximum."""
    return int(np.argmax(float_key(x)))


def absmax(x: F32) -> np.float32:
    """max|x|."""
    return np.float32(np.max(np.abs(x)))


def reduce_sum(x: F32) -> np.float32:
    """Sum of float32 [n] in the unit's order.

    Row r holds elements 8r..8r+7. Each lane keeps SLOTS running sums, row r going to slot r %
    SLOTS, all starting at +0. Then slots are added j with j + 4, j + 2, j + 1, and lanes likewise.
    """
    rows = -(-x.size // LANES)
    groups = -(-rows // SLOTS)
    padded = np.zeros(groups * SLOTS * LANES, np.float32)
    padded[:x.size] = x
    blocks = padded.reshape(groups, SLOTS, LANES)
    total = np.zeros((SLOTS, LANES), np.float32)
    for block in blocks:
        total = add(total, block)
    for axis_half in (4, 2, 1):
        total = add(total[:axis_half], total[axis_half:2 * axis_half])
    lanes = total[0]
    for half in (4, 2, 1):
        lanes = add(lanes[:half], lanes[half:2 * half])
    return np.float32(lanes[0])


def quantise(x: ArrayLike, scale: ArrayLike) -> NDArray[np.int8]:
    """clamp(round_half_even(x * scale), -127, 127). Scales of 127 / absmax never reach -128, which
    the hardware does without."""
    return np.clip(np.rint(multiply(x, scale)), -127, 127).astype(np.int8)


def exp2(t: ArrayLike) -> F32:
    """2^t: t is cut to 16 fraction bits (floor), 2^fraction is a 128-entry table with linear
    interpolation.

    Below 2^-126 the result is 0; from 2^128 on it is an infinity (and the overflow error).
    """
    t = flush(t)
    fixed = np.floor(np.clip(t.astype(np.float64), -1024, 1024) * 65536).astype(np.int64)
    exponent, index, rest = fixed >> 16, fixed >> 9 & 127, fixed & 511
    fraction = EXP2_TABLE[index] + (EXP2_SLOPE[index] * rest >> 9)
    biased = exponent + 127
    bits = np.where(biased < 1, 0,
                    np.where(biased > 254, 0x7F800000, np.clip(biased, 0, 255) << 23 | fraction))
    return bits.astype(np.uint32).view(np.float32)


def sigmoid(x: ArrayLike) -> NDArray[np.int32]:
    """1 / (1 + e^-x) in units of 2^-23, 0 to 2^23: |x| is cut to 20 fraction bits, and between
    the entries of a table lie straight lines; error below 8e-7 of one.

    From |x| = 16 on it is 0 or 2^23. A negative x has what is missing to 2^23.
    """
    t = flush(x)
    size = np.floor(np.clip(np.abs(t.astype(np.float64)), 0, _TOP) * 2**20).astype(np.int64)
    coarse = np.where(size >= 4 << 20, 1, 0)
    index = np.where(coarse, size >> 20 - _COARSE, size >> 20 - _FINE) % 2**SIGMOID_BITS
    rest = np.where(coarse, size >> 2, size) & 4095
    value = SIGMOID_TABLE[coarse, index] + (SIGMOID_SLOPE[coarse, index] * rest >> 12)
    value = np.where(size >= _TOP << 20, 1 << 23, value)
    return np.where(np.signbit(t), (1 << 23) - value, value).astype(np.int32)


class RunningChecksum:
    """Checksum of stream words that come in pieces.

    Each of 8 32-bit lanes keeps s1 += w and s2 += s1; ``value`` is the XOR over the lanes l of
    rotate_left(s1, 4 l + 2) and rotate_left(s2, 4 l), all modulo 2^32.
    """

    def __init__(self) -> None:
        self._s1 = np.zeros(LANES, np.uint64)
        self._s2 = np.zeros(LANES, np.uint64)

    def update(self, data: NDArray[np.uint8]) -> None:
        """Takes the next words, uint8 [n * 32] in linear order."""
        all_words = data.reshape(-1, WORD_BYTES).view("<u4")
        for start in range(0, all_words.shape[0], 1 << 16):
            words = all_words[start:start + (1 << 16)].astype(np.uint64)
            n = words.shape[0]  # below 2^17, so that no product or sum passes 2^64
            weights = np.arange(n, 0, -1, dtype=np.uint64)[:, None]
            self._s2 = ((self._s2 + np.uint64(n) * self._s1 + (words * weights).sum(axis=0))
                        & np.uint64(_MASK))
            self._s1 = (self._s1 + words.sum(axis=0)) & np.uint64(_MASK)

    @property
    def value(self) -> int:
        result = 0
        for lane in range(LANES):
            for total, turn in ((int(self._s1[lane]), 4 * lane + 2),
                                (int(self._s2[lane]), 4 * lane)):
                turn %= 32
                result ^= (total << turn | total >> (32 - turn)) & _MASK
        return result


def checksum(data: NDArray[np.uint8]) -> int:
    """``RunningChecksum`` of stream words, uint8 [n * 32] in linear order."""
    running = RunningChecksum()
    running.update(data)
    return running.value
