"""The whole simulated board on a network that is not its own: strangers, noise, old copies, LiteX's
tools, and more than one host."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import threading
import time

import numpy as np
import pytest
from bitnet_host.errors import BoardHeld, BoardTaken, LinkError, UserError
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link import bulk
from bitnet_host.run.link.client import Link
from bitnet_host.run.link.proxy import Faults, UDPProxy
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import (
    DDR_BASE,
    MAILBOX_BASE,
    MailboxTransport,
    over_serial,
    over_udp,
)
from bitnet_host.run.link.wires import SerialWire, UDPWire
from bitnet_host.run.protocol import COMMANDS, MAILBOX
from bitnet_host.run.sampling import Sampling
from bitnet_soc import soc
from conftest import BUILD
from frames import SOC_MAC, arp, echo, etherbone_read, etherbone_write, ip, udp
from litex.tools.litex_client import RemoteClient
from litex.tools.litex_server import RemoteServer
from litex.tools.remote.comm_udp import CommUDP
from xtvu.datagram import FLAGS, OPERATIONS, STATE, Datagram

SEED = int(os.environ.get("BITNET_SEED") or secrets.randbits(20))
DATAGRAMS = int(os.environ.get("BITNET_DATAGRAMS") or 10_000)
MEGABYTES = int(os.environ.get("BITNET_MEGABYTES") or 16)
PROMPT = [3, 17, 90, 41, 8, 5, 60, 2, 77]
SHAPE = "hidden=64,intermediate=96,layers=2,heads=4,kv_heads=2,head_dim=32,vocab=128,context=200"


def _quiet(*_):
    pass


@pytest.fixture(scope="module")
def image():
    return convert(synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1))


@pytest.fixture(scope="module")
def words(image):
    """What the golden model says."""
    reference = ReferenceTarget(image)
    reference.prepare(_quiet)
    return reference.generate(PROMPT, 20, Sampling(), _quiet, _quiet).token_ids


@pytest.fixture
def simulator():
    simulator = Simulator()
    yield simulator
    simulator.close()


@pytest.fixture
def board(image, simulator):
    board = BoardTarget(image, over_udp("127.0.0.1", simulator.ports["udp"]), simulator)
    board.prepare(_quiet)
    yield board
    board.close()


def _speaks(board, words):
    board.reset()
    assert board.generate(PROMPT, 20, Sampling(), _quiet, _quiet).token_ids == words


@contextlib.contextmanager
def _socket(address="127.0.0.1"):
    """A UDP socket of the host at ``address``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.bind((address, 0))
        line.settimeout(0.5)
        yield line


_READ, _WRITE = etherbone_read(MAILBOX_BASE), etherbone_write(MAILBOX_BASE + 4, 1)
_STRAY = {
    "head alone": _READ[:8], "seven bytes": _READ[:7], "nothing": b"",
    "a write without its body": _WRITE[:12],
    "writes and reads": _WRITE[:11] + b"\1" + _WRITE[12:] + bytes(4)
    + struct.pack(">I", MAILBOX_BASE), "two records": _READ + _READ[8:],
    "255 writes": etherbone_write(MAILBOX_BASE + 0x3100, *range(255)),
    "three stray bytes": _READ + b"abc",
    "flags 0xff": _READ[:8] + b"\xff" + _READ[9:],
    "magic and random bytes": _READ[:4] + np.random.default_rng(1).bytes(200),
    "unmapped": etherbone_read(0x2000_0000, 0xA000_0000),
    "an unmapped write": etherbone_write(0x2000_0000, 1, 2, 3),
}


@pytest.mark.parametrize("stray", _STRAY)
def test_one_stray_datagram(board, words, stray):
    """From this host and from another, in idle and in an answer: the conversation goes on, at its
    pace."""
    noise = _STRAY[stray]
    ports = board.simulator.ports
    with _socket() as here, _socket("127.0.0.2") as there:
        def throw(*_):
            for line in (here, there):
                for port in ("etherbone", "udp"):
                    line.sendto(noise, ("127.0.0.1", ports[port]))

        throw()
        before = board.simulator.stats()["cycles"]
        board.info()
        assert board.simulator.stats()["cycles"] - before < 500_000
        board.reset()
        assert board.generate(PROMPT, 20, Sampling(), throw, _quiet).token_ids == words


def _noise(rng, sent):
    """A frame for the raw port that must change nothing."""
    payload = rng.bytes(int(rng.integers(0, 300)))
    stranger = bytes([192, 168, 1, 77])
    choice = int(rng.integers(10))
    if choice == 0:
        return SOC_MAC + rng.bytes(int(rng.integers(0, 1600)))
    if choice == 1:
        return ip(int(rng.integers(256)), payload, source=stranger)
    if choice == 2:
        return [arp(), echo(payload)][int(rng.integers(2))]
    if choice in (3, 4):  # what another host asks of Etherbone, whole or spoilt
        record = (etherbone_write(DDR_BASE + MODEL_BASE, 1, 2) if rng.random() < 0.5
                  else etherbone_read(MAILBOX_BASE))
        if rng.random() < 0.7:
            place = int(rng.integers(len(record)))
            record = (record[:place] + rng.bytes(int(rng.integers(0, 5)))
                      + record[place + int(rng.integers(0, 5)):])
        return udp(record, 1234, source=stranger)
    if choice == 5:  # ... or, with a token of its own, of the rest
        operation = str(rng.choice(["RELEASE", "READ", "WRITE", "DATA"]))
        address = int(rng.choice([MODEL_BASE, DDR_BASE + MODEL_BASE, MAILBOX_BASE]))
        datagram = Datagram(int(rng.integers(1, 1 << 32)), int(rng.integers(1 << 32)),
                            OPERATIONS[operation], int(rng.integers(4)), address,
                            rng.integers(0, 1 << 32, 2 * int(rng.integers(0, 20))).tolist())
        return udp(datagram.encode(), 1235, source=stranger)
    if not sent:
        return arp()
    # what the holder said before: spoilt, or by somebody who has seen its token
    old = sent[int(rng.integers(len(sent)))]
    if choice == 6:
        return udp(old, 1235, source=stranger)
    spoilt = bytearray(old)
    for _ in range(int(rng.integers(1, 4))):
        spoilt[int(rng.integers(len(spoilt)))] ^= 1 << int(rng.integers(8))
    return udp(bytes(spoilt[:int(rng.integers(1, len(spoilt) + 1))]), 1235,
               source=bytes([192, 168, 1, 100]), source_port=4711)


def _captured(board):
    """Datagrams that the host sends from now on."""
    sent, wire = [], board.transport.link.wire
    send = wire.send

    def keep(*parts):
        sent.append(b"".join(bytes(part) for part in parts))
        send(*parts)

    wire.send = keep
    return sent, send


def test_ten_thousand_datagrams_in_a_conversation(board, words):
    """Random, malformed, stolen, and old copies of the holder's own: no word changes, and
    afterwards all is as it was."""
    print(f"BITNET_SEED={SEED}")
    rng, done = np.random.default_rng(SEED), []
    sent, send = _captured(board)
    raw, claims = board.simulator.ports["raw"], board.transport.link.state()["claims"]
    board.reset()

    def noise():
        with _socket("127.0.0.3") as line:
            for number in range(DATAGRAMS):
                line.sendto(bytes([rng.random() < 0.03]) + _noise(rng, sent[-200:]),
                            ("127.0.0.1", raw))
                if number % 5 == 0 and sent:
                    send(sent[int(rng.integers(len(sent)))])  # an old copy, as it was
                # no faster than they go over the wire, lest they are lost before it
                if number % 16 == 15:
                    cycles = board.simulator.stats()["cycles"]
                    while board.simulator.stats()["cycles"] < cycles + 16 * 600:
                        time.sleep(0.001)
        done.append(True)

    thread = threading.Thread(target=noise)
    thread.start()
    rounds = 0
    while not done or rounds < 3:
        _speaks(board, words)
        rounds += 1
    thread.join()
    state = board.transport.link.state()
    assert state["malformed"] > DATAGRAMS / 10 and state["claims"] == claims and rounds > 3
    print(rounds, state)
    _speaks(board, words)


def test_old_copies_of_a_whole_conversation(board, words):
    """Everything that the host said comes again, in order and backwards: no command runs again, and
    nothing moves."""
    sent, send = _captured(board)
    _speaks(board, words)
    position, head = board.position, board.transport._look(MAILBOX.event_head)
    for copies in (list(sent), sent[::-1]):
        for copy in copies:
            send(copy)
            time.sleep(0.001)
    assert board.info()["position0"] == position
    # INFO itself is one event
    assert board.transport._look(MAILBOX.event_head)[0] - head[0] < 30
    _speaks(board, words)


def test_the_firmware_takes_the_next_number_only(board):
    """Without the rule of datagrams in front: an old command number, written again, is no
    command."""
    link, sequence = board.transport.link, board.transport._sequence
    board.board.ask("UNLOAD")
    board.board.load(_quiet)
    head = board.transport._look(MAILBOX.event_head)
    for old in (sequence, sequence + 1, sequence - 3, 0, 0xFFFFFFFF):
        link.write(MAILBOX_BASE + 4 * MAILBOX.command_sequence, [old & 0xFFFFFFFF])
        board.simulator.stats()
        time.sleep(0.05)
    assert board.transport._look(MAILBOX.event_head) == head
    link.write(MAILBOX_BASE + 4 * MAILBOX.command_sequence, [board.transport._sequence])
    board.info()


# -- more than one host ----------------------------------------------------------------------------


def test_a_stranger_reads_and_writes_nothing(board, words):
    ports = board.simulator.ports
    with pytest.raises(BoardHeld,
                       match=r"held by the host 192\.168\.1\.100, port \d+, for \d+ s "
                             r".*--take-over"):
        Link(UDPWire("127.0.0.1", ports["udp"], source="127.0.0.2"))
    with pytest.raises(BoardHeld, match=r"held by the host 192\.168\.1\.100"):
        over_serial(f"socket://127.0.0.1:{ports['tcp']}")
    token, before = board.transport.link.token, board.transport.read_ddr(0x10_0000, 2).tolist()
    with _socket("127.0.0.2") as other, _socket() as same:
        for line in (other, same):  # even with the token: the address is another
            for operation, address in (("READ", 0), ("WRITE", MAILBOX_BASE), ("DATA", 0x10_0000),
                                       ("RELEASE", 0)):
                question = Datagram(token, 1 << 31, OPERATIONS[operation], FLAGS["ANSWER"],
                                    address, [~before[0] & 0xFFFFFFFF] * 20)
                line.sendto(question.encode(), ("127.0.0.1", ports["udp"]))
                answer = Datagram.decode(line.recv(2000))
                assert (answer.flags, answer.data) == (1, []), operation
        other.sendto(_READ, ("127.0.0.1", ports["etherbone"]))
        other.sendto(etherbone_write(MAILBOX_BASE, 0), ("127.0.0.1", ports["etherbone"]))
        with pytest.raises(TimeoutError):
            other.recv(2000)
    assert board.transport.read_ddr(0x10_0000, 2).tolist() == before
    _speaks(board, words)


def test_uart_holds_the_network_off(image, simulator, words):
    """The other way round; the line is given back on close, and taken over on demand."""
    line = over_serial(f"socket://127.0.0.1:{simulator.ports['tcp']}")
    with pytest.raises(BoardHeld, match=r"held by a host at its UART for \d+ s"):
        over_udp("127.0.0.1", simulator.ports["udp"])
    with _socket() as other:
        other.sendto(_READ, ("127.0.0.1", simulator.ports["etherbone"]))
        with pytest.raises(TimeoutError):
            other.recv(2000)
    network = BoardTarget(image, over_udp("127.0.0.1", simulator.ports["udp"], take_over=True))
    network.prepare(_quiet)
    _speaks(network, words)
    with pytest.raises(BoardHeld, match=r"held by the host 192\.168\.1\.100.*which took it over"):
        line.send("INFO")
    line.close()
    network.close()
    line = BoardTarget(image, over_serial(f"socket://127.0.0.1:{simulator.ports['tcp']}"),
                       simulator)
    line.prepare(_quiet)  # the model is there
    _speaks(line, words)


def test_a_host_that_comes_back(board, words):
    """Another host has talked meanwhile: the first is told, and starts anew; its own conversation
    is not gone on with."""
    board.reset()
    board.generate(PROMPT, 5, Sampling(), _quiet, _quiet)
    other = BoardTarget(board.image,
                        over_udp("127.0.0.1", board.simulator.ports["udp"], take_over=True))
    other.prepare(_quiet)
    other.generate(PROMPT[:4], 5, Sampling(), _quiet, _quiet)
    other.close()
    with pytest.raises(BoardTaken, match=r"another host has used it meanwhile.* start anew"):
        board.generate([5], 5, Sampling(), _quiet, _quiet)
    _speaks(board, words)


def test_silence_ends_a_claim(board, words):
    """The seconds of this board are short. Whoever was away and finds it free goes on as if nothing
    had been."""
    link = board.transport.link
    register = next(int(line.split(",")[2], 0)
                    for line in (BUILD / "generated/csr.csv").read_text().splitlines()
                    if line.startswith("csr_register,network_second,"))
    _speaks(board, words[:])
    link.write(register, [20_000])
    limit = board.simulator.stats()["cycles"] + 5_000_000
    while link.state()["source"]:
        assert board.simulator.stats()["cycles"] < limit
        link._heard = time.monotonic()
        time.sleep(0.1)
    with board.transport._explained():
        assert (board.transport.read_ddr(MODEL_BASE, 2).tolist()
                == board.image.ddr.view("<u4")[:2].tolist())
    link.write(register, [soc.CLOCK_HZ])
    board._set_position(board.tokens)
    assert board.generate([9], 2, Sampling(), _quiet, _quiet).stop_reason == "length"
    _speaks(board, words)


@pytest.mark.parametrize("wire", ["network", "uart"])
def test_a_host_that_dies_at_every_step(image, simulator, words, wire):
    """After each datagram of a whole conversation, upload included, the host is gone without a
    word; the next takes over."""
    def connect(take_over):
        ports = simulator.ports
        wire_ = (UDPWire("127.0.0.1", ports["udp"]) if wire == "network"
                 else SerialWire(f"socket://127.0.0.1:{ports['tcp']}"))
        return wire_, take_over

    class Dead(Exception):
        pass

    steps, finished = 0, False
    while not finished:
        each, factor = (12, 1.25) if wire == "network" else (6, 2)  # a line takes its time
        steps = steps + 1 if steps < each else int(steps * factor)
        line, _ = connect(True)
        send, left = line.send, [steps]

        def mortal(*parts, send=send, left=left):
            left[0] -= 1
            if left[0] < 0:
                raw = b"".join(bytes(part) for part in parts)
                if wire == "uart":
                    send(raw[:len(raw) // 2])  # in the middle of a datagram
                raise Dead
            send(*parts)

        line.send = mortal
        try:
            target = BoardTarget(image, MailboxTransport(Link(line, take_over=True)))
            target.prepare(_quiet)
            target.generate(PROMPT, 3, Sampling(), _quiet, _quiet)
            target.close()
            finished = True
        except Dead:
            pass
        line.close()
        line, _ = connect(True)
        target = BoardTarget(image, MailboxTransport(Link(line, take_over=True)))
        assert target.info()["selftest"] == 0
        if finished or (steps % 4 == 0 if wire == "network" else steps == each):
            target.prepare(_quiet)
            assert target.generate(PROMPT, 3, Sampling(), _quiet, _quiet).token_ids == words[:3]
            target.board.ask("UNLOAD")
            target.transport.write_ddr(MODEL_BASE, np.zeros(128, np.uint32))
        target.close()
    assert steps > 20


# -- LiteX's own tools -----------------------------------------------------------------------------


# LiteX's server when its socket is closed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_litex_tools(simulator):
    """RemoteServer and RemoteClient over Etherbone: they hold a free board; beside another host's
    claim they get nothing."""
    comm = CommUDP("127.0.0.1", simulator.ports["etherbone"], timeout=2.0)
    with _socket() as line:
        line.settimeout(2.0)
        comm.socket = line  # its own would take the port that the simulator has
        assert comm.probe("127.0.0.1", simulator.ports["etherbone"]) == 1
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = RemoteServer(comm, "127.0.0.1", port)
        server.open()
        server.start(1)
        client = RemoteClient("127.0.0.1", port, csr_csv=str(BUILD / "generated/csr.csv"))
        client.open()
        values = np.random.default_rng(1).integers(0, 1 << 32, 40).tolist()
        client.write(DDR_BASE + 0x40_0000, values)
        assert (client.read(DDR_BASE + 0x40_0000, 40) == values
                and client.read(DDR_BASE + 0x40_0004) == values[1])
        client.regs.ctrl_scratch.write(0x1234_5678)
        assert (client.regs.ctrl_scratch.read() == 0x1234_5678
                and client.regs.network_source.read() == 1)
        with pytest.raises(BoardHeld, match=r"192\.168\.1\.100"):
            Link(UDPWire("127.0.0.1", simulator.ports["udp"], source="127.0.0.2"))
        link = Link(UDPWire("127.0.0.1", simulator.ports["udp"]))  # of the same address: both may
        assert client.read(DDR_BASE + 0x40_0000, 4) == values[:4]
        link.close()
        with contextlib.suppress(OSError):
            client.close()
        server.socket.close()


# -- bulk data -------------------------------------------------------------------------------------


def test_a_clean_line_is_used(simulator):
    """At least 0.8 bytes per cycle, of a line that moves one."""
    link = Link(UDPWire("127.0.0.1", simulator.ports["udp"]))
    data = np.random.default_rng(1).integers(0, 256, 4 << 20, np.uint8)
    bulk.upload(link, 1 << 20, data[:1 << 20])  # so that the window is open
    before = simulator.stats()["cycles"]
    sent = bulk.upload(link, 2 << 20, data)
    cycles = simulator.stats()["cycles"] - before
    print(f"{data.size / cycles:.3f} bytes per cycle, {sent}")
    assert data.size / cycles > 0.8 and sent.repeated < 0.02 * sent.datagrams
    link.close()


def test_an_upload_through_a_bad_line(simulator, tmp_path):
    """Five in a hundred of everything: no wrong byte, and at most a quarter of extra traffic."""
    data = np.random.default_rng(2).integers(0, 256, MEGABYTES << 20, np.uint8)
    proxy = UDPProxy(("127.0.0.1", simulator.ports["udp"]),
                     Faults(loss=0.05, duplicate=0.05, reorder=0.05, corrupt=0.05, seed=SEED))
    try:
        link = Link(UDPWire("127.0.0.1", proxy.port))
        before, start = simulator.stats()["cycles"], time.monotonic()
        sent = bulk.upload(link, 2 << 20, data)  # below, the firmware tests itself as it boots
        cycles, seconds = simulator.stats()["cycles"] - before, time.monotonic() - start
        link.close()
    finally:
        proxy.close()
    print(f"{MEGABYTES} MB: {sent}, {cycles} cycles, {seconds:.0f} s, {proxy.counts}")
    simulator.control(f"save {2 << 20} {data.size} {tmp_path / 'ddr.bin'}")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "ddr.bin", np.uint8), data)
    needed = -(-data.size // 1440)
    assert sent.repeated <= 0.25 * needed


def test_memory_that_is_away_during_an_upload(board, words):
    """It is said, in time; when memory is back the upload goes on."""
    board.board.ask("UNLOAD")
    data = board.image.ddr.view("<u4")
    board.simulator.control("freeze 1")
    before = board.simulator.stats()["cycles"]
    with pytest.raises(LinkError, match="the board's memory does not answer: restart the board"):
        board.transport.write_ddr(MODEL_BASE, data)
    assert board.simulator.stats()["cycles"] - before < 2_000_000
    board.simulator.control("freeze 0")
    board.simulator.control("fail 32")
    with pytest.raises(LinkError, match="memory does not answer"):
        board.transport.write_ddr(MODEL_BASE, data)
    board.simulator.control("fail 0")
    board.prepare(_quiet)
    _speaks(board, words)


def test_a_bus_that_does_not_answer(board, words):
    """The bus' own time limit ends in what looks like an answer: the network side does not wait for
    that."""
    board.simulator.control("stall 1")
    before = board.simulator.stats()["cycles"]
    for action in (lambda: board.transport.read_ddr(1 << 20, 300),
                   lambda: board.transport.link.write(DDR_BASE + (1 << 20), [1] * 300)):
        with pytest.raises(LinkError, match="the board's memory does not answer"):
            action()
    assert board.simulator.stats()["cycles"] - before < 1_000_000
    board.simulator.control("stall 0")
    assert (board.transport.read_ddr(MODEL_BASE, 2).tolist()
            == board.image.ddr.view("<u4")[:2].tolist())
    _speaks(board, words)


def test_arp_and_ping(simulator):
    """By what an ordinary neighbour sends, while nobody holds the board."""
    with _socket() as line:
        for frame, place, wanted in ((arp(), 20, b"\0\2"), (echo(b"are you there"), 34, b"\0\0")):
            line.sendto(b"\0" + frame, ("127.0.0.1", simulator.ports["raw"]))
            answer = line.recv(2000)
            assert answer[6:12] == SOC_MAC and answer[place:place + 2] == wanted
        line.sendto(b"\1" + arp(), ("127.0.0.1", simulator.ports["raw"]))  # damaged on the way
        with pytest.raises(TimeoutError):
            line.recv(2000)


def test_every_word_of_state_is_what_it_says(simulator):
    link = Link(UDPWire("127.0.0.1", simulator.ports["udp"], source="127.0.0.5"))
    state = link.state()
    assert tuple(state) == STATE and state["source"] == 1
    assert socket.inet_ntoa(struct.pack("<I", state["ip"])) == "192.168.1.104"
    assert socket.ntohs(state["port"]) == link.wire._socket.getsockname()[1]
    before = state["malformed"]
    with _socket() as line:
        line.sendto(b"\0" + SOC_MAC + bytes(50), ("127.0.0.1", simulator.ports["raw"]))
    time.sleep(0.2)
    assert link.state()["malformed"] == before + 1
    assert COMMANDS["GENERATE"] == 4  # its number is in the documents
    link.close()
    with pytest.raises(UserError):
        link.state()
