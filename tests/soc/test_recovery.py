"""The whole simulated board under what goes wrong: it says so, and the next command works.
docs/reliability.md has the table."""

from __future__ import annotations

import re

import numpy as np
import pytest
from bitnet_host.errors import BoardError, BoardRestarted, UserError
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import over_serial, over_udp
from bitnet_host.run.protocol import ERRORS
from bitnet_host.run.sampling import Sampling
from bitnet_soc import soc
from boards import reach_by

from firmware import other_firmware

PROMPT = [3, 17, 90, 41, 8, 5, 60, 2, 77]


def _quiet(*_):
    pass


@pytest.fixture(scope="module")
def image():
    return convert(synthetic_checkpoint(parse_shape("tiny,layers=2,vocab=256"), 0.6, 1))


@pytest.fixture(scope="module")
def words(image):
    """What the golden model says."""
    reference = ReferenceTarget(image)
    reference.prepare(_quiet)
    return reference.generate(PROMPT, 4, Sampling(), _quiet, _quiet).token_ids


def _open(image, **options):
    simulator = Simulator(**options)
    return BoardTarget(image, over_udp("127.0.0.1", simulator.ports["udp"]), simulator)


@pytest.fixture
def board(image):
    board = _open(image)
    board.prepare(_quiet)
    yield board
    board.close()


def _speaks(board, words):
    """The board is as good as new: the conversation from its start, word by word, and no error is
    left."""
    board.reset()
    assert board.generate(PROMPT, 4, Sampling(), _quiet, _quiet).token_ids == words


def test_a_conversation_with_hostile_memory(image, words):
    seed = int(np.random.default_rng().integers(1, 1 << 31))
    print(f"memory seed {seed}")
    board = _open(image, preset="hostile", seed=seed)
    try:
        board.prepare(_quiet)
        _speaks(board, words)
        reference = ReferenceTarget(image)
        reference.prepare(_quiet)
        board.reset()
        for token in PROMPT:
            np.testing.assert_array_equal(board.score(token).view(np.uint32),
                                          reference.score(token).view(np.uint32))
    finally:
        board.close()


@pytest.mark.parametrize("when", ["idle", "prompt", "answer", "upload"])
def test_reset_button(board, image, words, when):
    """Pressed at some moment; the host is told, and a new start is all that it takes."""
    def press(*_):
        board.simulator.control("reset")

    if when == "idle":
        press()
    with pytest.raises(UserError, match="the board restarted: its reset button"):
        if when in ("idle", "prompt"):
            board.generate(PROMPT * 20, 3, Sampling(), _quiet,
                           press if when == "prompt" else _quiet)
        elif when == "answer":
            board.generate(PROMPT, 200, Sampling(), press, _quiet)
        else:
            board.board.ask("UNLOAD")
            words_there = image.ddr.view("<u4")
            board.transport.write_ddr(MODEL_BASE, words_there[:4096])
            press()
            board.transport.write_ddr(MODEL_BASE + 4 * 4096, words_there[4096:])
    board.prepare(_quiet)
    assert board.info()["restarts"] == 1 and board.info()["last_error"] == 0
    _speaks(board, words)


@pytest.mark.parametrize("ports", [1, 2, 4, 8, 16])
def test_memory_that_answers_errors(board, words, ports):
    board.simulator.control(f"fail {ports}")
    with pytest.raises(UserError, match=f"error bits 0x{8 if ports == 16 else 4:x}$"):
        board.generate(PROMPT, 4, Sampling(), _quiet, _quiet)
    board.simulator.control("fail 0")
    _speaks(board, words)


def test_memory_that_answers_nothing(board, words):
    """Reported within 2^22 cycles and a little; when memory is back, all is well."""
    board.simulator.control("freeze 1")
    before = board.simulator.stats()["cycles"]
    with pytest.raises(UserError, match=r"error bits 0x10$"):
        board.generate(PROMPT, 4, Sampling(), _quiet, _quiet)
    assert board.simulator.stats()["cycles"] - before < 4 << 22
    assert board.info()["restarts"] == 0
    board.simulator.control("freeze 0")
    _speaks(board, words)


def test_position_moves_only_when_the_pass_succeeded(board, words):
    board.reset()
    board.generate(PROMPT, 1, Sampling(), _quiet, _quiet)
    position = board.info()["position0"]
    board.simulator.control("fail 2")
    for command in ([0, position, 5, 0, 0, 2, 8, 9], [0, position, 0, 0, 0, 1, 8],
                    [0, position, 0, 8, 0, 1, 8]):
        board._send("GENERATE", command)
        with pytest.raises(UserError, match="error bits"):
            board._event("STATS")
    board._send("SCORE", [0, 1, position])
    with pytest.raises(UserError, match="error bits"):
        board._event("SCORED")
    board.simulator.control("fail 0")
    assert board.info()["position0"] == position
    # and what the cut passes left in the cache does not show
    reference = ReferenceTarget(board.image)
    reference.prepare(_quiet)
    reference.generate(PROMPT, 1, Sampling(), _quiet, _quiet)
    np.testing.assert_array_equal(board.score(9).view(np.uint32),
                                  reference.score(9).view(np.uint32))


@pytest.fixture
def impatient(image, tmp_path, monkeypatch):
    """A board whose watchdog waits 400,000 cycles, for what would take too long to simulate."""
    cycles = int(soc.CLOCK_HZ * soc.WATCHDOG_SECONDS)
    assert cycles < soc.CLOCK_HZ  # a real one waits less than a second
    folder = other_firmware(tmp_path, ("soc.h", f"WATCHDOG_CYCLES {cycles}",
                                       "WATCHDOG_CYCLES 400000"))
    monkeypatch.setenv("BITNET_BUILD", str(folder))
    board = _open(image)
    board.prepare(_quiet)
    yield board
    board.close()


def test_a_crash_of_the_firmware(impatient, words):
    """Its stack is overwritten through the network: it traps or hangs, and is back. Where it was
    just then decides what it says of itself before: the trap, what the vector unit thinks of a
    command made of such words, or nothing. The restart and its cause are told in any case."""
    board = impatient
    board.reset()
    board._send("GENERATE", [0, 0, 200, 0, 0, 1, 3])
    board._event("PROGRESS")
    board.transport.link.write(0x1000_7800, np.full(512, 0xFFFFFFFE, np.uint32))
    before = board.simulator.stats()["cycles"]
    with pytest.raises(BoardRestarted, match=r"the board restarted: the firmware (crashed|hung)"):
        while board.simulator.stats()["cycles"] - before < 4_000_000:
            try:
                board._event("PROGRESS", "TOKEN")
            except BoardRestarted:
                raise
            except BoardError as told:
                said = r"the firmware crashed|the vector unit reported error bits"
                assert re.match(said, str(told)), told
                while board.simulator.stats()["cycles"] - before < 4_000_000:
                    board.info()
    board.prepare(_quiet)
    assert (board.info()["restarts"] == 1
            and board.info()["last_error"] in (ERRORS["TRAP"][0], ERRORS["HANG"][0]))
    _speaks(board, words)


@pytest.mark.parametrize("link", ["network", "uart"])
def test_a_hang_is_told(impatient, words, link):
    """A command that never ends: whoever waits for it hears of the restart and why, over either
    link."""
    board = impatient
    network = board.transport
    if link == "uart":
        network.link._ask("RELEASE")
        reach_by(board, over_serial(f"socket://127.0.0.1:{board.simulator.ports['tcp']}"))
        board.info()
    board._send("GEMV", [16384, 32, 0])
    board._event("COUNTERS")  # this is none: it feeds while it waits
    with pytest.raises(UserError,
                       match="the board restarted: the firmware hung in command 10 and its "
                             "watchdog restarted it"):
        board._send("HANG")
        board._event("DONE")
    if link == "uart":
        board.transport.close()
        reach_by(board, network)
        with pytest.raises(UserError, match="the board restarted"):
            board.reset()
    board.prepare(_quiet)
    assert board.info()["restarts"] == 1 and board.info()["last_error"] == ERRORS["HANG"][0]
    _speaks(board, words)
