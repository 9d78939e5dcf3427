"""Tokenizers rebuilt from GGUF files make the tokens that the originals make."""

from __future__ import annotations

import json
import random

import pytest
from bitnet_host import Sampling, Session, TextModel, open_board
from bitnet_host.errors import BadModel
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.gguf_model import open_gguf
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from gguf_files import write_gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# as published with the models' tokenizers
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"
          r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CONTROL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
TEXT = ["The dog's tail wasn't 12345 cm long, it's 7!", "Käse, naïve; 東京に行く 🐕",
        "a  b\n\n\tc\r\n", "def f(x):\n    return x ** 2  # 1000000",
        "WE'LL see... they'RE  here", " leading", "x" * 50]
SHAPE = "hidden=32,intermediate=64,layers=1,heads=1,kv_heads=1,head_dim=32,vocab=640,context=128"
TEMPLATE = ("{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot_id|>{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}")


def _original(pattern, whole):
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    texts = TEXT * 3 + [str(n) for n in range(0, 3000, 7)]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    if whole:  # a token that no merge reaches, as Llama 3's vocabulary has some
        raw = json.loads(tokenizer.to_str())
        raw["model"]["merges"].pop()
        tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def _file(path, original, pre, **fields):
    model = json.loads(original.to_str())["model"]
    size = original.get_vocab_size(with_added_tokens=True)
    tokens = [original.id_to_token(token) for token in range(size)]
    kinds = [3 if token in CONTROL else 4 if token == "<tool>" else 1 for token in tokens]
    pieces = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    ids = {f"tokenizer.ggml.{name}_token_id": original.token_to_id(word)
           for name, word in zip(("bos", "eos"), CONTROL, strict=False)}
    checkpoint = synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1)
    return write_gguf(path, checkpoint, "F32", tokens=tokens, merges=pieces, fields={
        "tokenizer.ggml.pre": pre, "tokenizer.ggml.token_type": kinds,
        "tokenizer.chat_template": TEMPLATE, **ids, **fields})


def _texts():
    rng = random.Random(4)
    alphabet = "abz AZ09 '\u2019\n\r\t.,!?-_<|>éß東🐕\u200d\u00a0\u3000²"
    yield from TEXT
    for _ in range(300):
        yield "".join(rng.choices(alphabet, k=rng.randrange(1, 30)))
    yield "a<|eot_id|>b<tool>c <|begin_of_text|>"


@pytest.mark.parametrize("pre, starts", [(None, True), ("falcon_e", True), ("qwen2", False)])
def test_bos_where_the_file_does_not_say(tmp_path, pre, starts):
    original = _original(LLAMA3, True)
    path = _file(tmp_path / "model.gguf", original, pre, **{"tokenizer.ggml.add_bos_token": None})
    ids = TextModel(convert(open_gguf(path))).encode_raw("Hi")
    assert (ids[0] == original.token_to_id(CONTROL[0])) == starts


@pytest.mark.parametrize("pre, pattern, whole", [
    (None, LLAMA3, True), ("llama-bpe", LLAMA3, True), ("falcon3", LLAMA3, True),
    ("qwen2", QWEN2, False)])
def test_a_rebuilt_tokenizer_makes_the_original_s_tokens(tmp_path, pre, pattern, whole):
    original = _original(pattern, whole)
    text = TextModel(convert(open_gguf(_file(tmp_path / "model.gguf", original, pre))))
    bos = original.token_to_id(CONTROL[0])
    split, last = 0, original.decode([original.token_to_id(CONTROL[0]) - 1])
    for sentence in [*_texts(), last, f"{last} {last}"]:
        ids = original.encode(sentence, add_special_tokens=False).ids
        assert text.encode_part(sentence) == ids
        assert text.encode_raw(sentence) == [bos, *ids]
        assert text.decode(ids) == original.decode(ids)
        split += len(ids)
    assert split > 3000


def test_patterns_differ_where_it_matters(tmp_path):
    """The tests above would not tell otherwise."""
    ids = [_original(pattern, whole).encode("it is 1234567").ids
           for pattern, whole in ((LLAMA3, True), (QWEN2, False))]
    assert ids[0] != ids[1]


def test_a_conversation_from_a_file(tmp_path):
    original = _original(LLAMA3, True)
    path = _file(tmp_path / "model.gguf", original, None)
    image = convert(open_gguf(path))
    eos, eot = original.token_to_id(CONTROL[1]), original.token_to_id(CONTROL[2])
    assert image.header.stop_count == 2 and (image.header.stop0, image.header.stop1) == (eos, eot)
    text = TextModel(image)
    rendered, ids = text.encode_chat([{"role": "user", "content": "Hi <|eot_id|>"}])
    assert rendered.replace("\ue000", "") == "user: Hi <|eot_id|><|eot_id|>assistant: "
    assert ids[0] == original.token_to_id(CONTROL[0]) and ids.count(eot) == 1
    reply = Session(open_board("reference", image)).chat(
        [{"role": "user", "content": "Hi"}], max_tokens=3, sampling=Sampling()).reply
    assert reply.usage.prompt == len(text.encode_chat([{"role": "user", "content": "Hi"}])[1])


def test_words_of_text_are_no_ends(tmp_path):
    """Only control tokens are."""
    original = _original(LLAMA3, True)
    size = original.get_vocab_size(with_added_tokens=True)
    path = _file(tmp_path / "model.gguf", original, None, **{
        "tokenizer.ggml.token_type": [1] * size})
    assert open_gguf(path).config.stop_tokens == (original.token_to_id(CONTROL[1]),)


def test_no_bos_where_the_file_wants_none(tmp_path):
    original = _original(LLAMA3, True)
    path = _file(tmp_path / "model.gguf", original, None,
                 **{"tokenizer.ggml.add_bos_token": False})
    text = TextModel(convert(open_gguf(path)))
    assert text.encode_raw("Hi") == original.encode("Hi").ids
    assert text.encode_chat([{"role": "user", "content": "Hi"}])[1][0] \
        != original.token_to_id(CONTROL[0])


def test_more_ends_than_the_machine_knows_are_refused(tmp_path):
    original = _original(LLAMA3, True)
    path = _file(tmp_path / "model.gguf", original, None, **{
        "tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.eom_token_id": 6,
        "tokenizer.ggml.eos_token_id": 7})
    with pytest.raises(BadModel, match="5 end-of-text"):
        open_gguf(path)
