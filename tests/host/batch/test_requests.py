"""Lines of prompts, and what is refused of them."""

from __future__ import annotations

import json

import pytest
from bitnet_host.batch.requests import read_requests, understood
from bitnet_host.errors import BadArgument, BadFile, OutOfContext
from bitnet_host.model.text import TextModel
from bitnet_host.serve.model import Model
from serving import quick_image

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def model():
    return Model(quick_image(), TextModel(quick_image()), {"max_tokens": 5})


def _read(tmp_path, model, *lines, seed=0):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line)
                              for line in lines), encoding="utf-8")
    return read_requests(path, model, seed)


def test_lines(tmp_path, model):
    """Empty ones count as lines, so that an editor shows the same numbers; the end of a line inside
    of a text is none."""
    first, second, third, fourth = _read(
        tmp_path, model, {"prompt": "one\u2028two"}, "", '  {"id": 7, "messages": []}\r',
        {"custom_id": "x", "method": "POST", "url": "/v1/completions", "body": {"prompt": "b"}},
        {"id": None, "prompt": "one", "n": 1}, seed=2**64 - 1)
    assert [request.line for request in (first, second, third, fourth)] == [1, 3, 4, 5]
    assert [request.id for request in (first, second, third, fourth)] == [1, 7, "x", 5]
    assert third.body == {"prompt": "b"} and second.body == {"messages": []}
    assert [request.seed for request in (first, second)] == [2**64 - 1, 0]


def test_keys_tell_what_is_asked(tmp_path, model):
    """Not how it is written, but the model and the options."""
    line = {"prompt": "a", "top_k": 3}
    key = _read(tmp_path, model, line)[0].key
    assert _read(tmp_path, model, line, seed=9)[0].key == key
    assert _read(tmp_path, model, '{"top_k":3,  "id": "z", "prompt": "a"}')[0].key == key
    assert _read(tmp_path, model, line | {"top_k": 4})[0].key != key
    for other in (Model(model.image, model.text, {"max_tokens": 6}),
                  Model(quick_image(200), model.text, {"max_tokens": 5})):
        assert _read(tmp_path, other, line)[0].key != key


@pytest.mark.parametrize("line,text", [
    ("{", "line 2 is no JSON"), ("[" * 100_000, "line 2 is no JSON"), ("7", "line 2 is no JSON o"),
    ({}, "line 2 must have either"), ({"prompt": "a", "messages": HI}, "line 2 must have either"),
    ({"body": 7}, "line 2 must have either"), ({"id": 1.5, "prompt": "a"}, "id must be text"),
    ({"id": True, "prompt": "a"}, "id must be text"), ({"id": "a", "prompt": "b"}, "of line 1"),
])
def test_lines_that_are_none(tmp_path, model, line, text):
    with pytest.raises(BadArgument, match=text):
        _read(tmp_path, model, {"id": "a", "prompt": "x"}, line)


def test_files_that_are_none(tmp_path, model):
    with pytest.raises(BadArgument, match="holds no prompt"):
        _read(tmp_path, model, "", " ")
    with pytest.raises(BadFile, match="cannot read"):
        read_requests(tmp_path / "nowhere", model, 0)
    (tmp_path / "latin").write_bytes(b'{"prompt": "\xe9"}')
    with pytest.raises(BadFile, match="UTF-8"):
        read_requests(tmp_path / "latin", model, 0)


def test_what_is_asked(tmp_path, model):
    chat, text, drawn, own = _read(
        tmp_path, model, {"messages": HI, "max_completion_tokens": 3}, {"prompt": [1, 2, 3]},
        {"prompt": "a", "temperature": 1}, {"prompt": "a", "temperature": 1, "seed": 5}, seed=40)
    asked = understood(model, chat)
    assert asked.max_tokens == 3 and asked.sampling.seed is None
    assert asked.prompt.ids == model.spelling.encode(HI, enable_thinking=True).ids
    assert understood(model, text).prompt.ids == [1, 2, 3]
    assert understood(model, text).max_tokens == 5
    assert understood(model, drawn).sampling.seed == 42
    assert understood(model, own).sampling.seed == 5


@pytest.mark.parametrize("line,error,text", [
    ({"prompt": "a", "n": 2}, BadArgument, "an answer for each line"),
    ({"prompt": ["a", "b"]}, BadArgument, "a line for each"),
    ({"prompt": "a", "temperature": "x"}, BadArgument, "temperature"),
    ({"messages": "x"}, BadArgument, "messages"),
    ({"messages": [{"role": "user", "content": "cat " * 900}]}, (BadArgument, OutOfContext),
     "shorten"),
    ({"prompt": "\ud800"}, BadArgument, "UTF-8"),
    ({"prompt": "a", "grammar": "x"}, BadArgument, "grammar"),
])
def test_what_the_model_refuses(tmp_path, model, line, error, text):
    with pytest.raises(error, match=text):
        understood(model, _read(tmp_path, model, line)[0])
