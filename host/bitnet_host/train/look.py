"""Looks at a model in training: its loss on what was kept back, its zeros, and words of its own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from bitnet_host.model.checkpoint import matrix_shapes
from bitnet_host.train.network import Network, Parameters, Rounded, ternary
from bitnet_host.train.tokens import NOTHING

__all__ = ["sample", "validate", "zeros_of_weights"]

_TEMPERATURE = 0.8


@torch.no_grad()
def validate(network: Network, parameters: Parameters, rounded: Rounded, rows: Any,
             batch: int) -> tuple[float, float, float]:
    """Loss over ``rows`` int64 [rows, 1 + tokens], and the shares of zeros in the gates and among
    the codes of the MLP's inner vectors."""
    total, look = 0.0, dict[str, Any]()
    for part in rows.split(batch):
        logits = network.logits(parameters, rounded, part[:, :-1].clamp(min=0), look)
        total += float(torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), part[:, 1:].flatten(), reduction="sum",
            ignore_index=NOTHING))
    count = int((rows[:, 1:] != NOTHING).sum())
    return (total / count, float(torch.stack(look["gates"]).mean()),
            float(torch.stack(look["codes"]).mean()))


@torch.no_grad()
def zeros_of_weights(network: Network, parameters: Parameters) -> float:
    """The share of zeros among the ternary weights."""
    zeros = count = 0
    for layer in range(network.config.layers):
        for name in matrix_shapes(network.config):
            codes, _ = ternary(parameters[f"{layer}.{name}"], network.config.group)
            zeros, count = zeros + int((codes == 0).sum()), count + codes.numel()
    return zeros / count


@torch.no_grad()
def sample(network: Network, parameters: Parameters, rounded: Rounded, tokenizer: dict[str, Any],
           start: list[int], end: int | None, count: int, seed: int) -> str:
    """What the model says behind the tokens ``start``: up to ``count`` tokens by chance, or to
    the token ``end``."""
    decoder, words = Tokenizer.from_str(json.dumps(tokenizer)), list(start)
    chance = np.random.default_rng(seed)
    for _ in range(min(count, network.config.context - len(start))):
        ids = torch.tensor([words], device=network.cos.device)
        logits = network.logits(parameters, rounded, ids)[0, -1].double().cpu().numpy()
        weights = np.exp((logits - logits.max()) / _TEMPERATURE)
        words.append(int(chance.choice(len(weights), p=weights / weights.sum())))
        if words[-1] == end:
            break
    return str(decoder.decode(words))
