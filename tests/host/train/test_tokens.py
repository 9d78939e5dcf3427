"""New tokenizers, rows of tokens, and the order in which they are learnt."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bitnet_host.errors import BadArgument, BadFile, BadModel
from bitnet_host.train.texts import Text, Texts, read_texts
from bitnet_host.train.tokens import (
    BOS,
    EOS,
    EOT,
    NOTHING,
    TEMPLATE,
    new_tokenizer,
    pack,
    row_order,
    text_model,
)
from small_language import write_grammar
from tokenizers import Tokenizer

ENDS = (0, 1)
SPECIAL = {"bos_token": BOS, "eos_token": EOS}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return read_texts([write_grammar(tmp_path_factory.mktemp("t") / "a.txt", 400)], 1)


@pytest.fixture(scope="module")
def tokenizer(texts):
    return new_tokenizer(texts, 320)


def test_any_text_comes_back(tokenizer):
    made = Tokenizer.from_str(json.dumps(tokenizer))
    assert made.get_vocab_size() == 320
    for text in ("Ada has 5 cats", " ü 東京 🐕\n\t\0", "", "x<|eot_id|>"):
        ids = made.encode(text)
        assert ids.ids[0] == made.token_to_id(BOS) == 0
        assert made.decode(ids.ids, skip_special_tokens=False) == BOS + text
    assert len(made.encode(" barks; ", add_special_tokens=False).ids) < 8


def test_too_little_for_a_vocabulary(texts):
    with pytest.raises(BadArgument, match="a vocabulary of 259 is too small: 260 tokens are"):
        new_tokenizer(texts, 259)
    assert len(new_tokenizer(texts, 260)["model"]["vocab"]) == 260
    with pytest.raises(BadFile, match=r"too little for a vocabulary of 5000: they give [0-9]+ tok"):
        new_tokenizer(texts, 5000)


def test_what_is_kept_back_teaches_the_tokenizer_nothing():
    texts = Texts([Text("abc")] * 9, [Text("zqx" * 50)], "", [])
    assert not any("zq" in token for token in new_tokenizer(texts, 262)["model"]["vocab"])


def test_rows_hold_all_tokens_in_their_order(tokenizer):
    made = Tokenizer.from_str(json.dumps(tokenizer))
    chat = [{"role": "user", "content": "Ada?"}, {"role": "assistant", "content": "Bob."}]
    text = text_model(tokenizer, TEMPLATE, SPECIAL, 320)
    rows = pack([Text("Ada has"), chat, Text("Bob")], text, ENDS, 15, True)
    wanted = f"{BOS}Ada has{EOS}{BOS}User: Ada?{EOT}Assistant: Bob.{EOT}{BOS}Bob{EOS}"
    ids = made.encode(wanted, add_special_tokens=False).ids
    assert rows.shape == (-(-len(ids) // 16), 16)
    flat = rows.reshape(-1).tolist()
    assert flat[:len(ids)] == ids and set(flat[len(ids):]) == {NOTHING}
    whole = pack([Text("Ada has"), chat, Text("Bob")], text, ENDS, 15)
    assert whole.tolist() == rows[:len(ids) // 16].tolist()
    assert made.decode(flat[:len(ids)], skip_special_tokens=False) == wanted


def test_too_few_tokens_for_a_row(tokenizer):
    text = text_model(tokenizer, TEMPLATE, SPECIAL, 320)
    rows = pack([Text("A")], text, ENDS, 15, True)
    assert rows.tolist() == [rows[0, :3].tolist() + [NOTHING] * 13]
    with pytest.raises(BadFile, match=r"too little: 3 tokens, where a row has 16; give more, or"):
        pack([Text("A")], text, ENDS, 15)
    with pytest.raises(BadFile, match="too little: 1 tokens"):
        pack([Text("A")], text, (None, None), 15, True)


def test_pieces_of_a_document_do_not_end_it(tokenizer):
    text = text_model(tokenizer, TEMPLATE, SPECIAL, 320)
    pieces = [Text("A", True, False), Text("d", False, False), Text("a", False, True)]
    rows = pack(pieces, text, ENDS, 7, True)[0].tolist()
    assert rows[0] == 0 and rows[4:] == [1] + [NOTHING] * 3 and not {0, 1} & set(rows[1:4])


def test_what_reads_like_a_control_token_is_text(tokenizer):
    """In texts and in what is said; the template's own are none of either."""
    text = text_model(tokenizer, TEMPLATE, SPECIAL, 320)
    chat = [{"role": "user", "content": f"a{EOT}b"}]
    for document, controls in ((Text(f"a{EOT}b"), [0, 1]), (chat, [0, 2])):
        tokens = pack([document], text, ENDS, 200, True)[0].tolist()
        assert [token for token in tokens if 0 <= token < 4] == controls


def test_what_does_not_go_with_a_model(tokenizer):
    chat = [{"role": "user", "content": "Hi"}]
    with pytest.raises(BadModel, match="has no chat template"):
        pack([chat], text_model(tokenizer, None, SPECIAL, 320), ENDS, 15, True)
    with pytest.raises(BadModel, match="vocabulary of 300"):
        pack([Text("Ada has 5 red cats")], text_model(tokenizer, None, SPECIAL, 300), ENDS, 15)
    with pytest.raises(BadModel, match="tokenizer is not usable"):
        text_model({"model": 3}, None, SPECIAL, 320)


def test_every_row_comes_once_an_epoch():
    taken = np.concatenate([row_order(10, 7, place, 4) for place in range(0, 40, 4)])
    epochs = taken.reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    assert row_order(10, 7, 8, 4).tolist() == taken[8:12].tolist()  # across two epochs
    assert row_order(10, 8, 0, 10).tolist() != epochs[0].tolist()
    assert sorted(row_order(3, 1, 0, 9).tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
