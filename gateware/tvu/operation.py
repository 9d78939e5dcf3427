"""What the vector unit can be told to do."""

from amaranth.lib import data, enum
from xtvu.isa import VECTORS

__all__ = ["Add", "Factor", "Reduce", "Sink", "Source", "VectorOp"]


class Source(enum.Enum, shape=2):
    """Where operand a comes from."""

    SCRATCH = 0
    WORD = 1  # float32 from the stream
    BYTES = 2  # int8 from the stream
    DOT = 3


class Factor(enum.Enum, shape=2):
    """Second factor, after the scalar one."""

    NONE = 0
    B = 1
    SELF = 2


class Add(enum.Enum, shape=2):
    """Second summand."""

    NONE = 0
    SCALAR = 1  # subtracted
    B = 2
    RUNNING = 3


class Sink(enum.Enum, shape=3):
    """Where results go."""

    NONE = 0
    SCRATCH = 1
    ACTIVATIONS = 2
    PICK = 3
    STORE = 4
    RANK = 5


class Reduce(enum.Enum, shape=2):
    """What is reduced over the results."""

    NONE = 0
    MAX = 1
    ABSMAX = 2
    SUM = 3


class VectorOp(data.Struct):
    """A vector operation, scalars already read.

    ``b_read``: operand b comes from the scratchpad; ``b_word``: from the stream; ``b_dst``: b is
    what dst holds. ``scale``: the scalar factor applies; ``relu``: negative values become zero
    after it. ``integer``: operand a is one, though from the scratchpad. ``lookup``: the result is
    looked up, with ``sigmoid`` the logistic function, else a power of two. ``factors`` and
    ``addends`` are the scalars per activation vector (DOT) or run (``step``), else element 0 of
    them. ``mark``: positive results are marked in the pick memory. Rows come in ``runs`` (of REP)
    of ``count`` elements; ``step_dst``, ``step_a`` and ``step_b`` lie between their starts.
    """

    source: Source
    b_read: 1
    b_word: 1
    b_dst: 1
    scale: 1
    relu: 1
    factor: Factor
    add: Add
    lookup: 1
    sigmoid: 1
    integer: 1
    codes: 1
    mark: 1
    sink: Sink
    reduce: Reduce
    digits5: 1
    bytes: 1
    vector: 3
    dst: 13
    a: 13
    b: 13
    count: 15
    stride: 13
    runs: 6
    step: 1
    step_dst: 13
    step_a: 13
    step_b: 13
    factors: data.ArrayLayout(32, VECTORS)
    addends: data.ArrayLayout(32, VECTORS)
