"""The clients that people have, each in a conversation on the golden model, whose words must be
those of the library."""

from __future__ import annotations

import json
import threading
import time

import httpx
import ollama
import openai
import pytest
from bitnet_host import Session, open_board
from serving import answering, quick_image, serving

USER = {"role": "user", "content": "Tell me of the cat."}


@pytest.fixture(scope="module")
def server():
    with serving(quick_image(), slots=4) as (url, pool):
        yield url, pool


@pytest.fixture(scope="module")
def expected():
    with answering() as answer:
        yield answer


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server[0]}/v1", api_key="x", max_retries=0) as client:
        yield client


def _stream_text(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_openai_chat(client, expected):
    """Two turns, whole and in pieces."""
    messages, model = [USER], client.models.list().data[0].id
    for turn in range(2):
        right = expected(messages, 9)
        options = {"model": model, "messages": messages, "max_tokens": 9, "temperature": 0}
        whole = client.chat.completions.create(**options)
        assert whole.choices[0].message.content == right.text
        assert whole.choices[0].finish_reason == "length"
        usage = whole.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (right.usage.prompt, 9)
        assert usage.prompt_tokens_details.cached_tokens > 5 or not turn
        chunks = list(client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}))
        assert _stream_text(chunks) == right.text
        assert chunks[0].choices[0].delta.role == "assistant"
        assert all(chunk.choices[0].delta.content != "" for chunk in chunks if chunk.choices)
        assert [c.choices[0].finish_reason for c in chunks[-3:-1]] == [None, "length"]
        assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 9
        messages = [*messages, {"role": "assistant", "content": right.text},
                    {"role": "user", "content": "And the dog?"}]


def test_openai_limits(client):
    """The newer name counts, where a client sends both."""
    for limits, count in (({"max_tokens": 3}, 3), ({"max_completion_tokens": 2}, 2),
                          ({"max_tokens": 3, "max_completion_tokens": 2}, 2)):
        answer = client.chat.completions.create(model="x", messages=[USER], **limits)
        assert answer.usage.completion_tokens == count


def test_openai_choices_and_seeds(client):
    """A seed repeats an answer; choices differ; another seed gives other words."""
    def ask(seed, count=1, stream=False):
        return client.chat.completions.create(model="x", messages=[USER], max_tokens=12, seed=seed,
                                              temperature=3, n=count, stream=stream)

    first = [choice.message.content for choice in ask(5, 3).choices]
    assert len(set(first)) == 3
    assert [choice.message.content for choice in ask(5, 3).choices] == first
    assert ask(6).choices[0].message.content == first[1]
    said = ["", "", ""]
    for chunk in ask(5, 3, stream=True):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert said == first
    assert ask(None).choices[0].message.content != ask(None).choices[0].message.content


def test_openai_logprobs(client, expected):
    """The words of the tokens are those of the answer; the best alternative is what was said."""
    options = {"model": "x", "messages": [USER], "max_tokens": 6, "temperature": 0,
               "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**options).choices[0]
    parts = whole.logprobs.content
    assert "".join(part.token for part in parts) == whole.message.content
    assert len(parts) == 6 and all(len(part.top_logprobs) == 3 for part in parts)
    for part in parts:
        assert part.top_logprobs[0].logprob == part.logprob < 0
        assert bytes(part.bytes).decode() == part.token
    streamed = [part for chunk in client.chat.completions.create(**options, stream=True)
                if chunk.choices[0].logprobs for part in chunk.choices[0].logprobs.content]
    assert streamed == parts


def test_openai_stop_and_bias(client, expected):
    right = expected([USER], 30).text
    word = right[10:16]
    options = {"model": "x", "messages": [USER], "max_tokens": 30, "temperature": 0}
    for stop in (word, ["nowhere at all", word]):
        choice = client.chat.completions.create(**options, stop=stop).choices[0]
        assert choice.message.content == right[:right.index(word)]
        assert choice.finish_reason == "stop"
    first = client.chat.completions.create(**options, logprobs=True).choices[0]
    token = httpx.post(f"{client.base_url}".replace("/v1/", "/tokenize"),
                       json={"content": first.logprobs.content[0].token}).json()["tokens"][0]
    changed = client.chat.completions.create(**options, logit_bias={str(token): -100})
    assert changed.choices[0].message.content[:5] != right[:5]


def test_openai_completions(client, server):
    with open_board("reference", quick_image()) as board:
        right = [reply.text for reply in Session(board).batch(["The cat", "A dog"], max_tokens=7)]
    options = {"model": "x", "prompt": ["The cat", "A dog"], "max_tokens": 7, "temperature": 0}
    whole = client.completions.create(**options)
    assert [choice.text for choice in whole.choices] == right
    said = ["", ""]
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            said[choice.index] += choice.text
    assert said == right
    ids = httpx.post(f"{server[0]}/tokenize", json={"content": "The cat", "add_special": True})
    by_ids = client.completions.create(**options | {"prompt": ids.json()["tokens"],
                                                    "logprobs": 2, "echo": True})
    assert by_ids.choices[0].text == "The cat" + right[0]
    assert "".join(by_ids.choices[0].logprobs.tokens) == right[0]
    assert len(by_ids.choices[0].logprobs.top_logprobs[0]) == 2
    starts = by_ids.choices[0].logprobs.text_offset
    assert [right[0][start:].startswith(token) for start, token in
            zip(starts, by_ids.choices[0].logprobs.tokens, strict=True)] == [True] * 7
    assert starts == sorted(set(starts))
    twice = client.completions.create(**options | {"prompt": "The cat", "n": 3})
    assert twice.usage.completion_tokens == 21
    assert twice.usage.prompt_tokens == whole.usage.prompt_tokens / 2


def test_openai_responses(client, expected):
    right = expected([{"role": "system", "content": "Short."}, USER], 9)
    options = {"model": "x", "input": [USER], "instructions": "Short.", "max_output_tokens": 9,
               "temperature": 0}
    whole = client.responses.create(**options)
    assert whole.output_text == right.text and whole.status == "incomplete"
    assert whole.usage.output_tokens == 9 and whole.usage.input_tokens == right.usage.prompt
    with client.responses.stream(**options) as stream:
        kinds, said = [], ""
        for event in stream:
            kinds.append(event.type)
            said += event.delta if event.type == "response.output_text.delta" else ""
        assert stream.get_final_response().output_text == said == right.text
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"]
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done",
                          "response.output_item.done", "response.completed"]
    text = client.responses.create(model="x", input="Tell me of the cat.", max_output_tokens=9,
                                   instructions="Short.", temperature=0)
    assert text.output_text == right.text


SCHEMA = {"type": "object", "required": ["name", "age"], "additionalProperties": False,
          "properties": {"name": {"enum": ["Tom", "Ann"]},
                         "age": {"type": "integer", "minimum": 0, "maximum": 99}}}


@pytest.mark.parametrize("stream", [False, True])
def test_openai_json(client, stream):
    """A model of random weights writes what a schema asks for, whatever it would rather say."""
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    for seed in range(3):
        answer = client.chat.completions.create(
            model="x", messages=[USER], max_tokens=60, seed=seed, temperature=1.5,
            response_format=form, stream=stream)
        text = _stream_text(answer) if stream else answer.choices[0].message.content
        person = json.loads(text)
        assert person["name"] in ("Tom", "Ann") and 0 <= person["age"] <= 99
        assert stream or answer.choices[0].finish_reason == "stop"


def test_openai_errors(client):
    with pytest.raises(openai.BadRequestError, match="context is of 256") as caught:
        client.chat.completions.create(model="x", messages=[USER | {"content": "cat " * 900}])
    assert caught.value.body["type"] == "exceed_context_size_error"
    with pytest.raises(openai.BadRequestError, match="temperature must be a number from 0"):
        client.chat.completions.create(model="x", messages=[USER], temperature=-1)
    with pytest.raises(openai.BadRequestError, match="text only"):
        client.chat.completions.create(model="x", messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:,"}}]}])
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")
    with pytest.raises(openai.APIStatusError, match="writes text"):
        client.embeddings.create(model="x", input="cat")


@pytest.mark.parametrize("wrong", [{"return_progress": 1}, {"timings_per_token": "x"},
                                   {"stream_options": 7}, {"verbose": []}, {"stream": 2}])
def test_what_is_refused_is_not_begun(server, wrong):
    url, _ = server
    body = {"messages": [USER], "max_tokens": 200, "n": 2} | wrong
    assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 400
    text = httpx.get(f"{url}/metrics").text
    assert "\nllamacpp:requests_processing 0\n" in text
    assert "\nllamacpp:requests_deferred 0\n" in text


def test_ollama(server, expected):
    """Conversation, plain text, and what it says of the model."""
    client = ollama.Client(host=server[0])
    name = client.list().models[0].model
    assert client.show(name).modelinfo["bitnet.context_length"] == 256
    assert client.ps().models[0].model == name
    messages, options = [USER], {"num_predict": 9, "temperature": 0}
    for _ in range(2):
        right = expected(messages, 9)
        whole = client.chat(name, messages, options=options)
        assert whole.message.content == right.text and whole.done_reason == "length"
        assert (whole.eval_count, whole.prompt_eval_count) == (9, right.usage.prompt)
        parts = list(client.chat(name, messages, options=options, stream=True))
        assert "".join(part.message.content for part in parts) == right.text
        assert [part.done for part in parts[-2:]] == [False, True]
        messages = [*messages, {"role": "assistant", "content": right.text},
                    {"role": "user", "content": "And the dog?"}]
    made = client.generate(name, USER["content"], options=options)
    assert made.response == expected([USER], 9).text
    again = client.generate(name, " more", context=made.context, raw=True, options=options)
    assert len(again.context) > len(made.context) + 9
    turn = client.generate(name, "And the dog?", context=made.context, options=options)
    assert turn.context[:len(made.context)] == made.context
    assert turn.prompt_eval_count > len(made.context) + 5
    person = json.loads(client.chat(name, [USER], format=SCHEMA,
                                    options={"num_predict": 60}).message.content)
    assert person["name"] in ("Tom", "Ann")
    for call in (lambda: client.pull("llama3"), lambda: client.embed(name, "cat"),
                 lambda: client.delete(name)):
        with pytest.raises(ollama.ResponseError, match="has one model") as caught:
            call()
        assert caught.value.status_code == 501


def test_anthropic(server, expected):
    """As its documentation has it: there is no client in the suite."""
    right = expected([{"role": "system", "content": "Short."}, USER], 9)
    body = {"model": "x", "system": [{"type": "text", "text": "Short."}], "max_tokens": 9,
            "messages": [USER | {"content": [{"type": "text", "text": USER["content"]}]}],
            "temperature": 0}
    whole = httpx.post(f"{server[0]}/v1/messages", json=body).json()
    assert whole["content"] == [{"type": "text", "text": right.text}]
    assert whole["stop_reason"] == "max_tokens" and whole["usage"]["output_tokens"] == 9
    usage = httpx.post(f"{server[0]}/v1/messages", json=body).json()["usage"]
    assert usage["cache_read_input_tokens"] > 5  # which Anthropic does not count as input
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == right.usage.prompt
    events = [json.loads(line[6:]) for line in httpx.post(
        f"{server[0]}/v1/messages", json=body | {"stream": True}).text.splitlines()
        if line.startswith("data: ")]
    assert [event["type"] for event in events[:2]] == ["message_start", "content_block_start"]
    assert [event["type"] for event in events[-3:]] == ["content_block_stop", "message_delta",
                                                        "message_stop"]
    assert "".join(event["delta"]["text"] for event in events[2:-3]) == right.text
    stopped = httpx.post(f"{server[0]}/v1/messages",
                         json=body | {"stop_sequences": [right.text[8:12]]}).json()
    assert stopped["stop_reason"] == "stop_sequence"
    assert stopped["stop_sequence"] == right.text[8:12]
    count = httpx.post(f"{server[0]}/v1/messages/count_tokens", json=body).json()
    assert count == {"input_tokens": right.usage.prompt}
    wrong = httpx.post(f"{server[0]}/v1/messages", json=body | {"max_tokens": 0})
    assert wrong.status_code == 400 and wrong.json()["error"]["type"] == "invalid_request_error"


def test_llama_server(server):
    """The routes of its own that its page and its tools use."""
    url = server[0]
    props = httpx.get(f"{url}/props").json()
    assert props["total_slots"] == 4 and props["default_generation_settings"]["n_ctx"] == 256
    asked = {"prompt": "The cat", "n_predict": 8, "temperature": 0, "n_probs": 3,
             "return_tokens": True}
    whole = httpx.post(f"{url}/completion", json=asked).json()
    assert whole["stop_type"] == "limit" and len(whole["tokens"]) == 8
    assert len(whole["completion_probabilities"]) == 8
    lines = httpx.post(f"{url}/completion", json=asked | {"stream": True}).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line]
    assert "".join(chunk["content"] for chunk in chunks) == whole["content"]
    assert [chunk["stop"] for chunk in chunks[-2:]] == [False, True]
    back = httpx.post(f"{url}/detokenize", json={"tokens": whole["tokens"]}).json()
    assert back["content"] == whole["content"]
    pieces = httpx.post(f"{url}/tokenize", json={"content": "é 媽", "with_pieces": True}).json()
    spelled = b"".join(bytes(part["piece"]) if isinstance(part["piece"], list)
                       else part["piece"].encode() for part in pieces["tokens"])
    assert spelled.decode() == "é 媽"


def test_a_closed_connection_ends_the_answer(server):
    """Within a token, whether it was whole or in pieces; the slots are free again."""
    url, pool = server
    before = _predicted(url)
    body = {"messages": [USER], "max_tokens": 200, "temperature": 0}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body | {"stream": True},
                      timeout=10) as response:
        next(response.iter_lines())
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=0.1)
    limit = time.monotonic() + 5
    while pool.boards[0].busy and time.monotonic() < limit:
        time.sleep(0.02)
    assert pool.boards[0].busy == 0
    assert _predicted(url) - before < 200


def _predicted(url):
    text = httpx.get(f"{url}/metrics").text
    return int(text.split("\nllamacpp:tokens_predicted_total ")[1].split()[0])


def test_many_at_once(server, expected):
    """More than there are slots, each with its own words."""
    url, _ = server
    prompts = [[{"role": "user", "content": f"Number {n} of the cats"}] for n in range(12)]
    answers = {}

    def ask(place):
        body = {"messages": prompts[place], "max_tokens": 20, "temperature": 0}
        answers[place] = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, messages in enumerate(prompts):
        said = answers[place]["choices"][0]["message"]["content"]
        assert said == expected(messages, 20).text
