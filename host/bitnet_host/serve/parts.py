"""What responses of several APIs have in common."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from bitnet_host.model.text import TextModel
from bitnet_host.run.sampling import Alternative
from bitnet_host.run.session import Reply, Token
from bitnet_host.serve.engine import Engine, Job, Read

__all__ = [
    "FINGERPRINT", "Tokens", "finish_reason", "identifier", "progress_fields", "usage_fields",
    "verbose_fields",
]

FINGERPRINT = "bitnet-zynq"
_REASONS = {"stop": "stop", "text": "stop", "cancel": "stop"}


def identifier(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def finish_reason(reply: Reply) -> str:
    """OpenAI's word for the end of an answer: stop or length."""
    return _REASONS.get(reply.stop_reason, "length")


def usage_fields(replies: Sequence[Reply]) -> dict[str, Any]:
    """OpenAI's usage of answers to one prompt each, or several to the same."""
    prompt = replies[0].usage.prompt
    said = sum(reply.usage.completion for reply in replies)
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said,
            "prompt_tokens_details": {"cached_tokens": replies[0].usage.cached}}


def progress_fields(job: Job, read: Read) -> dict[str, Any]:
    """llama-server's prompt_progress."""
    return {"total": read.total, "cache": read.cached, "processed": read.processed,
            "time_ms": round(1e3 * job.timing.prompt_seconds)}


def verbose_fields(engine: Engine, job: Job) -> dict[str, Any]:
    """What went in and came out, for whoever looks for a fault."""
    prompt = job.ask.prompt
    return {"prompt": (engine.text.shown(prompt.rendered) if prompt.rendered
                       else engine.text.decode(prompt.ids)),
            "content": job.reply.text, "tokens": job.reply.answer.token_ids}


class Tokens:
    """Tokens of an answer that wait for their text: those of a character that is not whole yet, and
    what may become a stop string. Stop tokens are left out."""

    def __init__(self, text: TextModel, stops: frozenset[int]) -> None:
        self._text, self._stops = text, stops
        self._held: list[Token] = []

    def add(self, token: Token) -> list[Token]:
        """Tokens that can be told now, of which the last has text."""
        if token.id is not None and token.id not in self._stops:
            self._held.append(token)
        if not token.text:
            return []
        told, self._held = self._held, []
        return told

    def probabilities(self, told: Sequence[Token], text: str,
                      drawn: bool = False) -> list[dict[str, Any]]:
        """Each token with its probability and its alternatives, as llama-server and OpenAI have
        them; ``text`` is what they add together. With ``drawn``, probabilities are those that the
        choice was made with."""
        return [self._one(token, text if token is told[-1] else "", drawn) for token in told]

    def _one(self, token: Token, text: str, drawn: bool) -> dict[str, Any]:
        if drawn:
            own = next((choice.logprob for choice in token.drawn if choice.token == token.id),
                       None)
            return self._named(token.id, text, own, True) | {
                "top_probs": [self._named(choice.token, None, choice.logprob, True)
                              for choice in token.drawn]}
        return self._named(token.id, text, token.logprob, False) | {
            "top_logprobs": [self._named(choice.token, None, choice.logprob, False)
                             for choice in token.alternatives]}

    def _named(self, token: int | None, text: str | None, logprob: float | None,
               linear: bool) -> dict[str, Any]:
        text = self._text.piece(token) if text is None and token is not None else text or ""
        value = {"prob": Alternative(0, logprob or 0.0).probability} if linear else {
            "logprob": logprob}
        return {"id": token, "token": text, "bytes": list(text.encode())} | value
