"""A conversation with a model on a target: messages in, text as it comes out.

The target's KV cache is kept for the longest common prefix of token ids: a conversation that goes
on is not read again, nor is a system prompt that conversations share.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from bitnet_host.errors import BadArgument, OutOfContext, UserError
from bitnet_host.model.template import Message
from bitnet_host.model.text import TextModel, TextStream
from bitnet_host.reporting import Progress, quiet
from bitnet_host.run.pool import Pool
from bitnet_host.run.sampling import Alternative, Sampling
from bitnet_host.run.slots import Slots
from bitnet_host.run.target import Answer, Cancel, Steps, Target

__all__ = ["Prompt", "Reply", "Session", "Spelling", "Stream", "Token", "Usage"]

_TRIES = 5  # boards that fail before a token of an answer is written


@dataclass(frozen=True)
class Token:
    """One token of an answer, as of ``Choice``. ``text`` is what it adds, empty while a character
    or a possible stop string is unfinished; what is left of that at the end has no ``id``."""

    id: int | None
    text: str
    logprob: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    drawn: tuple[Alternative, ...] = ()


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
    not; ``stop``: the stop string."""

    text: str
    stop_reason: str
    usage: Usage
    answer: Answer
    dropped: int = 0
    kept: tuple[Message, ...] = ()
    stop: str = ""


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


@dataclass(frozen=True)
class Prompt:
    """Token ids of a conversation, and the text of which they are."""

    rendered: str
    ids: list[int]


class Spelling:
    """Token ids of conversations, as they were generated: the next turn must not spell an answer in
    other tokens, or it would be read again. ``most``: conversations to remember."""

    def __init__(self, text: TextModel, most: int = 1) -> None:
        self.text, self._most = text, most
        self._known: OrderedDict[str, list[int]] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, messages: Sequence[Message], **options: Any) -> Prompt:
        """The conversation as a prompt; ``options`` as of ``TextModel.encode_chat``."""
        rendered, ids = self.text.encode_chat(list(messages), **options)
        with self._lock:
            known = max((text for text in self._known if rendered.startswith(text)), key=len,
                        default="")
            begun = self._known.get(known, [])
        if known:
            ids = begun + self.text.encode_rendered(rendered[len(known):], start=False)
        return Prompt(rendered, ids)

    def remember(self, rendered: str, ids: list[int]) -> None:
        with self._lock:
            self._known[rendered] = ids
            self._known.move_to_end(rendered)
            while len(self._known) > self._most:
                self._known.popitem(last=False)


class Session:
    """Sessions may share a target, also from several threads: each generation waits for the one
    before it, unless they share ``Slots`` or a ``Pool``."""

    def __init__(self, target: Target | Slots | Pool, text: TextModel | None = None,
                 spelling: Spelling | None = None) -> None:
        self.target = target
        self.text = text or TextModel(target.image)
        self.spelling = spelling or Spelling(self.text)

    def chat(self, messages: Sequence[Message], *, max_tokens: int = 256,
             sampling: Sampling | None = None, stop: str | Iterable[str] = (),
             control: bool = False,
             cancel: Cancel | None = None, progress: Progress = quiet) -> Stream:
        """Answers a conversation: dicts with ``role`` and ``content``, the last one the user's.
        Messages that no longer fit the context are left out, oldest first, but never those of the
        system or the last one. ``control``: control tokens in messages are such."""
        if not messages:
            raise BadArgument("the conversation is empty: it needs a message at least")
        kept, asked = self._fit(list(messages), control, max_tokens)
        dropped = len(messages) - len(kept)
        return Stream(self._run(asked, max_tokens, sampling, _stops(stop), cancel, progress,
                                dropped, tuple(kept)))

    def complete(self, prompt: str | Sequence[int] | Prompt, *, max_tokens: int = 256,
                 sampling: Sampling | None = None,
                 stop: str | Iterable[str] = (), cancel: Cancel | None = None,
                 progress: Progress = quiet) -> Stream:
        """Goes on with plain text, with token ids, or with what ``spelling`` encoded."""
        if not isinstance(prompt, Prompt):
            ids = self.text.encode_raw(prompt) if isinstance(prompt, str) else list(prompt)
            prompt = Prompt("", ids)
        return Stream(self._run(prompt, max_tokens, sampling, _stops(stop), cancel, progress, 0,
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

    def _fit(self, messages: list[Message], control: bool,
             max_tokens: int) -> tuple[list[Message], Prompt]:
        context = self.target.image.header.context
        # for an answer that is worth reading
        room = context - min(max_tokens, max(1, context // 8))
        while True:
            problem, asked = None, Prompt("", [0] * (context + 1))
            try:
                asked = self.spelling.encode(messages, control=control)
            except OutOfContext as error:
                problem = error
            if len(asked.ids) <= room:
                return messages, asked
            place = next((i
                          for i, message in enumerate(messages[:-1])
                          if message.get("role") != "system"), None)
            if place is None:
                count = len(asked.ids)
                if count < context:
                    return messages, asked
                raise problem or OutOfContext(self._too_long(messages, control, count, context),
                                              count)
            end = place + 1
            while end < len(messages) - 1 and messages[end].get("role") not in ("user", "system"):
                end += 1  # a question goes with its answers
            messages = messages[:place] + messages[end:]

    def _too_long(self, messages: list[Message], control: bool, count: int, context: int) -> str:
        without = [*messages[:-1], messages[-1] | {"content": ""}]
        bare = len(self.spelling.encode(without, control=control).ids)
        what = "the system prompt alone" if bare >= context else "the message"
        return (f"{what} is too long: {bare if bare >= context else count} tokens of the model's "
                f"context of {context}: shorten it")

    # -- running -----------------------------------------------------------------------------------

    def _run(self, asked: Prompt, max_tokens: int, sampling: Sampling | None,
             stops: tuple[str, ...], cancel: Cancel | None, progress: Progress,
             dropped: int, kept: tuple[Message, ...]) -> Generator[Token | Reply, None, None]:
        if not all(isinstance(stop, str) and stop for stop in stops):
            raise BadArgument("a stop string is empty, or is no text")
        stream, answer = TextStream(self.text, stops), Answer()
        choices = self._choices(asked.ids, max_tokens, sampling, cancel, progress, answer)
        with closing(choices):
            while not stream.stopped:
                try:
                    choice = next(choices)
                except StopIteration as end:
                    answer = end.value
                    break
                yield Token(choice.token, stream.add(choice.token), choice.logprob,
                            choice.alternatives, choice.drawn)
        last = stream.finish()
        if last:
            yield Token(None, last)
        if asked.rendered:
            self._remember(asked, answer, stream)
        reason = "text" if stream.stopped else answer.stop_reason
        usage = Usage(len(asked.ids), answer.cached_tokens, len(answer.token_ids))
        yield Reply(stream.whole, reason, usage, answer, dropped, kept, stream.stop)

    def _choices(self, ids: list[int], max_tokens: int, sampling: Sampling | None,
                 cancel: Cancel | None, progress: Progress, answer: Answer) -> Steps:
        """The tokens of an answer; should its board fail, it goes on with another one. ``answer``
        has at any time what there is of it."""
        said, tries = answer.token_ids, 0
        while True:
            before = len(said)
            if before and (before >= max_tokens or said[-1] in self.target.image.stop_tokens):
                answer.stop_reason = "length" if before >= max_tokens else "stop"
                return answer
            try:
                with self.target.lease([*ids, *said], cancel) as slot:
                    if slot is None:
                        answer.stop_reason = "cancel"
                        return answer
                    steps = slot.stream([*ids, *said], max_tokens - before, sampling,
                                        cancel=cancel, progress=progress, reuse=True, said=before)
                    with closing(steps):
                        end = yield from _passed_on(steps, slot, answer)
                    end.token_ids, end.cached_tokens = said, answer.cached_tokens
                    return end
            except UserError as error:
                tries = 1 if len(said) > before else tries + 1
                if tries > _TRIES or not self.target.goes_on(error):
                    raise

    def _remember(self, asked: Prompt, answer: Answer, stream: TextStream) -> None:
        """Keeps the ids of the conversation so far."""
        said = answer.token_ids
        if stream.stopped or not said:
            return
        stopped = said[-1] in self.target.image.stop_tokens
        tail = self.text.token_text(said[-1]) if stopped else ""
        self.spelling.remember(asked.rendered + stream.whole + tail, asked.ids + said)


def _passed_on(steps: Steps, slot: Target, answer: Answer) -> Steps:
    """The choices of ``steps``, of which ``answer`` takes note."""
    while True:
        try:
            choice = next(steps)
        except StopIteration as end:
            whole: Answer = end.value
            if not answer.token_ids:
                answer.cached_tokens = whole.cached_tokens
            return whole
        if not answer.token_ids:
            answer.cached_tokens = slot.cached
        answer.token_ids.append(choice.token)
        yield choice
