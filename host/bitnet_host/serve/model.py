"""What requests are read with, and what they become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitnet_host.model.image import Image
from bitnet_host.model.text import TextModel
from bitnet_host.run.grammar import Grammars
from bitnet_host.run.sampling import Sampling
from bitnet_host.run.session import Prompt, Spelling

__all__ = ["Ask", "Model"]


@dataclass(frozen=True)
class Ask:
    """What a request wants answered: once."""

    prompt: Prompt
    max_tokens: int
    sampling: Sampling
    stops: tuple[str, ...] = ()


class Model:
    """``defaults``: fields of requests that have none. ``thinking``: whether a model that can
    thinks aloud."""

    def __init__(self, image: Image, text: TextModel, defaults: Mapping[str, float],
                 thinking: bool = True) -> None:
        self.image, self.text = image, text
        self.defaults, self.thinking = defaults, thinking
        self.context = image.header.context
        # nothing is remembered: the same request has the same tokens, whatever came before it
        self.spelling = Spelling(text, 0)
        self.grammars = Grammars(image)
