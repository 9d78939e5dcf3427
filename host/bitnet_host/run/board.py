"""A slot of a board as a target, real or simulated, behind a transport."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

import numpy as np
from numpy.typing import NDArray
from xtvu.layout import BLOCK_BYTES, unstripe

from bitnet_host.errors import BadModel, BoardError, BoardTaken, LinkError, LinkTimeout, UserError
from bitnet_host.model.image import Image
from bitnet_host.reporting import Progress, quiet
from bitnet_host.run.exchange import loses_conversations
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import Transport
from bitnet_host.run.protocol import (
    ERRORS,
    GENERATE_FIELDS,
    MAX_PAYLOAD,
    OPERATORS,
    OPTIONS,
    PARTS,
    SLOTS,
    STATS_FIELDS,
    STEPS,
    STOP_REASONS,
)
from bitnet_host.run.sampling import Choice, Sampling
from bitnet_host.run.shared import Board, Patience
from bitnet_host.run.target import Answer, Cancel, Choices, Steps, Target

__all__ = ["BoardTarget"]

_AGAIN = 5.0  # seconds until a cancel that shows no effect is repeated
_OF_GENERATE = ("PROGRESS", "PROFILE", "TOKEN", "CANDIDATES", "STATS")  # events
_MAX_PROMPT = MAX_PAYLOAD - len(GENERATE_FIELDS)


class BoardTarget(Target):
    """The first slot of ``board``; ``slots`` has it and the others."""

    def __init__(self,
                 image: Image, transport: Transport, simulator: Simulator | None = None) -> None:
        board = Board(image, transport, simulator)
        slots = [self, *(BoardTarget.__new__(BoardTarget) for _ in range(1, SLOTS))]
        for place, slot in enumerate(slots):
            slot._take(board, place, slots)

    def _take(self, board: Board, slot: int, slots: Sequence[BoardTarget]) -> None:
        super().__init__(board.image)
        self.board, self.slot, self._siblings = board, slot, slots
        self._unsure = True  # the board may hold other tokens than ``tokens``
        #: Cycles of all passes of its answers, if it is set: int64 [layers + 2, steps, parts], of
        #: STEPS and PARTS; before the layers, in each, and behind them.
        self.profile: NDArray[np.int64] | None = None
        self._sequence = 0  # of the command sent last

    @property
    def name(self) -> str:
        return self.board.transport.name

    @property
    def slots(self) -> Sequence[Target]:
        return self._siblings

    @property
    def transport(self) -> Transport:
        return self.board.transport

    @property
    def simulator(self) -> Simulator | None:
        return self.board.simulator

    def close(self) -> None:
        self.board.close()

    # -- exchange ----------------------------------------------------------------------------------

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """If the board may have been another host's, or has started anew, no slot's conversation is
        what it was."""
        try:
            yield
        except UserError as error:
            if loses_conversations(error):
                self._lose_all()
            elif _is_elsewhere(error):
                self._lose()
            raise

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """For uses of the line beside commands and events."""
        with self._watched(), self.board.explained(), self.board.exchange.told():
            yield

    def _lose(self) -> None:
        self.tokens, self._unsure = [], True

    def _lose_all(self) -> None:
        for slot in self._siblings:
            slot.lost = True
            slot._lose()

    def _go_on(self) -> None:
        """Raises BoardTaken if the answer under way has lost its conversation."""
        if self.lost:
            self._lose()
            raise BoardTaken("the board was restarted, or another host has used it, in the middle "
                             "of the answer: the conversation is lost, start anew")

    def _send(self, command: str, payload: list[int] | None = None) -> None:
        with self._watched():
            self.board.exchange.forget(self._sequence)
            self._sequence = 0  # none is under way, should this one not be sent
            self._sequence = self.board.send(command, payload)

    def _event(self, *expected: str, timeout: float = 0) -> tuple[str, NDArray[np.uint32]]:
        with self._watched():
            return self.board.event(self._sequence, *expected, timeout=timeout)

    # -- the model on the board --------------------------------------------------------------------

    def info(self) -> dict[str, int]:
        """INFO_FIELDS of the board. Raises BoardError if its firmware is of another version or its
        self-test failed."""
        with self._watched():
            return self.board.info()

    def _prepare(self, progress: Progress) -> None:
        with self._watched():
            self.board.prepare(progress)
        self._forget_all()

    def trust(self) -> None:
        """Uses the model that DDR holds already, without checking more than its header. For
        simulations with preloaded DDR."""
        with self._watched():
            self.board.clock_hz = self.board.info()["clock_hz"]
            self.board.load(quiet, trust=True)
        self._forget_all()

    def _forget_all(self) -> None:
        for slot in self._siblings:
            slot.tokens, slot._unsure, slot.lost = [], False, True

    # -- the KV cache ------------------------------------------------------------------------------

    def _truncate(self, count: int) -> None:
        self._set_position([] if self._unsure else self.tokens[:count])

    def _set_position(self, tokens: list[int]) -> None:
        if self._unsure:
            found = self.info()["model_id"]
            if found and found != self.image.header.model_id:
                raise BadModel("another host has loaded another model on the board: start anew")
        self.tokens, self._unsure = [], True
        try:
            self._reset(len(tokens))
        except BoardError as error:
            if error.code != ERRORS["BUSY"][0]:
                raise
            with self._watched():  # an answer that an earlier host, or a lost command, left running
                self.board.ask("CLEAR")
            self._lose_all()
            self.lost = False  # this one begins anew
            self._reset(len(tokens))
        self.tokens, self._unsure = tokens, False

    def _reset(self, count: int) -> None:
        self._send("RESET", [self.slot, count])
        self._event("DONE")

    def fill_cache(self, tokens: int) -> None:
        """Takes ``tokens`` tokens of the KV cache for granted, whatever DDR holds there."""
        self._set_position([0] * tokens)

    def _score(self, token: int) -> NDArray[np.float32]:
        with self.board.scoring:
            return self._score_alone(token)

    def _score_alone(self, token: int) -> NDArray[np.float32]:
        if self._unsure and not self.lost:
            self._truncate(0)
        tokens = [*self.tokens, token]
        self._go_on()
        self._unsure = True
        self._send("SCORE", [self.slot, token, len(tokens) - 1])
        _, payload = self._event("SCORED")
        self.tokens, self._unsure = tokens, False
        blocks = -(-int(payload[2]) * 4 // BLOCK_BYTES)
        with self._beside():
            raw = self.board.transport.read_ddr(int(payload[1]), blocks * BLOCK_BYTES // 4)
        return unstripe(raw.astype("<u4").view(np.uint8)).view(np.float32)[:int(payload[2])].copy()

    # -- generation --------------------------------------------------------------------------------

    def _greedy(self, prompt: list[int], max_tokens: int, sampling: Sampling, cancel: Cancel,
                progress: Progress) -> Steps:
        first, last = self._begin(prompt, sampling, cancel, progress)
        if first.stop_reason != "length":
            return first
        answer = yield from self._run(last, max_tokens, 0, sampling, cancel,
                                      _within(progress, len(prompt) - len(last), len(prompt)))
        return _joined(first, answer)

    def _candidates(self, prompt: list[int], sampling: Sampling, cancel: Cancel,
                    progress: Progress) -> tuple[Answer, Choices]:
        first, last = self._begin(prompt, sampling, cancel, progress)
        if first.stop_reason != "length":
            return first, ([], [])
        self._named: Choices = ([], [])
        # with a full head they lie where those of a SCORE do
        with self.board.scoring if sampling.full_head else nullcontext():
            answer = _whole(self._run(last, 0, sampling.candidates, sampling, cancel,
                                      _within(progress, len(prompt) - len(last), len(prompt))))
        tokens, logits = self._named
        kept = [(token, logit)
                for token, logit in zip(tokens, logits, strict=True) if token < self.image.vocab]
        return _joined(first, answer), ([token for token, _ in kept], [logit for _, logit in kept])

    def _begin(self, prompt: list[int], sampling: Sampling, cancel: Cancel,
               progress: Progress) -> tuple[Answer, list[int]]:
        """Appends all of a long prompt but the part that fits a message, which is returned."""
        self._go_on()
        if self._unsure:
            self._truncate(0)
        answer, start = Answer(clock_hz=self.board.clock_hz, prefill_cycles=0), 0
        while len(prompt) - start > _MAX_PROMPT and answer.stop_reason == "length":
            part = _whole(self._run(prompt[start:start + _MAX_PROMPT], 0, 0, sampling, cancel,
                                    _within(progress, start, len(prompt))))
            answer = _joined(answer, part)
            start += _MAX_PROMPT
        return answer, prompt[start:]

    def _run(self, prompt: list[int], max_tokens: int, candidates: int, sampling: Sampling,
             cancel: Cancel, progress: Progress) -> Steps:
        """One GENERATE command. Whoever closes the generator early ends it on the board too."""
        options = {"full_head": sampling.full_head, "all_rows": self.board.all_rows,
                   "all_columns": self.board.all_columns, "profile": self.profile is not None,
                   "lookup": self.board.lookup}
        values = {"slot": self.slot, "position": len(self.tokens), "max_tokens": max_tokens,
                  "candidates": candidates, "prompt_tokens": len(prompt),
                  "options": sum(bit for name, bit in OPTIONS.items() if options[name])}
        answer = Answer(clock_hz=self.board.clock_hz)
        if cancel:
            answer.stop_reason = "cancel"
            return answer
        self._go_on()
        before = [*self.tokens, *prompt]
        try:
            self._send("GENERATE", [*(values[name] for name in GENERATE_FIELDS), *prompt])
            for name, payload in self._events(cancel):
                if name == "PROGRESS":
                    progress("prefill", int(payload[0]), int(payload[1]))
                elif name == "TOKEN":
                    answer.token_ids.append(int(payload[0]))
                    yield Choice(int(payload[0]))
                elif name == "PROFILE":
                    self._take_profile(payload)
                elif name == "CANDIDATES":
                    self._named = payload[::2].tolist(), payload[1::2].view(np.float32).tolist()
                else:
                    _read_stats(answer, payload)
                    if len(answer.token_ids) != _stats(payload)["tokens"]:
                        raise LinkError(f"the board wrote {_stats(payload)['tokens']} tokens, of "
                                        f"which {len(answer.token_ids)} came: "
                                        "restart it and try again")
                    self._hold([*before, *answer.token_ids], _stats(payload)["position"])
                    if answer.stop_reason == "cancel" and not cancel:
                        raise BoardTaken("the board ended the answer, which nobody here asked for: "
                                         "start anew")
        except UserError as error:
            if loses_conversations(error) or _is_elsewhere(error):
                self._lose()
            else:
                self._look_up([*before, *answer.token_ids])
            raise
        except BaseException:  # the generator was closed, or Ctrl-C
            self._abandon([*before, *answer.token_ids])
            raise
        return answer

    def _events(self, cancel: Cancel) -> Iterator[tuple[str, NDArray[np.uint32]]]:
        """Events of a GENERATE up to its STATS; a cancel is passed on as soon as it is seen."""
        told, told_at, patience = False, 0.0, Patience(self.board)
        while True:
            if cancel and not told:
                self._tell_cancel()
                told, told_at = True, time.monotonic()
            try:
                name, payload = self._event(*_OF_GENERATE, timeout=0.25)
            except LinkTimeout:
                with self._beside():
                    over = patience.is_over()
                if over:
                    raise
                told = told and time.monotonic() - told_at < _AGAIN  # it may have been lost
                continue
            patience.heard()
            yield name, payload
            if name == "STATS":
                return

    def _take_profile(self, payload: NDArray[np.uint32]) -> None:
        stage, shape = int(payload[0]), (len(STEPS), len(PARTS))
        if self.profile is None or not 0 <= stage < len(self.profile):
            raise LinkError("the board told of steps that were not asked for: restart it and try "
                            "again")
        self.profile[stage] += payload[1:].reshape(shape)

    def _tell_cancel(self) -> None:
        with self._beside():
            self.board.transport.cancel(self.slot, self._sequence)

    def _abandon(self, tokens: list[int]) -> None:
        """Ends a command whose answer nobody waits for any more. ``tokens`` are what it has read
        and written so far."""
        self.tokens, self._unsure = [], True
        if not self._sequence:
            return
        with suppress(UserError):
            self._tell_cancel()
            while True:
                name, payload = self._event(*_OF_GENERATE, timeout=60)
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
                self._hold(tokens, info[f"position{self.slot}"])

    def _hold(self, tokens: list[int], position: int) -> None:
        """Takes note of what the KV cache holds, if ``tokens`` say so."""
        known = position <= len(tokens) and not self.lost
        self.tokens, self._unsure = tokens[:position] if known else [], not known


def _is_elsewhere(error: UserError) -> bool:
    """Whether the board says that the slot's conversation is not the one that was meant, or that it
    is in the middle of another answer."""
    return (isinstance(error, BoardError)
            and error.code in (ERRORS["POSITION"][0], ERRORS["BUSY"][0]))


def _within(progress: Progress, before: int, total: int) -> Progress:
    """For a part of a prompt of ``total`` tokens."""
    return lambda what, done, _: progress(what, before + done, total)


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
    answer.drafts = stats["drafts"]
    answer.drafted_tokens, answer.accepted_tokens = stats["drafted"], stats["accepted"]
    answer.counters = {name: {part: stats[f"{name}_{part}"] for part in PARTS}
                       for name in OPERATORS}
    answer.operators = {name: sum(parts.values()) for name, parts in answer.counters.items()}
