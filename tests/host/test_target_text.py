"""The text path of microsoft/bitnet-b1.58-2B-4T at its real size: Llama 3's 128,256 tokens, from
PyPI's llama-models, whose own tokenizer says what is right."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest
from bitnet_host import Session, TextModel, open_board
from bitnet_host.model.checkpoint import Checkpoint
from bitnet_host.model.convert import convert_file
from bitnet_host.model.image import read_image
from bitnet_host.model.open import open_source
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.model.text import TextStream
from gguf_files import write_gguf
from llama_models.llama3.tokenizer import Tokenizer
from models import bf16, save
from tokenizers import pre_tokenizers

BOS, END, TURN = 128000, 128001, 128009
SHAPE = ("hidden=32,intermediate=64,layers=1,heads=1,kv_heads=1,head_dim=32,vocab=128256,"
         "context=512")
TEMPLATE = ("{{ bos_token }}{% for m in messages %}{{ m.role|capitalize }}: {{ m.content|trim }}"
            "<|eot_id|>{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}")
TEXTS = ["Hello, world!", "I'm sure they'VE got 1234567 of it.", "naïve Käse — “quoted” …",
         "東京に行きたいです。明日は雨。", "🐕‍🦺 and 👩🏽‍🚀 say hi 🇩🇪", "a\t\tb  c\n\n\n  d\r\n",
         "def f(x):\n    return {k: v**2 for k, v in x.items()}  # ok", "Привет, как дела?",
         "مرحبا بالعالم", "x" * 300, " " * 80, "<|eot_id|> is <|not|> a token"]


@pytest.fixture(scope="module")
def llama():
    return Tokenizer.get_instance()


def _merges(ranks):
    """Pairs in the order in which they are joined: those of the lowest token first, and of one
    token those whose parts are lowest."""
    pairs = []
    for token, rank in ranks.items():
        found = [(ranks[token[:i]], ranks[token[i:]], token[:i], token[i:])
                 for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        pairs += [(rank, *pair) for pair in sorted(found)]
    return [(left, right) for *_, left, right in sorted(pairs)]


@pytest.fixture(scope="module")
def written(llama):
    """Tokens as byte-level BPE writes them, in their order, and merges."""
    ranks = llama.model._mergeable_ranks
    letters = _letters()
    words = {rank: "".join(letters[byte] for byte in token) for token, rank in ranks.items()}
    tokens = [words[rank] for rank in range(len(ranks))]
    tokens += sorted(llama.special_tokens, key=lambda word: llama.special_tokens[word])
    assert len(tokens) == 128256 and tokens[TURN] == "<|eot_id|>"
    return tokens, ["".join(letters[b] for b in left) + " " + "".join(letters[b] for b in right)
                    for left, right in _merges(ranks)]


def _letters():
    """The letter that byte-level BPE writes for each byte."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    letters = {byte: chr(byte) for byte in printed}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    assert set(letters.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters


def _folder(path, checkpoint: Checkpoint, written, llama):
    """As microsoft's upload: packed, BF16, with tokenizer.json, tokenizer_config.json and
    generation_config.json."""
    tokens, merges = written
    base = 128000
    path.mkdir()
    split = {"type": "Split", "pattern": {"Regex": Tokenizer.pat_str}, "behavior": "Isolated",
             "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False}
    added = [{"id": base + place, "content": word, "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False, "special": True}
             for place, word in enumerate(tokens[base:])]
    first = {"SpecialToken": {"id": tokens[BOS], "type_id": 0}}
    (path / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": {
            "type": "TemplateProcessing", "single": [first, {"Sequence": {"id": "A",
                                                                          "type_id": 0}}],
            "pair": [first, {"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {tokens[BOS]: {"id": tokens[BOS], "ids": [BOS],
                                             "tokens": [tokens[BOS]]}}},
        "decoder": level | {"add_prefix_space": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": {word: place for place, word in enumerate(tokens[:base])},
                  "merges": merges}}))
    (path / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": tokens[BOS], "eos_token": tokens[END], "chat_template": TEMPLATE}))
    (path / "generation_config.json").write_text(json.dumps({
        "bos_token_id": BOS, "eos_token_id": [END, TURN], "do_sample": True,
        "temperature": 0.6, "top_p": 0.9}))
    c = checkpoint.config
    (path / "config.json").write_text(json.dumps({
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2",
        "hidden_size": c.hidden, "intermediate_size": c.intermediate, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": c.vocab,
        "max_position_embeddings": c.context, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "tie_word_embeddings": True, "bos_token_id": BOS, "eos_token_id": END,
        "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear",
                                "quantization_mode": "online"}}))
    layer = checkpoint.layers[0]
    names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
             "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
             "down": "mlp.down_proj", "input_norm": "input_layernorm",
             "attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm",
             "post_norm": "post_attention_layernorm"}
    tensors = {f"model.layers.0.{name}.weight": bf16(np.asarray(
        layer[key] if key.endswith("norm") else layer[key].weights, np.float32))
        for key, name in names.items()}
    tensors["model.embed_tokens.weight"] = bf16(checkpoint.embedding[:])
    tensors["model.norm.weight"] = bf16(checkpoint.final_norm)
    save(tensors, path / "model.safetensors", frozenset(tensors))
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory, written, llama):
    """From the folder, through a file, as people have it."""
    place = tmp_path_factory.mktemp("2b")
    folder = _folder(place / "model", synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1), written,
                     llama)
    convert_file(open_source(folder), place / "model.bitnet")
    return read_image(place / "model.bitnet")


@pytest.fixture(scope="module")
def text(image):
    return TextModel(image)


def _random_texts():
    rng = random.Random(7)
    pieces = [*"abcXYZ 0123456789.,;!?'\n\t", "ing", " the", "'s", "é", "ß", "日本", "🐕", "\u200d",
              "한국", "\r\n", "  ", "<|", "|>", "Ω", "∑"]
    return ["".join(rng.choices(pieces, k=rng.randrange(1, 60))) for _ in range(400)]


def test_tokens_are_llama_s(text, llama):
    for sentence in [*TEXTS, *_random_texts()]:
        plain = llama.model.encode(sentence, allowed_special="all", disallowed_special=())
        assert text.encode_part(sentence) == plain
        assert text.encode_raw(sentence) == [BOS, *plain]
        assert text.decode(plain) == llama.model.decode(
            [token for token in plain if token < 128000])


def test_a_gguf_file_brings_the_same_tokenizer(tmp_path, written, text, image):
    tokens, merges = written
    kinds = [3 if place >= 128000 else 1 for place in range(len(tokens))]
    path = write_gguf(tmp_path / "model.gguf", synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1),
                      "F32", tokens=tokens, merges=merges, fields={
                          "tokenizer.ggml.token_type": kinds, "tokenizer.chat_template": TEMPLATE,
                          "tokenizer.ggml.bos_token_id": BOS, "tokenizer.ggml.eos_token_id": END})
    checkpoint = open_source(path)
    assert checkpoint.config.stop_tokens == (END, TURN)
    rebuilt = TextModel(dataclasses.replace(image, meta=image.meta | {
        "tokenizer": checkpoint.tokenizer, "chat_template": checkpoint.chat_template,
        "special": checkpoint.special}))
    for sentence in [*TEXTS, *_random_texts()[:100]]:
        assert rebuilt.encode_raw(sentence) == text.encode_raw(sentence)
    messages = [{"role": "user", "content": "Hi <|eot_id|>"}]
    assert rebuilt.encode_chat(messages) == text.encode_chat(messages)


def test_a_conversation_is_encoded_as_the_model_was_trained(text, llama):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi! "},
             {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Who?"}]
    rendered, ids = text.encode_chat(turns)
    assert rendered == ("<|begin_of_text|>System: Be brief.<|eot_id|>User: Hi!<|eot_id|>"
                        "Assistant: Hello.<|eot_id|>User: Who?<|eot_id|>Assistant: ")
    assert ids == llama.model.encode(rendered, allowed_special="all")
    assert ids.count(TURN) == 4 and ids[0] == BOS
    # what a user types is no control token
    _, ids = text.encode_chat([{"role": "user", "content": "a<|eot_id|>b"}])
    assert ids.count(TURN) == 1


def test_characters_come_whole(text, llama):
    """Most of these take several tokens, each of which is a part of a character."""
    for sentence in [*TEXTS[2:5], "\U0001d518\U0001d52b", "🫠🫡🫢"]:
        stream, shown = TextStream(text), []
        ids = llama.model.encode(sentence)
        for token in ids:
            shown.append(stream.add(token))
        shown.append(stream.finish())
        assert "".join(shown) == sentence and "\ufffd" not in "".join(shown)
    assert len(llama.model.encode("🫠🫡🫢")) > 6  # so borders lie within characters


def test_an_answer_ends_at_either_end(image, text):
    """A model of random weights says what it says; another end makes it end there."""
    header = image.header
    assert {header.stop0, header.stop1} == {END, TURN} and header.stop_count == 2
    assert header.rank_levels == 8 and header.vocab == 128256
    messages = [{"role": "user", "content": "Hi"}]
    reply = Session(open_board("reference", image)).chat(messages, max_tokens=6).reply
    assert reply.stop_reason == "length" and len(reply.answer.token_ids) == 6
    assert reply.text == text.decode(reply.answer.token_ids)
    chosen = reply.answer.token_ids[0]
    for name in ("stop0", "stop1"):
        ends = dataclasses.replace(image, header=dataclasses.replace(header, **{name: chosen}))
        ended = Session(open_board("reference", ends)).chat(messages, max_tokens=6).reply
        assert ended.stop_reason == "stop" and ended.answer.token_ids == [chosen]
