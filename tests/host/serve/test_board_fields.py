"""What is told of a board, by hand."""

from __future__ import annotations

import dataclasses

from bitnet_host import open_model
from bitnet_host.run.protocol import OPERATORS, PARTS
from bitnet_host.run.session import Reply, Usage
from bitnet_host.run.target import Answer
from bitnet_host.serve.board import board_fields, dense_bytes


def test_bytes_that_could_be_read():
    """Of the bundled model: each row of 256 weights in base 3 takes two words of 160 weights and 32
    bytes; the head is in int8."""
    assert dense_bytes(open_model()) == 2048 * 256 + 4 * 32 * (512 + 2 * 128 + 512 + 3 * 1024)


def _reply(**changes):
    parts = dict(zip(PARTS, (100, 20, 30, 4), strict=True))
    counters = {name: dict(parts) for name in OPERATORS}
    answer = Answer(token_ids=[1, 2], clock_hz=1000, decode_cycles_per_token=1694.0,
                    counters=counters, operators={name: 154 for name in OPERATORS})
    return Reply("x", "length", Usage(1, 0, 2), dataclasses.replace(answer, **changes))


def test_what_is_told():
    told = board_fields(open_model(), [_reply()])["board"]
    assert told["kinds"] == {"moving": 1100, "stall_memory": 220, "stall_compute": 330,
                             "stall_control": 44}
    assert told["bytes_per_token"] == 1100 * 32
    assert told["skipped_bytes_per_token"] == dense_bytes(open_model()) - 5 * 100 * 32
    assert (told["cycles_per_token"], told["clock_hz"]) == (1694, 1000)
    assert told["tokens_per_second"] == 1000 / 1694


def test_what_the_golden_model_cannot_tell():
    for changes in ({"counters": {}}, {"decode_cycles_per_token": None}, {"clock_hz": None}):
        assert board_fields(open_model(), [_reply(**changes)]) == {}
