"""Conversations as clients send them."""

from __future__ import annotations

import pytest
from bitnet_host.model.text import TextModel
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.messages import chat_prompt, content_text, messages_of, text_prompts
from bitnet_host.serve.model import Model
from bitnet_host.serve.refused import Refused
from serving import quick_image

USER = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def model():
    return Model(quick_image(), TextModel(quick_image()), {})


@pytest.mark.parametrize("content,text", [
    ("a", "a"), (None, ""), ([], ""), (["a", "b"], "a\n\nb"),
    ([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"},
      {"type": "output_text", "text": "c"}], "a\n\nb\n\nc"),
    ([{"type": "refusal", "refusal": "no"}], "no"), ([{"text": "a"}], "a"),
])
def test_contents(content, text):
    assert content_text(content, "x") == text


@pytest.mark.parametrize("content,why", [
    (7, "must be text"), ([7], "no text"), ([{"type": "image_url"}], "reads text only"),
    ([{"type": "text"}], "without text"), ([{"type": "text", "text": 7}], "without text"),
])
def test_contents_that_are_no_text(content, why):
    with pytest.raises(Refused, match=why) as caught:
        content_text(content, "messages[0].content")
    assert caught.value.more["param"] == "messages[0].content"


def test_roles():
    """OpenAI's newer word for the system's; whatever else a message has stays for the template."""
    given = [{"role": "developer", "content": "Short."}, USER | {"name": "Ann"},
             {"role": "assistant", "tool_calls": [{"id": "x"}]}]
    assert messages_of(Fields({"messages": given})) == [
        {"role": "system", "content": "Short."}, USER | {"name": "Ann"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}]


@pytest.mark.parametrize("given", [
    None, [], "hi", {}, ["hi"], [{"content": "hi"}], [{"role": 7, "content": "hi"}],
    [{"role": "user"}],
])
def test_what_is_no_conversation(given):
    with pytest.raises(Refused, match="messages"):
        messages_of(Fields({"messages": given}))


def test_what_a_request_may_ask_of_the_template(model):
    plain = chat_prompt(model, [USER], Fields({}))
    assert plain == chat_prompt(model, [USER], Fields({"add_generation_prompt": True}))
    bare = chat_prompt(model, [USER], Fields({"add_generation_prompt": False}))
    assert plain.rendered.startswith(bare.rendered) and plain.rendered != bare.rendered
    begun = [USER, {"role": "assistant", "content": "Once"}]
    goes_on = chat_prompt(model, begun, Fields({"continue_final_message": True}))
    assert goes_on.rendered.endswith("Once")
    with pytest.raises(Refused, match="contradict"):
        chat_prompt(model, begun, Fields({"continue_final_message": True,
                                          "add_generation_prompt": True}))


def test_plain_text(model):
    whole = model.text.encode_raw("The cat")
    assert [prompt.ids for prompt in text_prompts(model, "The cat")[0]] == [whole]
    prompts, several = text_prompts(model, ["The cat", [1, 2], [5, "cat"]])
    assert several and [prompt.ids for prompt in prompts] == [
        whole, [1, 2], [5, *model.text.encode_part("cat")]]
    assert not text_prompts(model, [1, 2])[1]
    assert text_prompts(model, {"prompt_string": "The cat"})[0][0].ids == whole
    for wrong in (None, 7, [], [[]], [1.5], {"prompt_string": "x", "multimodal_data": ["y"]}):
        with pytest.raises(Refused):
            text_prompts(model, wrong)
