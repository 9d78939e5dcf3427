"""The boot stub in QEMU's Zynq machine, with an SD card, and a stand-in for what that machine
lacks: a DRAM controller that gets ready, and a fabric behind the configuration port."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bitnet_soc import boards, boot
from bitnet_soc.board_files import write_start
from debugger import Debugger, symbols

__all__ = ["BOARD", "Card", "Hardware", "Run", "bit_file", "boot_stub", "build_stub"]

BOARD = boards.load("zc702")  # QEMU's machine is one
_DRAM_READY, _CALIBRATED, _PLL_STATUS = 0xF800_6054, 0xF800_0B74, 0xF800_010C
_RESETS, _SHIFTERS = 0xF800_0240, 0xF800_0900
# registers that QEMU does not keep
_FIRST_UNKNOWN, _END_UNKNOWN = 0xF800_6000, 0xF800_C000
# of the configuration interface, which QEMU 7.2 has, but cannot reach
_PORT, _CONTROL, _EVENTS, _STATUS, _SOURCE, _TARGET, _WORDS, _TARGET_WORDS, _UNLOCK, _MODE = (
    0xF800_7000, 0x00, 0x0C, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x34, 0x80)
# of the SD controller; what ends a transfer, well or not
_BLOCKS, _CARD_STATUS, _TRANSFER = 0xE010_0004, 0xE010_0030, 0xFFFF_8002
_MB = 1 << 20


def build_stub(folder: Path, ddr_bytes: int = 1 << 30) -> Path:
    """``folder``/boot, with stub.elf and BOOT.BIN. ``ddr_bytes`` if the board had less memory."""
    (folder / "ps7").mkdir(parents=True)
    write_start(BOARD, folder / "ps7/ps7_init.h")
    facts = boot.c_header(BOARD).replace(f"DDR_BYTES 0x{BOARD.dram.bytes:x}u",
                                         f"DDR_BYTES 0x{ddr_bytes:x}u")
    boot.compile_stub(folder, facts)
    return folder / "boot"


def bit_file(words: bytes, part: bytes = b"7z020clg400", design: bytes = b"bitnet") -> bytes:
    """A bitstream as the vendor's tool writes it: fields with big-endian lengths."""
    def entry(key: bytes, text: bytes) -> bytes:
        return key + struct.pack(">H", len(text) + 1) + text + b"\0"

    return (b"\x00\x09\x0f\xf0\x0f\xf0\x0f\xf0\x0f\xf0\x00\x00\x01" + entry(b"a", design)
            + entry(b"b", part) + entry(b"c", b"2026/11/28") + entry(b"d", b"12:00:00")
            + b"e" + struct.pack(">I", len(words)) + words)


class Card:
    """An SD card with a FAT32 file system, made by the tools that people have. ``partitioned``:
    within a partition, as cards are sold. ``scattered``: files lie in pieces. ``megabytes``: those
    of 4 GB and more count in blocks, others in bytes."""

    def __init__(self, path: Path, files: dict[str, bytes], *, partitioned: bool = True,
                 scattered: bool = False, kind: str = "32",
                 megabytes: int = 512) -> None:
        self.path = path
        with path.open("wb") as file:
            file.truncate(megabytes * _MB)
        start = 2048 if partitioned else 0
        if partitioned:
            subprocess.run(["/usr/sbin/sfdisk", "-q", path], input="2048,,c\n", text=True,
                           check=True, capture_output=True)
        subprocess.run(["/usr/sbin/mkfs.vfat", "-F", kind, "-s", "8" if kind == "32" else "16",
                        "--offset", str(start), path], check=True, capture_output=True)
        self._drive = f"{path}@@{start * 512}"
        if scattered:
            self._scatter()
        for name, data in files.items():
            self._copy(name, data)

    def _copy(self, name: str, data: bytes) -> None:
        source = self.path.with_suffix(".file")
        source.write_bytes(data)
        subprocess.run(["mcopy", "-o", "-i", self._drive, source, f"::{name}"], check=True)

    def _scatter(self) -> None:
        """Leaves free what lay between other files."""
        for i in range(60):
            self._copy(f"F{i}", bytes(4096 * (1 + i % 5)))
        for i in range(0, 60, 2):
            subprocess.run(["mdel", "-i", self._drive, f"::F{i}"], check=True)


@dataclass
class Hardware:
    """What QEMU's machine lacks. Its fabric takes ``wanted``, the words of a bitstream as they lie
    in memory, and nothing else. ``dram``, ``plls``, ``power``: whether these come up.

    ``card_errors``: so many reads of more than one block of the card fail.
    ``by_cable``: somebody loads the fabric over JTAG once the stub waits for it.
    ``written``: addresses and values, in order; ``taken``: what came through the configuration port
    since ``erased`` last grew; ``isolated``: the fabric was cut off from the processing system
    then.
    """

    wanted: bytes = b""
    dram: bool = True
    plls: bool = True
    power: bool = True
    card_errors: int = 0
    by_cable: bool = False
    wires: Callable[[int], int] | None = None
    bits: Callable[[int], int] | None = None
    written: list[tuple[int, int]] = field(default_factory=list)
    taken: bytearray = field(default_factory=bytearray)
    erased: int = 0
    isolated: bool = False
    waits: bool = False
    _registers: dict[int, int] = field(default_factory=lambda: {_MODE: 0x10, _EVENTS: 0x80000})
    _slcr: dict[int, int] = field(default_factory=dict)
    _kept: dict[int, int] = field(default_factory=dict)
    _memory: Callable[[int, int], bytes] | None = None
    _store: Callable[[int, int], None] | None = None

    def connect(self, debugger: Debugger) -> None:
        self._memory, self._store = debugger.read, debugger.write_word

    def read(self, address: int) -> int | None:
        """What a register holds; None: QEMU knows."""
        if address == _DRAM_READY:
            return int(self.dram)
        if address == _CALIBRATED:
            return 0x2000
        if address == _PLL_STATUS and not self.plls:
            return 0
        if address < 0x4000_0000 and (self.wires or self.bits):
            word = self._word(self.wires(address) if self.wires else address)
            return self.bits(word) if self.bits else word
        if _FIRST_UNKNOWN <= address < _END_UNKNOWN and address & ~0xFF != _PORT:
            return self._kept.get(address, 0xA5A5_A5A5)
        if address & ~0xFF != _PORT:
            return None
        if address & 0xFF == _STATUS:  # INIT follows PROG_B
            return (self._registers.get(_CONTROL, 0) >> 30 & int(self.power)) << 4
        done = len(self.taken) > 0 and bytes(self.taken) == self.wanted
        done = done or (self.waits and self.by_cable)
        return self._registers.get(address & 0xFF, 0) | (
            4 if address & 0xFF == _EVENTS and done else 0)

    def write(self, address: int, value: int) -> bool:
        """Whether it is a register of this one."""
        self.written.append((address, value))
        self._kept[address] = value
        if address < 0x4000_0000 and self.wires and self._store:
            self._store(self.wires(address), value)
            return True
        if address in (_RESETS, _SHIFTERS):
            self._slcr[address] = value
        if address & ~0xFF != _PORT:
            return False
        offset, registers = address & 0xFF, self._registers
        if offset == _UNLOCK:
            assert value == 0x757B_DF0D
        if offset == _EVENTS:
            registers[_EVENTS] &= ~value
            return True
        before, registers[offset] = registers.get(offset, 0), value
        if offset == _CONTROL and before & ~value & 1 << 30:
            self.erased += 1
            self.taken.clear()
            self.isolated = self.is_isolated()
        if offset == _TARGET_WORDS:
            self._transfer()
        return True

    def is_isolated(self) -> bool:
        return self._slcr == {_RESETS: 0xF, _SHIFTERS: 0xA}

    def _word(self, address: int) -> int:
        assert self._memory
        return int.from_bytes(self._memory(address, 4), "little")

    def _transfer(self) -> None:
        registers = self._registers
        ready = (self.erased and registers[_CONTROL] & 0x4C00_0000 == 0x4C00_0000
                 and not registers[_CONTROL] & 0x0200_0000 and not registers[_MODE] & 0x10)
        # as others send: from DRAM above the first megabyte, whole bursts, marked as the last
        source = registers[_SOURCE]
        fits = source % 64 == 1 and 1 << 20 <= source < 0x4000_0000
        if not ready or registers[_TARGET] != 0xFFFF_FFFF or not fits:
            registers[_EVENTS] |= 0x40  # an error
            return
        assert self._memory
        self.taken += self._memory(source - 1, 4 * registers[_WORDS])
        registers[_EVENTS] |= 0x2000


@dataclass
class Run:
    """``said``: what came over the UART; ``debugger``: of the machine, whose core sleeps."""

    said: str
    debugger: Debugger
    symbols: dict[str, int]


class _Machine:
    def __init__(self, folder: Path, stub: Path, card: Card | None, megabytes: int) -> None:
        self._console, self._port = folder / "uart", folder / "gdb"
        image = folder / "image.bin"
        header = (stub / "BOOT.BIN").read_bytes()
        offset, size = struct.unpack_from("<II", header, 0x30)
        image.write_bytes(header[offset:offset + size])
        drive = ["-drive", f"if=sd,format=raw,file={card.path}"] if card else []
        self.process = subprocess.Popen(
            ["qemu-system-arm", "-M", "xilinx-zynq-a9", "-m", str(megabytes), "-display", "none",
             "-serial", "null", "-serial", f"file:{self._console}", "-monitor", "none", "-S",
             "-chardev", f"socket,path={self._port},server=on,wait=off,id=gdb",
             "-gdb", "chardev:gdb", "-device", f"loader,file={image},addr=0,force-raw=on", *drive],
            stderr=subprocess.PIPE, text=True)
        try:
            end = time.monotonic() + 20
            while not self._port.exists():
                assert time.monotonic() < end and self.process.poll() is None
                time.sleep(0.05)
            self.debugger = Debugger(self._port)
        except BaseException:
            self.process.kill()
            raise

    def said(self) -> str:
        return self._console.read_bytes().decode().replace("\r\n", "\n")

    def close(self) -> None:
        self.debugger.close()
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self._port.unlink(missing_ok=True)


class boot_stub:
    """Context: runs the stub until the core sleeps, or waits for somebody. ``card`` None: the slot
    is empty. ``meddle`` is called with the debugger and the program's symbols before the first
    step."""

    def __init__(self, folder: Path, stub: Path, card: Card | None, hardware: Hardware, *,
                 megabytes: int = 1024,
                 meddle: Callable[[Debugger, dict[str, int]], None] | None = None) -> None:
        self._arguments, self._meddle = (folder, stub, card, megabytes), meddle
        self._hardware, self._symbols = hardware, symbols(stub / "stub.elf")
        self._waited = 0, 0

    def _answer(self, debugger: Debugger, function: str) -> None:
        """At the beginning of one of the functions that reach registers."""
        address, second, third = (debugger.register(i) for i in range(3))
        if function == "hw_write":
            if self._hardware.write(address, second):
                debugger.leave(0)
            return
        hardware = self._hardware
        if function == "hw_wait":
            self._waited = address, second
            hardware.waits = (address, second) == (_PORT + _EVENTS, 4) and not hardware.taken
        value = hardware.read(address)
        if function == "hw_read" and self._is_card_error(address):
            hardware.card_errors -= 1
            value = 0x0020_8000
        if value is not None:
            debugger.leave(value if function == "hw_read"
                           else int(((value & second) != 0) == third))

    def _is_card_error(self, address: int) -> bool:
        """Whether the status that is read is that of a transfer that fails."""
        if not self._hardware.card_errors or self._waited != (address, _TRANSFER):
            return False
        blocks = next(value >> 16 for at, value in reversed(self._hardware.written)
                      if at == _BLOCKS)
        return address == _CARD_STATUS and blocks > 1

    def _run(self, debugger: Debugger) -> None:
        names = self._symbols
        self._hardware.connect(debugger)
        debugger.stop_at(names["main"])
        debugger.go()
        if self._meddle:
            self._meddle(debugger, names)
        functions = {names[name]: name for name in ("hw_wait", "hw_read", "hw_write")}
        for address in (*functions, names["park"]):
            debugger.stop_at(address)
        while (here := debugger.go()) != names["park"]:
            self._answer(debugger, functions[here])
            if self._hardware.waits and not self._hardware.by_cable:
                break

    def __enter__(self) -> Run:
        self._machine = machine = _Machine(*self._arguments)
        try:
            self._run(machine.debugger)
        except BaseException:
            machine.close()
            raise
        return Run(machine.said(), machine.debugger, self._symbols)

    def __exit__(self, *_: object) -> None:
        self._machine.close()
