"""What runs a model: a board, or the golden model in this process. One KV cache, one generation at
a time."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bitnet_host.errors import BadArgument, BoardTaken, OutOfContext, UserError
from bitnet_host.model.image import Image
from bitnet_host.reporting import Progress, quiet
from bitnet_host.run.protocol import MOST_CANDIDATES
from bitnet_host.run.sampling import Choice, Sampler, Sampling

__all__ = ["Answer", "Cancel", "Choices", "Steps", "Target"]


class Cancel:
    """Ends the one generation that it was given to, whether that has begun or not. ``set`` is safe
    in threads and signal handlers."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def set(self) -> None:
        self._set.set()

    def __bool__(self) -> bool:
        return self._set.is_set()


@dataclass
class Answer:
    """What a generation gave. ``stop_reason``: stop (a stop token), length, context (it is full),
    memory (other conversations have the rest of the KV cache) or cancel. Cycle counts are None on
    the golden model, which has no clock; ``operators`` and ``counters`` are cycles per token, with
    what other slots did in the same passes. ``cached_tokens`` were in the KV cache before the
    ``prompt_tokens``. ``board``: the name of the target that came to its end. Of ``drafts``
    that the board guessed, ``drafted_tokens`` were computed and ``accepted_tokens`` were
    right."""

    token_ids: list[int] = field(default_factory=list)
    stop_reason: str = "length"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefill_cycles: int | None = None
    decode_cycles_per_token: float | None = None
    clock_hz: int | None = None
    operators: dict[str, int] = field(default_factory=dict)
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    board: str = ""
    drafts: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


#: Yields each token as it is chosen; returns the answer.
Steps = Generator[Choice, None, Answer]
#: Tokens, best first, and their logits.
Choices = tuple[list[int], list[float]]


def _no_room() -> bool:
    return False


class Target(ABC):
    """Runs one model. ``tokens`` are those in its KV cache. Calls of several threads wait for each
    other. ``make_room`` is called when other conversations have the rest of the KV cache, and says
    whether it gave back some of it. ``lost``: the answer under way has lost its conversation, by
    what another slot met."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.tokens: list[int] = []
        self.cached = 0  # tokens that the generation under way found in the KV cache
        self.make_room: Callable[[], bool] = _no_room
        self.lost = False
        self._lock, self._owner = threading.Lock(), 0

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits until other threads' calls are done. The same thread's would never be."""
        if self._lock.locked() and self._owner == threading.get_ident():
            raise BadArgument("this target is in the middle of an answer: read it to its end or "
                              "close it first")
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = 0

    @property
    @abstractmethod
    def name(self) -> str:
        """Where it is, or ``reference``."""

    @property
    def position(self) -> int:
        """Tokens in the KV cache."""
        return len(self.tokens)

    @property
    def answers(self) -> bool:
        """Whether an answer is under way."""
        return self._lock.locked()

    @property
    @abstractmethod
    def slots(self) -> Sequence[Target]:
        """This one and others, each with a conversation of its own, which may be used at once from
        several threads. They share the KV cache, and are closed with the first."""

    @contextmanager
    def lease(self, tokens: Sequence[int], cancel: Cancel | None = None) -> Iterator[Target | None]:
        """What to answer a conversation on, ``tokens`` so far, as ``Slots`` has it."""
        yield self

    def prepare(self, progress: Progress = quiet) -> None:
        """Makes the model ready. Raises UserError."""
        with self._alone():
            self._prepare(progress)

    def truncate(self, count: int) -> None:
        """Keeps the first ``count`` tokens of the KV cache."""
        with self._alone():
            self._truncate(count)

    def score(self, token: int) -> NDArray[np.float32]:
        """Appends a token; float32 logits [vocab]."""
        with self._alone():
            self.check_prompt([token])
            self.lost = False
            return self._score(token)

    @abstractmethod
    def close(self) -> None:
        """Releases what the target holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _prepare(self, progress: Progress) -> None: ...

    @abstractmethod
    def _truncate(self, count: int) -> None: ...

    @abstractmethod
    def _score(self, token: int) -> NDArray[np.float32]: ...

    @abstractmethod
    def _greedy(self, prompt: list[int], max_tokens: int, sampling: Sampling, cancel: Cancel,
                progress: Progress) -> Steps:
        """Appends ``prompt`` and writes up to ``max_tokens`` best tokens."""

    @abstractmethod
    def _candidates(self, prompt: list[int], sampling: Sampling, cancel: Cancel,
                    progress: Progress) -> tuple[Answer, Choices]:
        """Appends ``prompt``; the answer has its cycles, and the candidates are those of the next
        token, none if it was cancelled."""

    def reset(self) -> None:
        """Forgets the conversation."""
        self.truncate(0)

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Raises BadArgument if the prompt is empty or has ids outside of the vocabulary,
        OutOfContext if it does not fit."""
        context, vocab = self.image.header.context, self.image.vocab
        if not prompt:
            raise BadArgument("the prompt is empty: say something")
        if (any(not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab
                for token in prompt)):
            raise BadArgument(f"token ids must lie between 0 and {vocab - 1}")
        if self.position + len(prompt) > context:
            raise OutOfContext(f"the prompt of {len(prompt)} tokens, after {self.position} in the "
                               f"conversation, is longer than the "
                               f"model's context of {context} tokens: shorten it or start anew",
                               self.position + len(prompt))

    def goes_on(self, error: UserError) -> bool:
        """Whether an answer that ``error`` ended may go on with another lease."""
        return False

    def stream(self, prompt: Sequence[int], max_tokens: int, sampling: Sampling | None = None, *,
               cancel: Cancel | None = None,
               progress: Progress = quiet, reuse: bool = False, said: int = 0) -> Steps:
        """Appends ``prompt`` to the KV cache and yields up to ``max_tokens`` tokens. With
        ``reuse``, ``prompt`` is the whole conversation, and the cache is kept for what it has in
        common with it. The last ``said`` tokens of ``prompt`` belong to an answer that goes on
        here. Closing the generator ends the answer."""
        if not 0 <= max_tokens < 2**31:
            raise BadArgument(f"max_tokens must lie between 0 and {2**31 - 1}, not {max_tokens}")
        sampling, cancel = sampling or Sampling(), Cancel() if cancel is None else cancel
        with self._alone():
            self.lost = False
            self.cached = cached = self._keep_common(prompt) if reuse else 0
            self.check_prompt(prompt[cached:])
            whole = [*self.tokens, *prompt[cached:]]
            greedy, more = sampling.greedy or not max_tokens, (sampling, cancel, progress)

            def run(ids: list[int], written: int) -> Steps:
                if greedy:
                    return self._greedy(ids, max_tokens - written, *more)
                return self._sampled(said + written, ids, max_tokens - written, *more)

            answer = yield from run(list(prompt[cached:]), 0)
            while answer.stop_reason == "memory" and self.make_room():
                written = answer.token_ids
                rest = yield from run([*whole, *written][len(self.tokens):], len(written))
                answer = _continued(answer, rest)
            answer.cached_tokens, answer.board = cached, self.name
            return answer

    def _keep_common(self, tokens: Sequence[int]) -> int:
        """Cuts the KV cache back to what it has in common with ``tokens``, of which at least one is
        left to read."""
        most, same = min(len(self.tokens), len(tokens) - 1), 0
        while same < most and self.tokens[same] == tokens[same]:
            same += 1
        if same != len(self.tokens):
            self._truncate(max(0, same))
        return len(self.tokens)

    def generate(self, prompt: Sequence[int], max_tokens: int, sampling: Sampling | None = None,
                 on_token: Callable[[int], None] = lambda token: None, progress: Progress = quiet,
                 *,
                 cancel: Cancel | None = None) -> Answer:
        """As ``stream``, with a function that is called for each token."""
        with closing(self.stream(prompt, max_tokens, sampling, cancel=cancel,
                                 progress=progress)) as steps:
            while True:
                try:
                    choice = next(steps)
                except StopIteration as end:
                    answer: Answer = end.value
                    return answer
                on_token(choice.token)

    def _sampled(self, said: int, prompt: list[int], max_tokens: int, sampling: Sampling,
                 cancel: Cancel, progress: Progress) -> Steps:
        before, context = [*self.tokens, *prompt], self.image.header.context
        sampler = Sampler(sampling, before[:len(before) - said], before[len(before) - said:])
        whole, choices = self._roomy(prompt, sampling, cancel, progress)
        decode = 0
        while choices[0] and not cancel:
            if not any(sampler.admits(choices[0])):
                choices = self._best_of_all(sampler)
            choice = sampler.choose(*choices)
            whole.token_ids.append(choice.token)
            yield choice
            if choice.token in self.image.stop_tokens or sampler.done:
                whole.stop_reason = "stop"
            elif self.position >= context:
                whole.stop_reason = "context"
            if whole.stop_reason != "length" or len(whole.token_ids) == max_tokens:
                break
            step, choices = self._roomy([choice.token], sampling, cancel, quiet)
            whole.stop_reason = step.stop_reason
            decode += step.prefill_cycles or 0
            whole.operators, whole.counters = step.operators, step.counters
        if cancel and whole.stop_reason == "length" and len(whole.token_ids) < max_tokens:
            whole.stop_reason = "cancel"
        if whole.prefill_cycles is not None and len(whole.token_ids) > 1:
            whole.decode_cycles_per_token = decode / (len(whole.token_ids) - 1)
        return whole

    def _best_of_all(self, sampler: Sampler) -> Choices:
        """The tokens of the whole vocabulary that the grammar allows, from the last pass, which is
        run again."""
        kept = self.tokens[:-1]
        last = self.tokens[-1]
        self._truncate(len(kept))
        if self.tokens != kept:
            raise BoardTaken("the conversation was lost in the middle of the answer: start anew")
        logits = self._score(last)[:self.image.vocab]
        tokens = [token for token, good in enumerate(sampler.admits(range(len(logits)))) if good]
        if not tokens:
            raise BadArgument("the grammar allows no token that the model has")
        best = sorted(tokens, key=lambda token: (-logits[token], token))[:MOST_CANDIDATES]
        return best, [float(logits[token]) for token in best]

    def _roomy(self, prompt: list[int], sampling: Sampling, cancel: Cancel,
               progress: Progress) -> tuple[Answer, Choices]:
        """As ``_candidates``; where other conversations have the rest of the KV cache, room is made
        first."""
        whole = [*self.tokens, *prompt]
        answer, choices = self._candidates(prompt, sampling, cancel, progress)
        while answer.stop_reason == "memory" and self.make_room():
            rest, choices = self._candidates(whole[len(self.tokens):], sampling, cancel, progress)
            answer = _continued(answer, rest)
        return answer, choices


def _continued(first: Answer, second: Answer) -> Answer:
    """An answer that goes on with ``second``, which first read what was left of the prompt, or the
    token that was written last."""
    if not first.token_ids:
        second.prompt_tokens += first.prompt_tokens
        if first.prefill_cycles is not None and second.prefill_cycles is not None:
            second.prefill_cycles += first.prefill_cycles
        return second
    second.prompt_tokens, second.prefill_cycles = first.prompt_tokens, first.prefill_cycles
    second.token_ids = [*first.token_ids, *second.token_ids]
    second.decode_cycles_per_token = first.decode_cycles_per_token or second.decode_cycles_per_token
    return second
