"""A tokenizer.json from the fields of a GGUF file, for byte-level BPE (``tokenizer.ggml.model``
gpt2) and sentencepiece (llama).

The patterns that texts are cut by before pairs are merged are those of llama.cpp's
src/llama-vocab.cpp, where a field names them; files of BitNet b1.58 2B4T name none and mean Llama
3's.
"""

from __future__ import annotations

from typing import Any

from bitnet_host.errors import BadModel
from bitnet_host.model.sources.gguf import GgufFile
from bitnet_host.model.sources.pieces import Pieces, tokenizer_of_pieces

__all__ = ["special_tokens", "starting_with", "stop_tokens", "tokenizer_json"]

_CONTROL, _USER_DEFINED = 3, 4
_PREFIX = "tokenizer.ggml."
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = _WORDS + r"\p{N}{1,3}" + _REST, _WORDS + r"\p{N}" + _REST
#: By tokenizer.ggml.pre: the pattern, whether a word that is a token is taken whole, and whether
#: BOS comes first where the file does not say.
_PATTERNS = {**dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon_e"),
                             (_LLAMA3, True, True)),
             "qwen2": (_QWEN2, False, False)}
#: Words that end an answer, as chat templates use them; those that are control tokens count.
_ENDS = ("<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>")


def _tokens(file: GgufFile, vocab: int) -> list[str]:
    tokens: list[str] = file.get(_PREFIX + "tokens", list)
    if not tokens or not all(isinstance(token, str) for token in tokens):
        raise BadModel(f"{file.path} has no list of tokens: it is damaged, or its tokenizer is in "
                       f"another file")
    if len(tokens) > vocab:
        raise BadModel(f"{file.path} names {len(tokens)} tokens, its model knows {vocab}: they "
                       f"do not belong together")
    return tokens


def _kinds(file: GgufFile, count: int) -> list[int]:
    kinds: list[int] | None = file.get(_PREFIX + "token_type", list)
    if kinds is None:
        raise BadModel(f"{file.path} does not say which of its tokens are control tokens: convert "
                       f"the safetensors checkpoint with its tokenizer.json")
    if len(kinds) != count or not all(isinstance(kind, int) for kind in kinds):
        raise BadModel(f"{file.path} names {count} tokens and the types of {len(kinds)}: it is "
                       f"damaged")
    return kinds


def _merges(file: GgufFile) -> list[list[str]]:
    merges = file.get(_PREFIX + "merges", list)
    pairs = [merge.split(" ") if isinstance(merge, str) else [] for merge in merges or []]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise BadModel(f"{file.path} has no list of merges of its tokens: it is damaged")
    return pairs


def tokenizer_json(file: GgufFile, vocab: int) -> dict[str, Any]:
    """The tokenizer as the ``tokenizers`` library stores it. Raises BadModel for one of another
    kind."""
    model = file.get(_PREFIX + "model", str)
    if model == "llama":
        return _of_pieces(file, vocab)
    if model != "gpt2":
        raise BadModel(f"{file.path}: its tokenizer is of the kind {model!r}; this tool rebuilds "
                       f"gpt2 (byte-level BPE) and llama (sentencepiece): convert the safetensors "
                       f"checkpoint with its tokenizer.json")
    pre = file.get(_PREFIX + "pre", str) or "llama3"
    if pre not in _PATTERNS:
        raise BadModel(f"{file.path}: how its tokenizer cuts words, {pre!r}, is not known to this "
                       f"tool, which would make other tokens: convert the safetensors checkpoint "
                       f"with its tokenizer.json")
    pattern, whole, starts = _PATTERNS[pre]
    tokens = _tokens(file, vocab)
    added = [{"id": index, "content": token, "special": kind == _CONTROL, "single_word": False,
              "lstrip": False, "rstrip": False, "normalized": False}
             for index, (token, kind) in enumerate(zip(tokens, _kinds(file, len(tokens)),
                                                       strict=True))
             if kind in (_CONTROL, _USER_DEFINED)]
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence",
                          "pretokenizers": [cut, _byte_level(add_prefix_space=False)]},
        "post_processor": _first(file, tokens, starts),
        "decoder": _byte_level(add_prefix_space=True),
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": whole,
                  "vocab": {token: index for index, token in enumerate(tokens)},
                  "merges": _merges(file)},
    }


def _of_pieces(file: GgufFile, vocab: int) -> dict[str, Any]:
    """As llama.cpp reads them: a space before each stretch of text, and BOS first, unless the file
    says otherwise."""
    tokens = _tokens(file, vocab)
    scores = file.get(_PREFIX + "scores", list)
    if scores is None or len(scores) != len(tokens) or not all(isinstance(score, (int, float))
                                                               for score in scores):
        raise BadModel(f"{file.path} has no scores of its {len(tokens)} tokens: it is damaged")
    if (file.get(_PREFIX + "remove_extra_whitespaces", bool)
            or file.get(_PREFIX + "precompiled_charsmap", list)):
        raise BadModel(f"{file.path}: its tokenizer changes texts, which this tool does not "
                       f"rebuild: convert the safetensors checkpoint with its tokenizer.json")
    prefix = "never" if file.get(_PREFIX + "add_space_prefix", bool) is False else "always"
    pieces = Pieces(tokens, scores, _kinds(file, len(tokens)), prefix)
    made = tokenizer_of_pieces(pieces, str(file.path))
    return made | {"post_processor": _first(file, tokens, True)}


def _byte_level(add_prefix_space: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True,
            "use_regex": False}


def _first(file: GgufFile, tokens: list[str], starts: bool) -> dict[str, Any] | None:
    """What puts BOS before a text, if the file wants it, or says nothing and ``starts``."""
    bos, wanted = _id(file, "bos_token_id", len(tokens)), file.get(_PREFIX + "add_bos_token", bool)
    if bos is None or not (starts if wanted is None else wanted):
        return None
    return starting_with(tokens[bos], bos)


def starting_with(word: str, bos: int) -> dict[str, Any]:
    """A post_processor of tokenizer.json that puts a token before texts."""
    start, text = {"SpecialToken": {"id": word, "type_id": 0}}, {"Sequence": {"id": "A",
                                                                              "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {"type": "TemplateProcessing", "single": [start, text], "pair": [start, text, second],
            "special_tokens": {word: {"id": word, "ids": [bos], "tokens": [word]}}}


def _id(file: GgufFile, name: str, count: int) -> int | None:
    value = file.get(_PREFIX + name, int)
    if value is not None and not 0 <= value < count:
        raise BadModel(f"{file.path}: {_PREFIX}{name} is {value}; it must be a token below "
                       f"{count}")
    return None if value is None else int(value)


def special_tokens(file: GgufFile, vocab: int) -> dict[str, Any]:
    """As a checkpoint folder's: the words of BOS and EOS, and the number of BOS."""
    tokens = _tokens(file, vocab)
    bos, eos = (_id(file, name, len(tokens)) for name in ("bos_token_id", "eos_token_id"))
    return {"bos_token": None if bos is None else tokens[bos],
            "eos_token": None if eos is None else tokens[eos], "bos_token_id": bos}


def stop_tokens(file: GgufFile, vocab: int) -> tuple[int, ...]:
    """What ends an answer: the tokens that the file names, and control tokens that chat templates
    end a turn with."""
    tokens = _tokens(file, vocab)
    kinds = _kinds(file, len(tokens))
    stops = [_id(file, name, len(tokens)) for name in ("eos_token_id", "eot_token_id",
                                                       "eom_token_id")]
    stops += [tokens.index(word) for word in _ENDS
              if word in tokens and kinds[tokens.index(word)] == _CONTROL]
    return tuple(dict.fromkeys(token for token in stops if token is not None))
