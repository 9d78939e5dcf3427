"""POST /completion, as llama-server has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bitnet_host.run.session import Token
from bitnet_host.serve.asking import ask, grammar_of
from bitnet_host.serve.engine import Engine, Read
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.messages import text_prompts
from bitnet_host.serve.model import Ask
from bitnet_host.serve.parts import Tokens, progress_fields
from bitnet_host.serve.refused import error_body
from bitnet_host.serve.respond import Stream, as_event, finished, merged, read_fields

__all__ = ["routes", "settings_fields"]

_STOP_TYPES = {"stop": "eos", "text": "word", "cancel": "none"}


def routes(engine: Engine) -> list[Route]:
    async def complete(request: Request) -> Response:
        fields = await read_fields(request, engine)
        answer = _Answer(engine, fields)
        if fields.flag("stream"):
            return Stream(engine, answer.chunks(), failure=lambda refused: as_event(
                error_body(refused, "/completion")))
        await finished(request, answer.jobs)
        wholes = [answer.whole(place) for place in range(len(answer.jobs))]
        return JSONResponse(wholes if answer.several else wholes[0])

    return [Route(path, complete, methods=["POST"]) for path in ("/completion", "/completions")]


def settings_fields(asked: Ask) -> dict[str, Any]:
    """What an answer is sampled with, in llama-server's names."""
    sampling = asked.sampling
    return {
        "seed": -1 if sampling.seed is None else sampling.seed,
        "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
        "min_p": sampling.min_p, "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty, "n_predict": asked.max_tokens,
        "max_tokens": asked.max_tokens, "n_probs": sampling.logprobs,
        "stop": list(asked.stops),
        "logit_bias": [{"token": token, "bias": bias}
                       for token, bias in sampling.logit_bias.items()],
    }


class _Answer:
    def __init__(self, engine: Engine, fields: Fields) -> None:
        self._engine = engine
        self._most = fields.whole("n_probs") or 0
        self._drawn = fields.flag("post_sampling_probs")
        self._with_tokens = fields.flag("return_tokens")
        self._timings = fields.flag("timings_per_token")
        self._progress = fields.flag("return_progress")
        self._only = fields.texts("response_fields")
        fields.flag("stream")
        prompts, self.several = text_prompts(engine, fields.raw("prompt"))
        grammar = grammar_of(engine, fields)
        self.jobs = engine.start([
            ask(engine, fields, prompt, limit=("n_predict", "max_tokens"), logprobs=self._most,
                grammar=grammar) for prompt in prompts])

    def _tokens(self) -> Tokens:
        return Tokens(self._engine.text, self._engine.image.stop_tokens)

    def whole(self, place: int) -> dict[str, Any]:
        """The answer as the response has it."""
        job = self.jobs[place]
        data = self._end(place) | {"content": job.reply.text}
        if self._with_tokens:
            data["tokens"] = job.reply.answer.token_ids
        if self._most:
            tokens = self._tokens()
            data["completion_probabilities"] = [
                one for token in job.tokens if (told := tokens.add(token))
                for one in tokens.probabilities(told, token.text, self._drawn)]
        if not self._only:
            return data
        return {path: value for path in self._only if (value := _at(data, path)) is not None}

    def _end(self, place: int) -> dict[str, Any]:
        job = self.jobs[place]
        reply, usage = job.reply, job.reply.usage
        return {
            "index": place, "content": "", "tokens": [], "id_slot": job.slot or 0, "stop": True,
            "model": self._engine.settings.name, "tokens_predicted": usage.completion,
            "tokens_evaluated": usage.prompt, "generation_settings": settings_fields(job.ask),
            "prompt": self._engine.text.decode(job.ask.prompt.ids),
            "has_new_line": "\n" in reply.text, "truncated": False,
            "stop_type": _STOP_TYPES.get(reply.stop_reason, "limit"), "stopping_word": reply.stop,
            "tokens_cached": usage.prompt + usage.completion - 1,
            "timings": job.timing.fields(),
        }

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events; the last of each answer has ``stop``."""
        keepers = [self._tokens() for _ in self.jobs]
        held: list[list[int]] = [[] for _ in self.jobs]
        async for place, event in merged(self.jobs):
            if isinstance(event, Read):
                if self._progress:
                    yield as_event(self._read(place, event))
            elif event is None:
                yield as_event(self._end(place))
            else:
                held[place] += [] if event.id is None else [event.id]
                told = keepers[place].add(event)
                if event.text:
                    yield as_event(self._said(place, event, held[place], keepers[place], told))
                    held[place] = []

    def _read(self, place: int, read: Read) -> dict[str, Any]:
        job = self.jobs[place]
        timed = ({"timings": job.timing.fields(read.processed, read.cached)} if self._timings
                 else {})
        return {"index": place, "content": "", "tokens": [], "stop": False,
                "prompt_progress": progress_fields(job, read), **timed}

    def _said(self, place: int, event: Token, ids: Sequence[int], keeper: Tokens,
              told: Sequence[Token]) -> dict[str, Any]:
        job = self.jobs[place]
        more: dict[str, Any] = {"timings": job.timing.fields()} if self._timings else {}
        if self._most:
            more["completion_probabilities"] = keeper.probabilities(told, event.text, self._drawn)
        return {"index": place, "content": event.text, "tokens": list(ids), "stop": False,
                "id_slot": job.slot or 0, "tokens_predicted": job.timing.said,
                "tokens_evaluated": len(job.ask.prompt.ids), **more}


def _at(data: Any, path: str) -> Any:
    """What lies at ``a/b`` of nested objects."""
    for name in path.split("/"):
        data = data.get(name) if isinstance(data, dict) else None
    return data
