"""A bad line on purpose: a proxy between host and board that loses, repeats, delays and damages
what passes.

For datagrams: ``python -m bitnet_host.run.link.proxy --to udp://192.168.1.50 --listen 4000 --loss
0.05``, and ``bitnet-host chat --target udp://127.0.0.1:4000``. For bytes of a UART that is reached
over TCP: ``--to socket://HOST:PORT``, and ``--target serial:socket://127.0.0.1:4000``. Rates are
shares of datagrams, or of bytes, each way; a seed repeats what happens.
"""

from __future__ import annotations

import argparse
import heapq
import random
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

__all__ = ["Faults", "SerialProxy", "UDPProxy", "main"]

_PASS = 4096  # bytes


@dataclass(frozen=True)
class Faults:
    """Shares of what is lost, duplicated, reordered (it comes up to ``late`` seconds later), cut
    short, or has bits flipped; how often a silence of ``silent`` seconds begins, in which
    everything is lost; ``delay``: seconds that everything takes one way."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    truncate: float = 0.0
    corrupt: float = 0.0
    silence: float = 0.0
    delay: float = 0.0
    late: float = 0.005
    silent: float = 0.2
    seed: int = 1


class _Proxy:
    """The loop: sockets that wait for input, and sendings that wait for their time."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.counts = dict.fromkeys(("passed", "loss", "duplicate", "reorder", "truncate",
                                     "corrupt", "silence"), 0)
        self._random = random.Random(faults.seed)
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number, self._silent_until, self._running = 0, 0.0, True
        self._wake, wait = socket.socketpair()
        self._selector.register(wait, selectors.EVENT_READ, lambda: None)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def close(self) -> None:
        self._running = False
        self._wake.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._wake.close()

    def _run(self) -> None:
        while self._running:
            timeout = max(0.0, self._due[0][0] - time.monotonic()) if self._due else 1.0
            for key, _ in self._selector.select(timeout):
                key.data()
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()

    def _watch(self, line: socket.socket, action: Callable[[], None]) -> None:
        self._selector.register(line, selectors.EVENT_READ, action)

    def _happens(self, what: str) -> bool:
        rate: float = getattr(self.faults, what)
        happens = rate > 0 and self._random.random() < rate
        self.counts[what] += happens
        return happens

    def _is_silent(self) -> bool:
        if time.monotonic() < self._silent_until:
            return True
        if self._happens("silence"):
            self._silent_until = time.monotonic() + self.faults.silent
            return True
        return False

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._due, (time.monotonic() + seconds, self._number, action))


class UDPProxy(_Proxy):
    """Listens at 127.0.0.1:``port`` and passes datagrams on to ``board`` (host, port), for any
    number of hosts."""

    def __init__(self, board: tuple[str, int], faults: Faults, port: int = 0) -> None:
        super().__init__(faults)
        self._board = board
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", port))
        self.port: int = self._front.getsockname()[1]
        self._backs: dict[Any, socket.socket] = {}
        self._watch(self._front, self._from_host)
        self.start()

    def _from_host(self) -> None:
        try:
            raw, host = self._front.recvfrom(_PASS)
        except OSError:
            return
        if host not in self._backs:
            back = self._backs[host] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            back.connect(self._board)
            self._watch(back, lambda: self._from_board(back, host))
        self._pass_on(raw, self._backs[host].send)

    def _from_board(self, back: socket.socket, host: Any) -> None:
        try:
            raw = back.recv(_PASS)
        except OSError:
            return
        self._pass_on(raw, lambda data: self._front.sendto(data, host))

    def _pass_on(self, raw: bytes, send: Callable[[bytes], Any]) -> None:
        def go(data: bytes) -> None:
            try:
                send(data)
            except OSError:
                pass  # as on any network, nobody hears of it

        self.counts["passed"] += 1
        if self._is_silent() or self._happens("loss"):
            return
        for _ in range(2 if self._happens("duplicate") else 1):
            data = raw
            if data and self._happens("truncate"):
                data = raw[:self._random.randrange(len(raw))]
            if data and self._happens("corrupt"):
                data = _flipped(data, self._random)
            wait = self.faults.delay
            if self._happens("reorder"):
                wait += self._random.random() * self.faults.late
            if wait:
                self._later(wait, partial(go, data))
            else:
                go(data)


class SerialProxy(_Proxy):
    """Listens at TCP 127.0.0.1:``port`` for one host after another and passes bytes on to ``board``
    (host, port)."""

    def __init__(self, board: tuple[str, int], faults: Faults, port: int = 0) -> None:
        super().__init__(faults)
        self._back = socket.create_connection(board)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._front: socket.socket | None = None
        self._watch(self._listener, self._accept)
        self._watch(self._back, self._from_board)
        self.start()

    def _accept(self) -> None:
        if self._front is not None:
            self._drop()
        self._front, _ = self._listener.accept()
        self._front.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch(self._front, self._from_host)

    def _drop(self) -> None:
        if self._front is not None:
            self._selector.unregister(self._front)
            self._front.close()
            self._front = None

    def _from_host(self) -> None:
        assert self._front is not None
        try:
            raw = self._front.recv(_PASS)
        except OSError:
            raw = b""
        if not raw:
            self._drop()
            return
        self._send(self._back, raw)

    def _from_board(self) -> None:
        try:
            raw = self._back.recv(_PASS)
        except OSError:
            raw = b""
        if not raw:  # the board has gone
            self._selector.unregister(self._back)
            self._drop()
        elif self._front is not None:
            self._send(self._front, raw)

    def _send(self, line: socket.socket, raw: bytes) -> None:
        data = self._spoilt(raw)

        def go() -> None:
            try:
                line.sendall(data)
            except OSError:
                pass

        if self.faults.delay:
            self._later(self.faults.delay, go)
        else:
            go()

    def _spoilt(self, raw: bytes) -> bytes:
        out = bytearray()
        for value in raw:
            self.counts["passed"] += 1
            if self._is_silent() or self._happens("loss"):
                continue
            byte = bytes([value])
            if self._happens("corrupt"):
                byte = _flipped(byte, self._random)
            out += byte * (2 if self._happens("duplicate") else 1)
        return bytes(out)


def _flipped(data: bytes, source: random.Random) -> bytes:
    """``data`` with one to three of its bits turned round."""
    out = bytearray(data)
    for _ in range(source.randint(1, 3)):
        out[source.randrange(len(out))] ^= 1 << source.randrange(8)
    return bytes(out) if bytes(out) != data else _flipped(data, source)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bitnet_host.run.link.proxy",
                                     description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True, help="udp://HOST[:PORT] or socket://HOST:PORT")
    parser.add_argument("--listen", type=int, default=0,
                        help="port at 127.0.0.1 (default: any free one)")
    for field in fields(Faults):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    arguments = parser.parse_args()
    kind, _, place = arguments.to.partition("://")
    host, _, port = place.partition(":")
    makers: dict[str, Callable[..., UDPProxy | SerialProxy]] = {"udp": UDPProxy,
            "socket": SerialProxy}
    if kind not in makers or not host or not (port or "1235").isdigit():
        parser.error("--to must be udp://HOST[:PORT] or socket://HOST:PORT")
    try:
        proxy = makers[kind]((host, int(port or 1235)),
                             Faults(**{f.name: getattr(arguments, f.name) for f in fields(Faults)}),
                             arguments.listen)
    except OSError as error:
        print(f"proxy: cannot connect {arguments.to}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"listening at 127.0.0.1:{proxy.port}; Ctrl-C ends", flush=True)
    try:
        proxy.join()
    except KeyboardInterrupt:
        print(" ".join(f"{name} {count}" for name, count in proxy.counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
