"""Texts and conversations are read, cut, and kept back; what is none is refused."""

from __future__ import annotations

import json
import os

import pytest
from bitnet_host.errors import BadFile
from bitnet_host.train.texts import Text, read_texts


def _texts(texts):
    return [piece.text for piece in (*texts.learnt, *texts.kept)]


def _write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def test_documents_end_at_their_lines(tmp_path):
    path = _write(tmp_path / "a.txt", "one\ntwo\n<|endoftext|>\n  three ü\n<|endoftext|>\n\n"
                                      "four <|endoftext|> five\n")
    texts = read_texts([path], 1)
    assert sorted(_texts(texts)) == ["four <|endoftext|> five", "one\ntwo", "three ü"]
    assert len(texts.kept) == 1 and texts.files == ["a.txt"]


def test_conversations_and_texts_of_json_lines(tmp_path):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    lines = [{"text": "a\nb"}, {"messages": [message | {"name": "x"} for message in chat]},
             {"text": "c\u2028d"}]
    path = _write(tmp_path / "a.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\r\n\n"
                                                for line in lines))
    texts = read_texts([path], 1)
    found = [*texts.learnt, *texts.kept]
    assert all(document in found for document in (Text("a\nb"), chat, Text("c\u2028d")))
    assert len(found) == 3


def test_a_long_document_is_kept_back_in_pieces(tmp_path):
    paragraphs = [f"{n}: " + "word " * 100 for n in range(400)]
    texts = read_texts([_write(tmp_path / "a.txt", "\n\n".join(paragraphs))], 3)
    pieces = _texts(texts)
    assert [sum(getattr(piece, end) for piece in [*texts.learnt, *texts.kept])
            for end in ("begins", "ends")] == [1, 1]
    assert all(len(piece) <= 8000 for piece in pieces) and len(pieces) == 26 + 1
    assert len(texts.kept) == 1
    found = sorted(int(line.split(":")[0]) for piece in pieces for line in piece.split("\n\n"))
    assert found == list(range(400))
    unbroken = read_texts([_write(tmp_path / "b.txt", "x" * 20_000 + "y")], 3)
    assert sum(map(len, _texts(unbroken))) == 20_001


def test_the_seed_decides_what_is_kept_back(tmp_path):
    path = _write(tmp_path / "a.txt", "\n<|endoftext|>\n".join(map(str, range(100))))
    one, again, other = (read_texts([path], seed) for seed in (1, 1, 2))
    assert one == again and one.kept != other.kept and len(one.kept) == 5
    assert not set(one.kept) & set(one.learnt)
    assert read_texts([path, path], 1).kept == one.kept  # what comes twice is not validated on
    assert one.digest == other.digest
    changed = read_texts([_write(tmp_path / "a.txt", "\n<|endoftext|>\n".join("abc"))], 1)
    assert changed.digest != one.digest


@pytest.mark.parametrize("name, content, words", [
    ("a.txt", b"", "there is no text: give some"), ("a.txt", b" \n\n ", "there is no text"),
    ("a.txt", b"one line", "1 piece of text is too little"),
    ("a.txt", b"\xff\xfeb", "is not UTF-8 text"),
    ("a.jsonl", b'{"text": "a"}\n{"text"', "line 2: this is no JSON"),
    ("a.jsonl", b"[" * 100_000, "line 1: this is no JSON"),
    ("a.jsonl", b'{"text": 3}', "line 1: {'text': 3} has neither a \"text\" nor"),
    ("a.jsonl", b'{"text": "\\ud800"}', "line 1: it holds half a character"),
    ("a.json", b'{"text": "a"}', "give JSON lines"), ("a.jsonl", b'{"text": " "}', "has neither"),
    ("a.jsonl", b'"text"', "has neither"), ("a.jsonl", b'{"messages": []}', "has neither"),
    ("a.jsonl", b'{"messages": [{"role": "bot", "content": "x"}]}', "has neither"),
    ("a.jsonl", b'{"messages": [{"role": "user", "content": 3}]}', "has neither"),
])
def test_what_is_no_text(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadFile, match=words) as refused:
        read_texts([path], 1)
    assert len(str(refused.value)) < 400


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "pipe", "not a regular file"), (tmp_path, "not a regular"),
                        (tmp_path / "none", "No such file")):
        with pytest.raises(BadFile, match=words):
            read_texts([path], 1)
