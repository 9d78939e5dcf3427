"""Requests of any kind: the answer is right, or says what is wrong in the form of its API.
BITNET_REQUESTS sets how many."""

from __future__ import annotations

import copy
import json
import os

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import quick_image, serving

MESSAGES = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Hi"}]
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1, "top_k": 20, "seed": 4,
            "presence_penalty": 0.5, "frequency_penalty": 0.5, "repeat_penalty": 1.1,
            "logit_bias": {"44": 2}, "stop": ["x"]}
#: Bodies that are right, with all fields that are read.
BODIES = {
    "/v1/chat/completions": {
        "model": "x", "messages": MESSAGES, "max_tokens": 2, "n": 1, "logprobs": True,
        "top_logprobs": 2, "stream": False, "stream_options": {"include_usage": True},
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["a"]}}},
        "tools": [], "tool_choice": "auto", "chat_template_kwargs": {"enable_thinking": False},
        "add_generation_prompt": True, "continue_final_message": False, "verbose": True,
        "timings_per_token": True, "return_progress": True, **SAMPLING},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 2, "n": 2, "echo": True, "logprobs": 2,
                        "suffix": "", "stream": False, **SAMPLING},
    "/v1/responses": {"input": MESSAGES, "instructions": "Hi", "max_output_tokens": 2,
                      "text": {"format": {"type": "json_object"}}, "stream": False,
                      "previous_response_id": None, **SAMPLING},
    "/v1/messages": {"messages": MESSAGES[1:], "system": [{"type": "text", "text": "Hi"}],
                     "max_tokens": 2, "stop_sequences": ["x"], "stream": False, **SAMPLING},
    "/completion": {"prompt": [3, "Hi", 5], "n_predict": 2, "n_probs": 2, "grammar": "root ::= [a]",
                    "post_sampling_probs": True, "return_tokens": True, "stream": False,
                    "response_fields": ["content", "timings/prompt_n"], **SAMPLING},
    "/api/chat": {"model": "x", "messages": MESSAGES, "stream": False, "format": "json",
                  "think": False, "options": {"num_predict": 2, **SAMPLING}},
    "/api/generate": {"model": "x", "prompt": "Hi", "system": "Short.", "stream": False,
                      "raw": False, "context": [3, 4], "options": {"num_predict": 2, **SAMPLING}},
    "/api/show": {"model": "x"},
    "/tokenize": {"content": "Hi", "add_special": True, "with_pieces": True},
    "/detokenize": {"tokens": [3, 4]},
    "/apply-template": {"messages": MESSAGES, "tools": [{"type": "function"}]},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.sampled_from(["", "user", "assistant", "text", "<|eot_id|>", "\ue000", -1, 1e300, "1" * 50,
                       {"type": "image_url"}, {"type": "object"}]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "schema", "a"]), inner,
                      max_size=3), max_leaves=6)


def _places(value, path=()):
    """Where something can be put into a body."""
    inner = (value.items() if isinstance(value, dict)
             else enumerate(value) if isinstance(value, list) else ())
    for key, one in inner:
        yield (*path, key)
        yield from _places(one, (*path, key))


@st.composite
def _requests(draw):
    route = draw(st.sampled_from(sorted(BODIES)))
    body = copy.deepcopy(BODIES[route])
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(_places(body)) or [("model",)]))
        holder = body
        for key in path[:-1]:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.booleans()):
            holder.pop(path[-1], None)
        else:
            holder[path[-1]] = draw(JSON)
    return route, body


@pytest.fixture(scope="module")
def client():
    with (serving(quick_image(), slots=2) as (url, _),
          httpx.Client(base_url=url, timeout=60) as client):
        yield client


@pytest.mark.parametrize("route", BODIES)
def test_bodies_that_are_right(client, route):
    assert client.post(route, json=BODIES[route]).status_code == 200


def _check(response, route):
    assert response.status_code in (200, 400, 501), response.text
    if response.status_code == 200:
        return
    error = response.json()
    if route.startswith("/api/"):
        assert set(error) == {"error"} and isinstance(error["error"], str)
    elif route == "/v1/messages":
        assert error["type"] == "error" and error["error"]["message"]
    else:
        assert error["error"]["code"] == response.status_code and error["error"]["type"]


def _settings(count):
    return settings(max_examples=count, deadline=None, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck))


@_settings(int(os.environ.get("BITNET_REQUESTS", "500")))
@given(_requests())
def test_bodies_of_any_kind(client, request_):
    route, body = request_
    _check(client.post(route, content=json.dumps(body)), route)


@_settings(100)
@given(st.sampled_from(sorted(BODIES)), st.binary(max_size=40) | JSON.map(
    lambda value: str(value).encode(errors="replace")))
def test_what_is_no_json(client, route, body):
    _check(client.post(route, content=body), route)


@pytest.mark.parametrize("body", [
    b"[" * 100_000, b'{"messages": ' + b"[" * 50_000, b'{"a": 1e999999, "prompt": "x"}',
    b'{"prompt": "\\ud800", "max_tokens": 1}', b'\xff\xfe{}', b'{"prompt": NaN}', b"", b"null",
    b'{"prompt": "x", "temperature": 1' + b"0" * 5000 + b'}',
])
@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions", "/api/chat",
                                   "/completion", "/tokenize"])
def test_json_that_is_odd(client, route, body):
    _check(client.post(route, content=body), route)
    assert client.get("/health").status_code == 200
