"""The simulated board whose UART, Ethernet and memory are a processing system's: what its hosts see
is what they see of a board of the fabric, and what only such a board has (link, PHY, the erratum of
its receiver)."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import numpy as np
import pytest
from bitnet_host.errors import BoardRestarted, LinkError, UserError
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link import bulk
from bitnet_host.run.link.client import Link
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import MailboxTransport, over_serial
from bitnet_host.run.link.wires import SerialWire, UDPWire
from bitnet_host.run.sampling import Sampling
from bitnet_soc import soc
from conftest import BUILD
from frames import SOC_MAC, arp, echo

from firmware import other_firmware

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
    simulator = Simulator(build=BUILD / "ps")
    yield simulator
    simulator.close()


def _link(simulator, **options):
    """To the board, which answers once its firmware has a link. Hosts wait by their own clock, and
    simulations may be slow."""
    end = simulator.stats()["cycles"] + 20_000_000
    while True:
        try:
            return Link(UDPWire("127.0.0.1", simulator.ports["udp"]), **options)
        except LinkError:
            assert simulator.stats()["cycles"] < end


def _reached(image, simulator, **options):
    return BoardTarget(image, MailboxTransport(_link(simulator, **options)), simulator)


@pytest.fixture
def board(image, simulator):
    with _reached(image, simulator) as board:
        board.prepare(_quiet)
        yield board


def _speaks(board, words):
    board.reset()
    assert board.generate(PROMPT, 20, Sampling(), _quiet, _quiet).token_ids == words


class _Console:
    """What the firmware writes for people, at the UART's TCP port."""

    def __init__(self, simulator):
        self._simulator, self.text = simulator, ""
        self._line = socket.create_connection(("127.0.0.1", simulator.ports["tcp"]))
        self._line.settimeout(0.2)

    def wait(self, wanted, cycles=5_000_000):
        end = self._simulator.stats()["cycles"] + cycles
        while wanted not in self.text:
            assert self._simulator.stats()["cycles"] < end, self.text
            with contextlib.suppress(TimeoutError):
                self.text += self._line.recv(4096).decode()
        self.text = self.text.split(wanted, 1)[1]

    def close(self):
        self._line.close()


@pytest.fixture
def console(simulator):
    console = _Console(simulator)
    yield console
    console.close()


def test_a_conversation_over_ethernet(board, words):
    _speaks(board, words)
    assert board.info()["last_error"] == 0


def test_a_conversation_with_hostile_ports(image, words):
    """Every channel of the ports stutters, and answers take their time."""
    simulator = Simulator("hostile", seed=7, build=BUILD / "ps")
    with _reached(image, simulator) as board:
        board.prepare(_quiet)
        _speaks(board, words)


def test_a_conversation_over_the_uart(image, simulator, words):
    """At a terminal, whose bytes are garbled where it does not run at the board's rate. The model
    was uploaded over the network."""
    data = np.random.default_rng(1).integers(0, 1 << 32, 500, np.uint32)
    with BoardTarget(image, MailboxTransport(_link(simulator))) as board:
        board.prepare(_quiet)
    board = BoardTarget(image, MailboxTransport(Link(SerialWire(simulator.ports["pty"]))))
    board.transport.speed_up()
    assert board.transport.bytes_per_second == 300_000
    board.prepare(_quiet)
    _speaks(board, words)
    board.transport.write_ddr(1 << 20, data)
    assert board.transport.read_ddr(1 << 20, len(data)).tolist() == data.tolist()
    board.close()
    before = simulator.stats()["cycles"]
    while simulator.stats()["cycles"] < before + 500_000:
        time.sleep(0.02)
    with contextlib.closing(Link(SerialWire(simulator.ports["pty"]))) as link:
        assert link.state()["malformed"] == 0  # the line is at the base rate again


def test_who_has_the_network_is_said_at_the_uart(board, simulator):
    with pytest.raises(LinkError, match=r"held by the host 192\.168\.1\.100"):
        over_serial(f"socket://127.0.0.1:{simulator.ports['tcp']}")


def test_neighbours_are_answered(simulator, console):
    """ARP, a broadcast, and echo requests; what is damaged, or for another address, is not."""
    console.wait("Ethernet: 1000 Mbit/s")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.settimeout(5)
        for frame, place, wanted in ((arp(), 20, b"\0\2"), (echo(b"are you there"), 34, b"\0\0")):
            line.sendto(b"\0" + frame, ("127.0.0.1", simulator.ports["raw"]))
            answer = line.recv(2000)
            assert answer[6:12] == SOC_MAC and answer[place:place + 2] == wanted
            assert len(answer) >= 60
        line.settimeout(1)
        for damaged, frame in ((b"\1", arp()), (b"\0", b"\2" + SOC_MAC[1:] + arp()[6:])):
            line.sendto(damaged + frame, ("127.0.0.1", simulator.ports["raw"]))
            with pytest.raises(TimeoutError):
                line.recv(2000)


@pytest.fixture
def hasty(image, tmp_path):
    """A board that looks after its link every 400,000 cycles, and whose watchdog waits as long:
    real ones would take minutes to simulate."""
    folder = other_firmware(
        tmp_path, ("ps.h", f"PS_LOOK_CYCLES 0x{soc.CLOCK_HZ // 10:x}u", "PS_LOOK_CYCLES 400000"),
        ("soc.h", f"WATCHDOG_CYCLES {int(soc.CLOCK_HZ * soc.WATCHDOG_SECONDS)}",
         "WATCHDOG_CYCLES 400000"), ps=True)
    simulator = Simulator(build=folder)
    with _reached(image, simulator) as board:
        board.prepare(_quiet)
        yield board


def test_the_link_changes_its_speed(hasty, words):
    """Also while something is being said; a cable that is out and in again does no harm."""
    simulator = hasty.simulator
    console = _Console(simulator)
    console.wait("Ethernet: 1000 Mbit/s")
    for speed in (100, 10, 1000):
        simulator.control(f"link {speed}")  # away for less time than from look to look
        console.wait(f"Ethernet: {speed} Mbit/s")
        _speaks(hasty, words)
    simulator.control("link 0")
    console.wait("Ethernet: no link")
    simulator.control("link 1000")
    console.wait("Ethernet: 1000 Mbit/s")
    _speaks(hasty, words)
    console.close()


def test_a_receiver_that_falls_deaf(hasty, words):
    """The erratum: the firmware switches it off and on, and the conversation goes on."""
    hasty.simulator.control("deaf")
    before = hasty.simulator.stats()["cycles"]
    hasty.info()
    assert 400_000 < hasty.simulator.stats()["cycles"] - before < 4_000_000
    _speaks(hasty, words)
    for _ in range(3):  # it does so in any silence, and no answer is late after it
        before = hasty.simulator.stats()["cycles"]
        while hasty.simulator.stats()["cycles"] < before + 1_000_000:
            time.sleep(0.02)
        before = hasty.simulator.stats()["cycles"]
        hasty.info()
        assert hasty.simulator.stats()["cycles"] - before < 100_000


def test_the_firmware_restarts_under_traffic(hasty, words):
    """The watchdog restarts the CPU alone; rings and link are left as they are, so that a neighbour
    is answered at any time."""
    simulator, over, lost = hasty.simulator, threading.Event(), []

    def neighbour():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
            line.settimeout(0.25)
            while not over.is_set():
                line.sendto(b"\0" + arp(), ("127.0.0.1", simulator.ports["raw"]))
                try:
                    lost.append(not line.recv(2000))
                except TimeoutError:
                    lost.append(True)

    thread = threading.Thread(target=neighbour)
    thread.start()
    try:
        with pytest.raises(BoardRestarted):
            hasty.board.ask("HANG")
        hasty.info()
    finally:
        over.set()
        thread.join()
    assert len(lost) > 20 and not any(lost)
    hasty.prepare(_quiet)
    _speaks(hasty, words)


def test_the_button(board, simulator, console, words):
    """All of the SoC starts again; the processing system does not, and is set up anew."""
    console.wait("Ethernet: 1000 Mbit/s")
    simulator.control("reset")
    console.wait("self-test passed")
    console.wait("Ethernet: 1000 Mbit/s")
    with pytest.raises(BoardRestarted):
        board.info()
    board.prepare(_quiet)
    _speaks(board, words)


def test_an_upload_is_fast(simulator, tmp_path):
    """60 MB/s at 125 MHz at least, and every byte is right."""
    with contextlib.closing(_link(simulator)) as link:
        data = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8)
        bulk.upload(link, 1 << 20, data)  # so that the window is open
        before = simulator.stats()["cycles"]
        sent = bulk.upload(link, 2 << 20, data)
        rate = data.size / (simulator.stats()["cycles"] - before) * soc.CLOCK_HZ / 1e6
        print(f"{rate:.1f} MB/s, {sent}")
        assert rate > 60 and sent.repeated < 0.02 * sent.datagrams
    simulator.control(f"save {2 << 20} {data.size} {tmp_path / 'ddr.bin'}")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "ddr.bin", np.uint8), data)


def test_memory_and_registers_that_do_not_answer(board, simulator, words):
    """The way of the CPU to DDR: who asks is told. The way to the registers is that of the network
    itself, so there is silence; both go on when they can."""
    simulator.control("stall 1")
    with pytest.raises(LinkError, match="the board's memory does not answer"):
        board.transport.read_ddr(1 << 20, 300)
    simulator.control("stall 0")
    _speaks(board, words)
    simulator.control("stall0 1")
    before = simulator.stats()["cycles"]
    while simulator.stats()["cycles"] < before + 1_000_000:
        time.sleep(0.02)
    simulator.control("stall0 0")
    with contextlib.suppress(BoardRestarted):
        board.info()
    board.prepare(_quiet)
    _speaks(board, words)


def _held(simulator):
    """Holds the SoC in reset, as somebody does who is about to replace the bitstream, and says what
    memory still owes it then, and how much it moves."""
    simulator.control("hold 1")
    then = simulator.stats()
    while simulator.stats()["cycles"] < then["cycles"] + 3000:
        time.sleep(0.001)
    first, last = simulator.stats(), None
    while last is None or last["cycles"] < first["cycles"] + 3000:
        last = simulator.stats()
    return last["owed"], last["used"] - first["used"]


@pytest.mark.parametrize("preset", ["ug585", "hostile"])
def test_a_reset_while_memory_is_used_leaves_nothing_begun(image, words, preset):
    """A bitstream that is replaced while a port waits for it blocks that port until the power is
    off. The clock goes on while the SoC is in reset, and what was begun ends."""
    simulator = Simulator(preset, build=BUILD / "ps")
    with _reached(image, simulator) as board:
        for _ in range(3):
            board.prepare(_quiet)
            board.reset()
            thread = threading.Thread(target=_generates, args=(board,))
            thread.start()
            begun = simulator.stats()["used"]
            while not simulator.stats()["owed"] or simulator.stats()["used"] < begun + 2000:
                pass
            assert _held(simulator) == (0, 0)
            simulator.control("hold 0")
            thread.join()
        with contextlib.suppress(BoardRestarted):
            board.info()
        board.prepare(_quiet)
        _speaks(board, words)


def _generates(board):
    with contextlib.suppress(UserError):
        board.generate(PROMPT, 60, Sampling(), _quiet, _quiet)


def test_a_reset_in_an_upload_leaves_nothing_begun(simulator, image, words):
    data = np.random.default_rng(1).integers(0, 256, 8 << 20, np.uint8)

    link = _link(simulator)

    def upload():
        with contextlib.closing(link), contextlib.suppress(UserError):
            bulk.upload(link, 1 << 20, data)

    thread = threading.Thread(target=upload)
    begun = simulator.stats()["used"]
    thread.start()
    while not simulator.stats()["owed"] or simulator.stats()["used"] < begun + 40_000:
        pass
    assert thread.is_alive() and _held(simulator) == (0, 0)
    simulator.control("hold 0")
    thread.join()
    with _reached(image, simulator, take_over=True) as board:
        board.prepare(_quiet)
        _speaks(board, words)
