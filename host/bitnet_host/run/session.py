"""A conversation with a model on a target: messages in, text as it comes out.

The target's KV cache is kept for the longest common prefix of token ids: a conversation that goes
on is not read again, nor is a system prompt that conversations share.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from bitnet_host.errors import BadArgument, OutOfContext
from bitnet_host.model.template import Message
from bitnet_host.model.text import TextModel, TextStream
from bitnet_host.reporting import Progress, quiet
from bitnet_host.run.sampling import Alternative, Sampling
from bitnet_host.run.slots import Slots
from bitnet_host.run.target import Answer, Cancel, Target

__all__ = ["Reply", "Session", "Stream", "Token", "Usage"]


@dataclass(frozen=True)
class Token:
    """One token of an answer. ``text`` is what it adds, empty while a character or a possible stop
    string is unfinished."""

    id: int
    text: str
    logprob: float | None = None
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens of the prompt, how many of them the KV cache had already, and tokens of the answer."""

    prompt: int
    cached: int
    completion: int


@dataclass(frozen=True)
class Reply:
    """A whole answer. ``stop_reason``: stop (a stop token), text (a stop string), length, context
    (the context is full), memory (other conversations have the rest of the KV cache), or cancel.
    ``dropped``: old messages that had to go so that the conversation fits; ``kept``: those that did
    not."""

    text: str
    stop_reason: str
    usage: Usage
    answer: Answer
    dropped: int = 0
    kept: tuple[Message, ...] = ()


def _stops(stop: str | Iterable[str]) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop)


class Stream:
    """An answer while it is written: iterate over its tokens; then ``reply`` is there. Leaving the
    loop early ends the answer."""

    def __init__(self, tokens: Generator[Token | Reply, None, None]) -> None:
        self._tokens = tokens
        self._reply: Reply | None = None

    def __iter__(self) -> Iterator[Token]:
        try:
            for item in self._tokens:
                if isinstance(item, Reply):
                    self._reply = item
                else:
                    yield item
        finally:
            self.close()

    @property
    def reply(self) -> Reply:
        """The whole answer; what of it is still to come is waited for."""
        for _ in self:
            pass
        if self._reply is None:
            raise BadArgument("the answer was given up before its end")
        return self._reply

    def close(self) -> None:
        """Ends the answer."""
        self._tokens.close()


class Session:
    """Sessions may share a target, also from several threads: each generation waits for the one
    before it, unless they share ``Slots``."""

    def __init__(self, target: Target | Slots, text: TextModel | None = None) -> None:
        self.target = target
        self.text = text or TextModel(target.image)
        # rendered text whose token ids are known, as they were generated
        self._known: tuple[str, list[int]] = ("", [])

    def chat(self, messages: Sequence[Message], *, max_tokens: int = 256,
             sampling: Sampling | None = None, stop: str | Iterable[str] = (),
             control: bool = False,
             cancel: Cancel | None = None, progress: Progress = quiet) -> Stream:
        """Answers a conversation: dicts with ``role`` and ``content``, the last one the user's.
        Messages that no longer fit the context are left out, oldest first, but never those of the
        system or the last one. ``control``: control tokens in messages are such."""
        if not messages:
            raise BadArgument("the conversation is empty: it needs a message at least")
        kept, rendered, ids = self._fit(list(messages), control, max_tokens)
        dropped = len(messages) - len(kept)
        return Stream(self._run(ids, max_tokens, sampling, _stops(stop), cancel, progress,
                                rendered, dropped, tuple(kept)))

    def complete(self, prompt: str | Sequence[int], *, max_tokens: int = 256,
                 sampling: Sampling | None = None,
                 stop: str | Iterable[str] = (), cancel: Cancel | None = None,
                 progress: Progress = quiet) -> Stream:
        """Goes on with plain text, or with token ids."""
        ids = self.text.encode_raw(prompt) if isinstance(prompt, str) else list(prompt)
        return Stream(self._run(ids, max_tokens, sampling, _stops(stop), cancel, progress, None, 0,
                                ()))

    def batch(self, prompts: Iterable[str | Sequence[int] | Sequence[Message]],
              **options: Any) -> Iterator[Reply]:
        """The replies to many prompts, one after the other: text or token ids to complete, or
        messages to answer."""
        for prompt in prompts:
            is_chat = (not isinstance(prompt, str) and len(prompt) > 0
                       and isinstance(prompt[0], dict))
            answer: Callable[..., Stream] = self.chat if is_chat else self.complete
            yield answer(prompt, **options).reply

    # -- fitting the context -----------------------------------------------------------------------

    def _encode(self, messages: list[Message], control: bool) -> tuple[str, list[int]]:
        rendered, ids = self.text.encode_chat(messages, control=control)
        known, known_ids = self._known
        if known and rendered.startswith(known):
            ids = known_ids + self.text.encode_rendered(rendered[len(known):], start=False)
        return rendered, ids

    def _fit(self, messages: list[Message], control: bool, max_tokens: int) -> tuple[list[Message],
            str, list[int]]:
        context = self.target.image.header.context
        # for an answer that is worth reading
        room = context - min(max_tokens, max(1, context // 8))
        while True:
            problem, rendered, ids = None, "", [0] * (context + 1)
            try:
                rendered, ids = self._encode(messages, control)
            except OutOfContext as error:
                problem = error
            if len(ids) <= room:
                return messages, rendered, ids
            place = next((i
                          for i, message in enumerate(messages[:-1])
                          if message.get("role") != "system"), None)
            if place is None:
                if len(ids) < context:
                    return messages, rendered, ids
                raise problem or OutOfContext(self._too_long(messages, control, len(ids), context))
            end = place + 1
            while end < len(messages) - 1 and messages[end].get("role") not in ("user", "system"):
                end += 1  # a question goes with its answers
            messages = messages[:place] + messages[end:]

    def _too_long(self, messages: list[Message], control: bool, count: int, context: int) -> str:
        bare = len(self._encode([*messages[:-1], messages[-1] | {"content": ""}], control)[1])
        what = "the system prompt alone" if bare >= context else "the message"
        return (f"{what} is too long: {bare if bare >= context else count} tokens of the model's "
                f"context of {context}: shorten it")

    # -- running -----------------------------------------------------------------------------------

    def _run(self, ids: list[int], max_tokens: int, sampling: Sampling | None,
             stops: tuple[str, ...], cancel: Cancel | None,
             progress: Progress,
             rendered: str | None,
             dropped: int, kept: tuple[Message, ...]) -> Generator[Token | Reply, None, None]:
        if not all(isinstance(stop, str) and stop for stop in stops):
            raise BadArgument("a stop string is empty, or is no text")
        stream, answer = TextStream(self.text, stops), Answer()
        with self.target.lease(ids, cancel) as slot:
            if slot is None:
                answer.stop_reason = "cancel"
            else:
                steps = slot.stream(ids, max_tokens, sampling, cancel=cancel, progress=progress,
                                    reuse=True)
                with closing(steps):
                    while not stream.stopped:
                        try:
                            choice = next(steps)
                        except StopIteration as end:
                            answer = end.value
                            break
                        answer.token_ids.append(choice.token)
                        answer.cached_tokens = slot.cached
                        yield Token(choice.token, stream.add(choice.token), choice.logprob,
                                    choice.alternatives)
        last = stream.finish()
        if last:
            yield Token(answer.token_ids[-1], last)
        if rendered is not None:
            self._remember(rendered, ids, answer, stream)
        reason = "text" if stream.stopped else answer.stop_reason
        usage = Usage(len(ids), answer.cached_tokens, len(answer.token_ids))
        yield Reply(stream.whole, reason, usage, answer, dropped, kept)

    def _remember(self, rendered: str, ids: list[int], answer: Answer, stream: TextStream) -> None:
        """Keeps the ids of the conversation so far, so that the next turn does not spell the answer
        in other tokens."""
        said = answer.token_ids
        if stream.stopped or not said:
            return
        if said[-1] in self.target.image.stop_tokens:
            tail = self.text.token_text(said[-1])
            self._known = rendered + stream.whole + tail, ids + said
        else:
            self._known = rendered + stream.whole, ids + said
