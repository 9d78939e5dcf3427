"""What an answer has to look like: a JSON schema, or a grammar. llguidance says which tokens may
come next."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import llguidance
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray

from bitnet_host.errors import BadArgument, BadModel
from bitnet_host.model.image import Image

__all__ = ["Grammar", "Grammars", "Matcher"]

_ONE_LINE: Any = {
    "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_MOST_CHARACTERS = 1 << 16  # of a grammar


class Matcher:
    """Follows one answer."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab: int, tokens: int) -> None:
        self._matcher, self._vocab = matcher, vocab
        self._bits = llguidance.numpy.allocate_token_bitmask(1, tokens)

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next: bool [vocab]. Raises BadArgument for a grammar that is too
        much for its library."""
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits, 0)
        self._check()
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        return bits[:self._vocab].astype(np.bool_)

    def accept(self, token: int) -> None:
        """Takes note of the token that was chosen, one of those allowed."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def done(self) -> bool:
        """Whether nothing can follow."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise BadArgument(f"the grammar cannot be followed: {self._matcher.get_error()}")


class Grammar:
    """``matcher`` begins an answer."""

    def __init__(self, tokens: llguidance.LLTokenizer, grammar: str, vocab: int) -> None:
        self._tokens, self._grammar, self._vocab = tokens, grammar, vocab
        problem = llguidance.LLMatcher.validate_grammar(grammar, tokens)
        if problem:
            raise BadArgument(f"the grammar or schema is not usable: {problem}")

    def matcher(self, said: Sequence[int] = ()) -> Matcher:
        """For an answer that has the tokens ``said`` already."""
        matcher = Matcher(llguidance.LLMatcher(self._tokens, self._grammar, log_level=0),
                          self._vocab, self._tokens.vocab_size)
        for token in said:
            matcher.accept(token)
        return matcher


class Grammars:
    """Makes grammars for the tokens of a model. All raise BadArgument for what is none, and
    BadModel for a tokenizer that llguidance does not know."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._lock = threading.Lock()
        self._made: llguidance.LLTokenizer | None = None

    def _tokens(self) -> llguidance.LLTokenizer:
        with self._lock:
            if self._made is None:
                tokenizer = self._image.meta.get("tokenizer") or {}
                count = max([self._image.vocab - 1, *_ids(tokenizer)]) + 1
                try:
                    self._made = llguidance.LLTokenizer(
                        json.dumps(tokenizer), n_vocab=count,
                        eos_token=sorted(self._image.stop_tokens) or None)
                except Exception as error:  # the library raises what it likes
                    raise BadModel(f"the model's tokenizer knows no grammars: {error}") from None
            return self._made

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for, which may be part of a character."""
        return self._tokens().decode_bytes([token])

    def _grammar(self, made: Callable[[str], str], text: str) -> Grammar:
        if len(text) > _MOST_CHARACTERS:
            raise BadArgument(f"the grammar or schema has more than {_MOST_CHARACTERS} characters")
        try:
            grammar = made(text)
        except Exception as error:  # the library raises what it likes
            raise BadArgument(f"the grammar or schema is not usable: {error}") from None
        return Grammar(self._tokens(), grammar, self._image.vocab)

    def schema(self, schema: Any) -> Grammar:
        """JSON that a JSON schema describes, in one line: a small model would go on with spaces."""
        try:
            text = json.dumps(schema)
        except RecursionError:
            raise BadArgument("the schema is nested too deeply") from None
        return self._grammar(lambda text: llguidance.LLMatcher.grammar_from_json_schema(
            text, overrides=_ONE_LINE), text)

    def json_object(self) -> Grammar:
        """Any JSON object."""
        return self.schema({"type": "object"})

    def gbnf(self, text: str) -> Grammar:
        """A grammar in the notation of llama.cpp, or in Lark's."""
        return self._grammar(lambda text: llguidance.grammar_from("gbnf", text), text)


def _ids(tokenizer: dict[str, Any]) -> list[int]:
    """Token ids of a tokenizer.json."""
    vocab = (tokenizer.get("model") or {}).get("vocab")
    ids = list(vocab.values()) if isinstance(vocab, dict) else []
    added = [token.get("id") for token in tokenizer.get("added_tokens") or []]
    return [i for i in (*ids, *added) if isinstance(i, int)]
