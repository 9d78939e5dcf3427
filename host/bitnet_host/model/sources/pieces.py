"""A tokenizer.json from the pieces of a sentencepiece model: those of a ``tokenizer.model`` or of a
GGUF file (``tokenizer.ggml.model`` llama).

sentencepiece joins the two neighbours that make the piece of the highest score; the ``tokenizers``
library joins by a list of pairs. The list is made as transformers' SentencePieceExtractor makes it:
for each piece all ways to part it in two, by falling scores. Bytes stand for characters that are no
piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from bitnet_host.errors import BadModel
from bitnet_host.files import read_regular

__all__ = ["BYTE", "CONTROL", "USER_DEFINED", "Pieces", "read_pieces", "tokenizer_of_pieces"]

#: Kinds of pieces, as both sentencepiece and GGUF number them.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_LIMIT = 64 << 20
_SPACE = "\u2581"


@dataclass(frozen=True)
class Pieces:
    """``tokens`` in the order of their ids, ``scores`` and ``kinds`` of each. ``prefix``: where
    texts get a space in front: "always", also after a control token, "first", only at the very
    beginning, or "never"."""

    tokens: list[str]
    scores: list[float]
    kinds: list[int]
    prefix: str


def read_pieces(path: Path) -> Pieces:
    """Of a tokenizer.model. Raises BadModel if it is none, or of a kind that this tool does not
    rebuild."""
    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(read_regular(path, _LIMIT))
    except DecodeError:
        model.Clear()
    if not model.pieces:
        raise BadModel(f"{path} is no sentencepiece model: it is damaged, or of another kind, as "
                       f"Llama 3's is; put the model's tokenizer.json there")
    normal, bpe = model.normalizer_spec, model.trainer_spec.BPE
    why = ("it is no BPE" if model.trainer_spec.model_type != bpe
           else "it normalises texts" if normal.precompiled_charsmap
           else "it takes spaces out of texts" if normal.remove_extra_whitespaces
           else "it leaves spaces as they are" if not normal.escape_whitespaces
           else "it puts spaces behind words" if model.trainer_spec.treat_whitespace_as_suffix
           else "")
    if why:
        raise BadModel(f"{path}: this tool does not rebuild this sentencepiece model: {why}; put "
                       f"the model's tokenizer.json there")
    return Pieces([piece.piece for piece in model.pieces],
                  [piece.score for piece in model.pieces],
                  [piece.type for piece in model.pieces],
                  "always" if normal.add_dummy_prefix else "never")


def tokenizer_of_pieces(pieces: Pieces, place: str,
                        more: dict[int, tuple[str, bool]] | None = None) -> dict[str, Any]:
    """As the ``tokenizers`` library stores it, but for its post_processor. ``more``: tokens beyond
    the pieces by their ids, and whether they are control tokens. ``place``: the file, for errors.
    Raises BadModel for pieces that contradict each other."""
    vocab = {token: index for index, token in enumerate(pieces.tokens)}
    unknown = [index for index, kind in enumerate(pieces.kinds) if kind == UNKNOWN]
    problem = ("two pieces are the same" if len(vocab) != len(pieces.tokens)
               else "not exactly one piece stands for what is unknown" if len(unknown) != 1
               else "a kind of piece is not known" if not set(pieces.kinds) <= set(range(1, 7))
               else "a score is no number" if any(score != score for score in pieces.scores)
               else "")
    if problem:
        raise BadModel(f"{place} is damaged: {problem}")
    parts = {index: ways for index, ways in _parts(pieces, vocab).items() if ways}
    if any(pieces.kinds[index] == UNUSED for index in parts):
        raise BadModel(f"{place}: pieces of its tokenizer are out of use, which this tool does not "
                       f"rebuild; put the model's tokenizer.json there")
    order = sorted(parts, key=lambda index: -pieces.scores[index])
    bytewise = sum(kind == BYTE for kind in pieces.kinds)
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": _added(pieces, place, more or {}), **_spaces(pieces.prefix),
        "post_processor": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": pieces.tokens[unknown[0]],
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": bytewise == 256, "ignore_merges": False, "vocab": vocab,
                  "merges": [list(way) for index in order for way in parts[index]]},
    }


def _parts(pieces: Pieces, vocab: dict[str, int]) -> dict[int, list[tuple[str, str]]]:
    """How each piece that is text can be joined of two."""
    joined = {index for index, kind in enumerate(pieces.kinds) if kind in (NORMAL, UNUSED)}
    text = {pieces.tokens[index] for index in joined}
    return {index: sorted(((token[:at], token[at:]) for at in range(1, len(token))
                           if token[:at] in text and token[at:] in text),
                          key=lambda way: (vocab[way[0]], vocab[way[1]]))
            for index in joined for token in (pieces.tokens[index],)}


def _added(pieces: Pieces, place: str,
           more: dict[int, tuple[str, bool]]) -> list[dict[str, Any]]:
    """Tokens that are looked for in a text before all else."""
    found = {index: (token, kind != USER_DEFINED)
             for index, (token, kind) in enumerate(zip(pieces.tokens, pieces.kinds, strict=True))
             if kind in (UNKNOWN, CONTROL, USER_DEFINED)}
    count = len(pieces.tokens)
    for index, (token, special) in more.items():
        if index < count and pieces.tokens[index] != token:
            raise BadModel(f"{place}: token {index} is both {pieces.tokens[index]!r} and "
                           f"{token!r}: files of two tokenizers are mixed")
        found[index] = token, special
    beyond = sorted(index for index in found if index >= count)
    if beyond != list(range(count, count + len(beyond))):
        raise BadModel(f"{place}: tokens beyond its {count} pieces leave out numbers: files of two "
                       f"tokenizers are mixed")
    return [{"id": index, "content": found[index][0], "special": found[index][1],
             "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            for index in sorted(found)]


def _spaces(prefix: str) -> dict[str, Any]:
    """How spaces become part of pieces, and come back."""
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = [{"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefix != "never":
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    before: list[dict[str, Any]] = ([{"type": "Prepend", "prepend": _SPACE}]
                                    if prefix == "always" else [])
    return {"normalizer": (None if prefix == "first"
                           else {"type": "Sequence", "normalizers": [*before, escape]}),
            "pre_tokenizer": ({"type": "Metaspace", "replacement": _SPACE, "split": False,
                               "prepend_scheme": "first"} if prefix == "first" else None),
            "decoder": {"type": "Sequence", "decoders": back}}
