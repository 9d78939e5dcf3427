"""Links under loss and damage, against a board that is a socket and memory, or a script."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time

import numpy as np
import pytest
from bitnet_host import (
    BadArgument,
    BadModel,
    BoardBusy,
    BoardError,
    BoardHeld,
    BoardRestarted,
    BoardTaken,
    Cancel,
    LinkError,
    LinkTimeout,
    UserError,
)
from bitnet_host.model.convert import convert
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.run import shared
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.exchange import Exchange
from bitnet_host.run.link import bulk, client
from bitnet_host.run.link.client import Link
from bitnet_host.run.link.proxy import Faults, UDPProxy
from bitnet_host.run.link.transport import (
    DDR_BASE,
    MAILBOX_BASE,
    Event,
    MailboxTransport,
    Transport,
)
from bitnet_host.run.link.wires import SerialWire, UDPWire
from bitnet_host.run.protocol import COMMANDS, ERRORS, EVENTS, MAILBOX, STATS_FIELDS
from bitnet_host.run.sampling import Sampling
from bitnet_host.run.shared import Board
from board_double import BoardDouble
from xtvu.datagram import MAGIC, MOST_WORDS, Datagram


@pytest.fixture
def board():
    board = BoardDouble()
    board.set(MAILBOX.magic, MAILBOX.magic_value)
    yield board
    board.close()


@pytest.fixture
def link(board):
    with_close = Link(UDPWire("127.0.0.1", board.port))
    yield with_close
    with_close.close()


def _mailbox(board, **options):
    return MailboxTransport(Link(UDPWire("127.0.0.1", board.port), **options))


# -- one question, one answer ------------------------------------------------------------


def test_any_damage_to_a_datagram_shows():
    raw = Datagram(7, 8, 3, 0, 0x40, [1, 2, 3]).encode()
    assert Datagram.decode(raw) == Datagram(7, 8, 3, 0, 0x40, [1, 2, 3])
    for bit in range(8 * len(raw)):
        spoilt = bytearray(raw)
        spoilt[bit // 8] ^= 1 << bit % 8
        assert Datagram.decode(bytes(spoilt)) is None
    assert (all(Datagram.decode(raw[:n]) is None for n in range(len(raw)))
            and Datagram.decode(raw + bytes(4)) is None)


def test_lost_answers_are_asked_for_again(board, link):
    board.words[0x40] = 7
    before = board.asked
    board.spoil = lambda answer, number: [] if (number - before) % 3 else [answer]
    assert link.read_list([0x40]) == [7] and board.asked == before + 3
    board.spoil = lambda answer, number: []
    link.wire.patience = 0.3
    with pytest.raises(LinkError, match="does not answer: check that it is on"):
        link.read_list([0x40])


def test_answers_to_something_else_are_passed_over(board, link):
    """Old answers, those of other hosts, damaged, cut, too long, or noise."""
    board.words[0x40] = 7

    def spoil(answer, number):
        real = Datagram.decode(answer)
        others = [Datagram(real.token + a & 0xFFFFFFFF, real.sequence - b, real.operation ^ c, 0,
                           0, [99]).encode()
                  for a, b, c in ((0, 1, 0), (1, 0, 0), (0, 0, 1))]
        flipped = bytearray(answer)
        flipped[20] ^= 1
        return [b"", b"x", answer[:13], answer[:-1], answer + b"1234", bytes(flipped),
                bytes(range(200)), *others, answer]

    before = board.asked
    board.spoil = spoil
    assert [link.read_list([0x40]) for _ in range(5)] == [[7]] * 5 and board.asked == before + 5


def test_a_time_out_follows_the_round_trip(board):
    """Answers after 400 ms: the first questions are asked twice, the later ones are waited for."""
    with UDPProxyUntilEnd(board, Faults(delay=0.2)) as port:
        link = Link(UDPWire("127.0.0.1", port))
        for _ in range(4):
            link.read_list([0x40])
        before = board.asked
        for _ in range(3):
            link.read_list([0x40])
        assert board.asked == before + 3
        link.close()


class UDPProxyUntilEnd:
    """A proxy in front of the board, as a context: the port."""

    def __init__(self, board, faults):
        self.proxy = UDPProxy(("127.0.0.1", board.port), faults)

    def __enter__(self):
        return self.proxy.port

    def __exit__(self, *_):
        self.proxy.close()


def test_a_write_is_done_once_however_often_it_comes(board):
    """Late copies of everything, in any order: what was written last stays, and nothing is written
    twice."""
    with UDPProxyUntilEnd(board, Faults(duplicate=1.0, reorder=0.5, late=0.05, seed=3)) as port:
        link = Link(UDPWire("127.0.0.1", port))
        for value in range(40):
            link.write(MAILBOX_BASE, [value, 2 * value])
        time.sleep(0.1)
        assert [body for address, body in board.written if address == MAILBOX_BASE] == [
            np.array([value, 2 * value], "<u4").tobytes() for value in range(40)]
        assert link.read_list([MAILBOX_BASE, MAILBOX_BASE + 4]) == [39, 78]
        link.close()


def test_what_the_board_refuses_is_said(board, link):
    board.protected = range(0x1000, 0x2000)
    with pytest.raises(LinkError, match="does not let anyone write to memory of a loaded model"):
        link.write(DDR_BASE + 0x1000, [1])
    with pytest.raises(LinkError, match="does not let anyone write"):
        bulk.upload(link, 0x1000, np.zeros(64, np.uint8))
    with pytest.raises(LinkError, match="no memory at offset 0x4000000 of DDR"):
        bulk.upload(link, 1 << 26, np.zeros(64, np.uint8))


# -- the claim ------------------------------------------------------------


def test_a_second_host_is_told_who_holds_the_board(board, link):
    with pytest.raises(BoardHeld,
                       match=r"held by the host 127.0.0.1, port \d+, for 12 s \(last heard of 3 s "
                             r"ago\)") as told:
        Link(UDPWire("127.0.0.1", board.port))
    assert "--take-over" in str(told.value) and told.value.state["seconds_held"] == 12
    assert link.read_list([0x40]) == [0]


def test_who_was_taken_over_is_told_by_whom(board, link):
    other = Link(UDPWire("127.0.0.1", board.port), take_over=True)
    with pytest.raises(BoardHeld, match=r"held by the host 127.0.0.1, port .*, which took it over"):
        link.write(MAILBOX_BASE, [1])
    assert not board.written
    other.close()
    # it may have changed everything
    with pytest.raises(BoardTaken, match="was restarted, or another host has used it meanwhile"):
        link.read_list([0x40])
    assert link.read_list([0x40]) == [0]


def test_a_claim_that_lapsed_is_made_again(board, link):
    board.words[0x40] = 5
    for action in (lambda: link.read_list([0x40]), lambda: link.write(0x44, [6]),
                   lambda: bulk.upload(link, 0, np.ones(8000, np.uint8))):
        board.lapse()
        action()
    assert link.read_list([0x40, 0x44]) == [5, 6] and board.ddr[:8000].all() and board.claims == 4


def test_a_claim_made_again_of_which_no_answer_came(board, link):
    """It lapsed, another host was there, and the answer to the new claim is lost: what the other
    did is noticed all the same."""
    board.lapse()
    other = Link(UDPWire("127.0.0.1", board.port))
    other.close()
    link.wire.patience = 0.2
    board.spoil = lambda answer, number: [] if Datagram.decode(answer).operation == 1 else [answer]
    with pytest.raises(LinkError, match="does not answer"):
        link.read_list([0x40])
    board.spoil = lambda answer, number: [answer]
    with pytest.raises(BoardTaken):
        link.read_list([0x40])
    assert link.read_list([0x40]) == [0]


def test_one_slow_answer_does_not_slow_all(board, link):
    """A question is repeated after two seconds at most, whatever the last ones took."""
    for _ in range(3):
        link._round_trip.measured(25.0)
    before, asked = time.monotonic(), board.asked
    board.spoil = lambda answer, number: [] if number == asked + 1 else [answer]
    link.read_list([0x40])
    assert time.monotonic() - before < 4


def test_close_does_not_wait_for_a_dead_board(board):
    link = Link(UDPWire("127.0.0.1", board.port))
    board.spoil = lambda answer, number: []

    def ask():
        with contextlib.suppress(LinkError):
            link.read_list([0x40])

    threading.Thread(target=ask, daemon=True).start()
    time.sleep(0.1)
    start = time.monotonic()
    link.close()
    assert time.monotonic() - start < 5


def test_the_board_is_given_back(board):
    Link(UDPWire("127.0.0.1", board.port)).close()
    assert board.holder is None
    link = Link(UDPWire("127.0.0.1", board.port))
    board.spoil = lambda answer, number: []
    start = time.monotonic()
    link.close()  # nobody answers: silence will do
    assert time.monotonic() - start < 5
    with pytest.raises(LinkError, match="closed"):
        link.read_list([0x40])


def test_the_holder_stays_while_it_has_nothing_to_say(board, monkeypatch):
    monkeypatch.setattr(client, "_ALIVE", 0.05)
    link = Link(UDPWire("127.0.0.1", board.port))
    before = board.asked
    time.sleep(0.5)
    assert board.asked - before >= 3
    link.close()


# -- bulk data ------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 1440, 1448, 100_000])
def test_uploads_of_all_sizes(board, link, size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    heard = []
    sent = bulk.upload(link, 4096, data, heard.append)
    assert (np.array_equal(board.ddr[4096:4096 + size], data) and not board.ddr[:4096].any()
            and not board.ddr[4096 + size:8192 + size].any())
    assert sent.datagrams == -(-size // 1440) and sent.repeated == 0 and heard[-1] == size


_BAD = {"loss": 0.05, "duplicate": 0.05, "reorder": 0.05, "corrupt": 0.05}


@pytest.mark.parametrize("faults", [
    Faults(),
    Faults(loss=0.2),
    Faults(**_BAD), Faults(**_BAD, delay=0.002), Faults(reorder=0.3), Faults(truncate=0.1),
    Faults(duplicate=0.5), Faults(silence=0.001, silent=0.5)],
    ids=["none", "loss", "all", "all far", "reordered", "cut", "twice", "silent"])
def test_uploads_through_a_bad_line(board, faults):
    """No wrong byte; and with five in a hundred of everything at most a quarter more than a good
    line would see."""
    data = np.random.default_rng(5).integers(0, 256, 6_000_000, np.uint8)
    with UDPProxyUntilEnd(board, faults) as port:
        link = Link(UDPWire("127.0.0.1", port))
        start = time.monotonic()
        sent = bulk.upload(link, 0, data)
        assert np.array_equal(board.ddr[:data.size], data) and not board.ddr[data.size:].any()
        needed = -(-data.size // 1440)
        print(f"{faults}: {time.monotonic() - start:.2f} s, {100 * sent.repeated / needed:.1f} % "
              f"extra")
        assert sent.datagrams == needed + sent.repeated
        if faults.loss < 0.1 and not faults.silence:
            assert sent.repeated <= 0.25 * needed
        link.close()


def test_an_old_datagram_changes_nothing_later(board, link):
    """A copy that comes after the next command was written would undo what was written since."""
    bulk.upload(link, 0, np.full(64, 1, np.uint8))
    late = Datagram(link.token, link._sequence, 5, 0, 0).encode(bytes([9] * 64))
    link.write(DDR_BASE, [7])
    link.wire.send(late)
    assert link.read_list([DDR_BASE]) == [7]


def test_an_upload_to_nobody_ends(board, link):
    link.wire.patience = 0.5
    board.spoil = lambda answer, number: []
    with pytest.raises(LinkError, match=r"does not answer any more.*what has arrived is kept"):
        bulk.upload(link, 0, np.ones(20_000, np.uint8))


# -- the mailbox ------------------------------------------------------------


def _put_events(board, words, start=0):
    for i, word in enumerate(words):
        board.set(MAILBOX.ring + (start + i) % MAILBOX.ring_words, word)
    board.set(MAILBOX.event_head, start + len(words))


def test_events_come_through_the_ring_and_around_its_end(board):
    start = MAILBOX.ring_words - 3
    board.set(MAILBOX.event_head, start)
    transport = _mailbox(board)
    _put_events(board, [EVENTS["TOKEN"], 1, 6, 42, EVENTS["PROGRESS"], 2, 7, 8, 9], start)
    assert ([(sequence, name, words.tolist())
             for sequence, name, words in (transport.listen(1), transport.listen(1))] == [
        (6, "TOKEN", [42]), (7, "PROGRESS", [8, 9])])
    assert board.get(MAILBOX.event_tail) == start + 9
    with pytest.raises(LinkTimeout):
        transport.listen(0.05)


def test_more_events_than_the_ring_holds(board):
    transport = _mailbox(board)
    board.set(MAILBOX.event_head, MAILBOX.ring_words + 1)
    with pytest.raises(LinkError, match="restarted"):
        transport.listen(1)


@pytest.mark.parametrize("words",
                         [[EVENTS["TOKEN"]], [EVENTS["TOKEN"], 0],
                          [EVENTS["TOKEN"], 5, 1, 1], [EVENTS["TOKEN"], 0xFFFFFFFF, 1]])
def test_an_event_that_breaks_off(board, words):
    transport = _mailbox(board)
    _put_events(board, words)
    with pytest.raises(LinkError, match="breaks off"):
        transport.listen(1)


def test_a_command_is_one_more_than_the_last(board):
    board.set(MAILBOX.command_sequence, 0xFFFFFFFF)
    board.set(MAILBOX.command_taken, 0xFFFFFFFF)
    transport = _mailbox(board)
    transport.send("LOAD", [1])
    assert board.get(MAILBOX.command_sequence) == 0
    assert [board.get(MAILBOX.command + i) for i in range(3)] == [COMMANDS["LOAD"], 1, 1]
    addresses = [address for address, _ in board.written]
    # in this order
    assert (addresses[-2:]
            == [MAILBOX_BASE + 4 * MAILBOX.command, MAILBOX_BASE + 4 * MAILBOX.command_sequence])


def test_a_number_that_never_got_there(board):
    """The connection broke between a command and its number: the next command is no number further
    than the board thinks."""
    transport = _mailbox(board)
    transport._sequence += 1
    transport.send("INFO")
    assert board.get(MAILBOX.command_sequence) == 1 and transport._sequence == 1


def test_events_of_an_earlier_command_are_passed_over(board):
    transport = _mailbox(board)
    exchange = Exchange(transport)
    _put_events(board, [EVENTS["INFO"], 1, 0, 5])
    asked = exchange.send("INFO")
    assert board.get(MAILBOX.event_tail) == 4 and asked == 1
    _put_events(board, [EVENTS["INFO"], 1, 1, 6], 4)
    assert exchange.receive(asked, 1)[1].tolist() == [6]


def test_a_busy_board_says_with_what(board, monkeypatch):
    transport = _mailbox(board)
    board.set(MAILBOX.command_sequence, 1)  # a command that the board does not take
    board.set(MAILBOX.doing, COMMANDS["GENERATE"])
    board.set(MAILBOX.done, 12)
    board.set(MAILBOX.total, 200)
    monkeypatch.setattr("bitnet_host.run.link.transport._BUSY_SECONDS", 0.2)
    with pytest.raises(BoardBusy, match="busy with GENERATE, 12 of 200 done, and does not get on"):
        transport.send("INFO")


def test_a_busy_board_that_gets_on_is_waited_for(board, monkeypatch):
    transport = _mailbox(board)
    board.set(MAILBOX.command_sequence, 1)
    board.set(MAILBOX.doing, COMMANDS["LOAD"])
    monkeypatch.setattr("bitnet_host.run.link.transport._BUSY_SECONDS", 0.4)

    def work():
        for step in range(10):
            board.set(MAILBOX.done, step)
            time.sleep(0.1)
        board.set(MAILBOX.command_taken, 1)

    threading.Thread(target=work, daemon=True).start()
    transport.send("INFO")


def test_a_restart_is_told_once(board):
    transport = _mailbox(board)
    board.set(MAILBOX.restarts, 1)
    board.set(MAILBOX.restarts + 1, ERRORS["HANG"][0])
    board.set(MAILBOX.restarts + 2, 4)
    with pytest.raises(BoardRestarted, match="the firmware hung in command 4"):
        transport.listen(1)
    transport.send("INFO")


def test_a_conversation_through_a_bad_line(board):
    """Two hundred commands and events: each arrives once and in order."""
    with UDPProxyUntilEnd(board,
                          Faults(loss=0.1,
                                 duplicate=0.1,
                                 reorder=0.1, corrupt=0.1, truncate=0.05, late=0.03)) as port:
        transport = MailboxTransport(Link(UDPWire("127.0.0.1", port)))
        for number in range(60):
            transport.send("SCORE", [number, number])
            assert (board.get(MAILBOX.command_sequence) == number + 1
                    and board.get(MAILBOX.command + 2) == number)
            board.set(MAILBOX.command_taken, number + 1)
            _put_events(board, [EVENTS["TOKEN"], 1, number + 1, number], 4 * number)
            assert transport.listen(10).payload.tolist() == [number]
        transport.close()


# -- bytes ------------------------------------------------------------


def test_datagrams_among_text_and_noise():
    """Text, half datagrams, damaged ones, and impossible lengths between good ones; bytes in pieces
    of any size."""
    line = object.__new__(SerialWire)
    good = [Datagram(1, i, 3, 0, 0, [i] * i).encode() for i in range(5)]
    damaged = bytearray(good[3])
    damaged[22] ^= 4
    endless = np.array([MAGIC, 1, 2, 0xFFFF0003], "<u4").tobytes()
    stream = (b"boot\n" + good[0] + bytes(damaged) + good[1] + endless + b"more text to end it"
              + good[2] + good[4][:21] + good[3]
              + MAGIC.to_bytes(4, "little")[:3] + good[4])
    for step in (1, 5, 64, len(stream)):
        got = []
        line._buffer = bytearray()
        for i in range(0, len(stream), step):
            line._buffer += stream[i:i + step]
            while (raw := line.take()) is not None:
                if (datagram := Datagram.decode(raw)) is not None:
                    got.append(datagram.sequence)
        assert got == [0, 1, 2, 3, 4]
    # a good one may well hold what others begin with
    line._buffer = bytearray(Datagram(1, 9, 3, 0, 0, [5, MAGIC, MAGIC, 6]).encode())
    assert Datagram.decode(line.take()).data == [5, MAGIC, MAGIC, 6]


def test_a_garbled_length_does_not_swallow_what_follows():
    """The longest that there is would wait for some forty answers to a repeated question."""
    line = object.__new__(SerialWire)
    longer, good = bytearray(Datagram(1, 7, 3, 0, 0, [7] * 3).encode()), []
    longer[14:16] = MOST_WORDS.to_bytes(2, "little")
    line._buffer = bytearray(longer)
    assert line.take() is None
    for number in range(2):
        good.append(Datagram(1, number, 3, 0, 0, [number, MAGIC, 2]).encode())
        line._buffer += good[-1][:30]
        assert line.take() is None
        line._buffer += good[-1][30:]
        assert line.take() == good[-1] and line.take() is None


# -- a board that answers as a script says ---------------------------------------------------------


class _Script(Transport):
    """Gives events, or raises what stands in their place."""

    name = "script"

    def __init__(self, events):
        self.events, self.sent, self.cancels = list(events), [], 0
        self.payloads, self.uploads, self.memory = [], [], np.zeros(1 << 20, np.uint32)

    def ready(self): ...

    def send(self, command, payload=()):
        self.sent.append(command)
        self.payloads.append([int(word) for word in payload])
        return len(self.sent)

    def listen(self, timeout):
        event = self.events.pop(0) if self.events else LinkTimeout("silent")
        if isinstance(event, Exception):
            raise event
        name, words = event
        return Event(len(self.sent), name, np.array(words, np.uint32))

    def cancel(self, slot, sequence):
        self.cancels += 1

    def progress(self):
        return 0, 0, 0

    def write_ddr(self, offset, words, progress=lambda done: None):
        self.uploads.append((offset, len(words)))
        progress(4 * len(words))

    def speed_up(self): ...

    def read_ddr(self, offset, count):
        return self.memory[(offset - MODEL_BASE) // 4:][:count]

    def close(self): ...


def _stats(**values):
    return "STATS", [values.get(name, 0) for name in STATS_FIELDS]


@pytest.fixture(scope="module")
def image():
    return convert(open_checkpoint(BUNDLED))


def _target(image, events):
    target = BoardTarget(image, _Script(events))
    target._unsure = False
    return target


def test_silence_within_patience_is_waited_out(image):
    target = _target(image,
                     [LinkTimeout("a moment"), ("TOKEN", [5]), LinkTimeout("more"),
                      _stats(position=3, tokens=1)])
    assert target.generate([1, 2], 1).token_ids == [5] and target.tokens == [1, 2, 5]


def test_no_other_error_is_waited_out(image):
    code = ERRORS["TVU"][0]
    target = _target(image, [("TOKEN", [5]), ("ERROR", [code, 3]), ("TOKEN", [6])])
    with pytest.raises(BoardError) as caught:
        target.generate([1, 2], 9)
    assert (caught.value.code, caught.value.detail) == (code, 3)
    target = _target(image, [LinkError("unplugged"), ("TOKEN", [6])])
    with pytest.raises(LinkError, match="unplugged"):
        target.generate([1, 2], 9)


def test_after_an_error_the_cache_is_looked_up(image):
    target = _target(image, [("ERROR", [ERRORS["TVU"][0], 3])])
    target.board.info = lambda: {"position0": 1, "model_id": image.header.model_id}
    with pytest.raises(BoardError):
        target.generate([1, 2], 9)
    assert target.tokens == [1]


def test_leaving_early_ends_the_command_and_keeps_what_it_read(image):
    target = _target(image, [("TOKEN", [5]), ("TOKEN", [6]), _stats(position=4, tokens=2)])
    steps = target.stream([1, 2], 9)
    assert next(steps).token == 5
    steps.close()
    assert (target.transport.cancels == 1 and target.tokens == [1, 2, 5, 6]
            and not target.transport.events)


def _loaded(target, image, **info):
    values = {"clock_hz": 1, "memory_bytes": 1 << 30, "model_id": 0} | info
    target.board.info = lambda: values


def test_a_model_that_is_loaded_is_neither_sent_nor_checked_again(image):
    target = _target(image, [("DONE", [])])
    _loaded(target, image, model_id=image.header.model_id)
    target.prepare()
    assert target.transport.sent == ["CLEAR"] and target.transport.uploads == []


def test_an_upload_goes_on_where_it_stopped(image):
    """What the board has, by its own checksums, is not sent again."""
    words = image.ddr.view("<u4")
    size = shared._PIECE // 4
    sums = [Board._sum(words[start:start + size])
            for start in range(0, len(words) - size + 1, size)]
    there = list(sums)
    there[3] ^= 1
    there[4] ^= 1
    there[-1] ^= 1
    events = [("DONE", []), ("SUMS", there), ("LOADED", [image.header.model_id])]
    target = _target(image, events)
    _loaded(target, image)
    target.transport.memory = words
    heard = []
    target.prepare(lambda what, done, total: heard.append((what, done, total)))
    last = len(sums) - 1
    # the piece before the end, and what is left behind the last whole one
    tail = len(words) - last * size
    assert (target.transport.uploads == [(MODEL_BASE + 12 * size, 2 * size),
                                         (MODEL_BASE + 4 * last * size, tail)])
    assert heard[-1] == ("upload", 4 * (2 * size + tail), 4 * (2 * size + tail))
    assert target.transport.sent == ["UNLOAD", "SUMS", "LOAD"]


def test_another_model_is_sent_whole(image):
    target = _target(image, [("DONE", []), ("LOADED", [image.header.model_id])])
    _loaded(target, image, model_id=5)
    target.prepare()
    assert (target.transport.uploads == [(MODEL_BASE, image.ddr.size // 4)]
            and target.transport.sent == ["UNLOAD", "LOAD"])


def test_a_slow_line_is_said_beforehand(image):
    target = _target(image, [("DONE", []), ("DONE", []), ("LOADED", [image.header.model_id])])
    _loaded(target, image)
    target.transport.bytes_per_second = 100
    with pytest.raises(BadArgument,
                       match=r"of 1 MB over script would take 4.5 hours: use the network, or say "
                             r"--slow-upload"):
        target.prepare()
    assert target.transport.uploads == []
    target.board.slow_upload, heard = True, []
    target.prepare(lambda what, *_: heard.append(what))
    assert re.fullmatch(r"upload, some 16\d\d\d s", heard[0]) and target.transport.uploads


def test_what_goes_wrong_in_load_is_said(image, monkeypatch):
    monkeypatch.setattr("bitnet_host.run.shared.ANSWER_TIMEOUT", 0.2)
    code = ERRORS["CHECKSUM"][0]
    for failure in (LinkTimeout("dead"), BoardRestarted("the board restarted", 0),
                    ("ERROR", [code, 2])):
        target = _target(image, [("DONE", []), failure])
        _loaded(target, image)
        with pytest.raises((LinkTimeout, BoardError)):
            target.prepare()


class _Slow(_Script):
    """Says nothing for a second, or for three if it does not get on."""

    def __init__(self, events, gets_on):
        super().__init__(events)
        self._until = time.monotonic() + (1 if gets_on else 3)
        self._looks, self.gets_on = itertools.count(), gets_on

    def listen(self, timeout):
        if time.monotonic() < self._until:
            time.sleep(min(timeout, 0.01))
            raise LinkTimeout("silent")
        return super().listen(timeout)

    def progress(self):
        return 3, next(self._looks) if self.gets_on else 7, 30


@pytest.mark.parametrize("command,events", [
    ("generate", [("TOKEN", [5]), ("STATS", _stats(position=3, tokens=1)[1])]),
    ("score", [("SCORED", [0, 0, 0])]),
])
def test_a_board_is_waited_for_as_long_as_it_gets_on(image, monkeypatch, command, events):
    monkeypatch.setattr("bitnet_host.run.shared.ANSWER_TIMEOUT", 0.3)
    for gets_on in (True, False):
        target = BoardTarget(image, _Slow(events, gets_on))
        target._unsure = False
        with contextlib.nullcontext() if gets_on else pytest.raises(LinkTimeout):
            if command == "generate":
                assert target.generate([1, 2], 1).token_ids == [5]
            else:
                target.score(7)
    monkeypatch.setitem(shared._LONGEST_ANSWER, "board", 0.5)
    target = BoardTarget(image, _Slow(events, True))
    target._unsure = False
    with pytest.raises(LinkTimeout):
        target.generate([1, 2], 1)


def test_a_word_that_was_lost_is_no_shorter_answer(image):
    target = _target(image, [("TOKEN", [5]), _stats(position=4, tokens=2)])
    target.board.info = lambda: {"position0": 4, "model_id": image.header.model_id}
    with pytest.raises(LinkError, match="wrote 2 tokens, of which 1 came"):
        target.generate([1, 2], 2)


def test_each_command_says_where_it_goes_on(image):
    target = _target(image,
                     [("TOKEN", [5]),
                      _stats(position=3, tokens=1), ("SCORED", [0, 0, 0]), _stats(position=5)])
    target.generate([1, 2], 1)
    target.score(7)
    target.generate([9], 0)
    assert (target.transport.payloads[0][:2] == [0, 0]
            and target.transport.payloads[1] == [0, 7, 3]
            and target.transport.payloads[2][:2] == [0, 4])


@pytest.mark.parametrize("error", [
    BoardTaken("taken"),
    BoardHeld("held", {}), BoardRestarted("restarted", 0), ("ERROR", [ERRORS["POSITION"][0], 3])],
    ids=["taken", "held", "restarted", "position"])
def test_what_another_host_left_is_not_gone_on_with(image, error):
    """However well its length would fit: the conversation is read anew from its start."""
    target = _target(image, [("TOKEN", [5]), error])
    target.slots[3].tokens, target.slots[3]._unsure = [1, 2], False
    target.board.info = lambda: {"position0": 3, "model_id": image.header.model_id}
    with pytest.raises(UserError):
        target.generate([1, 2], 9)
    assert target.tokens == [] and target._unsure
    # what another slot holds is in doubt as well, unless only this one is at another place
    other = target.slots[3]
    assert other._unsure or other.tokens == [1, 2]
    assert other._unsure == isinstance(error, Exception)
    target.transport.events = [("DONE", []), ("TOKEN", [5]), _stats(position=4, tokens=1)]
    with contextlib.closing(target.stream([1, 2, 5, 7], 1, reuse=True)) as steps:
        list(steps)
    assert (target.transport.sent[-2:] == ["RESET", "GENERATE"]
            and target.transport.payloads[-2] == [0, 0])
    assert target.transport.payloads[-1][-4:] == [1, 2, 5, 7] and target.tokens == [1, 2, 5, 7][:4]


def _named(*tokens):
    return "CANDIDATES", [word for token in tokens for word in (token, 0x3F800000)]


def test_a_board_that_is_made_ready_in_the_middle_of_an_answer(image):
    """By another slot: all conversations begin anew then, and the answer does not go on."""
    target = _target(image, [_named(5, 6), _stats(stop_reason=1, position=2), ("DONE", [])])
    steps = target.stream([1, 2], 4, Sampling(temperature=0.5, seed=1))
    next(steps)
    _loaded(target, image, model_id=image.header.model_id)
    target.slots[1].prepare()
    with pytest.raises(BoardTaken, match="in the middle of the answer"):
        next(steps)
    assert target.transport.sent == ["GENERATE", "CLEAR"]


def test_an_answer_that_loses_its_conversation(image):
    """Another slot meets a restart while the host chooses a token, or while the last events come:
    the answer does not go on without what came before it."""
    target = _target(image, [_named(5, 6), _stats(stop_reason=1, position=2)])
    steps = target.stream([1, 2], 4, Sampling(temperature=0.5, seed=1))
    next(steps)
    target.slots[1]._lose_all()
    with pytest.raises(BoardTaken, match="in the middle of the answer"):
        next(steps)
    assert target.transport.sent == ["GENERATE"] and target._unsure and target.tokens == []
    target.transport.events = [("DONE", []), ("TOKEN", [5]), _stats(position=2, tokens=1)]
    target.board.info = lambda: {"model_id": image.header.model_id}
    assert target.generate([1], 1).token_ids == [5] and target.tokens == [1, 5]
    target = _target(image, [("TOKEN", [5]), _stats(position=3, tokens=1)])
    steps = target.stream([1, 2], 1)
    next(steps)
    target.slots[1]._lose_all()
    assert next(steps, None) is None and target.tokens == [] and target._unsure


def test_a_slot_that_is_busy_is_not_believed_in(image):
    target = _target(image, [("ERROR", [ERRORS["BUSY"][0], 0])])
    target.board.info = lambda: {"position0": 2, "model_id": image.header.model_id}
    with pytest.raises(BoardError, match="in the middle of an answer"):
        target.generate([1, 2], 9)
    assert target._unsure and target.tokens == []


def test_logits_that_do_not_come_leave_a_doubt(image):
    target = _target(image, [("SCORED", [0, 0, 4])])
    target.transport.read_ddr = lambda *_: (_ for _ in ()).throw(BoardTaken("taken"))
    with pytest.raises(BoardTaken):
        target.score(7)
    assert target._unsure and target.tokens == []


def test_another_model_on_the_board_is_noticed(image):
    target = _target(image, [])
    target._unsure = True
    target.board.info = lambda: {"position0": 0, "model_id": image.header.model_id ^ 1}
    with pytest.raises(BadModel, match="another model on the board"):
        target.generate([1], 1)


def test_cancels_belong_to_one_call(image):
    cancel = Cancel()
    cancel.set()
    target = _target(image, [])
    assert (target.generate([1], 5, cancel=cancel).stop_reason == "cancel"
            and not target.transport.sent)
    target.transport.events = [("TOKEN", [5]), _stats(position=2, tokens=1)]
    assert target.generate([1], 1).token_ids == [5] and target.transport.cancels == 0


def test_an_error_in_the_answer_leaves_no_doubt(image):
    """The board's position counts decoded tokens; a reply that says more than the host knows makes
    it start anew."""
    code = ERRORS["TVU"][0]
    for position, tokens, unsure in ((4, [1, 2, 5, 6], False), (3, [1, 2, 5], False),
                                     (9, [], True)):
        target = _target(image, [("TOKEN", [5]), ("TOKEN", [6]), ("ERROR", [code, 3])])
        target.board.info = lambda position=position: {"position0": position,
                                                 "model_id": image.header.model_id}
        with pytest.raises(BoardError):
            target.generate([1, 2], 9)
        assert (target.tokens, target._unsure) == (tokens, unsure)


def test_a_command_that_may_have_been_taken(image):
    """Its send fails: what the board holds is asked for, and if nobody answers, the next command
    clears up first."""
    target = _target(image, [])
    send, target.transport.send = (target.transport.send,
                                   lambda *_: (_ for _ in ()).throw(LinkError("lost")))
    with pytest.raises(LinkError):
        target.generate([1, 2], 9)
    assert target._unsure and target.tokens == []
    target.transport.send, asked = send, []
    target.board.info = lambda: asked.append("info") or {"model_id": image.header.model_id}
    target.transport.events = [("DONE", []), _stats(position=1)]
    target.generate([7], 0)
    assert asked and target.transport.sent == ["RESET", "GENERATE"] and target.tokens == [7]


def test_a_cancel_that_finds_the_board_taken_tells_all_who_wait(image):
    target = _target(image, [])
    waiting = target.board.exchange.send("GENERATE")
    target.transport.cancel = lambda *_: (_ for _ in ()).throw(BoardTaken("gone"))
    with pytest.raises(BoardTaken):
        target._tell_cancel()
    with pytest.raises(BoardTaken):
        target.board.exchange.receive(waiting, 1)


def test_a_cancel_without_effect_is_repeated(image, monkeypatch):
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr("bitnet_host.run.board.time.monotonic", lambda: next(clock))
    cancel = Cancel()
    target = _target(image,
                     [("TOKEN", [5]),
                      *[LinkTimeout("quiet")] * 8, _stats(stop_reason=2, position=2, tokens=1)])
    steps = target.stream([1], 9, cancel=cancel)
    next(steps)
    cancel.set()
    assert next(steps, None) is None and target.transport.cancels > 1
