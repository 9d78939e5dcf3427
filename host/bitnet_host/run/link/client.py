"""Requests to the board that arrive, in order and once, over a wire that promises nothing
(xtvu/datagram.py)."""

from __future__ import annotations

import secrets
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xtvu.datagram import BASE_RATE, FLAGS, HEAD_WORDS, OPERATIONS, SOURCES, STATE, STATUS, Datagram

from bitnet_host.errors import BoardHeld, BoardTaken, LinkError
from bitnet_host.run.link.wires import SerialWire, Wire

__all__ = ["Link", "RoundTrip", "holder_text"]

Words = NDArray[np.uint32]
_LONGEST = 2.0  # seconds until a question is repeated
_LOST = 3  # sendings without an answer after which something is wrong with the line
_RATES = (3_000_000, 2_000_000, 1_000_000, 921_600, 460_800)  # baud, best first
_SETTLE = 0.05  # seconds that the board has to change its rate
_ALIVE = 10.0  # seconds of silence after which the board hears that its holder is still there
_STATUS_TEXT = {
    "PROTECTED": "the board does not let anyone write to memory of a loaded model: unload it first",
    "UNMAPPED": "the board has no memory at {place}",
    "STUCK": "the board's memory does not answer: restart the board",
    "BAD": "the board does not understand the request: build host tool and board from the same "
           "source",
}


class RoundTrip:
    """How long an answer takes: smoothed, as in RFC 6298. ``timeout``: seconds to wait for one."""

    def __init__(self, first: float, least: float) -> None:
        self._least, self._first = least, first
        self._mean = self._spread = 0.0

    @property
    def timeout(self) -> float:
        return max(self._least, self._mean + 4 * self._spread) if self._mean else self._first

    def measured(self, seconds: float) -> None:
        if not self._mean:
            self._mean, self._spread = seconds, seconds / 2
        else:
            self._spread += (abs(self._mean - seconds) - self._spread) / 4
            self._mean += (seconds - self._mean) / 8


def holder_text(name: str, state: dict[str, int]) -> str:
    """Who holds the board at ``name``, as a part of a sentence."""
    if state["source"] == SOURCES["uart"]:
        who = "a host at its UART"
    else:
        address = socket.inet_ntoa(struct.pack("<I", state["ip"]))
        who = f"the host {address}, port {socket.ntohs(state['port'])},"
    return (f"the board at {name} is held by {who} for {state['seconds_held']} s (last heard of "
            f"{state['seconds_silent']} s ago)")


class Link:
    """Holds the board. ``take_over``: even if somebody else does. Raises BoardHeld if somebody
    does, LinkError if nobody is there. Threads may share it."""

    def __init__(self, wire: Wire, *, take_over: bool = False) -> None:
        self.wire, self.name = wire, wire.name
        self._token = secrets.randbelow(2**32 - 1) + 1
        self._sequence, self._claims = secrets.randbelow(2**31), 0
        # whether somebody else may have held the board without this host's notice
        self._in_doubt = False
        self._lock = threading.RLock()
        # a line has to move the bytes, and the firmware answers when it gets to it
        self._round_trip = RoundTrip(0.5, 0.2) if wire.bytes_per_second else RoundTrip(0.3, 0.02)
        self._closed = threading.Event()
        self._heard = time.monotonic()
        try:
            self._claim(take_over)
        except BaseException:
            wire.close()
            raise
        threading.Thread(target=self._stay, daemon=True, name=f"{self.name} keep alive").start()

    # -- one question, one answer ------------------------------------------------------------------

    def _ask(self, operation: str, address: int = 0, data: bytes = b"", flags: int = 0,
             token: int | None = None) -> Datagram:
        """Asks until the answer comes. Raises LinkError after the wire's patience without one."""
        token = self._token if token is None else token
        with self._lock:
            if self._closed.is_set():
                raise LinkError(f"the link to {self.name} is closed")
            self._sequence = self._sequence + 1 & 0xFFFFFFFF
            code = OPERATIONS[operation]
            size = len(data) + 4 * (HEAD_WORDS + 1)
            on_the_line = (2 * size / self.wire.bytes_per_second if self.wire.bytes_per_second
                           else 0.0)
            wait, start = min(_LONGEST, self._round_trip.timeout) + on_the_line, time.monotonic()
            sent: list[float] = []
            while not sent or time.monotonic() - start < self.wire.patience:
                # where the address does not matter it comes back as the number of the sending that
                # is answered
                mark = address if operation in ("WRITE", "RATE") else len(sent)
                sent.append(time.monotonic())
                self.wire.send(Datagram(token, self._sequence, code, flags, mark).encode(data))
                answer = self._answer(token, code, sent[-1] + wait)
                if answer is not None:
                    self._heard = time.monotonic()
                    if operation in ("CLAIM", "READ") and answer.address < len(sent):
                        self._round_trip.measured(max(1e-4,
                                                      self._heard
                                                      - sent[answer.address] - on_the_line))
                    return answer
                wait = min(2 * wait, _LONGEST + on_the_line)
                if len(sent) == _LOST:
                    self.wire.fall_back()
            raise LinkError(f"the board at {self.name} does not answer: check that it is on, "
                            f"loaded and connected")

    def _answer(self, token: int, operation: int, end: float) -> Datagram | None:
        """The answer to the question under way, if it comes in time."""
        while (left := end - time.monotonic()) > 0:
            raw = self.wire.receive(left)
            answer = Datagram.decode(raw) if raw else None
            if (answer
                and (answer.token,
                     answer.sequence, answer.operation) == (token, self._sequence, operation)):
                return answer
        return None

    def _held(self, operation: str, address: int = 0, data: bytes = b"") -> Datagram:
        """As ``_ask``, for what only the holder may. If the claim has lapsed, because this host was
        away, it is made anew."""
        with self._lock:
            if self._in_doubt:
                self._regain()
            answer = self._ask(operation, address, data)
            while answer.flags in (STATUS["HELD"], STATUS["FREE"]):
                self._regain()
                answer = self._ask(operation, address, data)
            if answer.flags != STATUS["OK"]:
                self.refused(answer, f"address 0x{address or int.from_bytes(data[:4], 'little'):x}")
            return answer

    def refused(self, answer: Datagram, place: str) -> None:
        """Raises what an answer's status says."""
        name = next((name for name, code in STATUS.items() if code == answer.flags), "BAD")
        raise LinkError(_STATUS_TEXT.get(name, _STATUS_TEXT["BAD"]).format(place=place))

    # -- the claim ---------------------------------------------------------------------------------

    def state(self) -> dict[str, int]:
        """Who holds the board (xtvu.datagram.STATE). Asking does not count as being there."""
        return self._claim_state(0, token=0)[1]

    def _claim_state(self, flags: int, token: int | None = None) -> tuple[int, dict[str, int]]:
        answer = self._ask("CLAIM", 0, bytes(4 * len(STATE)), flags, token)
        if len(answer.data) != len(STATE):
            self.refused(answer, "")
        return answer.flags, dict(zip(STATE, answer.data, strict=True))

    def _claim(self, take_over: bool) -> None:
        for _ in range(3):  # free it is when its holder left between the question and the answer
            status, state = self._claim_state(FLAGS["TAKE_OVER"] if take_over else 0)
            if status != STATUS["FREE"]:
                break
        if status != STATUS["OK"]:
            raise BoardHeld(f"{holder_text(self.name, state)}: wait until it is done, or take the "
                            f"board over with --take-over", state)
        self._claims = state["claims"]

    def _regain(self) -> None:
        before, self._in_doubt = self._claims, True
        try:
            self._claim(False)
        except BoardHeld as error:
            raise BoardHeld(f"{holder_text(self.name, error.state)}, which took it over: wait "
                            f"until it is done, or take the board over "
                            "with --take-over", error.state) from None
        self._in_doubt = False
        if self._claims != before + 1 & 0xFFFF:
            raise BoardTaken(f"the board at {self.name} was restarted, or another host has used it "
                             f"meanwhile: the conversation is lost, "
                             "start anew")

    def _stay(self) -> None:
        """Keeps the claim while there is nothing else to say."""
        while not self._closed.wait(max(0.1, self._heard + _ALIVE - time.monotonic())):
            if time.monotonic() - self._heard >= _ALIVE:
                try:
                    self._ask("READ", 0, b"")
                except LinkError:
                    self._heard = time.monotonic()  # whoever needs the board next hears of it

    # -- words of the board's bus ------------------------------------------------------------------

    def read_list(self, addresses: Sequence[int]) -> list[int]:
        """Words at the given byte addresses. Raises LinkError, BoardHeld or BoardTaken."""
        found: list[int] = []
        most = self.wire.most_words
        for start in range(0, len(addresses), most):
            part = addresses[start:start + most]
            found += self._held("READ", 0, struct.pack(f"<{len(part)}I", *part)).data
        return found

    def read(self, address: int, count: int) -> Words:
        """Consecutive words."""
        return np.array(self.read_list(range(address, address + 4 * count, 4)), np.uint32)

    def write(self, address: int, words: Words | Sequence[int]) -> None:
        """Writes consecutive words, in order and once."""
        data = np.asarray(words, "<u4")
        for start in range(0, len(data), self.wire.most_words):
            self._held("WRITE",
                       address + 4 * start, data[start:start + self.wire.most_words].tobytes())

    def speed_up(self) -> None:
        """Lets a UART run as fast as both its ends can. Whether they can shows when something comes
        through."""
        wire = self.wire
        if not isinstance(wire, SerialWire) or wire.bytes_per_second != BASE_RATE / 10:
            return
        for baud in _RATES:
            with self._lock:
                if self._ask("RATE", baud).flags != STATUS["OK"]:
                    continue
                try:
                    wire.set_rate(baud)
                except LinkError:  # the board will miss us
                    pass
                time.sleep(_SETTLE)
                # long enough to fail if it is going to; falls back if so
                self._held("READ", 0, bytes(4 * wire.most_words))
                if wire.bytes_per_second == baud / 10:
                    return

    # -- for bulk data (bulk.py) -------------------------------------------------------------------

    def alone(self) -> Any:
        """A context in which no other thread asks anything."""
        return self._lock

    def next_sequence(self) -> int:
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        return self._sequence

    @property
    def token(self) -> int:
        return self._token

    def heard(self) -> None:
        """The board has answered something."""
        self._heard = time.monotonic()

    def regain(self) -> int:
        """After a status that says that this host does not hold the board: holds it again, or
        raises. The last sequence number so far, to tell refusals from before apart."""
        self._regain()
        return self._sequence

    def close(self) -> None:
        """Gives the board back. Whoever waits for an answer meanwhile soon gives up."""
        self.wire.patience = min(self.wire.patience, 1.0)
        with self._lock:
            if self._closed.is_set():
                return
            try:
                self._ask("RELEASE")
            except LinkError:
                pass  # silence ends the claim as well
            finally:
                self._closed.set()
                self.wire.close()
