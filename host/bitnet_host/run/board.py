"""A board as a target, real or simulated, behind a transport."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import WORD_BYTES, isa_hash
from xtvu.layout import BLOCK_BYTES, unstripe
from xtvu.semantics import checksum

from bitnet_host.errors import (
    BadArgument,
    BadModel,
    BoardError,
    BoardHeld,
    BoardRestarted,
    BoardTaken,
    LinkError,
    LinkTimeout,
    UserError,
)
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.model.image import Image
from bitnet_host.reporting import Progress, quiet
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import Transport
from bitnet_host.run.protocol import (
    ERRORS,
    GENERATE_FIELDS,
    INFO_FIELDS,
    MAX_PAYLOAD,
    MOST_SUMS,
    OPERATORS,
    OPTIONS,
    PARTS,
    STATS_FIELDS,
    STOP_REASONS,
    VERSION,
    error_text,
)
from bitnet_host.run.sampling import Choice, Sampling
from bitnet_host.run.target import Answer, Cancel, Choices, Steps, Target

__all__ = ["BoardTarget", "read_info"]

_log = logging.getLogger("bitnet_host.link")
_PIECE = 1 << 16  # bytes whose checksum the board says, to see what it has already
_MUCH = 1 << 16  # bytes for which it pays to make a line faster first
_SLOW = 3600  # seconds of an upload that nobody wants without having said so
_ANSWER_TIMEOUT = 600.0  # seconds without any event; a simulated full-size token takes minutes
_AGAIN = 5.0  # seconds until a cancel that shows no effect is repeated
_MAX_PROMPT = MAX_PAYLOAD - len(GENERATE_FIELDS)


class BoardTarget(Target):
    """``clock_hz`` of the board. ``all_rows`` and ``all_columns`` make it read also what counts for
    nothing, for benches."""

    def __init__(self,
                 image: Image, transport: Transport, simulator: Simulator | None = None) -> None:
        super().__init__(image)
        self.transport, self.simulator = transport, simulator
        self.clock_hz = 0
        self.all_rows = self.all_columns = False
        self.slow_upload = False  # whether an upload may take hours
        self._unsure = True  # the board may hold other tokens than ``tokens``

    def close(self) -> None:
        self.transport.close()
        if self.simulator is not None:
            self.simulator.close()

    # -- exchange ----------------------------------------------------------------------------------

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """If the simulator has died, says what it died of instead of what followed. What was on the
        board may be another's now."""
        try:
            yield
        except UserError as error:
            if _is_foreign(error):
                self.tokens, self._unsure = [], True
            failure = self.simulator.failure() if self.simulator else None
            if failure:
                raise LinkError(f"the simulator stopped: {failure}") from None
            raise

    def _event(self, *expected: str, timeout: float = _ANSWER_TIMEOUT) -> tuple[str,
            NDArray[np.uint32]]:
        with self._explained():
            name, payload = self.transport.receive(timeout)
            _log.debug("%s: %s %s", self.transport.name, name, payload[:8])
            if name == "ERROR":
                code, detail = int(payload[0]), int(payload[1])
                raise BoardError(error_text(code, detail), code, detail)
            if name not in expected:
                raise LinkError(f"the board answered {name} where {' or '.join(expected)} belongs: "
                                f"restart it and try again")
            return name, payload

    def _send(self, command: str, payload: list[int] | None = None) -> None:
        _log.debug("%s: %s %s", self.transport.name, command, (payload or [])[:8])
        with self._explained():
            self.transport.send(command, payload or [])

    # -- the model on the board --------------------------------------------------------------------

    def info(self) -> dict[str, int]:
        """INFO_FIELDS of the board. Raises BoardError if its firmware is of another version or its
        self-test failed."""
        self._send("INFO")
        name = ""
        # events of a command that an earlier host left running may come first
        while name != "INFO":
            with self._explained():
                name, words = self.transport.receive(30)
        info = read_info(words)
        if info["selftest"]:
            code = ERRORS["SELFTEST"][0]
            raise BoardError(error_text(code, info["selftest"]), code, info["selftest"])
        return info

    def _prepare(self, progress: Progress) -> None:
        info = self.info()
        self.clock_hz = info["clock_hz"]
        header = self.image.header
        if MODEL_BASE + header.total_bytes > info["memory_bytes"]:
            raise BadModel(f"the model needs {(MODEL_BASE + header.total_bytes) / 2**20:.0f} MB, "
                           f"the board has "
                           f"{info['memory_bytes'] / 2**20:.0f} MB: choose a smaller model")
        if info["model_id"] == header.model_id:  # checked when it was loaded, and protected since
            self._set_position([])
            return
        self._command("UNLOAD")
        self._upload(progress)
        self._load(progress)

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
            with self._explained():
                self.transport.write_ddr(MODEL_BASE + 4 * piece.start, words[piece], arrived)
            before += 4 * (piece.stop - piece.start)

    def _warn_if_slow(self, size: int, progress: Progress) -> None:
        if not self.transport.bytes_per_second:
            return
        if size > _MUCH:
            with self._explained():
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
        with self._explained():
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
            self._send("SUMS",
                       [MODEL_BASE + len(sums) * _PIECE, _PIECE // WORD_BYTES,
                        min(MOST_SUMS, count - len(sums))])
            sums += self._event("SUMS")[1].tolist()
        return sums

    def _command(self, command: str) -> None:
        """A command that is only done."""
        self._send(command)
        self._event("DONE")

    def trust(self) -> None:
        """Uses the model that DDR holds already, without checking more than its header. For
        simulations with preloaded DDR."""
        self.clock_hz = self.info()["clock_hz"]
        self._load(quiet, trust=True)

    def _load(self, progress: Progress, trust: bool = False) -> None:
        self.tokens, self._unsure = [], True
        self._send("LOAD", [int(trust)])
        while True:
            name, payload = self._event("PROGRESS", "LOADED")
            if name == "LOADED":
                break
            progress("verify", int(payload[0]), int(payload[1]))
        if payload[0] != self.image.header.model_id:
            raise BadModel("the board holds another model than the one uploaded: upload it again")
        self.tokens, self._unsure = [], False

    # -- the KV cache ------------------------------------------------------------------------------

    def _truncate(self, count: int) -> None:
        self._set_position([] if self._unsure else self.tokens[:count])

    def _set_position(self, tokens: list[int]) -> None:
        if self._unsure:  # events of what went wrong may still come; info passes them over
            found = self.info()["model_id"]
            if found and found != self.image.header.model_id:
                raise BadModel("another host has loaded another model on the board: start anew")
        self.tokens, self._unsure = [], True
        self._send("RESET", [len(tokens)])
        self._event("DONE")
        self.tokens, self._unsure = tokens, False

    def fill_cache(self, tokens: int) -> None:
        """Takes ``tokens`` tokens of the KV cache for granted, whatever DDR holds there."""
        self._set_position([0] * tokens)

    def _score(self, token: int) -> NDArray[np.float32]:
        if self._unsure:
            self._truncate(0)
        tokens, self._unsure = [*self.tokens, token], True
        self._send("SCORE", [token, len(self.tokens)])
        _, payload = self._event("SCORED")
        self.tokens, self._unsure = tokens, False
        blocks = -(-int(payload[2]) * 4 // BLOCK_BYTES)
        with self._explained():
            raw = self.transport.read_ddr(int(payload[1]), blocks * BLOCK_BYTES // 4)
        return unstripe(raw.astype("<u4").view(np.uint8)).view(np.float32)[:int(payload[2])].copy()

    # -- generation --------------------------------------------------------------------------------

    def _greedy(self, prompt: list[int], max_tokens: int, sampling: Sampling, cancel: Cancel,
                progress: Progress) -> Steps:
        first, last = self._begin(prompt, sampling, cancel, progress)
        if first.stop_reason == "cancel":
            return first
        answer = yield from self._run(last, max_tokens, 0, sampling, cancel, progress)
        return _joined(first, answer)

    def _candidates(self, prompt: list[int], sampling: Sampling, cancel: Cancel,
                    progress: Progress) -> tuple[Answer, Choices]:
        first, last = self._begin(prompt, sampling, cancel, progress)
        if first.stop_reason == "cancel":
            return first, ([], [])
        self._named: Choices = ([], [])
        answer = _whole(self._run(last, 0, sampling.candidates, sampling, cancel, progress))
        tokens, logits = self._named
        kept = [(token, logit)
                for token, logit in zip(tokens, logits, strict=True) if token < self.image.vocab]
        return _joined(first, answer), ([token for token, _ in kept], [logit for _, logit in kept])

    def _begin(self, prompt: list[int], sampling: Sampling, cancel: Cancel,
               progress: Progress) -> tuple[Answer, list[int]]:
        """Appends all of a long prompt but the part that fits a message, which is returned."""
        if self._unsure:
            self._truncate(0)
        answer, start = Answer(clock_hz=self.clock_hz, prefill_cycles=0), 0
        while len(prompt) - start > _MAX_PROMPT and answer.stop_reason != "cancel":
            part = _whole(self._run(prompt[start:start + _MAX_PROMPT], 0, 0, sampling, cancel,
                                    progress))
            answer = _joined(answer, part)
            start += _MAX_PROMPT
        return answer, prompt[start:]

    def _run(self, prompt: list[int], max_tokens: int, candidates: int, sampling: Sampling,
             cancel: Cancel, progress: Progress) -> Steps:
        """One GENERATE command. Whoever closes the generator early ends it on the board too."""
        options = {"full_head": sampling.full_head, "all_rows": self.all_rows,
                   "all_columns": self.all_columns}
        values = {"position": len(self.tokens), "max_tokens": max_tokens, "candidates": candidates,
                  "prompt_tokens": len(prompt),
                  "options": sum(bit for name, bit in OPTIONS.items() if options[name])}
        answer = Answer(clock_hz=self.clock_hz)
        if cancel:
            answer.stop_reason = "cancel"
            return answer
        before = [*self.tokens, *prompt]
        try:
            self._send("GENERATE", [*(values[name] for name in GENERATE_FIELDS), *prompt])
            for name, payload in self._events(cancel):
                if name == "PROGRESS":
                    progress("prefill", int(payload[0]), int(payload[1]))
                elif name == "TOKEN":
                    answer.token_ids.append(int(payload[0]))
                    yield Choice(int(payload[0]))
                elif name == "CANDIDATES":
                    self._named = payload[::2].tolist(), payload[1::2].view(np.float32).tolist()
                else:
                    _read_stats(answer, payload)
                    if len(answer.token_ids) != _stats(payload)["tokens"]:
                        raise LinkError(f"the board wrote {_stats(payload)['tokens']} tokens, of "
                                        f"which {len(answer.token_ids)} came: "
                                        "restart it and try again")
                    self._hold([*before, *answer.token_ids], _stats(payload)["position"])
        except UserError as error:
            if _is_foreign(error):
                self.tokens, self._unsure = [], True
            else:
                self._look_up([*before, *answer.token_ids])
            raise
        except BaseException:  # the generator was closed, or Ctrl-C
            self._abandon([*before, *answer.token_ids])
            raise
        return answer

    def _events(self, cancel: Cancel) -> Iterator[tuple[str, NDArray[np.uint32]]]:
        """Events of a GENERATE up to its STATS; a cancel is passed on as soon as it is seen."""
        told, told_at, last = False, 0.0, time.monotonic()
        while True:
            if cancel and not told:
                with self._explained():
                    self.transport.cancel()
                told, told_at = True, time.monotonic()
            try:
                name, payload = self._event("PROGRESS", "TOKEN", "CANDIDATES", "STATS",
                                            timeout=0.25)
            except LinkTimeout:
                if time.monotonic() - last > _ANSWER_TIMEOUT:
                    raise
                told = told and time.monotonic() - told_at < _AGAIN  # it may have been lost
                continue
            last = time.monotonic()
            yield name, payload
            if name == "STATS":
                return

    def _abandon(self, tokens: list[int]) -> None:
        """Ends a command whose answer nobody waits for any more. ``tokens`` are what it has read
        and written so far."""
        self.tokens, self._unsure = [], True
        with suppress(UserError):
            self.transport.cancel()
            while True:
                name, payload = self._event("PROGRESS", "TOKEN", "CANDIDATES", "STATS", timeout=60)
                if name == "TOKEN":
                    tokens.append(int(payload[0]))
                elif name == "STATS":
                    self._hold(tokens, _stats(payload)["position"])
                    return

    def _look_up(self, tokens: list[int]) -> None:
        """After an error: how many of ``tokens`` the KV cache holds."""
        self.tokens, self._unsure = [], True
        with suppress(UserError):
            info = self.info()
            if info["model_id"] == self.image.header.model_id:
                self._hold(tokens, info["position"])

    def _hold(self, tokens: list[int], position: int) -> None:
        """Takes note of what the KV cache holds, if ``tokens`` say so."""
        known = position <= len(tokens)
        self.tokens, self._unsure = tokens[:position] if known else [], not known


def read_info(words: NDArray[np.uint32]) -> dict[str, int]:
    """INFO_FIELDS of an INFO event. Raises BoardError if the firmware is of another version."""
    if len(words) < 2 or words[0] != VERSION or words[1] != isa_hash():
        found = (f"protocol {words[0]}, ISA {int(words[1]):08x}" if len(words) > 1
                 else "an unknown protocol")
        raise BoardError(f"the board runs firmware of another version ({found}; this tool has "
                         f"protocol {VERSION}, ISA {isa_hash():08x}): build and load both from the "
                         f"same source with `make build`", 0)
    return dict(zip(INFO_FIELDS, (int(w) for w in words), strict=True))


def _is_foreign(error: UserError) -> bool:
    """Whether, after ``error``, the KV cache may hold somebody else's conversation, whatever its
    length."""
    position = ERRORS["POSITION"][0]
    return (isinstance(error, BoardTaken | BoardHeld | BoardRestarted)
            or (isinstance(error, BoardError) and error.code == position))


def _whole(steps: Steps) -> Answer:
    """The answer of steps whose tokens nobody wants."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            answer: Answer = end.value
            return answer


def _joined(first: Answer, second: Answer) -> Answer:
    """``second``, with the prompt of ``first`` before its own."""
    second.prompt_tokens += first.prompt_tokens
    second.prefill_cycles = (first.prefill_cycles or 0) + (second.prefill_cycles or 0)
    return second


def _stats(words: NDArray[np.uint32]) -> dict[str, int]:
    """Names for a STATS event."""
    return dict(zip(STATS_FIELDS, (int(w) for w in words), strict=True))


def _read_stats(answer: Answer, words: NDArray[np.uint32]) -> None:
    stats = _stats(words)
    answer.prompt_tokens = stats["prefill_tokens"]
    answer.stop_reason = next(reason
                              for reason, code in STOP_REASONS.items()
                              if code == stats["stop_reason"])
    answer.prefill_cycles = stats["prefill_cycles_low"] | stats["prefill_cycles_high"] << 32
    decode = stats["decode_cycles_low"] | stats["decode_cycles_high"] << 32
    if stats["tokens"] > 1:
        answer.decode_cycles_per_token = decode / (stats["tokens"] - 1)
    answer.counters = {name: {part: stats[f"{name}_{part}"] for part in PARTS}
                       for name in OPERATORS}
    answer.operators = {name: sum(parts.values()) for name, parts in answer.counters.items()}
