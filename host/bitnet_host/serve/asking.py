"""From the fields of a request to what is asked of the model."""

from __future__ import annotations

import json
import math
from typing import Any

from bitnet_host.run.grammar import Grammar
from bitnet_host.run.protocol import MOST_CANDIDATES
from bitnet_host.run.sampling import Sampling
from bitnet_host.run.session import Prompt
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.model import Ask, Model
from bitnet_host.serve.refused import Refused

__all__ = ["ask", "grammar_of"]

_MOST_LOGPROBS = 20
_COLDEST = 0.01  # below, an answer is greedy
_SEEDS = 1 << 64


def ask(model: Model, fields: Fields, prompt: Prompt, *, limit: tuple[str, ...],
        logprobs: int = 0, stops: str = "stop", grammar: Grammar | None = None,
        choice: int = 0) -> Ask:
    """One answer to ``prompt``. ``limit`` and ``stops`` are the names of the API's own fields;
    ``choice`` counts those of a request, which differ if they are drawn. Raises Refused, or
    UserError for a prompt that does not fit."""
    _check(model, prompt)
    most = fields.whole(*limit)
    if most is None:
        most = int(model.defaults.get("max_tokens", -1))
    if most < 0:
        most = model.context
    return Ask(prompt, min(most, model.context), _sampling(model, fields, logprobs, grammar,
                                                            choice),
               fields.texts(stops))


def _check(model: Model, prompt: Prompt) -> None:
    count, vocab = len(prompt.ids), model.image.vocab
    if not count:
        raise Refused(400, "the prompt is empty: say something", param="prompt")
    if any(not 0 <= token < vocab for token in prompt.ids):
        raise Refused(400, f"token ids must lie between 0 and {vocab - 1}", param="prompt")
    if count >= model.context:
        raise Refused(400, f"the prompt has {count} tokens, the model's context is of "
                           f"{model.context}: shorten it", "exceed_context_size_error",
                      n_prompt_tokens=count, n_ctx=model.context)


def _sampling(model: Model, fields: Fields, logprobs: int, grammar: Grammar | None,
              choice: int) -> Sampling:
    if not 0 <= logprobs <= _MOST_LOGPROBS:
        raise Refused(400, f"at most {_MOST_LOGPROBS} alternatives of a token can be told")
    own, defaults = Sampling.of_model(model.image), model.defaults
    temperature = fields.between("temperature", defaults.get("temperature", own.temperature),
                                 0, 100)
    top_k = fields.whole("top_k")
    seed = fields.whole("seed")
    seed = int(defaults.get("seed", -1)) if seed is None else seed
    penalty = fields.raw("repeat_penalty", "repetition_penalty")
    names = "repeat_penalty" if fields.raw("repeat_penalty") is not None else "repetition_penalty"
    return Sampling(
        temperature=temperature if temperature >= _COLDEST else 0.0,
        top_k=own.top_k if top_k is None else min(max(0, top_k), MOST_CANDIDATES),
        top_p=fields.between("top_p", own.top_p, 0, 1) or math.ulp(1.0),
        min_p=fields.between("min_p", own.min_p, 0, 1),
        repetition_penalty=(own.repetition_penalty if penalty is None
                            else fields.between(names, 1.0, math.ulp(1.0), 100)),
        presence_penalty=fields.between("presence_penalty", 0.0, -2, 2),
        frequency_penalty=fields.between("frequency_penalty", 0.0, -2, 2),
        logit_bias=_bias(model, fields),
        seed=None if seed == -1 else (seed + choice) % _SEEDS,
        logprobs=logprobs, grammar=grammar)


def _bias(model: Model, fields: Fields) -> dict[int, float]:
    """By token id or by text, for all of its tokens; as an object, or as pairs. False is never."""
    given = fields.raw("logit_bias")
    if given is None:
        return {}
    pairs = list(given.items()) if isinstance(given, dict) else given
    if (not isinstance(pairs, list)
            or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)):
        raise fields.wrong("logit_bias", "an object, or a list of pairs")
    biases: dict[int, float] = {}
    for key, bias in pairs:
        if bias is False:
            bias = -100.0
        if isinstance(bias, bool) or not isinstance(bias, int | float) or bias != bias:
            raise fields.wrong("logit_bias", "of numbers")
        for token in _tokens(model, fields, key):
            biases[token] = float(min(100, max(-100, bias)))
    return biases


def _tokens(model: Model, fields: Fields, key: Any) -> list[int]:
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10:
        key = int(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return [key] if 0 <= key < model.image.vocab else []
    if isinstance(key, str):
        return model.text.encode_part(key)
    raise fields.wrong("logit_bias", "by token ids or text")


def grammar_of(model: Model, fields: Fields) -> Grammar | None:
    """What an OpenAI or llama-server request wants the answer to look like."""
    made = []
    form = fields.inner("response_format")
    if form is not None:
        kind = form.text("type", default="text")
        if kind == "json_schema":
            inner = form.inner("json_schema") or form
            made.append(model.grammars.schema(inner.raw("schema") or {"type": "object"}))
        elif kind == "json_object":
            schema = form.raw("schema")
            made.append(model.grammars.json_object() if schema is None
                        else model.grammars.schema(schema))
        elif kind == "text":
            pass
        elif kind == "grammar":
            made.append(model.grammars.gbnf(form.text("grammar")))
        else:
            raise form.wrong("type", "text, json_object or json_schema")
    schema = fields.raw("json_schema")
    if schema is not None:
        made.append(model.grammars.schema(_decoded(schema)))
    if fields.text("grammar"):
        made.append(model.grammars.gbnf(fields.text("grammar")))
    if len(made) > 1:
        raise Refused(400, "response_format, json_schema and grammar contradict each other")
    return made[0] if made else None


def _decoded(schema: Any) -> Any:
    """Some clients send a schema as text."""
    if not isinstance(schema, str):
        return schema
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        raise Refused(400, "json_schema is no JSON", param="json_schema") from None
