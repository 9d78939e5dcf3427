"""The tokenizer of a new model, and texts as rows of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.model.text import TextModel
from bitnet_host.train.texts import Document, Text, Texts

__all__ = ["BOS", "EOS", "EOT", "NOTHING", "TEMPLATE", "new_tokenizer", "pack", "row_order",
           "text_model"]

#: Stands where a row has no token any more.
NOTHING = -100
_LONGEST = 1 << 40  # tokens of a text
BOS, EOS, EOT, PAD = SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|pad|>")
#: As 2B-4T's: "User: ...<|eot_id|>Assistant: ...<|eot_id|>".
TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}")


def new_tokenizer(texts: Texts, vocab: int) -> dict[str, Any]:
    """Byte-level BPE of ``vocab`` tokens, learnt from what is learnt from, as the ``tokenizers``
    library stores it. Raises BadArgument for too few tokens, BadFile for too little text."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(SPECIAL)
    if vocab < least:
        raise BadArgument(f"a vocabulary of {vocab} is too small: {least} tokens are bytes and "
                          f"control tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(_words(texts.learnt), trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(SPECIAL), initial_alphabet=alphabet,
        show_progress=False))
    if tokenizer.get_vocab_size() < vocab:
        raise BadFile(f"the texts are too little for a vocabulary of {vocab}: they give "
                      f"{tokenizer.get_vocab_size()} tokens; give more text or a smaller --vocab")
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, bos)])
    made: dict[str, Any] = json.loads(tokenizer.to_str())
    return made


def _words(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        if isinstance(document, Text):
            yield document.text
        else:
            for message in document:
                yield f"{message['role'].capitalize()}: {message['content']}"


def text_model(tokenizer: dict[str, Any], template: str | None, special: dict[str, Any],
               vocab: int) -> TextModel:
    """What encodes texts while learning as it will while chatting. Raises BadModel for a tokenizer
    or a template that is not usable."""
    described = SimpleNamespace(
        meta={"tokenizer": tokenizer, "chat_template": template, "special": special},
        header=SimpleNamespace(context=_LONGEST), vocab=vocab)
    return TextModel(cast(Any, described))


def pack(documents: list[Document], text: TextModel, ends: tuple[int | None, int | None],
         context: int, filled: bool = False) -> NDArray[np.int32]:
    """int32 [rows, 1 + context]: the documents one behind the other, texts between the tokens
    ``ends`` (BOS and EOS), conversations as their template renders them, cut where a row is full.
    What fills no row is left out or, if it is to be ``filled``, goes on with NOTHING. Raises
    BadFile if there is too little, BadModel for a conversation where the model has no template."""
    first, last = ([] if token is None else [token] for token in ends)
    tokens: list[int] = []
    for document in documents:
        if isinstance(document, Text):
            tokens += [*(first if document.begins else []), *text.encode_literal(document.text),
                       *(last if document.ends else [])]
        else:
            tokens += text.encode_finished(document)
    size = context + 1
    if len(tokens) < (2 if filled else size):
        raise BadFile(f"the texts are too little: {len(tokens)} tokens, where a row has {size}; "
                      f"give more, or a smaller --context")
    if filled:
        tokens += [NOTHING] * (-len(tokens) % size)
    return np.array(tokens[:len(tokens) // size * size], np.int32).reshape(-1, size)


def row_order(rows: int, seed: int, place: int, count: int) -> NDArray[np.int64]:
    """Which rows the batch takes that begins with the ``place``-th row of the run: all of them in a
    random order, then all of them in another one. It depends on nothing else, so a run that goes on
    takes what it would have taken."""
    places = np.arange(place, place + count)
    out = np.empty(count, np.int64)
    for epoch in np.unique(places // rows):
        order = np.random.default_rng([seed, int(epoch)]).permutation(rows)
        chosen = places // rows == epoch
        out[chosen] = order[places[chosen] % rows]
    return out
