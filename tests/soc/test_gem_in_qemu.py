"""The firmware's driver of the Ethernet controller (firmware/ps), compiled for the ARM cores and
run in QEMU against its cadence_gem, which is not ours: what the driver sets up is what a controller
needs."""

from __future__ import annotations

import random
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest
from bitnet_soc import boards
from bitnet_soc.ps_header import c_header
from conftest import ROOT

_SOURCES = [*(ROOT / "firmware/ps" / name for name in ("gem.c", "phy.c")),
            *((Path(__file__).parent / "qemu").glob("*.[cS]"))]
_MAC, _HOST = bytes.fromhex("10e2d5000001"), bytes.fromhex("020000000001")
_ECHO, _WAKE, _REPORT, _PAUSE, _RESTART = range(5)  # qemu/ethernet.c
_RX_BUFFERS = 64


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """QEMU's machine is a ZC702."""
    folder = tmp_path_factory.mktemp("qemu")
    (folder / "generated").mkdir()
    (folder / "generated/ps.h").write_text(
        c_header(boards.load("zc702"), int.from_bytes(_MAC, "big"), 125_000_000))
    subprocess.run(["arm-none-eabi-gcc", "-mcpu=cortex-a9", "-mno-unaligned-access", "-std=c11",
                    "-O2", "-ffreestanding", "-nostdlib", "-Wall", "-Wextra", "-Werror",
                    f"-I{folder}", f"-I{ROOT / 'firmware/ps'}", "-Ttext=0x100000", *_SOURCES,
                    "-lgcc", "-o", folder / "ethernet.elf"], check=True)
    return folder / "ethernet.elf"


class _Board:
    """The wire is a pair of UDP ports, a datagram for each frame."""

    def __init__(self, program: Path) -> None:
        self._line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._line.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self._there = free.getsockname()
        self._process = subprocess.Popen(
            ["qemu-system-arm", "-M", "xilinx-zynq-a9", "-m", "1024", "-display", "none",
             "-serial", "null", "-monitor", "none", "-kernel", program, "-nic",
             f"socket,model=cadence_gem,udp=127.0.0.1:{self._line.getsockname()[1]},"
             f"localaddr=127.0.0.1:{self._there[1]}"], stderr=subprocess.PIPE, text=True)
        self._line.settimeout(5)

    def send(self, command=_ECHO, payload=b"", target=_MAC):
        frame = target + _HOST + b"\x88\xb5" + bytes([command]) + payload
        self._line.sendto(frame.ljust(60, b"\0"), self._there)
        return frame.ljust(60, b"\0")

    def receive(self, timeout=5.0):
        self._line.settimeout(timeout)
        return self._line.recv(4096)

    def ask(self, command=_ECHO, payload=b""):
        """What comes back; asserts that it is what was sent, with the addresses swapped."""
        sent = self.send(command, payload)
        answer = self.receive()
        assert answer[:14] == _HOST + _MAC + sent[12:14]
        return answer

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stderr.close()
        self._line.close()


def _started(board):
    end = time.monotonic() + 20
    while True:
        board.send()
        try:
            board.receive(0.2)
            break
        except TimeoutError:
            assert time.monotonic() < end
    while True:  # more answers, as it may have been asked more often
        try:
            board.receive(0.5)
        except TimeoutError:
            return


@pytest.fixture
def board(program):
    board = _Board(program)
    try:
        _started(board)
        yield board
    finally:
        board.close()


def test_frames_of_all_sizes_several_times_around_the_rings(board):
    rng = random.Random(1)
    for size in [*range(0, 60), 1499, *(rng.randrange(1499) for _ in range(150))]:
        payload = rng.randbytes(size)
        answer = board.ask(_ECHO, payload)
        assert answer[15:15 + size] == payload and len(answer) == max(60, 15 + size)


def test_frames_for_others_are_not_taken(board):
    board.send(target=b"\x10\xe2\xd5\0\0\2")
    with pytest.raises(TimeoutError):
        board.receive(0.5)
    board.send(target=b"\xff" * 6)  # but those for all are
    assert board.receive()[:6] == _HOST


def test_link_and_controller(board):
    """QEMU's PHY is of a gigabit link; at another MDIO address there is none."""
    runs, speed, nobody = struct.unpack(">BHB", board.ask(_REPORT)[15:19])
    assert (runs, speed, nobody) == (1, 1000, 1)


def test_the_work_around_loses_no_place(board):
    """The receiver is switched off and on; both sides still agree on where they are."""
    for i in range(20):
        board.ask(_WAKE)
        assert board.ask(_ECHO, bytes([i]))[15] == i


def test_a_ring_that_is_full(board):
    """Frames that find no buffer are lost or wait; those behind them come again."""
    board.send(_PAUSE)
    time.sleep(0.3)
    for i in range(100):
        board.send(_ECHO, struct.pack(">H", i))
    seen = []
    while True:
        try:
            seen.append(struct.unpack(">H", board.receive(2.0)[15:17])[0])
        except TimeoutError:
            break
    seen = seen[1:]  # the answer to the pause
    assert len(seen) >= _RX_BUFFERS - 2 and seen == sorted(set(seen))
    assert board.ask(_ECHO, b"\x77")[15] == 0x77


def test_set_up_anew(board):
    """As after the SoC's reset: both rings from their beginnings."""
    for _ in range(3):
        for i in range(5):
            assert board.ask(_ECHO, bytes([i]))[15] == i
        board.ask(_RESTART)
        time.sleep(0.1)
