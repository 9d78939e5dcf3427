"""Text and tokens: the model's own tokenizer and chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokenizers import Tokenizer

from bitnet_host.errors import BadArgument, BadModel, OutOfContext
from bitnet_host.model.image import Image
from bitnet_host.model.template import ChatTemplate, Message

__all__ = ["TextModel", "TextStream"]

_UNFINISHED = "\ufffd"
# private use: it breaks what reads like a control token in a message; two of them stand for one
_MARK = "\ue000"


@contextmanager
def _library(trouble: str) -> Iterator[None]:
    """What the tokenizer's library raises, a plain Exception or, where it panics, not even that,
    as BadModel with the words ``trouble`` first."""
    try:
        yield
    except (BadArgument, OutOfContext):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BadModel(f"{trouble}: {error}") from None


class TextModel:
    """Encodes and decodes for an image. ``template``: the source of its chat template, or None;
    another one may be given. Raises BadModel if there is no usable tokenizer or template."""

    def __init__(self, image: Image, template: str | None = None) -> None:
        meta = image.meta
        if not meta.get("tokenizer"):
            raise BadModel("the model has no tokenizer: convert a checkpoint folder that holds "
                           "tokenizer.json")
        with _library("the model's tokenizer is not usable"):
            self._tokenizer, self._literal = (Tokenizer.from_str(json.dumps(meta["tokenizer"]))
                                              for _ in range(2))
            for tokenizer in (self._tokenizer, self._literal):
                tokenizer.no_truncation()
                tokenizer.no_padding()
            first = self._tokenizer.encode("", add_special_tokens=True).ids[:1]
        self._literal.encode_special_tokens = True  # it takes control tokens for text
        special = meta.get("special") or {}
        source = template or meta.get("chat_template")
        if not isinstance(special, dict) or not isinstance(source, (str, type(None))):
            raise BadModel("the model's chat template or special tokens are no text: convert the "
                           "model again")
        self.template = source
        self._template = ChatTemplate(source, special) if source else None
        self._bos = special.get("bos_token_id")
        self._context, self._vocab = image.header.context, image.vocab
        self._longest = max((len(token) for token in self._tokenizer.get_vocab()), default=1)
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._control = [token.content for token in added if token.special]
        self._add_bos = self._bos is not None and first == [self._bos]

    # -- encoding ----------------------------------------------------------------------------------

    def encode_raw(self, text: str) -> list[int]:
        """Token ids of plain text, with the tokenizer's own special tokens before and after.
        Control tokens in the text count."""
        return self._checked(self._ids(self._tokenizer, text, special=True))

    def encode_part(self, text: str) -> list[int]:
        """Token ids of plain text that stands behind other text."""
        return self._checked(self._ids(self._tokenizer, text))

    def encode_literal(self, text: str) -> list[int]:
        """Token ids of text in which nothing is a control token, whatever it reads like."""
        return self._checked(self._ids(self._literal, text))

    def encode_chat(self, messages: list[Message], *, control: bool = False,
                    **options: Any) -> tuple[str, list[int]]:
        """The conversation rendered as text, and its token ids. What reads like a control token in
        a message is text, unless ``control``. Where the tokenizer starts texts with BOS and the
        template does not, it is put first. ``options`` are ``render``'s."""
        self._check(messages)
        rendered = self.render(messages if control else self._marked(messages), **options)
        return rendered, self.encode_rendered(rendered, start=True)

    def encode_finished(self, messages: list[Message]) -> list[int]:
        """Token ids of a whole conversation, in which nobody is to speak any more. What reads like
        a control token in a message is text. Raises BadModel."""
        self._check(messages)
        rendered = self._templated(self._marked(messages), add_generation_prompt=False)
        return self.encode_rendered(rendered, start=True)

    def encode_rendered(self, rendered: str, *, start: bool) -> list[int]:
        """Token ids of rendered text, from the ``start`` of a conversation or in it."""
        ids: list[int] = []
        for part in self._split(rendered):
            if part in self._control:
                ids.append(int(self._tokenizer.token_to_id(part) or 0))
            else:
                ids += self._encode_text(part)
        if start and self._bos is not None and self._add_bos and ids[:1] != [self._bos]:
            ids = [self._bos, *ids]
        return self._checked(ids)

    def _split(self, rendered: str) -> list[str]:
        """The text at its control tokens, if a user's have to be told apart; else whole, as
        transformers encodes it."""
        if _MARK not in rendered or not self._control:
            return [rendered] if rendered else []
        pattern = "|".join(re.escape(token)
                           for token in sorted(self._control, key=len, reverse=True))
        return [part for part in re.split(f"({pattern})", rendered) if part]

    def _encode_text(self, part: str) -> list[int]:
        if _MARK in part:
            return self._ids(self._literal, re.sub(f"{_MARK}({_MARK}?)", r"\1", part))
        return self._ids(self._tokenizer, part)

    def _ids(self, tokenizer: Tokenizer, text: str, special: bool = False) -> list[int]:
        with _library("the model's tokenizer fails on this text"):
            return list(tokenizer.encode(self._sized(text), add_special_tokens=special).ids)

    def _mark(self, content: str) -> str:
        content = content.replace(_MARK, 2 * _MARK)
        for token in self._control:
            if token in content:
                content = content.replace(token, token[0] + _MARK + token[1:])
        return content

    def render(self, messages: list[Message], **options: Any) -> str:
        """The conversation as text that ends where the assistant is to speak, or with what it has
        said if the last message is the assistant's. ``options`` are the template's own. Raises
        BadModel."""
        self._check(messages)
        said = ""
        if messages and messages[-1]["role"] == "assistant":
            *messages, last = messages
            said = last["content"]
            if messages and messages[-1]["role"] == "assistant":
                raise BadArgument("the conversation ends with two messages of the assistant: it "
                                  "can go on with one only")
        return self._templated(messages, **options) + said

    def _templated(self, messages: list[Message], **options: Any) -> str:
        if self._template is None:
            raise BadModel("the model has no chat template: use it with plain text (raw)")
        return self._template.render(messages, **options)

    def _marked(self, messages: list[Message]) -> list[Message]:
        return [{key: self._mark(value) if isinstance(value, str) else value
                 for key, value in message.items()} for message in messages]

    def _check(self, messages: list[Message]) -> None:
        for message in messages:
            if (not isinstance(message, dict)
                or not all(isinstance(message.get(key), str) for key in ("role", "content"))):
                raise BadArgument(f"a message must have a role and a content that are text, not "
                                  f"{str(message)[:80]}")
            self._sized(message["content"])

    def _sized(self, text: str) -> str:
        """The text; raises OutOfContext for one that cannot fit, before it takes the memory to
        count its tokens."""
        if len(text) > self._longest * self._context:
            raise OutOfContext(f"the text of {len(text):,} characters is longer than the model's "
                               f"context of {self._context} tokens: "
                               "shorten it", len(text) // self._longest)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadArgument("the text is not valid UTF-8: check the terminal's "
                              "encoding") from None
        return text

    def _checked(self, ids: list[int]) -> list[int]:
        if any(token >= self._vocab for token in ids):
            raise BadModel(f"the tokenizer makes tokens that the model's vocabulary of "
                           f"{self._vocab} does not have: they do not belong "
                           "together")
        return ids

    @staticmethod
    def shown(rendered: str) -> str:
        """Rendered text of ``encode_chat`` as people read it."""
        return re.sub(f"{_MARK}({_MARK}?)", r"\1", rendered)

    # -- decoding ----------------------------------------------------------------------------------

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without special tokens."""
        with _library("the model's tokenizer fails on these tokens"):
            return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def token_text(self, token: int) -> str:
        """The token as the tokenizer writes it."""
        return self._tokenizer.id_to_token(token) or ""

    def piece(self, token: int) -> str:
        """The text that a token stands for, control tokens included; U+FFFD for parts of
        characters."""
        with _library("the model's tokenizer fails on a token"):
            return str(self._tokenizer.decode([token], skip_special_tokens=False))


class TextStream:
    """Text of tokens as they come. Bytes of unfinished characters, and what may become a stop
    string, are held back."""

    def __init__(self, text: TextModel, stops: tuple[str, ...] = ()) -> None:
        self._text, self._stops = text, stops
        self._ids: list[int] = []
        self._given = ""
        self.whole = ""
        self.stopped = False
        self.stop = ""

    def add(self, token: int) -> str:
        """Takes a token; returns what can be shown now. ``stopped``: the stop string ``stop`` is
        complete, ``whole`` ends before it."""
        self._ids.append(token)
        self.whole = self._text.decode(self._ids)
        found = [(place, stop)
                 for stop in self._stops if (place := self.whole.find(stop)) >= 0]
        if found:
            place, self.stop = min(found)
            self.stopped, self.whole = True, self.whole[:place]
            return self._give(self.whole)
        shown = self.whole.rstrip(_UNFINISHED)
        held = max((n
                    for stop in self._stops
                    for n in range(1, len(stop)) if shown.endswith(stop[:n])), default=0)
        return self._give(shown[:len(shown) - held])

    def finish(self) -> str:
        """What was held back."""
        return self._give(self.whole)

    def _give(self, shown: str) -> str:
        new = shown[len(self._given):]
        if new:
            self._given = shown
        return new
