"""How long an answer takes, by the clock of this machine."""

from __future__ import annotations

import time

from bitnet_host.run.session import Reply

__all__ = ["Timing"]


class Timing:
    """``prompt``: tokens of it, cached ones included."""

    def __init__(self, prompt: int) -> None:
        self.prompt, self.cached, self.said = prompt, 0, 0
        self.drafts = self.drafted = self.accepted = 0
        self._start = self._first = self._last = 0.0

    def begin(self) -> None:
        self._start = time.monotonic()

    def token(self) -> None:
        self._last = time.monotonic()
        self._first = self._first or self._last
        self.said += 1

    def end(self, reply: Reply) -> None:
        self.cached, self.said = reply.usage.cached, reply.usage.completion
        answer = reply.answer
        self.drafts, self.drafted = answer.drafts, answer.drafted_tokens
        self.accepted = answer.accepted_tokens

    @property
    def prompt_seconds(self) -> float:
        """From its slot to the first token."""
        return max(0.0, (self._first or time.monotonic()) - self._start) if self._start else 0.0

    @property
    def seconds(self) -> float:
        """From the first token to the last."""
        return self._last - self._first

    def fields(self, read: int | None = None, cached: int | None = None) -> dict[str, float]:
        """As llama-server has them; ``read`` tokens of the prompt so far, of which ``cached`` were
        in the KV cache."""
        cached = self.cached if cached is None else cached
        count = (self.prompt if read is None else read) - cached
        prompt = 1e3 * self.prompt_seconds if count else 0.0
        steps, spent = max(0, self.said - 1), 1e3 * self.seconds
        drafts = {"draft_n": self.drafted, "draft_n_accepted": self.accepted}
        return (drafts if self.drafted else {}) | {
            "cache_n": cached, "prompt_n": count, "prompt_ms": prompt,
            "prompt_per_token_ms": prompt / count if count else 0.0,
            "prompt_per_second": 1e3 * count / prompt if prompt else 0.0,
            "predicted_n": self.said, "predicted_ms": spent,
            "predicted_per_token_ms": spent / steps if steps else 0.0,
            "predicted_per_second": 1e3 * steps / spent if spent and steps else 0.0,
        }
