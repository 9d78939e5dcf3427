"""Commands of several threads over one transport that is a script."""

from __future__ import annotations

import queue
import threading
import time

import numpy as np
import pytest
from bitnet_host.errors import BoardBusy, BoardTaken, LinkTimeout
from bitnet_host.run.exchange import Exchange
from bitnet_host.run.link.transport import Event


class _Line:
    """Events come when the test puts them."""

    name = "line"

    def __init__(self):
        self.events, self.sent, self.listening = queue.Queue(), 0, 0
        self.most, self.free = 0, threading.Event()
        self.free.set()

    def ready(self):
        assert self.free.wait(10)

    def send(self, command, payload=()):
        self.sent += 1
        return self.sent

    def listen(self, timeout):
        self.listening += 1
        self.most = max(self.most, self.listening)
        try:
            event = self.events.get(timeout=timeout)
        except queue.Empty:
            raise LinkTimeout("silent") from None
        finally:
            self.listening -= 1
        if isinstance(event, Exception):
            raise event
        return event

    def put(self, sequence, name, *words):
        self.events.put(Event(sequence, name, np.array(words, np.uint32)))


@pytest.fixture
def line():
    return _Line()


def _thread(results, key, function):
    def run():
        try:
            results[key] = function()
        except Exception as error:  # told to the test
            results[key] = error

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_each_hears_its_own(line):
    """Whoever happens to listen; one listens at a time."""
    exchange, results = Exchange(line), {}
    numbers = [exchange.send("GENERATE") for _ in range(4)]
    threads = [_thread(results, number, lambda number=number: [
        int(exchange.receive(number, 10)[1][0]) for _ in range(5)]) for number in numbers]
    for word in range(5):
        for number in reversed(numbers):
            line.put(number, "TOKEN", 10 * number + word)
    for thread in threads:
        thread.join(10)
    assert results == {number: [10 * number + word for word in range(5)] for number in numbers}
    assert line.most == 1


def test_events_are_heard_while_a_command_waits_for_the_board(line):
    """Which may be as long as a pass over the model takes."""
    exchange, results = Exchange(line), {}
    first = exchange.send("GENERATE")
    line.free.clear()
    sending = _thread(results, "second", lambda: exchange.send("GENERATE"))
    hearing = _thread(results, "first", lambda: exchange.receive(first, 8))
    line.put(first, "TOKEN", 5)
    hearing.join(5)
    assert not hearing.is_alive() and int(results["first"][1][0]) == 5 and line.sent == 1
    line.free.set()
    sending.join(5)
    assert results["second"] == 2


def test_a_board_that_is_lost_before_it_takes_a_command_is_told_of(line):
    exchange, results = Exchange(line), {}
    first = exchange.send("GENERATE")
    hearing = _thread(results, "first", lambda: exchange.receive(first, 8))

    def taken():
        raise BoardTaken("another host's")

    line.ready = taken
    with pytest.raises(BoardTaken):
        exchange.send("GENERATE")
    hearing.join(5)
    assert isinstance(results["first"], BoardTaken) and line.sent == 1


def test_what_nobody_waits_for_is_dropped(line):
    exchange = Exchange(line)
    first, second = exchange.send("INFO"), exchange.send("INFO")
    exchange.forget(first)
    for sequence in (99, first, second):
        line.put(sequence, "INFO", sequence)
    assert exchange.receive(second, 1)[1][0] == second
    assert list(exchange._waiting) == [second]
    exchange.forget(second)
    assert not exchange._waiting


def test_silence_is_told_in_time_to_whoever_does_not_listen(line):
    exchange, results = Exchange(line), {}
    patient, hasty = exchange.send("GENERATE"), exchange.send("INFO")
    thread = _thread(results, "patient", lambda: exchange.receive(patient, 10)[0])
    time.sleep(0.1)
    start = time.monotonic()
    with pytest.raises(LinkTimeout):
        exchange.receive(hasty, 0.3)
    assert 0.25 < time.monotonic() - start < 2
    line.put(patient, "TOKEN", 1)
    thread.join(10)
    assert results == {"patient": "TOKEN"}


def test_one_that_stops_listening_leaves_it_to_another(line):
    exchange, results = Exchange(line), {}
    first, second = exchange.send("GENERATE"), exchange.send("GENERATE")
    threads = [_thread(results, "first", lambda: exchange.receive(first, 0.4))]
    time.sleep(0.1)
    threads.append(_thread(results, "second", lambda: exchange.receive(second, 10)[0]))
    time.sleep(0.7)
    line.put(second, "STATS")
    for thread in threads:
        thread.join(10)
    assert isinstance(results["first"], LinkTimeout) and results["second"] == "STATS"


def test_a_board_that_is_lost_is_told_to_all(line):
    exchange, results = Exchange(line), {}
    numbers = [exchange.send("GENERATE") for _ in range(3)]
    threads = [_thread(results, number, lambda number=number: exchange.receive(number, 10))
               for number in numbers]
    line.events.put(BoardTaken("gone"))
    for thread in threads:
        thread.join(5)
    assert all(isinstance(results[number], BoardTaken) for number in numbers)


@pytest.mark.parametrize("error,told", [(BoardTaken("gone"), True), (BoardBusy("busy"), False)])
def test_a_command_that_cannot_be_sent(line, error, told):
    """Others hear of it if it concerns them."""
    exchange = Exchange(line)
    waiting = exchange.send("GENERATE")

    def refuse(command, payload=()):
        raise error

    line.send = refuse
    with pytest.raises(type(error)):
        exchange.send("INFO")
    line.put(waiting, "TOKEN", 1)
    if told:
        with pytest.raises(BoardTaken):
            exchange.receive(waiting, 1)
    assert exchange.receive(waiting, 1)[0] == "TOKEN"


@pytest.mark.parametrize("error,told", [(BoardTaken("gone"), True), (BoardBusy("busy"), False)])
def test_what_goes_wrong_beside_commands(line, error, told):
    """With a cancel, or while logits are read."""
    exchange = Exchange(line)
    waiting = exchange.send("GENERATE")
    with pytest.raises(type(error)), exchange.told():
        raise error
    line.put(waiting, "TOKEN", 1)
    if told:
        with pytest.raises(BoardTaken):
            exchange.receive(waiting, 1)
    assert exchange.receive(waiting, 1)[0] == "TOKEN"


def test_an_event_that_comes_while_its_command_is_being_sent(line):
    """Another thread listens meanwhile and must not drop it."""
    exchange, results = Exchange(line), {}
    first = exchange.send("GENERATE")
    thread = _thread(results, "first", lambda: exchange.receive(first, 10)[0])
    send = line.send

    def slow(command, payload=()):
        number = send(command)
        line.put(number, "INFO", 5)
        time.sleep(0.3)
        return number

    line.send = slow
    second = exchange.send("INFO")
    assert exchange.receive(second, 5)[0] == "INFO"
    line.put(first, "STATS")
    thread.join(10)
    assert results == {"first": "STATS"}
