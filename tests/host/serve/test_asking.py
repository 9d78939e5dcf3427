"""From the fields of a request to what is asked of the model."""

from __future__ import annotations

import pytest
from bitnet_host import Sampling
from bitnet_host.errors import BadArgument
from bitnet_host.model.text import TextModel
from bitnet_host.run.session import Prompt
from bitnet_host.serve.asking import ask, grammar_of
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.model import Model
from bitnet_host.serve.refused import Refused
from serving import quick_image


@pytest.fixture(scope="module")
def model():
    return Model(quick_image(), TextModel(quick_image()), {})


def _asked(model, fields, **options):
    return ask(model, Fields(fields), Prompt("x", [1, 2, 3]), limit=("max_tokens",), **options)


@pytest.mark.parametrize("fields,changes", [
    ({}, {}), ({"temperature": 0.75}, {"temperature": 0.75}), ({"temperature": 0.001}, {}),
    ({"top_k": 3}, {"top_k": 3}), ({"top_k": 10**6}, {"top_k": 64}), ({"top_k": -1}, {}),
    ({"top_p": 0.25}, {"top_p": 0.25}), ({"min_p": 0.125}, {"min_p": 0.125}),
    ({"repeat_penalty": 1.5}, {"repetition_penalty": 1.5}),
    ({"repetition_penalty": 1.25}, {"repetition_penalty": 1.25}),
    ({"presence_penalty": -0.5}, {"presence_penalty": -0.5}),
    ({"frequency_penalty": 1.5}, {"frequency_penalty": 1.5}),
    ({"seed": 7}, {"seed": 7}), ({"seed": -1}, {}), ({"seed": None}, {}),
    ({"logit_bias": {"5": 200, "6": -3}}, {"logit_bias": {5: 100.0, 6: -3.0}}),
    ({"logit_bias": [[7, False], [5, 1.5]]}, {"logit_bias": {7: -100.0, 5: 1.5}}),
    ({"logit_bias": {"99999": 1}}, {}), ({"logit_bias": {"5": 10**400}}, {"logit_bias": {5: 100}}),
])
def test_sampling(model, fields, changes):
    assert _asked(model, fields).sampling == Sampling(**changes)


def test_bias_by_text(model):
    ids = model.text.encode_part("cat sat")
    assert len(ids) > 1
    biases = _asked(model, {"logit_bias": {"cat sat": 2}}).sampling.logit_bias
    assert biases == dict.fromkeys(ids, 2.0)


def test_the_smallest_share_is_the_best_token(model):
    assert 0 < _asked(model, {"top_p": 0}).sampling.top_p < 1e-15


def test_choices_differ(model):
    seeds = [_asked(model, {"seed": 2**64 - 1}, choice=place).sampling.seed for place in range(2)]
    assert seeds == [2**64 - 1, 0]


def test_limits_and_stops(model):
    assert _asked(model, {}).max_tokens == _asked(model, {"max_tokens": -1}).max_tokens == 256
    assert _asked(model, {"max_tokens": 7.0, "stop": ["a", "", "b"]}).max_tokens == 7
    assert _asked(model, {"stop": ["a", "", "b"]}).stops == ("a", "b")
    assert _asked(model, {"stop": "a", "ends": "c"}, stops="ends").stops == ("c",)


def test_defaults_are_for_what_a_request_leaves_out():
    model = Model(quick_image(), TextModel(quick_image()),
                  {"temperature": 0.5, "seed": 3, "max_tokens": 9})
    asked = _asked(model, {})
    assert (asked.max_tokens, asked.sampling) == (9, Sampling(temperature=0.5, seed=3))
    asked = _asked(model, {"temperature": 0, "seed": 4, "max_tokens": 1})
    assert (asked.max_tokens, asked.sampling) == (1, Sampling(seed=4))


@pytest.mark.parametrize("fields", [
    {"temperature": "hot"}, {"temperature": True}, {"temperature": 101}, {"temperature": 1e999},
    {"top_p": 2}, {"min_p": -1}, {"top_k": 1.5}, {"seed": "x"}, {"presence_penalty": 3},
    {"frequency_penalty": -3}, {"repeat_penalty": 0}, {"repetition_penalty": 0}, {"stop": [1]},
    {"max_tokens": [1]}, {"logit_bias": 1}, {"logit_bias": {"5": "x"}}, {"logit_bias": {"5": True}},
    {"logit_bias": [[[], 1]]}, {"logit_bias": [[1, 2, 3]]}, {"temperature": 10**400},
])
def test_wrong_fields(model, fields):
    with pytest.raises(Refused, match=next(iter(fields)).partition("_")[0]) as caught:
        _asked(model, fields)
    assert caught.value.status == 400


def test_prompts_that_do_not_fit(model):
    for ids, text in (([], "empty"), ([1] * 256, "context is of 256"), ([2048], "0 and 2047"),
                      ([-1], "0 and 2047")):
        with pytest.raises(Refused, match=text):
            ask(model, Fields({}), Prompt("", ids), limit=())


def test_alternatives_that_are_too_many(model):
    assert _asked(model, {}, logprobs=20).sampling.logprobs == 20
    with pytest.raises(Refused, match="at most 20"):
        _asked(model, {}, logprobs=21)


@pytest.mark.parametrize("fields", [
    {"json_schema": {"const": 7}}, {"json_schema": '{"const": 7}'}, {"grammar": 'root ::= "7"'},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": 7}}}},
    {"response_format": {"type": "json_schema", "schema": {"const": 7}}},
    {"response_format": {"type": "json_object", "schema": {"const": 7}}},
    {"response_format": {"type": "grammar", "grammar": 'root ::= "7"'}},
])
def test_grammars(model, fields):
    """Each allows one digit, and nothing else."""
    matcher = grammar_of(model, Fields(fields)).matcher()
    allowed = [model.text.decode([token]) for token in matcher.allowed().nonzero()[0]]
    assert allowed == ["7"]


def test_no_grammar(model):
    for fields in ({}, {"grammar": ""}, {"response_format": {"type": "text"}},
                   {"response_format": {}}, {"response_format": None}):
        assert grammar_of(model, Fields(fields)) is None
    for fields in ({"response_format": {"type": "json_object"}},
                   {"response_format": {"type": "json_schema"}}):
        allowed = grammar_of(model, Fields(fields)).matcher().allowed().nonzero()[0]
        assert allowed.size and all(model.text.decode([token])[0] == "{" for token in allowed)


@pytest.mark.parametrize("fields,error", [
    ({"grammar": 'root ::= "7"', "json_schema": {"const": 7}}, Refused),
    ({"response_format": {"type": "xml"}}, Refused), ({"response_format": "json"}, Refused),
    ({"json_schema": "{"}, Refused), ({"grammar": "root ::= ("}, BadArgument),
    ({"json_schema": {"type": "hiccup"}}, BadArgument),
])
def test_wrong_grammars(model, fields, error):
    with pytest.raises(error):
        grammar_of(model, Fields(fields))
