"""A debugger at QEMU's gdb port, just large enough for a test to stop a program at its functions,
look around, and answer for hardware that QEMU lacks."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

__all__ = ["Debugger", "symbols"]


def symbols(program: Path, nm: str = "arm-none-eabi-nm") -> dict[str, int]:
    """Names to addresses."""
    lines = subprocess.run([nm, program], check=True, capture_output=True, text=True).stdout
    return {name: int(address, 16)
            for address, _, name in (line.split() for line in lines.splitlines()
                                     if len(line.split()) == 3)}


class Debugger:
    """GDB's remote protocol, at the Unix socket ``path``."""

    def __init__(self, path: Path) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.settimeout(60)
        self._line.connect(str(path))
        self._waiting = b""
        self._breakpoints: set[int] = set()
        self._send("QStartNoAckMode")
        self._answer()
        self._line.sendall(b"+")
        # QEMU knows single registers only once it was asked which there are
        self.ask("qXfer:features:read:target.xml:0,ffb")
        self._look()

    def _send(self, text: str) -> None:
        self._line.sendall(f"${text}#{sum(text.encode()) & 0xff:02x}".encode())

    def _answer(self) -> str:
        """The next packet; raises TimeoutError."""
        while True:
            begin = self._waiting.find(b"$")
            end = self._waiting.find(b"#", begin)
            if begin >= 0 and 0 <= end <= len(self._waiting) - 3:
                text = self._waiting[begin + 1:end].decode()
                self._waiting = self._waiting[end + 3:]
                return text
            more = self._line.recv(65536)
            if not more:
                raise ConnectionError("QEMU is gone")
            self._waiting += more

    def ask(self, text: str) -> str:
        self._send(text)
        return self._answer()

    def stop_at(self, address: int) -> None:
        assert self.ask(f"Z0,{address:x},4") == "OK"
        self._breakpoints.add(address)

    def go(self) -> int:
        """Runs to the next breakpoint, also from one: where that is."""
        here = self._registers[15]
        if here in self._breakpoints:
            self.ask(f"z0,{here:x},4")
            self.ask("s")
            self.ask(f"Z0,{here:x},4")
        self.ask("c")
        self._look()
        return self._registers[15]

    def _look(self) -> None:
        data = bytes.fromhex(self.ask("g")[:16 * 8])
        self._registers = [int.from_bytes(data[i:i + 4], "little") for i in range(0, 64, 4)]

    def register(self, number: int) -> int:
        return self._registers[number]

    def set_register(self, number: int, value: int) -> None:
        assert self.ask(f"P{number:x}={value.to_bytes(4, 'little').hex()}") == "OK"
        self._registers[number] = value

    def leave(self, value: int) -> None:
        """Lets the function that begins here return ``value``."""
        self.set_register(0, value)
        self.set_register(15, self.register(14))

    def read(self, address: int, count: int) -> bytes:
        data = b""
        while len(data) < count:
            now = min(count - len(data), 1024)
            data += bytes.fromhex(self.ask(f"m{address + len(data):x},{now:x}"))
        return data

    def word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def write_word(self, address: int, value: int) -> None:
        assert self.ask(f"M{address:x},4:{value.to_bytes(4, 'little').hex()}") == "OK"

    def close(self) -> None:
        self._line.close()
