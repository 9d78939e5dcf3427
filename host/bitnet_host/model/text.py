"""Text and tokens: the model's own tokenizer and chat template."""

from __future__ import annotations

import json
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from bitnet_host.errors import UserError

__all__ = ["Conversation", "TextModel"]


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


class TextModel:
    """Encodes and decodes; ``meta`` is an image's JSON part. Raises UserError if it has no usable tokenizer."""

    def __init__(self, meta: dict[str, Any]) -> None:
        if not meta.get("tokenizer"):
            raise UserError("the model has no tokenizer: convert a checkpoint folder that holds tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(meta["tokenizer"]))
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"the model's tokenizer is not usable: {error}") from None
        self._special = meta.get("special") or {}
        source = meta.get("chat_template")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source) if source else None
        except jinja2.TemplateError as error:
            raise UserError(f"the model's chat template is not usable: {error}") from None

    def render(self, messages: list[dict[str, str]]) -> str:
        """The conversation as text that ends where the assistant is to speak."""
        if self._template is None:
            raise UserError("the model has no chat template: use --raw with plain text")
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **{
                key: value["content"] if isinstance(value, dict) else value or "" for key, value in self._special.items()})
        except jinja2.TemplateError as error:
            raise UserError(f"the model's chat template refuses this conversation: {error}") from None

    def encode_chat(self, text: str, *, start: bool) -> list[int]:
        """Token ids of rendered text; at the ``start`` of a conversation the BOS token is put first if it is missing."""
        ids = self._encode(text, special=False)
        bos = self._special.get("bos_token_id")
        if start and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        return ids

    def encode_raw(self, text: str) -> list[int]:
        """Token ids of plain text, with the tokenizer's own special tokens."""
        return self._encode(text, special=True)

    def _encode(self, text: str, *, special: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError("the text is not valid UTF-8: check the terminal's encoding") from None
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without special tokens."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def token_text(self, token: int) -> str:
        """The token as the tokenizer writes it."""
        return self._tokenizer.id_to_token(token) or ""


class Conversation:
    """Messages so far, and what of them already stands in the KV cache."""

    def __init__(self, text: TextModel, system: str | None = None) -> None:
        self._text, self._system = text, system
        self.clear()

    def clear(self) -> None:
        self._messages: list[dict[str, str]] = [{"role": "system", "content": self._system}] if self._system else []
        self._rendered = ""
        self._unsent: list[int] = []

    def ask(self, question: str) -> tuple[list[int], bool]:
        """Token ids to append for the user's next message, and whether the KV cache must be emptied first."""
        messages = [*self._messages, {"role": "user", "content": question}]
        full = self._text.render(messages)
        fresh = not self._rendered or not full.startswith(self._rendered)
        ids = self._text.encode_chat(full if fresh else full[len(self._rendered):], start=fresh)
        if not fresh:
            ids = self._unsent + ids
        self._messages, self._prompt = messages, full
        return ids, fresh

    def answered(self, ids: list[int], stop_tokens: set[int]) -> str:
        """Takes the answer's token ids (the last of which the model has not read back); returns its text."""
        answer = self._text.decode(ids)
        self._messages.append({"role": "assistant", "content": answer})
        self._unsent = ids[-1:]
        tail = self._text.token_text(ids[-1]) if ids and ids[-1] in stop_tokens else ""
        self._rendered = self._prompt + answer + tail
        return answer
