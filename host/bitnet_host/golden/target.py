"""The golden model as a target."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from xtvu.semantics import argmax, float_key

from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.reporting import Progress
from bitnet_host.run.sampling import Choice, Sampling
from bitnet_host.run.target import Answer, Cancel, Choices, Steps, Target

__all__ = ["ReferenceTarget"]


class ReferenceTarget(Target):
    """Computes in this process what a board would."""

    def _prepare(self, progress: Progress) -> None:
        self._model = ReferenceModel(self.image)
        self.tokens = []

    def _advance(self, token: int) -> NDArray[np.float32]:
        """The last layer's output for one more token. An earlier one that was interrupted leaves no
        trace."""
        self._model.position = len(self.tokens)
        x = self._model.advance(token)
        self.tokens.append(token)
        return x

    def _truncate(self, count: int) -> None:
        del self.tokens[count:]
        self._model.position = len(self.tokens)

    def close(self) -> None:
        pass

    def _score(self, token: int) -> NDArray[np.float32]:
        return self._model.logits(self._advance(token))

    def _append(self, prompt: list[int], answer: Answer, cancel: Cancel,
                progress: Progress) -> NDArray[np.float32]:
        """The last layer's output after the prompt, empty if it was cancelled before its end."""
        x = np.zeros(0, np.float32)
        for place, token in enumerate(prompt):
            if cancel:
                answer.stop_reason = "cancel"
                return np.zeros(0, np.float32)
            x = self._advance(token)
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
                x = self._advance(token)
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
