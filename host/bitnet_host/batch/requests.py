"""The lines of a file of prompts: each is the body of a request as OpenAI has it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitnet_host.errors import BadArgument
from bitnet_host.files import read_text
from bitnet_host.serve.asking import ask, grammar_of
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.messages import chat_prompt, messages_of, text_prompts
from bitnet_host.serve.model import Ask, Model
from bitnet_host.serve.refused import Refused

__all__ = ["Request", "read_requests", "understood"]

_MOST_BYTES = 4 << 30  # of the file
_LIMITS = {"messages": ("max_completion_tokens", "max_tokens", "n_predict"),
           "prompt": ("max_tokens", "n_predict")}
_SEEDS = 1 << 64


@dataclass(frozen=True)
class Request:
    """``line`` counts from 1; ``id`` is the line's own, or its number. ``key`` tells requests
    apart: those with the same ask for the same. ``seed`` is for a choice that is drawn."""

    line: int
    id: str | int
    body: dict[str, Any]
    key: str
    seed: int

    def named(self) -> dict[str, Any]:
        """What its row in the answers begins with."""
        return {"id": self.id, "line": self.line, "key": self.key}


def read_requests(path: Path, model: Model, seed: int) -> list[Request]:
    """All lines that are not empty. ``seed`` is that of the first one; each has the next. Raises
    BadFile, or BadArgument for a line that is no request; what the model refuses shows when it is
    understood."""
    requests: list[Request] = []
    lines: dict[str | int, int] = {}
    common = json.dumps([model.image.header.model_id, sorted(model.defaults.items())])
    for number, text in _lines(path):
        where = f"{path}, line {number}"
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise BadArgument(f"{where} is no JSON: write an object with messages or a prompt on "
                              f"each line") from None
        name, body = _parts(values, where)
        name = number if name is None else name
        if name in lines:
            raise BadArgument(f"{where} has the id {name!r} of line {lines[name]}: ids must "
                              f"differ")
        lines[name] = number
        digest = hashlib.sha256((common + json.dumps(body, sort_keys=True)).encode())
        requests.append(Request(number, name, body, digest.hexdigest()[:16],
                                (seed + len(requests)) % _SEEDS))
    if not requests:
        raise BadArgument(f"{path} holds no prompt: write one a line")
    return requests


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # not splitlines: JSON strings may hold what Unicode takes for the end of a line
    for number, text in enumerate(read_text(path, _MOST_BYTES).split("\n"), 1):
        if text.strip():
            yield number, text


def _parts(values: Any, where: str) -> tuple[str | int | None, dict[str, Any]]:
    """Id and body of a line, which may also be as OpenAI's batches have it."""
    if not isinstance(values, dict):
        raise BadArgument(f"{where} is no JSON object: write an object with messages or a prompt")
    name = next((values[key] for key in ("custom_id", "id") if values.get(key) is not None), None)
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        raise BadArgument(f"{where}: the id must be text or a whole number")
    body = values.get("body", {key: value for key, value in values.items()
                               if key not in ("id", "custom_id")})
    if not isinstance(body, dict) or (body.get("messages") is None) == (body.get("prompt") is None):
        raise BadArgument(f"{where} must have either messages or a prompt")
    return name, body


def understood(model: Model, request: Request) -> Ask:
    """What a request asks. Raises BadArgument or OutOfContext if the model refuses it."""
    fields = Fields(request.body)
    try:
        if fields.whole("n") not in (None, 1):
            raise fields.wrong("n", "1: an answer for each line")
        grammar = grammar_of(model, fields)
        if "messages" in fields:
            kind, prompt = "messages", chat_prompt(model, messages_of(fields), fields)
        else:
            kind, (prompts, several) = "prompt", text_prompts(model, fields.raw("prompt"))
            if several:
                raise fields.wrong("prompt", "one: write a line for each")
            prompt = prompts[0]
        asked = ask(model, fields, prompt, limit=_LIMITS[kind], grammar=grammar)
    except Refused as refused:
        raise BadArgument(str(refused)) from None
    if asked.sampling.temperature and asked.sampling.seed is None:
        return replace(asked, sampling=replace(asked.sampling, seed=request.seed))
    return asked
