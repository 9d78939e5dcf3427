"""Programs and frameworks that stand on the clients: LangChain, and llm; and what Open WebUI,
LibreChat, continue and aider send, by their sources."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import httpx
import pytest
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from serving import answering, quick_image, serving

SYSTEM, USER = "You are short.", "Tell me of the cat."


@pytest.fixture(scope="module")
def server():
    with serving(quick_image(), slots=4) as (url, _):
        yield url


@pytest.fixture(scope="module")
def expected():
    with answering() as answer:
        yield lambda messages: answer(messages).text


def _conversation(expected):
    first = expected([{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}])
    messages = [("system", SYSTEM), ("human", USER), ("ai", first), ("human", "And the dog?")]
    roles = {"system": "system", "human": "user", "ai": "assistant"}
    second = expected([{"role": roles[role], "content": text} for role, text in messages])
    return messages, first, second


@pytest.mark.parametrize("made", [
    lambda url: ChatOpenAI(base_url=f"{url}/v1", api_key="x", model="x", temperature=0,
                           max_tokens=9, stream_usage=True),
    lambda url: ChatOllama(base_url=url, model="x", temperature=0, num_predict=9),
], ids=["openai", "ollama"])
def test_langchain(server, expected, made):
    """Two turns, whole and in pieces, with what it counts."""
    model = made(server)
    messages, first, second = _conversation(expected)
    assert model.invoke(messages[:2]).content == first
    whole = model.invoke(messages)
    assert whole.content == second and whole.usage_metadata["output_tokens"] == 9
    parts = list(model.stream(messages))
    assert "".join(part.content for part in parts) == second
    total = sum((part.usage_metadata or {}).get("output_tokens", 0) for part in parts)
    assert total == 9


def test_llm(server, expected, tmp_path):
    """Simon Willison's command line, with a conversation that goes on."""
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([{
        "model_id": "tiny", "model_name": "tiny", "api_base": f"{server}/v1"}]))

    def run(*arguments):
        done = subprocess.run([sys.executable, "-m", "llm", *arguments], capture_output=True,
                              text=True, timeout=60, check=False, env={
                                  **os.environ, "LLM_USER_PATH": str(tmp_path),
                                  "OPENAI_API_KEY": "x"})
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")

    options = ["-m", "tiny", "-o", "temperature", "0", "-o", "max_tokens", "9"]
    messages, first, second = _conversation(expected)
    assert run(*options, "-s", SYSTEM, USER) == first
    assert run(*options, "-c", messages[-1][1]) == second
    assert run(*options, "--no-stream", "-s", SYSTEM, USER) == first


#: Bodies as clients send them to /v1/chat/completions: fields that are not read here among them.
CLIENTS = {
    "open-webui": {"stream": True, "model": "tiny", "stream_options": {"include_usage": True},
                   "messages": [{"role": "user", "content": USER}], "metadata": {"chat_id": "1"},
                   "max_tokens": 4, "params": {}, "tool_servers": [], "features": {},
                   "session_id": "a", "background_tasks": {"title_generation": True}},
    "librechat": {"model": "tiny", "temperature": 1, "top_p": 1, "presence_penalty": 0,
                  "frequency_penalty": 0, "user": "me", "stream": True, "max_tokens": 4,
                  "messages": [{"role": "user", "content": [{"type": "text", "text": USER}]}]},
    "continue": {"model": "tiny", "max_tokens": 4, "stream": True, "stop": ["<|im_end|>"] * 4,
                 "messages": [{"role": "system", "content": SYSTEM},
                              {"role": "user", "content": USER}],
                 "prediction": {"type": "content", "content": "cat"}, "tools": [{
                     "type": "function", "function": {"name": "read_file", "description": "reads",
                                                      "parameters": {"type": "object"}}}],
                 "parallel_tool_calls": False},
    "aider": {"model": "tiny", "temperature": 0, "stream": True, "max_tokens": 4,
              "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER},
                           {"role": "assistant", "content": "Ok."},
                           {"role": "user", "content": [{"type": "text", "text": USER,
                                                         "cache_control": {"type": "ephemeral"}}]}],
              "extra_headers": {"X-Title": "Aider"}, "timeout": 600},
    "llama.cpp's page": {
        "messages": [{"role": "user", "content": USER}], "stream": True, "max_tokens": 4,
        "reasoning_format": "auto", "temperature": 0.8, "dynatemp_range": 0, "top_k": 40,
        "dynatemp_exponent": 1, "top_p": 0.95, "min_p": 0.05, "xtc_probability": 0, "typ_p": 1,
        "repeat_last_n": 64, "repeat_penalty": 1, "dry_multiplier": 0, "return_progress": True,
        "samplers": ["top_k"], "backend_sampling": False, "timings_per_token": True},
}


@pytest.mark.parametrize("name", CLIENTS)
def test_what_clients_send(server, name):
    """A stream that begins, says something, ends with a reason and with [DONE]."""
    lines = httpx.post(f"{server}/v1/chat/completions", json=CLIENTS[name]).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[0]["delta"]["role"] == "assistant" and choices[-1]["finish_reason"] == "length"
    assert "".join(choice["delta"].get("content") or "" for choice in choices)
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)


def test_open_webui_finds_an_ollama(server):
    """It asks for these when it is told of one: version, models, and what each is."""
    assert "Ollama is running" in httpx.get(server).text
    assert httpx.head(server).status_code == 200
    assert httpx.get(f"{server}/api/version").json()["version"].count(".") == 2
    model = httpx.get(f"{server}/api/tags").json()["models"][0]
    shown = httpx.post(f"{server}/api/show", json={"name": model["model"]}).json()
    assert "completion" in shown["capabilities"] and shown["details"]["family"] == "bitnet"
    assert len(model["digest"]) == 64
