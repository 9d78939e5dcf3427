"""Choosing the next token. The host does it for every target alike, so one seed gives the same
words on board and golden model.

Greedy answers without extras are chosen where the model runs. Otherwise the target names its best
tokens with their logits, and the host chooses among these, at most MOST_CANDIDATES.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitnet_host.errors import BadArgument
from bitnet_host.model.image import Image
from bitnet_host.run.grammar import Grammar
from bitnet_host.run.protocol import MOST_CANDIDATES

__all__ = ["Alternative", "Choice", "Sampler", "Sampling"]

_MOST_LOGPROBS = 20


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Raises BadArgument for values that make no sense.

    temperature: 0 takes the best token; logits are divided by it before all that follows. top_k: of
    so many best tokens, 0 for all candidates. top_p: of the fewest best ones with that share of the
    probability. min_p: of those at least that probable, relative to the best. repetition_penalty:
    divides positive logits of tokens that the conversation has already, multiplies negative ones
    (Keskar et al., CTRL). presence_penalty and frequency_penalty: taken from the logits of tokens
    that the answer has, once or by count, as in OpenAI's API. logit_bias: added to logits by token;
    it reaches candidates only. seed: None for another answer each time. logprobs: how many
    alternatives to report, with logarithms of probabilities among the candidates. full_head: all
    logits in int8 instead of those that the ternary sketch ranks highest. grammar: what the answer
    has to look like; where it allows none of the candidates, all tokens are.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int = 0
    full_head: bool = False
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        def number(name: str, low: float, high: float, above: bool = False) -> None:
            value = getattr(self, name)
            fits = (isinstance(value, (int, float)) and not isinstance(value, bool)
                    and math.isfinite(value) and low <= value <= high)
            if not fits or (above and value == low):
                raise BadArgument(f"{name} must be {'above' if above else 'at least'} {low:g} and "
                                  f"at most {high:g}, not {value}")

        number("temperature", 0, 100)
        if 0 < self.temperature < 0.01:
            raise BadArgument(f"temperature {self.temperature:g} is too small: use 0 for greedy "
                              f"answers or at least 0.01")
        number("top_p", 0, 1, above=True)
        number("min_p", 0, 1)
        number("repetition_penalty", 0, 100, above=True)
        number("presence_penalty", -2, 2)
        number("frequency_penalty", -2, 2)
        for name, most in (("top_k", MOST_CANDIDATES), ("logprobs", _MOST_LOGPROBS),
                           ("seed", 2**64 - 1)):
            value = getattr(self, name)
            if ((value is not None
                 or name != "seed")
                and (not isinstance(value, int) or isinstance(value, bool)
                     or not 0 <= value <= most)):
                raise BadArgument(f"{name} must be a whole number from 0 to {most}, not {value}")
        if not isinstance(self.logit_bias, Mapping):
            raise BadArgument(f"logit_bias must map token ids to numbers, not be "
                              f"{self.logit_bias!r}")
        for token, bias in self.logit_bias.items():
            if (not isinstance(token, int) or not isinstance(bias, (int, float))
                or not -100 <= bias <= 100):
                raise BadArgument(f"logit_bias must map token ids to numbers from -100 to 100, not "
                                  f"{token!r} to {bias!r}")

    @classmethod
    def of_model(cls, image: Image, **changes: Any) -> Sampling:
        """What the model's generation_config.json asks for, with ``changes``: greedy unless it says
        do_sample. Raises BadArgument for values in it that make no sense."""
        asked = image.meta.get("defaults") or {}
        names = ["repetition_penalty",
                 *(("temperature", "top_k", "top_p", "min_p") if asked.get("do_sample") else ())]
        values = {name: asked[name] for name in names if asked.get(name) is not None}
        if asked.get("do_sample"):
            values = {"temperature": 1.0} | values
        if isinstance(values.get("top_k"), int):
            values["top_k"] = min(values["top_k"], MOST_CANDIDATES)
        return cls(**values | changes)

    @property
    def greedy(self) -> bool:
        """The best token counts, as it is, and nobody asks for others."""
        return (self.temperature == 0 and not self.logprobs and not self._changes_logits
                and self.grammar is None)

    @property
    def _changes_logits(self) -> bool:
        return (self.repetition_penalty != 1 or self.presence_penalty != 0
                or self.frequency_penalty != 0
                or any(self.logit_bias.values()))

    @property
    def candidates(self) -> int:
        """How many candidates suffice."""
        if self._changes_logits or self.grammar or not self.top_k:
            return MOST_CANDIDATES
        return max(self.top_k, self.logprobs)


@dataclass(frozen=True)
class Alternative:
    """A token and the natural logarithm of its probability among the candidates."""

    token: int
    logprob: float

    @property
    def probability(self) -> float:
        return math.exp(self.logprob)


@dataclass(frozen=True)
class Choice:
    """The token chosen. ``logprob`` is None if nobody asked; ``alternatives`` are the most probable
    tokens, best first; ``drawn`` is what was left to choose from, at most as many, with the
    probabilities there."""

    token: int
    logprob: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    drawn: tuple[Alternative, ...] = ()


class Sampler:
    """Chooses the tokens of one answer. ``context``: the token ids before it; ``said``: those that
    it has already, from another sampler of the same kind, whose place this one takes."""

    def __init__(self, sampling: Sampling, context: Iterable[int] = (),
                 said: Sequence[int] = ()) -> None:
        self._sampling = sampling
        self._random = random.Random(sampling.seed)  # None: of the system's entropy
        self._seen, self._said = {*context, *said}, Counter(said)
        for _ in said if sampling.temperature else ():
            self._random.random()
        self._matcher = sampling.grammar.matcher(said) if sampling.grammar else None

    @property
    def done(self) -> bool:
        """Whether the grammar has the answer end here."""
        return self._matcher is not None and self._matcher.done

    def admits(self, tokens: Sequence[int]) -> list[bool]:
        """Which of ``tokens`` the grammar allows next."""
        if self._matcher is None:
            return [True] * len(tokens)
        allowed = self._matcher.allowed()
        return [bool(allowed[token]) for token in tokens]

    def choose(self, tokens: Sequence[int], logits: Sequence[float]) -> Choice:
        """The next token of the candidates ``tokens``, with their raw ``logits``, of which the
        grammar allows at least one."""
        asked, pairs = self._sampling, list(zip(tokens, logits, strict=True))
        changed = sorted(((self._changed(token, logit), token)
                          for (token, logit), good in zip(pairs, self.admits(tokens), strict=True)
                          if good), key=lambda pair: (-pair[0], pair[1]))
        token, shares = (changed[0][1], [1.0]) if asked.temperature == 0 else self._draw(changed)
        self._seen.add(token)
        self._said[token] += 1
        if self._matcher is not None:
            self._matcher.accept(token)
        if not asked.logprobs:
            return Choice(token)
        best = max(logits)
        whole = best + math.log(math.fsum(math.exp(logit - best) for logit in logits))
        ranked = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
        alternatives = tuple(Alternative(t, logit - whole) for t, logit in ranked[:asked.logprobs])
        total = math.fsum(shares)
        drawn = tuple(Alternative(token, math.log(share / total))
                      for share, (_, token) in zip(shares[:asked.logprobs], changed, strict=False)
                      if share)
        return Choice(token, dict(pairs)[token] - whole, alternatives, drawn)

    def _changed(self, token: int, logit: float) -> float:
        asked = self._sampling
        if token in self._seen and asked.repetition_penalty != 1:
            logit = (logit / asked.repetition_penalty if logit > 0
                     else logit * asked.repetition_penalty)
        if self._said[token]:
            logit -= asked.presence_penalty + asked.frequency_penalty * self._said[token]
        return logit + asked.logit_bias.get(token, 0.0)

    def _draw(self, changed: list[tuple[float, int]]) -> tuple[int, list[float]]:
        """A token, and the shares of those it was drawn from, the first ones of ``changed``."""
        asked = self._sampling
        kept = changed[:asked.top_k] if asked.top_k else changed
        shares = [math.exp((logit - kept[0][0]) / asked.temperature) for logit, _ in kept]
        limit, total, count = asked.top_p * math.fsum(shares), 0.0, 0
        while (count < len(shares)
               and (count == 0 or (total < limit and shares[count] >= asked.min_p))):
            total += shares[count]
            count += 1
        place = self._random.random() * total
        for share, (_, token) in zip(shares[:count], kept, strict=False):
            place -= share
            if place < 0:
                return token, shares[:count]
        return kept[count - 1][1], shares[:count]
