"""The golden model as a target."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from xtvu.semantics import argmax, float_key

from bitnet_host.errors import BoardError
from bitnet_host.golden.reference import Cache, ReferenceModel
from bitnet_host.model.header import PAGE_TOKENS, SLOTS
from bitnet_host.model.image import Image
from bitnet_host.reporting import Progress
from bitnet_host.run.protocol import ERRORS, error_text
from bitnet_host.run.sampling import Choice, Sampling
from bitnet_host.run.target import Answer, Cancel, Choices, Steps, Target

__all__ = ["ReferenceTarget"]


class _Shared:
    """What the slots have together: the model, and pages of the KV cache."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.lock = threading.Lock()  # one forward pass at a time
        self.model: ReferenceModel | None = None
        self.free = image.header.cache_tokens // PAGE_TOKENS


class _Full(Exception):
    """Other conversations have the rest of the KV cache."""


class ReferenceTarget(Target):
    """Computes in this process what a board would: the first slot; ``slots`` has it and the
    others."""

    def __init__(self, image: Image) -> None:
        shared = _Shared(image)
        slots = [self, *(ReferenceTarget.__new__(ReferenceTarget) for _ in range(1, SLOTS))]
        for slot in slots:
            slot._take(shared, slots)

    def _take(self, shared: _Shared, slots: Sequence[ReferenceTarget]) -> None:
        super().__init__(shared.image)
        self._shared, self._siblings = shared, slots
        self._cache: Cache | None = None
        self._pages = 0

    @property
    def name(self) -> str:
        return "reference"

    @property
    def slots(self) -> Sequence[Target]:
        return self._siblings

    @property
    def _model(self) -> ReferenceModel:
        assert self._shared.model is not None, "the model is not ready: prepare() comes first"
        return self._shared.model

    def _prepare(self, progress: Progress) -> None:
        if self._shared.model is None:
            self._shared.model = ReferenceModel(self.image)
        for slot in self._siblings:
            slot._truncate(0)

    def _advance(self, token: int) -> NDArray[np.float32]:
        """The last layer's output for one more token. An earlier one that was interrupted leaves no
        trace. Raises _Full."""
        with self._shared.lock:
            if self._cache is None:
                self._cache = Cache(self.image.header)
            self._hold(len(self.tokens) + 1)
            self._cache.position = len(self.tokens)
            self._model.cache = self._cache
            x = self._model.advance(token)
            self.tokens.append(token)
            return x

    def _hold(self, tokens: int) -> None:
        """Has pages for so many tokens, no more and no less."""
        pages = -(-tokens // PAGE_TOKENS)
        if pages - self._pages > self._shared.free:
            raise _Full
        self._shared.free -= pages - self._pages
        self._pages = pages

    def _truncate(self, count: int) -> None:
        with self._shared.lock:
            del self.tokens[count:]
            self._hold(len(self.tokens))
            if not self.tokens:
                self._cache = None

    def close(self) -> None:
        pass

    def _score(self, token: int) -> NDArray[np.float32]:
        try:
            return self._model.logits(self._advance(token))
        except _Full:  # as a board says it
            code, detail = ERRORS["MEMORY"][0], self.image.header.cache_tokens
            raise BoardError(error_text(code, detail), code, detail) from None

    def _append(self, prompt: list[int], answer: Answer, cancel: Cancel,
                progress: Progress) -> NDArray[np.float32]:
        """The last layer's output after the prompt, empty if it ended before that."""
        x = np.zeros(0, np.float32)
        for place, token in enumerate(prompt):
            if cancel:
                answer.stop_reason = "cancel"
                return np.zeros(0, np.float32)
            try:
                x = self._advance(token)
            except _Full:
                answer.stop_reason = "memory"
                return np.zeros(0, np.float32)
            answer.prompt_tokens += 1
            progress("prefill", place + 1, len(prompt))
        return x

    def _ranked(self, x: NDArray[np.float32], full_head: bool) -> tuple[NDArray[np.int64],
            NDArray[np.float32]]:
        if full_head:
            logits = self._model.logits(x)
            return np.arange(logits.size), logits
        return self._model.candidates(x)

    def _greedy(self, prompt: list[int], max_tokens: int, sampling: Sampling, cancel: Cancel,
                progress: Progress) -> Steps:
        answer = Answer()
        x = self._append(prompt, answer, cancel, progress)
        while answer.stop_reason == "length" and len(answer.token_ids) < max_tokens:
            tokens, logits = self._ranked(x, sampling.full_head)
            token = int(tokens[argmax(logits)])
            answer.token_ids.append(token)
            yield Choice(token)
            if token in self.image.stop_tokens:
                answer.stop_reason = "stop"
            elif cancel:
                answer.stop_reason = "cancel"
            elif self.position >= self.image.header.context:
                answer.stop_reason = "context"
            elif len(answer.token_ids) < max_tokens:
                try:
                    x = self._advance(token)
                except _Full:
                    answer.stop_reason = "memory"
        return answer

    def _candidates(self, prompt: list[int], sampling: Sampling, cancel: Cancel,
                    progress: Progress) -> tuple[Answer, Choices]:
        answer = Answer()
        x = self._append(prompt, answer, cancel, progress)
        if not x.size:
            return answer, ([], [])
        tokens, logits = self._ranked(x, sampling.full_head)
        order = np.argsort(-float_key(logits), kind="stable")[:sampling.candidates]
        best = [(int(tokens[i]), float(logits[i])) for i in order if tokens[i] < self.image.vocab]
        return answer, ([token for token, _ in best], [logit for _, logit in best])
