"""Tokenizers rebuilt from sentencepiece models make the tokens that sentencepiece makes."""

from __future__ import annotations

import io
import json
import os
import random
import shutil

import pytest
import sentencepiece
from bitnet_host import TextModel
from bitnet_host.errors import BadFile, BadModel
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.gguf_model import open_gguf
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from conftest import ROOT
from gguf_files import write_gguf
from models import Shape, write_checkpoint
from sentencepiece import sentencepiece_model_pb2

SIZE, VOCAB = 600, 608
SHAPE = (f"hidden=32,intermediate=64,layers=1,heads=1,kv_heads=1,head_dim=32,vocab={VOCAB},"
         "context=128")
LINES = (ROOT / "docs/numerics.md").read_text(encoding="utf-8").splitlines(keepends=True)


def _train(**settings):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=out, minloglevel=2, **{
            "vocab_size": SIZE, "model_type": "bpe", "byte_fallback": True,
            "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
            "max_sentence_length": 10000, "user_defined_symbols": ["<tool>"],
            "control_symbols": ["<turn>"]} | settings)
    return out.getvalue()


@pytest.fixture(scope="module")
def trained():
    return _train()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("sp") / "model", Shape(32, 64, 1, 1, 1, VOCAB,
                                                                           context=128))


def _texts():
    rng = random.Random(5)
    letters = "abcdeinorst  \n\t.,:;1230'-()éß東🐕\u00a0"
    yield from LINES
    for _ in range(1500):
        yield "".join(rng.choices(letters, k=rng.randrange(1, 40)))
    yield from ("", " ", "  two", "a <tool>", "<0x41>", "</s>x")


def _put(folder, tmp_path, model, **files):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "tokenizer.model").write_bytes(model)
    for name, content in files.items():
        (copy / f"{name}.json").write_text(json.dumps(content))
    return copy


def _alike(text, original, *, control):
    """The same tokens, and the same texts of them; of a text with a control token sentencepiece
    knows nothing."""
    bos, count = original.bos_id(), 0
    for sentence in _texts():
        if any(word in sentence for word in control):
            continue
        ids = original.encode(sentence)
        assert text.encode_part(sentence) == ids, sentence
        assert text.encode_raw(sentence) == [bos, *ids]
        if original.unk_id() not in ids:  # which sentencepiece shows as " ⁇ "
            assert text.decode(ids) == original.decode(ids)
        count += len(ids)
    assert count > 10_000


@pytest.mark.parametrize("settings", [{}, {"add_dummy_prefix": False}, {"byte_fallback": False},
                                      {"split_digits": True, "vocab_size": 500}])
def test_tokens_of_a_folder(folder, tmp_path, settings):
    model = _train(**settings)
    text = TextModel(convert(open_checkpoint(_put(folder, tmp_path, model))))
    _alike(text, sentencepiece.SentencePieceProcessor(model_proto=model), control=["</s>"])


@pytest.mark.parametrize("fields", [{}, {"tokenizer.ggml.add_space_prefix": False}])
def test_tokens_of_a_gguf_file(tmp_path, fields):
    model = _train(add_dummy_prefix=not fields)
    pieces = sentencepiece_model_pb2.ModelProto.FromString(model).pieces
    path = write_gguf(tmp_path / "m.gguf", synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1), "F32",
                      tokens=[piece.piece for piece in pieces], fields=fields | {
                          "tokenizer.ggml.model": "llama", "tokenizer.ggml.merges": None,
                          "tokenizer.ggml.scores": [piece.score for piece in pieces],
                          "tokenizer.ggml.token_type": [piece.type for piece in pieces],
                          "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2})
    checkpoint = open_gguf(path)
    assert checkpoint.config.stop_tokens == (2,)
    _alike(TextModel(convert(checkpoint)),
           sentencepiece.SentencePieceProcessor(model_proto=model), control=["</s>"])


def test_control_tokens_and_tokens_beyond_the_pieces(folder, tmp_path, trained):
    """1bitLLM's have theirs in added_tokens.json, in an order that is not that of their numbers."""
    copy = _put(folder, tmp_path, trained, added_tokens={"</line>": SIZE + 1, "<pad>": SIZE},
                tokenizer_config={"bos_token": "<s>", "eos_token": {"content": "</s>"},
                                  "pad_token": "<pad>",
                                  "added_tokens_decoder": {"601": {"content": "</line>",
                                                                   "special": False}}})
    checkpoint = open_checkpoint(copy)
    text, original = TextModel(convert(checkpoint)), sentencepiece.SentencePieceProcessor(
        model_proto=trained)
    turn = original.piece_to_id("<turn>")
    assert text.encode_raw("a<turn>b</line><pad>") == [
        1, *original.encode("a"), turn, *original.encode("b"), SIZE + 1, SIZE]
    assert text.decode([SIZE, SIZE + 1]) == "</line>"  # <pad> is a control token
    assert 2 in checkpoint.config.stop_tokens


def test_a_space_at_the_beginning_only(folder, tmp_path, trained):
    """As newer configurations of transformers' Llama tokenizer have it. No BOS where none is
    wanted."""
    copy = _put(folder, tmp_path, trained, tokenizer_config={"legacy": False,
                                                             "add_bos_token": False})
    text = TextModel(convert(open_checkpoint(copy)))
    original = sentencepiece.SentencePieceProcessor(model_proto=trained)
    turn, behind = original.piece_to_id("<turn>"), original.piece_to_id("b")
    assert text.encode_raw("a bit<turn>b") == [*original.encode("a bit"), turn, behind]
    assert text.decode(original.encode("a bit")) == "a bit"


def test_tokenizer_json_comes_first(folder, tmp_path):
    copy = _put(folder, tmp_path, b"no model", tokenizer={"model": {}})
    assert open_checkpoint(copy).tokenizer == {"model": {}}


@pytest.mark.parametrize("settings, words", [
    ({"model_type": "unigram"}, "it is no BPE"),
    ({"normalization_rule_name": "nmt_nfkc"}, "it normalises texts"),
    ({"remove_extra_whitespaces": True}, "it takes spaces out of texts"),
    ({"treat_whitespace_as_suffix": True}, "it puts spaces behind words"),
])
def test_other_models_are_refused(folder, tmp_path, settings, words):
    copy = _put(folder, tmp_path, _train(**settings))
    with pytest.raises(BadModel, match=f"does not rebuild this sentencepiece model: {words}; put"):
        open_checkpoint(copy)


def _changed(model, change):
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    change(proto.pieces)
    return proto.SerializeToString()


def _same(pieces):
    pieces[300].piece = pieces[301].piece


def _unused(pieces):
    pieces[400].type = 5


def _two_unknown(pieces):
    pieces[400].type = 2


def _nan(pieces):
    pieces[400].score = float("nan")


@pytest.mark.parametrize("change, words", [
    (_same, "two pieces are the same"), (_unused, "out of use"), (_nan, "a score is no number"),
    (_two_unknown, "not exactly one piece stands for what is unknown")])
def test_pieces_that_contradict_each_other(folder, tmp_path, trained, change, words):
    copy = _put(folder, tmp_path, _changed(trained, change))
    with pytest.raises(BadModel, match=words):
        open_checkpoint(copy)


@pytest.mark.parametrize("files, words", [
    ({"added_tokens": {"<pad>": SIZE + 1}}, "leave out numbers"),
    ({"added_tokens": {"<pad>": 7}}, "token 7 is both"),
    ({"added_tokens": {"<pad>": "7"}}, "an added token is '<pad>' with the number '7'"),
    ({"added_tokens": {"<pad>": VOCAB}}, f"with a number below {VOCAB}"),
    ({"tokenizer_config": {"added_tokens_decoder": {"x": {"content": "a"}}}}, "the number 'x'"),
    ({"tokenizer_config": {"added_tokens_decoder": {"601": 3}}}, "an added token is None"),
])
def test_tokens_beyond_that_cannot_be(folder, tmp_path, trained, files, words):
    copy = _put(folder, tmp_path, trained, **files)
    with pytest.raises(BadModel, match=words):
        open_checkpoint(copy)


def test_files_that_are_no_model(folder, tmp_path, trained):
    copy = _put(folder, tmp_path, b"IQ== 0\nIg== 1\n")  # the kind that Llama 3's is
    place = copy / "tokenizer.model"
    for raw, words in ((b"IQ== 0\nIg== 1\n", "is no sentencepiece model"), (b"", "is no sentence"),
                       (trained[:-9], "sentencepiece")):
        place.write_bytes(raw)
        with pytest.raises(BadModel, match=words):
            open_checkpoint(copy)
    place.write_bytes(_train(vocab_size=VOCAB + 1))
    with pytest.raises(BadModel, match=f"has {VOCAB + 1} tokens, the model knows {VOCAB}"):
        open_checkpoint(copy)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(BadFile, match="not a regular file"):
        open_checkpoint(copy)


def test_damage_is_read_or_refused(folder, tmp_path, trained):
    rng, copy = random.Random(6), _put(folder, tmp_path, trained)
    for _ in range(100):
        raw = bytearray(trained)
        for _ in range(rng.randrange(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        (copy / "tokenizer.model").write_bytes(raw)
        try:
            TextModel(convert(open_checkpoint(copy))).encode_raw("a bit")
        except (BadModel, BadFile) as error:
            assert len(str(error)) < 600
