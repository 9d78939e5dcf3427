"""Edges of the board's behaviour that only a fault would show: limits, ties, zeros, damaged and
untimely frames."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bitnet_host.errors import UserError
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.simulator import Simulator, build_folder
from bitnet_host.run.link.transport import over_udp
from bitnet_host.run.sampling import Sampling

SHAPE = "hidden=64,intermediate=96,layers=2,heads=4,kv_heads=2,head_dim=32,vocab=128,context=40"


def _quiet(*_):
    pass


def _pair(checkpoint):
    image = convert(checkpoint)
    simulator = Simulator()
    board = BoardTarget(image, over_udp("127.0.0.1", simulator.ports["udp"]), simulator)
    reference = ReferenceTarget(image)
    board.prepare(_quiet)
    reference.prepare(_quiet)
    return board, reference


@pytest.fixture(scope="module")
def pair():
    board, reference = _pair(synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1))
    yield board, reference
    board.close()


def test_the_context_to_its_last_token(pair):
    """The board itself counts: 40 tokens fit, in a prompt, one by one, and in an answer; a 41st
    does not."""
    board, reference = pair
    for prompt, tokens in ((40, 1), (38, 5), (39, 9)):
        answers = []
        for target in pair:
            target.reset()
            answers.append(target.generate([5 + i for i in range(prompt)], tokens, Sampling(),
                                           _quiet, _quiet))
        assert (answers[0].token_ids == answers[1].token_ids
                and answers[0].stop_reason == answers[1].stop_reason)
        assert answers[0].stop_reason == "context"
        assert board.position == reference.position
    board.reset()
    board._send("GENERATE", [0, 0, 1, 0, 0, 41, *range(5, 46)])
    with pytest.raises(UserError, match="longer than the model's context of 40"):
        board._event("STATS")
    board._send("RESET", [0, 39])
    board._event("DONE")
    for token, fits in ((3, True), (4, False)):
        board._send("SCORE", [0, token, token + 36])
        if fits:
            assert board._event("SCORED")[1][0] == 40
        else:
            with pytest.raises(UserError, match="longer than the model's context"):
                board._event("SCORED")
    board._send("RESET", [0, 41])
    with pytest.raises(UserError, match="refused argument 41"):
        board._event("DONE")


def test_values_and_keys_of_zeros():
    """Absmax of zero: the least scale guards the division, for keys and for values."""
    checkpoint = synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1)
    for layer in checkpoint.layers:
        for name in ("k", "v"):
            layer[name].weights[:] = 0
    board, reference = _pair(checkpoint)
    try:
        for token in (3, 9, 27):
            np.testing.assert_array_equal(board.score(token).view(np.uint32),
                                          reference.score(token).view(np.uint32))
    finally:
        board.close()


def test_equal_logits():
    """Rows of the embedding in sets of eight equal ones: the smaller token wins, with either head,
    and sampling takes the same one."""
    checkpoint = synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1)
    checkpoint.embedding[:] = checkpoint.embedding[np.arange(128) % 16]
    board, reference = _pair(checkpoint)
    try:
        for full_head in (False, True):
            for options in (Sampling(full_head=full_head),
                            Sampling(1.0, 40, 0.9, seed=5, full_head=full_head),
                            Sampling(1.5, 0, 1.0, seed=77, full_head=full_head)):
                answers = []
                for target in (board, reference):
                    target.reset()
                    answers.append(target.generate([3, 17, 90], 8, options, _quiet,
                                                   _quiet).token_ids)
                assert answers[0] == answers[1]
                if options.temperature == 0:
                    assert max(answers[0]) < 16
    finally:
        board.close()


def test_a_constant_operand_that_does_not_fit_ends_the_compilation(tmp_path):
    compiler = ["riscv64-unknown-elf-gcc", "-march=rv32im", "-misa-spec=2.2", "-mabi=ilp32", "-O2",
                "-ffreestanding", "-c",
                f"-I{build_folder()}", "-o", "/dev/null"]
    for operand, fits in ((8191, True), (8192, False)):
        (tmp_path / "a.c").write_text(f"#include <generated/tvu.h>\nvoid f(void) "
                                      f"{{ tvu_muls({operand}, 0, 1, 8, 0); }}\n")
        done = subprocess.run([*compiler, tmp_path / "a.c"], capture_output=True, text=True)
        assert (done.returncode == 0) == fits, done.stderr
    assert "does not fit its field" in done.stderr


@pytest.mark.parametrize("where", ["embedding", "norm", "scale"])
def test_a_checkpoint_with_an_infinity_is_refused(where):
    checkpoint = synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1)
    if where == "embedding":
        checkpoint.embedding[3, 4] = np.nan
    elif where == "norm":
        checkpoint.layers[1]["ffn_sub_norm"][2] = np.inf
    else:
        layer = checkpoint.layers[0]
        layer["q"] = type(layer["q"])(layer["q"].weights, float("inf"))
    with pytest.raises(UserError, match="holds an infinity or NaN"):
        convert(checkpoint)


def test_two_boards_at_once():
    """Two models on two simulated boards, each in a thread of its own, say what they say alone."""
    pairs = [_pair(synthetic_checkpoint(parse_shape(SHAPE), 0.6, seed)) for seed in (1, 2)]
    try:
        def logits(target):
            return [target.score(token) for token in (3, 17, 90, 5)]

        with ThreadPoolExecutor() as pool:
            found = list(pool.map(logits, [board for board, _ in pairs]))
        np.testing.assert_array_equal(found, [logits(reference) for _, reference in pairs])
        assert not np.array_equal(found[0], found[1])
    finally:
        for board, _ in pairs:
            board.close()
