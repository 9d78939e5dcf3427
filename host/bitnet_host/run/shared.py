"""What the slots of a board share: the way to it, and its model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import WORD_BYTES, isa_hash
from xtvu.layout import unstripe
from xtvu.semantics import checksum

from bitnet_host.errors import (
    BadArgument,
    BadModel,
    BoardError,
    LinkError,
    LinkTimeout,
    UserError,
)
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.model.image import Image
from bitnet_host.reporting import Progress
from bitnet_host.run.exchange import Exchange
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import Transport
from bitnet_host.run.protocol import ERRORS, INFO_FIELDS, MOST_SUMS, VERSION, error_text

__all__ = ["Board", "Patience", "read_info"]

_log = logging.getLogger("bitnet_host.link")
_PIECE = 1 << 16  # bytes whose checksum the board says, to see what it has already
_MUCH = 1 << 16  # bytes for which it pays to make a line faster first
_SLOW = 3600  # seconds of an upload that nobody wants without having said so
_LONGEST_WAIT = 120.0  # seconds for an INFO: a simulated board waits long for memory that is away
_LARGE = 32 << 20  # bytes; a guess costs a smaller model more than it brings
ANSWER_TIMEOUT = 120.0  # seconds without any event in which the board did not get on
_UNSEEN = 30.0  # seconds between two looks that may show one place of different passes
# ... in which it did, but maybe not with what is waited for; a simulated full-size token takes
# minutes
_LONGEST_ANSWER = {"board": 600.0, "simulator": 7200.0}


class Patience:
    """With a board that says nothing: as long as it gets on."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._most = _LONGEST_ANSWER["simulator" if board.simulator else "board"]
        self.heard()

    def heard(self) -> None:
        """It said something."""
        self._begun = self._since = self._looked = time.monotonic()
        self._before: tuple[int, ...] = ()

    def is_over(self) -> bool:
        """To be asked again and again while the board says nothing."""
        now = time.monotonic()
        if now - self._looked > ANSWER_TIMEOUT / 20:
            if now - self._looked > _UNSEEN:  # nobody asked: it may have got on since
                self._since = now
            self._looked = now
            with self._board.exchange.told():
                state = self._board.transport.progress()
            if state != self._before:
                self._before, self._since = state, now
        return now - self._since > ANSWER_TIMEOUT or now - self._begun > self._most


class Board:
    """``clock_hz`` of the board. ``all_rows`` and ``all_columns`` make it read also what counts for
    nothing, for benches. With ``lookup`` it guesses tokens (docs/lookup.md)."""

    def __init__(self, image: Image, transport: Transport, simulator: Simulator | None) -> None:
        self.image, self.transport, self.simulator = image, transport, simulator
        self.exchange = Exchange(transport)
        self.scoring = threading.Lock()  # logits of a SCORE lie where those of the next one will
        self.clock_hz = 0
        self.all_rows = self.all_columns = False
        self.lookup = image.header.ddr_bytes >= _LARGE
        self.slow_upload = False  # whether an upload may take hours

    def close(self) -> None:
        self.transport.close()
        if self.simulator is not None:
            self.simulator.close()

    # -- exchange ----------------------------------------------------------------------------------

    @contextmanager
    def explained(self) -> Iterator[None]:
        """If the simulator has died, says what it died of instead of what followed."""
        try:
            yield
        except UserError:
            failure = self.simulator.failure() if self.simulator else None
            if failure:
                raise LinkError(f"the simulator stopped: {failure}") from None
            raise

    def send(self, command: str, payload: list[int] | None = None) -> int:
        """Sends a command; its number."""
        _log.debug("%s: %s %s", self.transport.name, command, (payload or [])[:8])
        with self.explained():
            return self.exchange.send(command, payload or [])

    def event(self, sequence: int, *expected: str,
              timeout: float = 0) -> tuple[str, NDArray[np.uint32]]:
        """The next event that answers a command, within ``timeout`` seconds or else as long as the
        board gets on. Raises BoardError for the board's own errors."""
        with self.explained():
            name, payload = (self.exchange.receive(sequence, timeout) if timeout
                             else self._await(sequence))
        _log.debug("%s: %s %s", self.transport.name, name, payload[:8])
        if name == "ERROR":
            code, detail = int(payload[0]), int(payload[1])
            raise BoardError(error_text(code, detail), code, detail)
        if name not in expected:
            raise LinkError(f"the board answered {name} where {' or '.join(expected)} belongs: "
                            f"restart it and try again")
        return name, payload

    def _await(self, sequence: int) -> tuple[str, NDArray[np.uint32]]:
        patience = Patience(self)
        while True:
            try:
                return self.exchange.receive(sequence, min(0.25, ANSWER_TIMEOUT))
            except LinkTimeout:
                if patience.is_over():
                    raise

    def ask(self, command: str, payload: list[int] | None = None, *,
            event: str = "DONE", timeout: float = 0) -> NDArray[np.uint32]:
        """A command that one event answers."""
        sequence = self.send(command, payload)
        try:
            return self.event(sequence, event, timeout=timeout)[1]
        finally:
            self.exchange.forget(sequence)

    # -- the model on the board --------------------------------------------------------------------

    def info(self) -> dict[str, int]:
        """INFO_FIELDS of the board. Raises BoardError if its firmware is of another version or its
        self-test failed."""
        info = read_info(self.ask("INFO", event="INFO", timeout=_LONGEST_WAIT))
        if info["selftest"]:
            code = ERRORS["SELFTEST"][0]
            raise BoardError(error_text(code, info["selftest"]), code, info["selftest"])
        return info

    def prepare(self, progress: Progress) -> None:
        """Loads the model, unless the board has it, and ends what an earlier host left running."""
        info = self.info()
        self.clock_hz = info["clock_hz"]
        header = self.image.header
        if MODEL_BASE + header.total_bytes > info["memory_bytes"]:
            raise BadModel(f"the model needs {(MODEL_BASE + header.total_bytes) / 2**20:.0f} MB, "
                           f"the board has "
                           f"{info['memory_bytes'] / 2**20:.0f} MB: choose a smaller model, or "
                           f"convert it with a smaller --cache")
        # checked when it was loaded, and protected since
        if info["model_id"] == header.model_id:
            self.ask("CLEAR")
            return
        self.ask("UNLOAD")
        self._upload(progress)
        self.load(progress)

    def _upload(self, progress: Progress) -> None:
        """Sends what the board does not have already."""
        words = self.image.ddr.view("<u4")
        missing = self._missing(words)
        total = 4 * sum(len(words[piece]) for piece in missing)
        self._warn_if_slow(total, progress)
        before = 0

        def arrived(done: int) -> None:
            progress("upload", before + done, total)

        for piece in missing:
            with self.explained():
                self.transport.write_ddr(MODEL_BASE + 4 * piece.start, words[piece], arrived)
            before += 4 * (piece.stop - piece.start)

    def _warn_if_slow(self, size: int, progress: Progress) -> None:
        if not self.transport.bytes_per_second:
            return
        if size > _MUCH:
            with self.explained():
                self.transport.speed_up()
        seconds = size / (0.9 * self.transport.bytes_per_second)
        if seconds > _SLOW and not self.slow_upload:
            raise BadArgument(f"the upload of {size / 2**20:.0f} MB over {self.transport.name} "
                              f"would take {seconds / 3600:.1f} hours: use "
                              "the network, or say --slow-upload")
        progress(f"upload, some {max(1, round(seconds))} s", 0, size)

    def _missing(self, words: NDArray[np.uint32]) -> list[slice]:
        """Runs of words that the board has to be sent: all, unless it was sent the beginning of
        this model before."""
        whole = [slice(0, len(words))]
        head = min(len(words), 128)
        with self.explained():
            if not np.array_equal(self.transport.read_ddr(MODEL_BASE, head), words[:head]):
                return whole
        size = _PIECE // 4
        sums = [self._sum(words[start:start + size])
                for start in range(0, len(words) - size + 1, size)]
        there = self._sums(len(sums))
        runs: list[slice] = []
        for place in range(-(-len(words) // size)):
            if place < len(sums) and sums[place] == there[place]:
                continue
            start, stop = place * size, min(len(words), (place + 1) * size)
            if runs and runs[-1].stop == start:
                start = runs.pop().start
            runs.append(slice(start, stop))
        return runs

    @staticmethod
    def _sum(words: NDArray[np.uint32]) -> int:
        return checksum(unstripe(words.view(np.uint8)))

    def _sums(self, count: int) -> list[int]:
        """The board's own checksums of the first pieces of the model's memory."""
        sums: list[int] = []
        while len(sums) < count:
            sums += self.ask("SUMS",
                             [MODEL_BASE + len(sums) * _PIECE, _PIECE // WORD_BYTES,
                              min(MOST_SUMS, count - len(sums))], event="SUMS").tolist()
        return sums

    def load(self, progress: Progress, trust: bool = False) -> None:
        """Makes the board check what was uploaded, with ``trust`` only its header, and use it."""
        sequence = self.send("LOAD", [int(trust)])
        try:
            while True:
                name, payload = self.event(sequence, "PROGRESS", "LOADED")
                if name == "LOADED":
                    break
                progress("verify", int(payload[0]), int(payload[1]))
        finally:
            self.exchange.forget(sequence)
        if payload[0] != self.image.header.model_id:
            raise BadModel("the board holds another model than the one uploaded: upload it again")


def read_info(words: NDArray[np.uint32]) -> dict[str, int]:
    """INFO_FIELDS of an INFO event. Raises BoardError if the firmware is of another version."""
    if len(words) < 2 or words[0] != VERSION or words[1] != isa_hash():
        found = (f"protocol {words[0]}, ISA {int(words[1]):08x}" if len(words) > 1
                 else "an unknown protocol")
        raise BoardError(f"the board runs firmware of another version ({found}; this tool has "
                         f"protocol {VERSION}, ISA {isa_hash():08x}): build and load both from the "
                         f"same source with `make build`", 0)
    return dict(zip(INFO_FIELDS, (int(w) for w in words), strict=True))
