"""Texts and conversations to learn from, out of files."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_host.errors import BadFile, shown
from bitnet_host.files import read_text
from bitnet_host.model.template import Message

__all__ = ["Document", "Text", "Texts", "read_texts"]

_LIMIT = 4 << 30  # bytes of a file
#: A line of a text file that ends a document, as collections of stories have it.
_END = "<|endoftext|>"
#: Characters of a piece of a long document: what is kept back to validate has to come from all of
#: it.
_PIECE = 8000
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Text:
    """A text, or a piece of one: whether a document ``begins`` and ``ends`` with it."""

    text: str
    begins: bool = True
    ends: bool = True


#: A text, or the messages of a conversation.
Document = Text | list[Message]


@dataclass(frozen=True)
class Texts:
    """``learnt`` and ``kept`` back to validate; ``digest`` of all of it; ``files``' names."""

    learnt: list[Document]
    kept: list[Document]
    digest: str
    files: list[str]


def read_texts(paths: list[Path], seed: int, share: float = 0.05) -> Texts:
    """Text files (documents end at lines of ``<|endoftext|>``), and JSON lines (.jsonl) of objects
    with a "text" or with "messages". What comes twice counts once, so that nothing that is learnt
    is validated on; one piece in twenty, by ``share``, is kept back. Raises BadFile."""
    found: list[Document] = []
    digest = hashlib.sha256()
    for path in paths:
        text = read_text(path, _LIMIT).replace("\r\n", "\n")
        digest.update(text.encode() + b"\0")
        kind = path.suffix.lower()
        if kind == ".json":
            raise BadFile(f"{path}: give JSON lines, an object a line, in a file that ends in "
                          f".jsonl")
        found += _of_lines(path, text) if kind in (".jsonl", ".ndjson") else _of_text(text)
    found = list({repr(document): document for document in found}.values())
    if not found:
        raise BadFile(f"{', '.join(map(str, paths))}: there is no text: give some to learn from")
    random.Random(seed).shuffle(found)
    kept = max(1, round(share * len(found)))
    if kept >= len(found):
        raise BadFile(f"{', '.join(map(str, paths))}: {len(found)} piece of text is too little, as "
                      f"one is kept back to validate: give more")
    return Texts(found[kept:], found[:kept], digest.hexdigest(), [path.name for path in paths])


def _of_text(text: str) -> list[Text]:
    documents, lines = [], list[str]()
    for line in text.splitlines(keepends=True):
        if line.strip() == _END:
            documents.append("".join(lines))
            lines = []
        else:
            lines.append(line)
    documents.append("".join(lines))
    return [piece for document in documents if document.strip()
            for piece in _pieces(document.strip())]


def _pieces(document: str) -> list[Text]:
    """At ends of paragraphs or, where there is none, of lines."""
    out = list[str]()
    while len(document) > _PIECE:
        end = max(document.rfind("\n\n", _PIECE // 2, _PIECE), 0)
        end = end or max(document.rfind("\n", _PIECE // 2, _PIECE), 0) or _PIECE
        out.append(document[:end])
        document = document[end:].strip("\n")
    out.append(document)
    return [Text(piece, place == 0, place == len(out) - 1) for place, piece in enumerate(out)]


def _of_lines(path: Path, text: str) -> list[Document]:
    return [_of_object(path, number, line) for number, line in enumerate(text.split("\n"), 1)
            if line.strip()]


def _of_object(path: Path, number: int, line: str) -> Document:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise BadFile(f"{path}, line {number}: this is no JSON: each line has to hold one "
                      f"object") from None
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadFile(f"{path}, line {number}: it holds half a character, which is no "
                      f"text") from None
    if isinstance(value, dict) and isinstance(value.get("text"), str) and value["text"].strip():
        return Text(value["text"])
    messages = value.get("messages") if isinstance(value, dict) else None
    if isinstance(messages, list) and messages and all(map(_is_message, messages)):
        return [{"role": message["role"], "content": message["content"]} for message in messages]
    raise BadFile(f"{path}, line {number}: {shown(value)} has neither a \"text\" nor \"messages\" "
                  f"with a role ({', '.join(_ROLES)}) and a content each")


def _is_message(value: Any) -> bool:
    return (isinstance(value, dict) and value.get("role") in _ROLES
            and isinstance(value.get("content"), str))
