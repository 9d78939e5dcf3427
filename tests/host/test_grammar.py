"""Answers that have to look like something, on the golden model."""

from __future__ import annotations

import json
import re

import pytest
from bitnet_host import BadArgument, Grammars, Sampling, Session, open_board, open_model
from bitnet_host.run.sampling import Sampler
from serving import quick_image


@pytest.fixture(scope="module")
def grammars():
    return Grammars(quick_image())


@pytest.fixture(scope="module")
def session():
    with open_board("reference", quick_image()) as board:
        yield Session(board)


def _said(session, grammar, **sampling):
    reply = session.complete("Say it:", max_tokens=120,
                             sampling=Sampling(grammar=grammar, **sampling)).reply
    return reply.text, reply.stop_reason


@pytest.mark.parametrize("schema,fits", [
    ({"const": "42"}, lambda value: value == "42"),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 3},
     lambda value: len(value) == 3 and all(isinstance(one, bool) for one in value)),
    ({"type": "object", "properties": {"é": {"enum": ["ü", "媽"]}}, "required": ["é"],
      "additionalProperties": False}, lambda value: value["é"] in "ü媽"),
    ({"type": "integer", "minimum": 10, "maximum": 12}, lambda value: 10 <= value <= 12),
    ({"anyOf": [{"type": "null"}, {"const": 7}]}, lambda value: value in (None, 7)),
])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 3.0, "seed": 1, "top_k": 2},
                                      {"temperature": 1.0, "seed": 2, "presence_penalty": 2.0}])
def test_schemas(session, grammars, schema, fits, sampling):
    """Whatever the model would rather say, and to the end."""
    text, reason = _said(session, grammars.schema(schema), **sampling)
    assert fits(json.loads(text)) and reason == "stop"


def test_gbnf(session, grammars):
    grammar = grammars.gbnf('root ::= ("cat" | "dog") " "{2} [0-9]{3,4} "!"')
    for seed in range(4):
        text, reason = _said(session, grammar, temperature=5.0, seed=seed)
        assert re.fullmatch("(cat|dog)  [0-9]{3,4}!", text) and reason == "stop"


def test_it_is_the_best_that_is_allowed(session, grammars):
    """Of all tokens that the grammar allows, by the logits of the whole head."""
    grammar = grammars.schema({"enum": ["apple", "pear", "plum", "grape", "melon"]})
    said = session.complete("Say it:", max_tokens=120,
                            sampling=Sampling(grammar=grammar)).reply.answer.token_ids
    target = session.target
    target.reset()
    for token in session.text.encode_raw("Say it:"):
        logits = target.score(token)
    assert len(said) > 2
    for place, token in enumerate(said):
        allowed = Sampler(Sampling(grammar=grammar), (), said[:place]).admits(range(len(logits)))
        best = max((one for one, good in enumerate(allowed) if good),
                   key=lambda one: (logits[one], -one))
        assert best == token
        logits = target.score(token)


def test_more_is_allowed_than_there_are_candidates(session, grammars):
    """And no candidate: the best of the whole vocabulary is found."""
    target = session.target
    target.reset()
    for token in session.text.encode_raw("Say it:"):
        logits = target.score(token)[:2048]
    best = [session.text.piece(int(token)) for token in logits.argsort()[::-1][:300]]
    words = [word for word in map(session.text.piece, range(2048))
             if word.isascii() and word.isalpha() and not word.startswith(tuple(best))]
    grammar = grammars.gbnf("root ::= " + " | ".join(f'"{word}"' for word in words))
    allowed = grammar.matcher().allowed().nonzero()[0]
    assert len(allowed) > 100
    said = session.complete("Say it:", max_tokens=1, sampling=Sampling(grammar=grammar)).reply
    assert said.answer.token_ids == [max(allowed, key=lambda token: (logits[token], -token))]


@pytest.mark.parametrize("schema", [{"type": "hiccup"}, {"type": 3}, 7, [], {"enum": []},
                                    {"pattern": "(", "type": "string"},
                                    {"$ref": "https://example.com/x"}])
def test_schemas_that_are_none(grammars, schema):
    with pytest.raises(BadArgument, match="not usable"):
        grammars.schema(schema)


def test_grammars_that_are_too_much(grammars):
    deep = None
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(BadArgument, match="nested too deeply"):
        grammars.schema({"enum": deep})
    with pytest.raises(BadArgument, match="more than 65536 characters"):
        grammars.schema({"enum": ["x" * 70_000]})
    with pytest.raises(BadArgument, match="not usable"):
        grammars.gbnf("root ::= (")


def test_the_bundled_model(session):
    """Its own tokenizer and stop tokens, which a grammar leaves out until it may end."""
    image = open_model()
    grammar = Grammars(image).schema({"type": "array", "items": {"enum": ["cat", "dog"]},
                                      "maxItems": 3})
    with open_board("reference", image) as board:
        reply = Session(board).chat([{"role": "user", "content": "Tell me a story."}],
                                    max_tokens=40, sampling=Sampling(grammar=grammar)).reply
    assert isinstance(json.loads(reply.text), list) and reply.stop_reason == "stop"


def test_what_was_drawn_from():
    """The alternatives that were left, with the probabilities there, which sum to one."""
    sampler = Sampler(Sampling(temperature=0.5, top_k=3, seed=1, logprobs=5))
    choice = sampler.choose([5, 6, 7, 8], [2.0, 1.0, 0.5, 0.0])
    assert [one.token for one in choice.drawn] == [5, 6, 7]
    shares = [one.probability for one in choice.drawn]
    assert sum(shares) == pytest.approx(1) and shares[0] / shares[1] == pytest.approx(7.389, 1e-3)
    assert [one.token for one in choice.alternatives] == [5, 6, 7, 8]
    greedy = Sampler(Sampling(logprobs=2)).choose([5, 6], [1.0, 2.0])
    assert [(one.token, one.probability) for one in greedy.drawn] == [(6, 1.0)]
