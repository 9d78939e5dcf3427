"""The UART of the whole simulated board: bad bytes, silence, higher rates, and hosts that come and
go."""

from __future__ import annotations

import os
import secrets
import time

import numpy as np
import pytest
from bitnet_host.errors import BoardHeld, LinkError
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.client import Link
from bitnet_host.run.link.proxy import Faults, SerialProxy
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import DDR_BASE, MAILBOX_BASE, MailboxTransport, over_serial
from bitnet_host.run.link.wires import SerialWire
from bitnet_host.run.sampling import Sampling
from xtvu.datagram import HEAD_WORDS, MOST_WORDS, OPERATIONS, STATE, Datagram

SEED = int(os.environ.get("BITNET_SEED") or secrets.randbits(20))
PROMPT = [3, 17, 90, 41, 8, 5, 60, 2, 77]
SHAPE = "hidden=64,intermediate=96,layers=2,heads=4,kv_heads=2,head_dim=32,vocab=128,context=200"


def _quiet(*_):
    pass


@pytest.fixture(scope="module")
def image():
    return convert(synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1))


@pytest.fixture(scope="module")
def words(image):
    reference = ReferenceTarget(image)
    reference.prepare(_quiet)
    return reference.generate(PROMPT, 20, Sampling(), _quiet, _quiet).token_ids


@pytest.fixture
def simulator():
    simulator = Simulator()
    yield simulator
    simulator.close()


def _speaks(board, words):
    board.prepare(_quiet)
    assert board.generate(PROMPT, 20, Sampling(), _quiet, _quiet).token_ids == words


@pytest.mark.parametrize("faults",
                         [dict(corrupt=0.0003),
                          dict(loss=0.0003),
                          dict(duplicate=0.0003), dict(silence=0.0001, silent=0.2)],
                         ids=["flipped", "lost", "doubled", "silent"])
def test_bad_bytes(image, simulator, words, faults):
    """One byte in three thousand, each way, upload included: every word is right, and all of them
    come."""
    print(f"BITNET_SEED={SEED}")
    proxy = SerialProxy(("127.0.0.1", simulator.ports["tcp"]), Faults(**faults, seed=SEED))
    try:
        with BoardTarget(image, over_serial(f"socket://127.0.0.1:{proxy.port}")) as board:
            _speaks(board, words)
            assert proxy.counts[next(iter(faults))] >= 3
            assert "silence" in faults or board.transport.link.state()["malformed"] >= 1
    finally:
        proxy.close()


def test_a_length_that_was_garbled(simulator):
    """The board waits for the rest of the longest datagram. Questions that are repeated before it
    gives up must not be taken for that rest."""
    line = SerialWire(f"socket://127.0.0.1:{simulator.ports['tcp']}")
    while simulator.stats()["cycles"] < 2_000_000:  # it has started
        time.sleep(0.05)
    head = bytearray(Datagram(0, 1, OPERATIONS["CLAIM"], 0, 0, [0] * 8).encode()[:4 * HEAD_WORDS])
    head[14:16] = MOST_WORDS.to_bytes(2, "little")
    line.send(head)
    link = Link(line)
    try:
        assert link.state()["malformed"] >= 1
    finally:
        link.close()


def test_bytes_of_half_a_datagram_do_not_wait_for_the_next(simulator):
    """After 50 ms of silence what was begun counts no more: the very next datagram is answered, at
    once."""
    line = SerialWire(f"socket://127.0.0.1:{simulator.ports['tcp']}")
    question = Datagram(0, 1, OPERATIONS["CLAIM"], 0, 0, [0] * 8).encode()
    while simulator.stats()["cycles"] < 2_000_000:  # it has started
        time.sleep(0.05)
    for number, part in enumerate((4, 19, 20, 40, len(question) - 1)):
        line.send(question[:part])
        before = simulator.stats()["cycles"]
        while simulator.stats()["cycles"] < before + 7_000_000:
            time.sleep(0.05)
        line.send(question)
        answer = Datagram.decode(line.receive(5) or b"")
        assert answer is not None and answer.data[STATE.index("malformed")] == number + 1, part
    broken = bytearray(question)
    broken[-8] ^= 1
    # a CRC, and a length, that are wrong
    line.send(bytes(broken), question[:14] + b"\xff\xff" + question[16:], question)
    assert Datagram.decode(line.receive(5) or b"").data[STATE.index("malformed")] == 7
    line.close()


# -- rates -----------------------------------------------------------------------------------------


def _wire(simulator):
    return SerialWire(simulator.ports["pty"])


def test_a_line_runs_as_fast_as_it_can(image, simulator, words):
    """And at the base rate again for the next host."""
    for _ in range(2):
        board = BoardTarget(image, MailboxTransport(Link(_wire(simulator))))
        assert board.transport.bytes_per_second == 11_520
        board.transport.speed_up()
        assert board.transport.bytes_per_second == 300_000
        _speaks(board, words)
        for place in (MODEL_BASE, MODEL_BASE - 4):  # the loaded model, also from without into it
            with pytest.raises(LinkError, match="does not let anyone write"):
                board.transport.link.write(DDR_BASE + place, [1, 2])
        with pytest.raises(LinkError, match="does not let anyone write"):
            board.transport.write_ddr(MODEL_BASE, np.zeros(2, np.uint32))
        board.close()
        before = simulator.stats()["cycles"]
        while simulator.stats()["cycles"] < before + 500_000:
            time.sleep(0.02)
        line = _wire(simulator)  # who comes next is understood at once
        line.send(Datagram(0, 1, OPERATIONS["CLAIM"], 0, 0, [0] * len(STATE)).encode())
        assert Datagram.decode(line.receive(5) or b"") is not None
        line.close()


def test_a_line_that_cannot_be_fast(image, simulator, words, monkeypatch):
    """An adapter that runs at another rate than it says: the best one that works is found."""
    set_rate = SerialWire.set_rate

    def slow(self, baud):
        set_rate(self, baud if baud <= 1_000_000 else 460_800)
        self.bytes_per_second = baud / 10

    monkeypatch.setattr(SerialWire, "set_rate", slow)
    with BoardTarget(image, MailboxTransport(Link(_wire(simulator)))) as board:
        board.transport.speed_up()
        assert board.transport.bytes_per_second == 100_000
        _speaks(board, words)


def test_a_device_without_the_rate(image, simulator, monkeypatch):
    set_rate = SerialWire.set_rate

    def refuses(self, baud):
        if baud > 500_000:
            raise LinkError("no such rate")
        set_rate(self, baud)

    monkeypatch.setattr(SerialWire, "set_rate", refuses)
    with BoardTarget(image, MailboxTransport(Link(_wire(simulator)))) as board:
        board.transport.speed_up()
        assert board.transport.bytes_per_second == 46_080 and board.info()["selftest"] == 0


def test_a_host_that_dies_at_a_high_rate(image, simulator, words):
    """The next one asks at the base rate and is understood when it asks again."""
    first = Link(_wire(simulator))
    first.speed_up()
    first.wire._line.close()
    link = Link(_wire(simulator), take_over=True)
    assert link.wire.bytes_per_second == 11_520
    with BoardTarget(image, MailboxTransport(link)) as board:
        _speaks(board, words)


def test_the_rate_is_not_for_strangers(simulator):
    """Nor for the network side, which has none."""
    link = Link(_wire(simulator))
    line = SerialWire(f"socket://127.0.0.1:{simulator.ports['tcp']}")  # the same line, another host
    line.send(Datagram(link.token ^ 1, 5, OPERATIONS["RATE"], 0, 1_000_000).encode())
    answer = None
    while answer is None or answer.sequence != 5:  # what the first one was told is on the line, too
        answer = Datagram.decode(line.receive(5) or b"")
    assert answer.flags == 1 and link.read_list([MAILBOX_BASE])
    for baud in (9600, 8_000_000):
        assert link._ask("RATE", baud).flags == 6
    with pytest.raises(BoardHeld, match="held by a host at its UART"):
        Link(line)
    link.close()


# -- what only the firmware does -------------------------------------------------------------------


def test_the_firmware_keeps_the_rules_of_the_network_side(simulator):
    """Words once, late copies never, addresses that are not there, odd requests: as
    tests/gateware/test_network.py has it."""
    link = Link(SerialWire(f"socket://127.0.0.1:{simulator.ports['tcp']}"))
    wire, place = link.wire, DDR_BASE + 0x40_0000

    def ask(operation, address=0, data=(), sequence=0, flags=0):
        wire.send(Datagram(link.token, sequence, OPERATIONS[operation], flags, address,
                           list(data)).encode())
        while raw := wire.receive(1):
            answer = Datagram.decode(raw)
            # the claim's answer comes twice if its first copy was late
            if (answer.sequence, answer.operation) == (sequence, OPERATIONS[operation]):
                return answer.flags, answer.data
        return None

    now = link.next_sequence() + 10
    assert (ask("WRITE",
                place, [1, 2], now) == (0, []) and ask("WRITE", place, [8, 9], now) == (0, []))
    assert ask("WRITE", place, [8, 9], now - 1) is None
    assert (ask("READ", 0,
                [place, place + 4, 0x2000_0000, place + 2]) == (4, [1, 2, 0xFFFFFFFF, 0xFFFFFFFF]))
    for address, count, status in ((0, 1, 4), (0x2000_0000, 1, 4), (0x9000_3FFC, 2, 4),
                                   (place + 2, 1, 6), (place, 0, 6)):
        now += 1
        assert (ask("WRITE",
                    address, [7] * count,
                    now) == (status, []) == ask("WRITE", address, [7] * count, now))
    assert ask("DATA", 0x40_0000, range(16), now + 5, flags=2) == (0, [now + 5, *[0] * 15])
    assert (ask("DATA",
                0x40_0000, [9, 9],
                now + 6) is None and ask("DATA", 0x40_0000, [5, 5], now - 5, flags=2) is None)
    assert ask("READ", 0, [place, place + 4, place + 8]) == (0, [9, 9, 2])
    for address, count, status in ((0x40_0004, 2, 6), (0x40_0000, 3, 6), (0x40_0000, 0, 6),
                                   (1 << 30, 2, 4), ((1 << 30) - 8, 4, 4)):
        assert ask("DATA", address, [7] * count, now + 7, flags=2) == (status, [])
    wire.send(Datagram(link.token, 1, 77).encode())
    assert Datagram.decode(wire.receive(1)).flags == 6
    link._sequence = now + 20
    np.testing.assert_array_equal(link.read(place, 2), [9, 9])
    link.close()
