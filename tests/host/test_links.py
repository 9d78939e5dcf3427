"""Links under loss and damage, against a board made of a dictionary and a UDP socket."""

from __future__ import annotations

import socket
import struct
import threading
import zlib

import numpy as np
import pytest
from bitnet_host import BoardBusy, BoardError, Cancel, LinkError, LinkTimeout
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.etherbone import Etherbone
from bitnet_host.run.link.transport import MailboxTransport, SerialTransport, Transport
from bitnet_host.run.protocol import ERRORS, EVENTS, MAILBOX, STATS_FIELDS, SYNC

_BASE = 0x9000_0000


class _Board:
    """Answers Etherbone reads and writes; ``spoil`` makes of an answer the datagrams that are sent."""

    def __init__(self):
        self.words: dict[int, int] = {}
        self.asked = 0
        self.spoil = lambda answer, number: [answer]
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                data, sender = self._socket.recvfrom(4096)
            except OSError:
                return
            writes, reads = data[10], data[11]
            values = struct.unpack(f">{(len(data) - 12) // 4}I", data[12:])
            if writes:
                for i, value in enumerate(values[1:1 + writes]):
                    self.words[values[0] + 4 * i] = value
                continue
            self.asked += 1
            head = data[:8] + struct.pack(">BBBBI", 0, 0x0F, reads, 0, values[0])
            answer = head + struct.pack(f">{reads}I", *(self.words.get(a, 0) for a in values[1:1 + reads]))
            for part in self.spoil(answer, self.asked):
                self._socket.sendto(part, sender)

    def set(self, name, value):
        self.words[_BASE + 4 * getattr(MAILBOX, name)] = value

    def close(self):
        self._socket.close()


@pytest.fixture
def board():
    board = _Board()
    board.set("magic", MAILBOX.magic_value)
    yield board
    board.close()


def _bus(board, **options):
    return Etherbone("127.0.0.1", board.port, timeout=0.1, **options)


def test_lost_answers_are_asked_for_again(board):
    board.words[0x40] = 7
    board.spoil = lambda answer, number: [] if number % 3 else [answer]
    assert _bus(board).read_list([0x40]) == [7] and board.asked == 3
    board.spoil = lambda answer, number: []
    with pytest.raises(LinkError, match="does not answer"):
        _bus(board, tries=3).read_list([0x40])


def test_answers_to_something_else_are_passed_over(board):
    """An old answer that arrives late has another tag; others are too short, too long, or noise."""
    board.words[0x40] = 7

    def spoil(answer, number):
        old = bytearray(answer)
        struct.pack_into(">I", old, 12, struct.unpack_from(">I", answer, 12)[0] - 4)
        struct.pack_into(">I", old, 16, 99)
        return [b"", b"x", answer[:13], answer[:-1], bytes(old), bytes(range(200)), answer]

    board.spoil = spoil
    bus = _bus(board)
    assert [bus.read_list([0x40]) for _ in range(5)] == [[7]] * 5 and board.asked == 5


def test_writes_that_do_not_stick_are_repeated(board):
    bus = _bus(board)
    words, lost = np.arange(600, dtype=np.uint32), []

    def spoil(answer, number):
        if number == 2:  # something else wrote there
            board.words[0x1000 + 4 * 249] = 1
            lost.append(number)
        return [answer]

    board.spoil = spoil
    bus.write_kept(0x1000, words)
    assert np.array_equal(bus.read(0x1000, 600), words) and lost
    board.spoil = lambda answer, number: [answer[:16] + bytes(len(answer) - 16)]
    with pytest.raises(LinkError, match="does not keep"):
        _bus(board, tries=2).write_kept(0x1000, words)
    with pytest.raises(LinkError, match="does not keep"):
        _bus(board, tries=2).write_checked(0x1000, words + np.uint32(1))


def _mailbox(board):
    return MailboxTransport("127.0.0.1", board.port)


def _put_events(board, words, start=0):
    for i, word in enumerate(words):
        board.words[_BASE + 4 * (MAILBOX.ring + (start + i) % MAILBOX.ring_words)] = word
    board.set("event_head", start + len(words))


def test_events_come_through_the_ring_and_around_its_end(board):
    start = MAILBOX.ring_words - 3
    board.set("event_head", start)
    transport = _mailbox(board)
    _put_events(board, [EVENTS["TOKEN"], 1, 42, EVENTS["PROGRESS"], 2, 8, 9], start)
    assert [(name, words.tolist()) for name, words in (transport.receive(1), transport.receive(1))] == [
        ("TOKEN", [42]), ("PROGRESS", [8, 9])]
    assert board.words[_BASE + 4 * MAILBOX.event_tail] == start + 7
    with pytest.raises(LinkTimeout):
        transport.receive(0.05)


def test_more_events_than_the_ring_holds(board):
    transport = _mailbox(board)
    board.set("event_head", MAILBOX.ring_words + 1)
    with pytest.raises(LinkError, match="restarted"):
        transport.receive(1)


@pytest.mark.parametrize("words", [[EVENTS["TOKEN"]], [EVENTS["TOKEN"], 5, 1], [EVENTS["TOKEN"], 0xFFFFFFFF]])
def test_an_event_that_breaks_off(board, words):
    transport = _mailbox(board)
    _put_events(board, words)
    with pytest.raises(LinkError, match="breaks off"):
        transport.receive(1)


def test_a_busy_board_is_called_busy(board, monkeypatch):
    transport = _mailbox(board)
    transport._sequence = 1  # a command that the board does not take
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr("bitnet_host.run.link.transport.time.monotonic", lambda: next(clock))
    with pytest.raises(BoardBusy, match="busy with another command"):
        transport.send("INFO")


def _frame(name, payload, damage=0):
    body = np.array([EVENTS[name], len(payload), *payload], "<u4").tobytes()
    return SYNC.to_bytes(4, "little") + body + (zlib.crc32(body) ^ damage).to_bytes(4, "little")


def test_uart_frames():
    """Text, noise, half frames, and frames with a wrong CRC or an impossible length between good ones."""
    line = object.__new__(SerialTransport)
    good = [_frame("TOKEN", [i]) for i in range(4)]
    endless = SYNC.to_bytes(4, "little") + np.array([EVENTS["TOKEN"], 1 << 30], "<u4").tobytes()
    stream = b"boot\n" + good[0] + _frame("TOKEN", [77], damage=1) + good[1] + endless + good[2] + good[3][:9] + good[3]
    got = []
    line._buffer = bytearray()
    for i in range(0, len(stream), 5):
        line._buffer += stream[i:i + 5]
        while (frame := line._frame()) is not None:
            got.append(frame[1].tolist())
    assert got == [[0], [1], [2], [3]]


# -- a board that answers as a script says ---------------------------------------------------------------------------------


class _Script(Transport):
    """Gives events, or raises what stands in their place."""

    name = "script"

    def __init__(self, events):
        self.events, self.sent, self.cancels = list(events), [], 0

    def send(self, command, payload=()):
        self.sent.append(command)

    def receive(self, timeout):
        event = self.events.pop(0) if self.events else LinkTimeout("silent")
        if isinstance(event, Exception):
            raise event
        name, words = event
        return name, np.array(words, np.uint32)

    def cancel(self):
        self.cancels += 1

    def write_ddr(self, offset, words): ...

    def read_ddr(self, offset, count): ...

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
    target = _target(image, [LinkTimeout("a moment"), ("TOKEN", [5]), LinkTimeout("more"), _stats(position=3, tokens=1)])
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
    target.info = lambda: {"position": 1}
    with pytest.raises(BoardError):
        target.generate([1, 2], 9)
    assert target.tokens == [1]


def test_leaving_early_ends_the_command_and_keeps_what_it_read(image):
    target = _target(image, [("TOKEN", [5]), ("TOKEN", [6]), _stats(position=4, tokens=2)])
    steps = target.stream([1, 2], 9)
    assert next(steps).token == 5
    steps.close()
    assert target.transport.cancels == 1 and target.tokens == [1, 2, 5, 6] and not target.transport.events


def test_a_dead_link_is_no_reason_to_upload(image):
    """Only a model that is not whole is uploaded again; what else goes wrong in LOAD is said."""
    uploads = []
    for failure, uploaded in ((LinkTimeout("dead"), False), (("BOOT", [1, 0, 0]), False), (("ERROR", [ERRORS["CHECKSUM"][0], 2]), True)):
        target = _target(image, [failure, ("LOADED", [image.header.model_id])])
        target.info = lambda: {"clock_hz": 1, "memory_bytes": 1 << 30, "model_id": image.header.model_id, "position": 0}
        target.transport.write_ddr = lambda offset, words: uploads.append(offset)
        uploads.clear()
        if uploaded:
            target.prepare()
        else:
            with pytest.raises((LinkTimeout, BoardError)):
                target.prepare()
        assert bool(uploads) == uploaded


def test_cancels_belong_to_one_call(image):
    cancel = Cancel()
    cancel.set()
    target = _target(image, [])
    assert target.generate([1], 5, cancel=cancel).stop_reason == "cancel" and not target.transport.sent
    target.transport.events = [("TOKEN", [5]), _stats(position=2, tokens=1)]
    assert target.generate([1], 1).token_ids == [5] and target.transport.cancels == 0


def test_an_error_in_the_answer_leaves_no_doubt(image):
    """The board's position counts decoded tokens; a reply that says more than the host knows makes it start anew."""
    code = ERRORS["TVU"][0]
    for position, tokens, unsure in ((4, [1, 2, 5, 6], False), (3, [1, 2, 5], False), (9, [], True)):
        target = _target(image, [("TOKEN", [5]), ("TOKEN", [6]), ("ERROR", [code, 3])])
        target.info = lambda position=position: {"position": position}
        with pytest.raises(BoardError):
            target.generate([1, 2], 9)
        assert (target.tokens, target._unsure) == (tokens, unsure)


def test_a_command_that_may_have_been_taken(image):
    """Its send fails: what the board holds is asked for, and if nobody answers, the next command clears up first."""
    target = _target(image, [])
    send, target.transport.send = target.transport.send, lambda *_: (_ for _ in ()).throw(LinkError("lost"))
    with pytest.raises(LinkError):
        target.generate([1, 2], 9)
    assert target._unsure and target.tokens == []
    target.transport.send, asked = send, []
    target.info = lambda: asked.append("info")
    target.transport.events = [("DONE", []), _stats(position=1)]
    target.generate([7], 0)
    assert asked and target.transport.sent == ["RESET", "GENERATE"] and target.tokens == [7]


def test_a_cancel_without_effect_is_repeated(image, monkeypatch):
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr("bitnet_host.run.board.time.monotonic", lambda: next(clock))
    cancel = Cancel()
    target = _target(image, [("TOKEN", [5]), *[LinkTimeout("quiet")] * 8, _stats(stop_reason=2, position=2, tokens=1)])
    steps = target.stream([1], 9, cancel=cancel)
    next(steps)
    cancel.set()
    assert next(steps, None) is None and target.transport.cancels > 1


def test_a_cancel_word_that_was_lost_is_written_again(board):
    transport, lost = _mailbox(board), []
    transport._sequence = 7

    def spoil(answer, number):
        if not lost:
            board.words[_BASE + 4 * MAILBOX.cancel] = 3
            lost.append(number)
        return [answer]

    board.spoil = spoil
    transport.cancel()
    assert board.words[_BASE + 4 * MAILBOX.cancel] == 7
