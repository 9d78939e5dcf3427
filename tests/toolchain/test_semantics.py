"""Corner cases of the arithmetic, against values worked out by hand."""

from __future__ import annotations

import numpy as np
from xtvu import semantics


def test_quantise_rounds_half_to_even_and_clamps():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, 300, -127.5, -128.5, -300],
                 np.float32)
    np.testing.assert_array_equal(semantics.quantise(x, np.float32(1)),
                                  [0, 2, 2, 0, -2, -2, 126, 127, 127, -127, -127, -127])


def test_subnormals_are_zeros_of_their_sign():
    tiny = np.float32(2.0**-126)
    np.testing.assert_array_equal(np.signbit(semantics.flush([-tiny / 2, tiny / 2])), [True, False])
    assert (semantics.multiply(tiny, np.float32(0.75)) == 0
            and semantics.multiply(tiny, np.float32(1)) == tiny)
    assert semantics.add(np.float32(1.5) * tiny, -tiny) == 0


def test_sum_order_is_slots_then_lanes():
    """1 is lost beside 2^24 where the order adds them first, and kept where it does not."""
    x = np.zeros(128, np.float32)
    x[[0, 64, 8]] = 2.0**24, 1, 1  # lane 0: row 8 joins row 0's slot, row 1 has its own
    assert semantics.reduce_sum(x) == 2.0**24
    x[[8, 16, 48]] = 0, 1, 1  # rows 2 and 6 are added to each other before they meet row 0
    assert semantics.reduce_sum(x) == 2.0**24 + 2


def test_maxima_take_the_first_index():
    x = np.array([-0.0, 3, 0.0, 3], np.float32)
    assert semantics.argmax(x) == 1 and semantics.maximum(x) == 3
    assert not np.signbit(semantics.maximum(x[[0, 2]]))


def test_division_by_zero_and_negative_roots():
    values = semantics.divide(np.float32([1, -1, 0]), np.float32([0, 0, 0]))
    np.testing.assert_array_equal(values, [np.inf, -np.inf, np.inf])
    assert semantics.sqrt(np.float32(-4)) == -np.inf and semantics.sqrt(np.float32(9)) == 3


def test_checksum_sees_order_and_bits():
    data = np.arange(96, dtype=np.uint8)
    swapped = np.concatenate([data[32:64], data[:32], data[64:]])
    flipped = data.copy()
    flipped[50] ^= 4
    assert len({semantics.checksum(d) for d in (data, swapped, flipped)}) == 3
