"""The simulated SoC, whole: boot, upload, chat and score over both transports, against the golden
model."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest
from bitnet_host.errors import BoardHeld, BoardTaken, UserError
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.model.text import TextModel
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import DDR_BASE, MAILBOX_BASE, over_serial, over_udp
from bitnet_host.run.protocol import MAILBOX
from bitnet_host.run.sampling import Sampling
from bitnet_host.run.session import Session
from bitnet_host.run.target import Cancel
from boards import reach_by
from models import Shape, write_checkpoint
from xtvu.datagram import MAGIC
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
    """A simulated board with the model uploaded through what ``connect`` makes of the ports, and
    its golden model."""
    simulator = Simulator(preset)
    board = BoardTarget(image, connect(simulator.ports), simulator)
    reference = ReferenceTarget(image)
    try:
        board.prepare(_quiet)
        reference.prepare(_quiet)
        yield board, reference
    finally:
        board.close()


def _bundled(weights):
    image = convert(open_checkpoint(BUNDLED), weights)
    return _opened(image, "ug585", lambda ports: over_udp("127.0.0.1", ports["udp"]))


@pytest.fixture(scope="module")
def bundled():
    """The bundled model over the network."""
    with _bundled("base3") as pair:
        yield pair


@pytest.fixture(scope="module", params=["base3", "2bit"])
def packed(request):
    """The same in each packing, for what products see of it."""
    with _bundled(request.param) as pair:
        yield pair


def test_scores_are_bit_identical(packed, request):
    """Every logit of some positions; fewer of the packing that is the same from the products on."""
    positions = {"base3": 60, "2bit": 16}[request.node.callspec.params["packed"]]
    board, reference = packed
    rng = np.random.default_rng(3)
    for target in packed:
        target.reset()
    for token in [0, *rng.integers(4, 2048, positions - 1).tolist()]:
        np.testing.assert_array_equal(board.score(token).view(np.uint32),
                                      reference.score(token).view(np.uint32))


def _chat(pair, messages, max_tokens, **options):
    """The replies of board and golden model, which are one."""
    ours, theirs = (Session(target).chat(messages, max_tokens=max_tokens, **options).reply
                    for target in pair)
    assert ours.answer.token_ids == theirs.answer.token_ids and ours.text == theirs.text
    assert (ours.stop_reason, ours.usage) == (theirs.stop_reason, theirs.usage)
    assert pair[0].tokens == pair[1].tokens and pair[0].info()["position0"] == len(pair[0].tokens)
    return ours


def test_greedy_conversation(packed):
    """Two turns; the second goes on from the KV cache. Decode stays within its cycle budget at
    context 64."""
    for target in packed:
        target.reset()
    messages = [{"role": "user", "content": "Tell me a story about a cat."}]
    first = _chat(packed, messages, 48)
    assert 0 < first.answer.decode_cycles_per_token <= 60_000 and first.usage.cached == 0
    assert (0.97 < sum(first.answer.operators.values()) / first.answer.decode_cycles_per_token
            <= 1.001)
    messages += [{"role": "assistant", "content": first.text},
                 {"role": "user", "content": "Hello!"}]
    second = _chat(packed, messages, 8)
    assert second.usage.cached > 50 and 0 < second.answer.decode_cycles_per_token <= 400_000
    # the same words as without a cache
    packed[0].reset()
    assert Session(packed[0]).chat(messages, max_tokens=8).reply.text == second.text


def test_sampled_conversation(bundled):
    """All that changes a choice, on the host, over what the board names: the golden model's words
    for one seed, to the bit."""
    messages = [{"role": "user", "content": "Tell me a story about a dog."}]
    options = {"temperature": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.02,
               "repetition_penalty": 1.1, "presence_penalty": 0.2,
               "frequency_penalty": 0.3, "logit_bias": {423: -5.0}, "seed": 11, "logprobs": 3}
    for full_head in (False, True):
        ours, theirs = (list(Session(target).chat(messages, max_tokens=12,
                                                  sampling=Sampling(**options,
                                                          full_head=full_head)))
                        for target in bundled)
        assert ours == theirs and len({token.id for token in ours}) > 3
        assert all(len(token.alternatives) == 3 and token.logprob <= 0
                   for token in ours if token.text)


def test_a_stop_string_keeps_the_cache(bundled):
    board, _ = bundled
    messages = [{"role": "user", "content": "Tell me a story about a cat."}]
    reply = Session(board).chat(messages, stop=["there was"]).reply
    assert (reply.stop_reason == "text" and reply.text.startswith("Once upon a time")
            and "there was" not in reply.text)
    assert board.info()["position0"] == len(board.tokens) > reply.usage.prompt


@pytest.mark.parametrize("length", [1, 2, 5, 8, 11])
def test_prompts_of_all_lengths(packed, length):
    """Up to eight tokens share a pass; the KV cache is as if each had one of its own."""
    board, reference = packed
    for target in packed:
        target.reset()
    _same(board, reference, [0, *range(500, 499 + length)], 3, Sampling())
    np.testing.assert_array_equal(board.score(9).view(np.uint32),
                                  reference.score(9).view(np.uint32))


@pytest.mark.parametrize("weights", ["base3", "2bit"])
def test_prompts_that_fill_the_scratchpad(weights):
    """Inner vectors so long that later tokens' residual vectors wait in DDR and down_proj comes in
    several chunks."""
    image = convert(synthetic_checkpoint(parse_shape("tiny,intermediate=8064,layers=1,vocab=256"),
                                         0.6, 1), weights)
    with _opened(image, "ug585", lambda ports: over_udp("127.0.0.1", ports["udp"])) as (board,
            reference):
        _same(board, reference, list(range(20, 31)), 3, Sampling())
        np.testing.assert_array_equal(board.score(9).view(np.uint32),
                                      reference.score(9).view(np.uint32))


def test_the_full_head_on_demand(packed):
    board, reference = packed
    for options in (Sampling(full_head=True), Sampling(0.9, 40, 0.95, seed=3, full_head=True)):
        for target in packed:
            target.reset()
        _same(board, reference, [0, 807, 29, 1368], 6, options)


def test_sampling_is_the_same_on_both(bundled):
    board, reference = bundled
    for options in (Sampling(0.8, 40, 0.95, seed=7), Sampling(1.3, 0, 1.0, seed=12345)):
        for target in bundled:
            target.reset()
        _same(board, reference, [0, 807, 29, 1368], 8, options)


def test_stop_token_and_cancel(bundled, monkeypatch):
    board, reference = bundled
    for target in bundled:
        target.reset()
    _, ids = TextModel(board.image).encode_chat([{"role": "user", "content": "Who are you?"}])
    answer = _same(board, reference, ids, 60, Sampling())
    assert answer.stop_reason == "stop"
    board.reset()
    cancel = Cancel()
    stopped = board.generate([0, 807], 200, Sampling(), lambda token: cancel.set(), _quiet,
                             cancel=cancel)
    assert stopped.stop_reason == "cancel" and 1 <= len(stopped.token_ids) < 200
    board.reset()  # the board goes on
    assert board.score(5).shape == (2048,)
    # a cancel that arrives before the CPU has looked at the command counts too, and for that
    # command only
    board.reset()
    transport = board.transport
    send = transport.send

    def overtaken(command, payload=()):
        transport.cancel(0, transport._sequence + 1)
        return send(command, payload)

    monkeypatch.setattr(transport, "send", overtaken)
    with pytest.raises(BoardTaken, match="nobody here asked for"):
        board.generate([0, 807], 200, Sampling(), _quiet, _quiet)
    monkeypatch.undo()
    board.reset()
    assert board.generate([0, 807], 3, Sampling(), _quiet, _quiet).stop_reason == "length"


def test_context_limit(bundled):
    board, _ = bundled
    board.reset()
    with pytest.raises(UserError, match="longer than the model's context of 256 tokens"):
        board.generate([0] * 257, 1, Sampling(), _quiet, _quiet)
    board._send("SCORE", [0, 99999, 0])
    with pytest.raises(UserError, match="refused argument 99999"):
        board._event("SCORED")


def test_firmware_refuses_a_damaged_upload(bundled):
    board, _ = bundled
    tensor = board.image.tensor("UP", 1)
    address = MODEL_BASE + tensor.offset
    before = board.transport.read_ddr(address, 2)
    board.board.ask("UNLOAD")
    board.transport.write_ddr(address, before ^ np.uint32(1 << 9))
    with pytest.raises(UserError, match="arrived damaged"):
        board.board.load(_quiet)
    with pytest.raises(UserError, match="no model loaded"):
        board.score(0)
    sent = _sent(board)
    board.prepare(_quiet)
    assert board.score(0).shape == (2048,) and sum(sent) < 2 << 16  # the wrong piece, and the end


def _sent(board):
    """Bytes of uploads from now on."""
    sent, write = [], board.transport.write_ddr

    def counted(offset, words, *rest):
        sent.append(words.nbytes)
        write(offset, words, *rest)

    board.transport.write_ddr = counted
    return sent


def test_memory_of_a_loaded_model_is_protected(bundled):
    """On every way: weights, header, KV cache and logits; and the board is none the worse."""
    board, reference = bundled
    header, link = board.image.header, board.transport.link
    places = [MODEL_BASE, MODEL_BASE + board.image.tensor("DOWN", 2).offset, header.k_base,
              header.logits_base,
              MODEL_BASE + header.total_bytes - 8]
    for target in bundled:
        target.reset()
        target.generate([0, 807, 29], 2, Sampling(), _quiet, _quiet)
    for place in places:
        before = board.transport.read_ddr(place, 2)
        with pytest.raises(UserError, match="does not let anyone write"):
            board.transport.write_ddr(place, before ^ np.uint32(0xFFFF))
        with pytest.raises(UserError, match="does not let anyone write"):
            link.write(DDR_BASE + place, before ^ np.uint32(0xFFFF))
        with pytest.raises(UserError, match="does not let anyone write"):  # from without into it
            link.write(DDR_BASE + (MODEL_BASE - 8), np.full(4, 9, np.uint32))
        np.testing.assert_array_equal(board.transport.read_ddr(place, 2), before)
    np.testing.assert_array_equal(board.score(9).view(np.uint32),
                                  reference.score(9).view(np.uint32))
    end = MODEL_BASE + header.total_bytes + 4096  # what is not the model's is free
    link.write(DDR_BASE + end, [5])
    assert board.transport.read_ddr(end, 1)[0] == 5


def test_an_interrupted_upload_goes_on(bundled):
    """What arrived is not sent again, whatever lay where the rest belongs; a whole model is known
    at once."""
    board, reference = bundled
    words = board.image.ddr.view("<u4")
    board.board.ask("UNLOAD")
    half = len(words) // 2 & ~1
    board.transport.write_ddr(MODEL_BASE + 4 * half, np.zeros(len(words) - half, np.uint32))
    sent, steps = _sent(board), []
    board.prepare(lambda what, *_: steps.append(what))
    assert (4 * (len(words) - half) - (1 << 16) < sum(sent) <= 4 * (len(words) - half) + (2 << 16)
            and "verify" in steps)
    reference.reset()
    np.testing.assert_array_equal(board.score(3), reference.score(3))
    steps.clear()
    before = board.simulator.stats()["cycles"]
    board.prepare(lambda what, *_: steps.append(what))
    # less than a second at 125 MHz, by far, for the clock stands for what a host sees
    assert (not steps and board.position == 0 and board.simulator.stats()["cycles"]
            - before < 10_000_000)


def test_a_command_goes_on_from_where_the_host_says(bundled):
    """The wrong place is an error, not wrong words; and nothing has moved."""
    board, reference = bundled
    for target in bundled:
        target.reset()
        target.generate([0, 807, 29], 2, Sampling(), _quiet, _quiet)
    for command in (("GENERATE", [0, 3, 1, 0, 0, 1, 5]), ("SCORE", [0, 5, 5]),
                    ("SCORE", [0, 5, 0])):
        board._send(*command)
        with pytest.raises(UserError,
                           match="conversation on the board stands at token 4, not where this one "
                                 "goes on: start anew"):
            board._event("STATS", "SCORED")
        # whose conversation it is nobody knows then
        assert board.tokens == [] and board._unsure and board.info()["position0"] == 4
    board.tokens, board._unsure = list(reference.tokens), False
    np.testing.assert_array_equal(board.score(9).view(np.uint32),
                                  reference.score(9).view(np.uint32))


def test_next_host_ends_what_the_last_one_left_running(bundled):
    """It takes the board over in the middle of an answer; the last one is told."""
    board, _ = bundled
    board.reset()
    board._send("GENERATE", [0, 0, 200, 0, 0, 2, 0, 807])
    assert board._event("PROGRESS", "TOKEN")
    port = board.simulator.ports["udp"]
    with pytest.raises(BoardHeld, match=r"held by the host 192\.168\.1\.100"):
        over_udp("127.0.0.1", port)
    other = BoardTarget(board.image, over_udp("127.0.0.1", port, take_over=True))
    assert other.info()["selftest"] == 0
    with pytest.raises(BoardHeld, match=r"192.168.1.100, port \d+, .*which took it over"):
        while board._event("PROGRESS", "TOKEN"):
            pass
    other.prepare(_quiet)
    assert other.score(0).shape == (2048,)
    board.transport.close()
    reach_by(board, other.transport)
    board._unsure = True


def test_cancel_in_prefill(bundled):
    board, _ = bundled
    board.reset()
    cancel = Cancel()
    answer = board.generate([0] * 200, 4, Sampling(), _quiet, lambda *_: cancel.set(),
                            cancel=cancel)
    assert (answer.stop_reason == "cancel" and answer.token_ids == []
            and 0 < answer.prompt_tokens < 200)
    assert board.position == answer.prompt_tokens


def test_board_with_less_memory(bundled, monkeypatch):
    board, _ = bundled
    small = board.info() | {"memory_bytes": 1 << 20}
    monkeypatch.setattr(board.board, "info", lambda: small)
    with pytest.raises(UserError, match="the board has 1 MB: choose a smaller model"):
        board.prepare(_quiet)


@pytest.fixture(scope="module")
def serial_board(tmp_path_factory):
    """A board reached over its UART only, with a small random model uploaded that way."""
    shape = Shape(64, 96, 2, 2, 1, 104, seed=99)
    folder = write_checkpoint(tmp_path_factory.mktemp("model"), shape)
    # the bundled tokenizer, cut to ids that the model has, is enough to chat in
    tokenizer = json.loads((BUNDLED / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {t: i
                                   for t, i in tokenizer["model"]["vocab"].items()
                                   if i < shape.vocab}
    tokenizer["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text((BUNDLED / "tokenizer_config.json").read_text())
    image = convert(open_checkpoint(folder))
    with _opened(image,
                 "conservative",
                 lambda ports: over_serial(f"socket://127.0.0.1:{ports['tcp']}")) as pair:
        yield pair


def test_chat_over_uart(serial_board):
    board, reference = serial_board
    _, ids = TextModel(board.image).encode_chat([{"role": "user", "content": "Hi"}])
    answer = _same(board, reference, ids, 12, Sampling())
    assert answer.decode_cycles_per_token > 0
    for target in serial_board:
        target.reset()
    _same(board, reference, ids, 6, Sampling(1.0, 20, 0.9, seed=4))
    for target in serial_board:
        target.reset()
    np.testing.assert_array_equal(board.score(9).view(np.uint32),
                                  reference.score(9).view(np.uint32))


def test_uart_survives_noise(serial_board):
    board, _ = serial_board
    magic = MAGIC.to_bytes(4, "little")
    for noise in (b"noise" + magic + b"\x01\x00\x00\x00\xff\xff\xff\xff garbage",
                  magic + bytes(12), magic * 3):
        board.transport.link.wire._line.write(noise)
        board.reset()
    cancel = Cancel()
    stopped = board.generate([1, 2], 50, Sampling(), lambda token: cancel.set(), _quiet,
                             cancel=cancel)
    assert stopped.stop_reason in ("cancel", "stop")


def test_the_pty_is_the_same_line(serial_board):
    board, _ = serial_board
    board.transport.close()
    reach_by(board, over_serial(board.simulator.ports["pty"]))
    assert board.info()["model_id"] == board.image.header.model_id
    board.reset()


def test_boot_report(serial_board):
    board, _ = serial_board
    info = board.info()
    assert (info["isa_hash"] == isa_hash() and info["selftest"] == 0
            and info["clock_hz"] == 125_000_000)
    assert info["model_id"] == board.image.header.model_id
    board.transport.link.write(MAILBOX_BASE + 4 * MAILBOX.command, [77, 0])
    board.transport._sequence += 1
    board.transport.link.write(MAILBOX_BASE + 4 * MAILBOX.command_sequence,
                               [board.transport._sequence])
    board._sequence = board.transport._sequence
    with pytest.raises(UserError, match="does not know command 77"):
        board._event("DONE")
    assert board.info()["selftest"] == 0  # errors do not stick
