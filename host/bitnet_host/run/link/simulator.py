"""Starts the Verilator simulation of the board and finds its ports."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from bitnet_host.errors import BadArgument, LinkError

__all__ = ["Simulator", "build_folder"]

_PRESETS = ("ug585", "conservative", "hostile")  # soc/bitnet_soc/sim/ddr_preset.cpp


def build_folder() -> Path:
    """Where `make build` left the simulator; BITNET_BUILD overrides it."""
    return Path(os.environ.get("BITNET_BUILD")
                or Path(__file__).parents[4] / "build").resolve()


class Simulator:
    """A running simulator. ``ports``: udp (datagrams), etherbone, raw (frames), tcp (UART),
    control; ``pty``: the UART as a device.

    Parameters: ``preset`` of the memory model, or a file with one; ``preload``: a file that DDR
    holds from address 0 on;
    ``seed`` of what is random; ``build``: the build folder of the board, build_folder() if None.
    """

    def __init__(self, preset: str = "ug585", preload: Path | None = None, seed: int = 1,
                 build: Path | None = None) -> None:
        folder = (build or build_folder()) / "sim"
        binary = folder / "soc_sim"
        if not binary.exists() or not (folder / "soc_rom.init").exists():
            raise LinkError(f"the simulator is not built ({binary} is missing): run `make build`, "
                            f"or choose the target reference")
        if preset not in _PRESETS:  # the simulator starts in another folder
            preset = str(Path(preset).resolve())
        command: list[str | Path] = [binary, "--preset", preset, "--seed", str(seed)]
        if preload is not None:
            command += ["--preload", preload.resolve()]
        self._ending = threading.Lock()
        self._failure: str | None = None
        self._closed = False
        try:
            # cwd: the simulated ROM reads soc_rom.init from there
            self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE,
                                             stderr=subprocess.PIPE, text=True)
        except OSError as error:
            raise LinkError(f"cannot start {binary}: {error.strerror}; run `make build` "
                            f"again") from None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 30)
        line = self._process.stdout.readline() if ready else ""
        try:
            self.ports: dict[str, Any] = json.loads(line)
        except ValueError:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            refused = self.failure() if self._process.returncode == 2 else None
            self.close()
            if refused:
                raise BadArgument(refused) from None
            raise LinkError(f"the simulator {binary} did not start: run `make build` "
                            f"again") from None

    def stats(self) -> dict[str, int]:
        """Counters of the memory model: ``cycles``; 64-bit beats ``used``, and ``peak``, those that
        the DRAM could have moved while the vector unit was awake; bursts ``owed``."""
        counters: dict[str, int] = json.loads(self.control("stats"))
        return counters

    def control(self, text: str) -> str:
        """Tells the simulated board something from outside, such as "reset" (soc_main.cpp has the
        list); its counters as JSON."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
            line.settimeout(10)
            line.sendto(text.encode(), ("127.0.0.1", self.ports["control"]))
            return line.recv(1024).decode()

    def failure(self) -> str | None:
        """What the simulator said if it has ended by itself, else None. Any thread may ask, at any
        time."""
        with self._ending:
            if self._failure is None and not self._closed and self._process.poll() is not None:
                assert self._process.stderr is not None
                self._failure = (self._process.stderr.read().strip()
                                 or f"exit code {self._process.returncode}")
            return self._failure

    def close(self) -> None:
        self.failure()  # others may ask for it afterwards
        with self._ending:
            self._closed = True
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
