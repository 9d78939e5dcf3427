"""The simulated SoC, whole: boot, upload, chat and score over both transports, against the golden model."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest
from bitnet_host.errors import UserError
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.model.text import Conversation, TextModel
from bitnet_host.run.board import BoardTarget, ReferenceTarget
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import MailboxTransport, SerialTransport
from bitnet_host.run.sampling import SamplingOptions
from models import Shape, write_checkpoint
from xtvu.isa import isa_hash


def _quiet(*_):
    pass


def _same(board, reference, prompt, max_tokens, options):
    answers = [t.generate(prompt, max_tokens, options, _quiet, _quiet) for t in (board, reference)]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].stop_reason == answers[1].stop_reason
    assert board.position == reference.position
    return answers[0]


@contextmanager
def _opened(image, preset, connect):
    """A simulated board with the model uploaded through what ``connect`` makes of the ports, and its golden model."""
    simulator = Simulator(preset)
    board = BoardTarget(image, connect(simulator.ports), simulator)
    reference = ReferenceTarget(image)
    try:
        board.prepare(_quiet)
        reference.prepare(_quiet)
        yield board, reference
    finally:
        board.close()


@pytest.fixture(scope="module", params=["base3", "2bit"])
def bundled(request):
    """The bundled model over Etherbone."""
    image = convert(open_checkpoint(BUNDLED), request.param)
    with _opened(image, "ug585", lambda ports: MailboxTransport("127.0.0.1", ports["udp"])) as pair:
        yield pair


def test_scores_are_bit_identical(bundled):
    """104 positions, every logit."""
    board, reference = bundled
    rng = np.random.default_rng(3)
    for target in bundled:
        target.reset()
    for token in [0, *rng.integers(4, 2048, 103).tolist()]:
        np.testing.assert_array_equal(board.score(token).view(np.uint32), reference.score(token).view(np.uint32))


def test_greedy_conversation(bundled):
    """Two turns; the second goes on from the KV cache. Decode stays within its cycle budget at context 64."""
    board, reference = bundled
    for target in bundled:
        target.reset()
    conversation = Conversation(TextModel(board.image.meta))
    ids, fresh = conversation.ask("Tell me a story about a cat.")
    assert fresh
    first = _same(board, reference, ids, 48, SamplingOptions())
    assert 0 < first.decode_cycles_per_token <= 60_000
    assert 0.97 < sum(first.operators.values()) / first.decode_cycles_per_token <= 1.001
    conversation.answered(first.token_ids, board.stop_tokens())
    ids, fresh = conversation.ask("Hello!")
    assert not fresh
    second = _same(board, reference, ids, 8, SamplingOptions())
    assert board.position > 64 and 0 < second.decode_cycles_per_token <= 400_000


@pytest.mark.parametrize("length", [1, 2, 5, 8, 11])
def test_prompts_of_all_lengths(bundled, length):
    """Up to eight tokens share a pass; the KV cache is as if each had one of its own."""
    board, reference = bundled
    for target in bundled:
        target.reset()
    _same(board, reference, [0, *range(500, 499 + length)], 3, SamplingOptions())
    np.testing.assert_array_equal(board.score(9).view(np.uint32), reference.score(9).view(np.uint32))


@pytest.mark.parametrize("weights", ["base3", "2bit"])
def test_prompts_that_fill_the_scratchpad(weights):
    """Inner vectors so long that later tokens' residual vectors wait in DDR and down_proj comes in several chunks."""
    image = convert(synthetic_checkpoint(parse_shape("tiny,intermediate=8064,layers=1,vocab=256"), 0.6, 1), weights)
    with _opened(image, "ug585", lambda ports: MailboxTransport("127.0.0.1", ports["udp"])) as (board, reference):
        _same(board, reference, list(range(20, 31)), 3, SamplingOptions())
        np.testing.assert_array_equal(board.score(9).view(np.uint32), reference.score(9).view(np.uint32))


def test_the_full_head_on_demand(bundled):
    board, reference = bundled
    for options in (SamplingOptions(full_head=True), SamplingOptions(0.9, 40, 0.95, 3, full_head=True)):
        for target in bundled:
            target.reset()
        _same(board, reference, [0, 807, 29, 1368], 6, options)


def test_sampling_is_the_same_on_both(bundled):
    board, reference = bundled
    for options in (SamplingOptions(0.8, 40, 0.95, 7), SamplingOptions(1.3, 0, 1.0, 12345)):
        for target in bundled:
            target.reset()
        _same(board, reference, [0, 807, 29, 1368], 8, options)


def test_stop_token_and_cancel(bundled, monkeypatch):
    board, reference = bundled
    for target in bundled:
        target.reset()
    ids, _ = Conversation(TextModel(board.image.meta)).ask("Who are you?")
    answer = _same(board, reference, ids, 60, SamplingOptions())
    assert answer.stop_reason == "stop"
    board.reset()
    stopped = board.generate([0, 807], 200, SamplingOptions(), lambda token: board.cancel(), _quiet)
    assert stopped.stop_reason == "cancel" and 1 <= len(stopped.token_ids) < 200
    board.reset()  # the board goes on
    assert board.score(5).shape == (2048,)
    # a cancel that arrives before the CPU has looked at the command counts too, and for that command only
    board.reset()
    transport = board.transport
    send = transport.send

    def overtaken(command, payload=()):
        transport._sequence += 1
        transport.cancel()
        transport._sequence -= 1
        send(command, payload)

    monkeypatch.setattr(transport, "send", overtaken)
    assert board.generate([0, 807], 200, SamplingOptions(), _quiet, _quiet).stop_reason == "cancel"
    monkeypatch.undo()
    board.reset()
    assert board.generate([0, 807], 3, SamplingOptions(), _quiet, _quiet).stop_reason == "length"


def test_context_limit(bundled):
    board, _ = bundled
    board.reset()
    with pytest.raises(UserError, match="longer than the model's context of 256 tokens"):
        board.generate([0] * 257, 1, SamplingOptions(), _quiet, _quiet)
    board.transport.send("SCORE", [99999])
    with pytest.raises(UserError, match="refused argument 99999"):
        board._event("SCORED")


def test_firmware_refuses_a_damaged_upload(bundled):
    board, _ = bundled
    tensor = board.image.tensor("UP", 1)
    address = 0x200000 + tensor.offset
    before = board.transport.read_ddr(address, 1)
    board.transport.write_ddr(address, before ^ np.uint32(1 << 9))
    board.transport.send("LOAD")
    with pytest.raises(UserError, match="arrived damaged"):
        while True:
            board._event("PROGRESS")
    with pytest.raises(UserError, match="no model loaded"):
        board.score(0)
    board.transport.write_ddr(address, before)
    board.prepare(_quiet)
    assert board.score(0).shape == (2048,)


def test_interrupted_upload_is_found(bundled):
    """The board's model id still matches, but what lies in memory does not: it is uploaded again."""
    board, reference = bundled
    address = 0x200000 + board.image.tensor("DOWN", 2).offset
    board.transport.write_ddr(address, np.zeros(16, np.uint32))
    assert board.info()["model_id"] == board.image.header.model_id
    steps = []
    board.prepare(lambda what, *_: steps.append(what))
    assert "upload" in steps
    reference.reset()
    np.testing.assert_array_equal(board.score(3), reference.score(3))
    steps.clear()
    board.prepare(lambda what, *_: steps.append(what))
    assert "upload" not in steps


def test_next_host_ends_what_the_last_one_left_running(bundled):
    board, _ = bundled
    board.reset()
    board.transport.send("GENERATE", [200, 0, 0, 0, 1, 0, 2, 0, 807])
    assert board._event("PROGRESS", "TOKEN")
    other = BoardTarget(board.image, MailboxTransport("127.0.0.1", board.simulator.ports["udp"]))
    assert other.info()["selftest"] == 0
    other.prepare(_quiet)
    assert other.score(0).shape == (2048,)
    board.transport.close()
    board.transport = other.transport


def test_cancel_in_prefill(bundled):
    board, _ = bundled
    board.reset()
    answer = board.generate([0] * 200, 4, SamplingOptions(), _quiet, lambda *_: board.cancel())
    assert answer.stop_reason == "cancel" and answer.token_ids == [] and 0 < answer.prompt_tokens < 200
    assert board.position == answer.prompt_tokens


def test_board_with_less_memory(bundled, monkeypatch):
    board, _ = bundled
    small = board.info() | {"memory_bytes": 1 << 20}
    monkeypatch.setattr(board, "info", lambda: small)
    with pytest.raises(UserError, match="the board has 1 MB: choose a smaller model"):
        board.prepare(_quiet)


@pytest.fixture(scope="module")
def serial_board(tmp_path_factory):
    """A board reached over its UART only, with a small random model uploaded that way."""
    shape = Shape(64, 96, 2, 2, 1, 104, seed=99)
    folder = write_checkpoint(tmp_path_factory.mktemp("model"), shape)
    # the bundled tokenizer, cut to ids that the model has, is enough to chat in
    tokenizer = json.loads((BUNDLED / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {t: i for t, i in tokenizer["model"]["vocab"].items() if i < shape.vocab}
    tokenizer["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text((BUNDLED / "tokenizer_config.json").read_text())
    image = convert(open_checkpoint(folder))
    with _opened(image, "conservative", lambda ports: SerialTransport(f"socket://127.0.0.1:{ports['tcp']}")) as pair:
        yield pair


def test_chat_over_uart(serial_board):
    board, reference = serial_board
    ids, _ = Conversation(TextModel(board.image.meta)).ask("Hi")
    answer = _same(board, reference, ids, 12, SamplingOptions())
    assert answer.decode_cycles_per_token > 0
    for target in serial_board:
        target.reset()
    _same(board, reference, ids, 6, SamplingOptions(1.0, 20, 0.9, 4))
    for target in serial_board:
        target.reset()
    np.testing.assert_array_equal(board.score(9).view(np.uint32), reference.score(9).view(np.uint32))


def test_uart_survives_noise(serial_board):
    board, _ = serial_board
    board.transport._line.write(b"noise\x5c\x7a\x7e\xb1\x01\x00\x00\x00\xff\xff\xff\xff garbage")
    board.reset()
    stopped = board.generate([1, 2], 50, SamplingOptions(), lambda token: board.cancel(), _quiet)
    assert stopped.stop_reason in ("cancel", "stop")


def test_the_pty_is_the_same_line(serial_board):
    board, _ = serial_board
    board.transport.close()
    board.transport = SerialTransport(board.simulator.ports["pty"])
    assert board.info()["model_id"] == board.image.header.model_id
    board.reset()


def test_boot_report(serial_board):
    board, _ = serial_board
    info = board.info()
    assert info["isa_hash"] == isa_hash() and info["selftest"] == 0 and info["clock_hz"] == 125_000_000
    assert info["model_id"] == board.image.header.model_id
    with pytest.raises(UserError, match="does not know command 77"):
        board.transport.send("INFO")  # a good one first: errors do not stick
        board._event("INFO")
        import zlib

        from bitnet_host.run.protocol import SYNC
        body = np.array([77, 0], "<u4").tobytes()
        board.transport._line.write(SYNC.to_bytes(4, "little") + body + zlib.crc32(body).to_bytes(4, "little"))
        board._event("DONE")
