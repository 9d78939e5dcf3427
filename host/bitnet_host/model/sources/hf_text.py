"""Tokenizer, chat template and stop tokens of a Hugging Face folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bitnet_host.errors import BadModel, shown
from bitnet_host.files import read_json, read_text
from bitnet_host.model.header import MAX_STOPS
from bitnet_host.model.sources.gguf_text import starting_with
from bitnet_host.model.sources.pieces import read_pieces, tokenizer_of_pieces

__all__ = ["chat_template", "content", "stop_tokens", "token_ids", "tokenizer_of_folder"]

_PIECES = "tokenizer.model"


def tokenizer_of_folder(folder: Path, settings: dict[str, Any],
                        vocab: int) -> dict[str, Any] | None:
    """Of a folder without tokenizer.json, as transformers' LlamaTokenizer has it: the pieces of
    tokenizer.model, the tokens beyond them that tokenizer_config.json (``settings``) and
    added_tokens.json name, and BOS first unless add_bos_token is off. None if there is none.
    Raises BadModel."""
    path = folder / _PIECES
    if not path.exists():
        return None
    pieces = read_pieces(path)
    if settings.get("legacy") is False and pieces.prefix == "always":
        pieces = replace(pieces, prefix="first")
    more = _more_tokens(folder, settings, vocab)
    if len(pieces.tokens) > vocab:
        raise BadModel(f"{path} has {len(pieces.tokens)} tokens, the model knows {vocab}: they do "
                       f"not belong together")
    made = tokenizer_of_pieces(pieces, str(path), more)
    bos = content(settings.get("bos_token")) or "<s>"
    if settings.get("add_bos_token", True) and bos in pieces.tokens:
        made["post_processor"] = starting_with(bos, pieces.tokens.index(bos))
    return made


def _more_tokens(folder: Path, settings: dict[str, Any],
                 vocab: int) -> dict[int, tuple[str, bool]]:
    """Tokens with numbers of their own, and whether they are control tokens."""
    found: dict[int, tuple[str, bool]] = {}
    names = {content(value) for key, value in settings.items() if key.endswith("_token")}
    if (folder / "added_tokens.json").exists():
        for token, index in read_json(folder / "added_tokens.json").items():
            found[_number(index, token, folder / "added_tokens.json", vocab)] = (token,
                                                                                 token in names)
    listed = settings.get("added_tokens_decoder")
    for key, value in listed.items() if isinstance(listed, dict) else ():
        place, word = folder / "tokenizer_config.json", content(value)
        number = _number(int(key) if key.isdecimal() else key, word, place, vocab)
        found[number] = str(word), bool(isinstance(value, dict) and value.get("special"))
    return found


def _number(value: Any, token: str | None, place: Path, vocab: int) -> int:
    if token is None or not token or type(value) is not int or not 0 <= value < vocab:
        raise BadModel(f"{place}: an added token is {shown(token)} with the number "
                       f"{shown(value)}; it must be text, with a number below {vocab}")
    return value


def token_ids(value: Any, place: Path, vocab: int) -> list[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if (not all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < vocab
                for token in ids)):
        raise BadModel(f"{place}: eos_token_id is {shown(value)}; it must be token ids below "
                       f"{vocab}")
    return ids


def stop_tokens(folder: Path, raw: dict[str, Any], settings: dict[str, Any], text: dict[str, Any],
                 tokenizer: dict[str, Any] | None,
                 vocab: int) -> tuple[int, ...]:
    """End-of-text ids: those of generation_config.json, of config.json, and of the tokenizer."""
    stops = token_ids(settings.get("eos_token_id"), folder / "generation_config.json", vocab)
    stops += token_ids(raw.get("eos_token_id"), folder / "config.json", vocab)
    word = content(text.get("eos_token"))
    listed = (tokenizer or {}).get("added_tokens")
    for added in listed if isinstance(listed, list) else []:
        if isinstance(added, dict) and word is not None and added.get("content") == word:
            stops += token_ids(added.get("id"), folder / "tokenizer.json", vocab)
    different = tuple(dict.fromkeys(stops))
    if len(different) > MAX_STOPS:
        raise BadModel(f"{folder} names {len(different)} end-of-text tokens; this machine knows "
                       f"{MAX_STOPS}")
    return different


def content(token: Any) -> str | None:
    """A token of tokenizer_config.json, which is text or an object."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


def chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, or text in tokenizer_config.json, or there a list of
    named ones."""
    if (folder / "chat_template.jinja").exists():
        return read_text(folder / "chat_template.jinja")
    value = settings.get("chat_template")
    if isinstance(value, list):
        named = {str(item.get("name")): item.get("template")
                 for item in value if isinstance(item, dict)}
        value = named.get("default",
                          next(iter(named.values()), 0) if len(named) == 1 else 0 if value
                          else None)
    if value is not None and not isinstance(value, str):
        raise BadModel(f"{folder / 'tokenizer_config.json'}: chat_template is neither text nor a "
                       f"list with one named default")
    return value
