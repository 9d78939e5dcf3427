"""The network as it is trained: masters in float32, of which every forward pass sees a ternary
picture, and activations rounded to int8 before every matrix.

Rounding has a gradient of zero almost everywhere, so nothing could be learnt through it. The
straight-through estimator (Bengio et al., arXiv 1308.3432) takes the gradient of the rounded number
for that of the number itself. It stands here in two places: ``Network.codes`` for activations,
``Rounded`` for weights.

Formulas of rounding: transformers' ActQuant and WeightQuant (integrations/bitnet.py), after "The
Era of 1-bit LLMs" (arXiv 2402.17764).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from bitnet_host.model.checkpoint import ModelConfig, matrix_shapes, norm_sizes
from bitnet_host.model.rope import inverse_frequencies

__all__ = ["Parameters", "Rounded", "Network", "new_parameters", "ternary"]

#: float32 tensors: embedding, final_norm, head if it is untied, and "0.q", "0.input_norm", ... of
#: each layer, named as in a Layer.
Parameters = dict[str, Any]
#: Matrices that multiply the same input, and are multiplied as one.
_FUSED = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
_SMALLEST = 1e-5
_QUERIES, _BLOCKS = 64, 8


def new_parameters(config: ModelConfig, seed: int) -> Parameters:
    """Random ones: matrices so that a layer keeps the size of what goes through it, those that add
    to the residual vector by half of it."""
    source = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...], deviation: float) -> Any:
        return torch.randn(shape, generator=source) * deviation

    made = {"embedding": normal((config.vocab, config.hidden), 0.02),
            "final_norm": torch.ones(config.hidden)}
    if not config.tied:
        made["head"] = normal((config.vocab, config.hidden), 0.02)
    for layer in range(config.layers):
        for name, shape in matrix_shapes(config).items():
            half = 0.5 if name in ("o", "down") else 1.0
            made[f"{layer}.{name}"] = normal(shape, half * config.hidden ** -0.5)
        for name, size in norm_sizes(config).items():
            made[f"{layer}.{name}"] = torch.ones(size)
    return made


def ternary(master: Any, group: int = 0) -> tuple[Any, Any]:
    """Weights of -1, 0 and 1 and their scale, the mean of the masters' magnitudes: one for all, or
    float32 [rows, groups, 1] for every ``group`` weights of a row."""
    if not group:
        mean = master.abs().mean().clamp(min=_SMALLEST)
        return (master * (1.0 / mean)).round().clamp(-1, 1), mean
    groups = functional.pad(master, (0, -master.shape[1] % group)).unflatten(1, (-1, group))
    mean = groups.abs().mean(dim=2, keepdim=True).clamp(min=_SMALLEST)
    codes = (groups / mean).round().clamp(-1, 1)
    return codes.flatten(1)[:, :master.shape[1]], mean


@dataclass
class Rounded:
    """The matrices of a step as products see them: leaves of the graph of derivatives, which gather
    the gradients of all of a step's batches. ``factors``: what each row's products are multiplied
    with."""

    weights: dict[str, Any]
    factors: dict[str, Any]

    @classmethod
    def of(cls, parameters: Parameters, config: ModelConfig, ternary_weights: bool) -> Rounded:
        """Those of the masters in ``parameters``, or the masters as they are."""
        weights, factors = {}, {}
        with torch.no_grad():
            for layer in range(config.layers):
                for place, names in _FUSED.items():
                    masters = [parameters[f"{layer}.{name}"] for name in names]
                    pairs = [_picture(master, config.group) if ternary_weights
                             else (master, torch.ones_like(master[:, 0])) for master in masters]
                    weights[f"{layer}.{place}"] = torch.cat(
                        [pair[0] for pair in pairs]).requires_grad_()
                    factors[f"{layer}.{place}"] = torch.cat([pair[1] for pair in pairs])
        return cls(weights, factors)

    def pass_on(self, parameters: Parameters) -> None:
        """The straight-through estimator: the gradient of a rounded weight is its master's."""
        for place, weight in self.weights.items():
            layer, _, fused = place.partition(".")
            gradient = weight.grad / self.factors[place][:, None]
            names = [f"{layer}.{name}" for name in _FUSED[fused]]
            sizes = [len(parameters[name]) for name in names]
            for name, part in zip(names, gradient.split(sizes), strict=True):
                parameters[name].grad = part


def _picture(master: Any, group: int) -> tuple[Any, Any]:
    """What a product takes, and what its rows are multiplied with afterwards: as on the machine
    integers come first, which also bfloat16 holds exactly."""
    codes, scale = ternary(master, group)
    if not group:
        return codes, scale.expand(len(master))
    scaled = codes * scale.squeeze(2).repeat_interleave(group, 1)[:, :codes.shape[1]]
    return scaled, torch.ones_like(scaled[:, 0])


class Network:
    """The forward pass. ``quantised``: with activations rounded, as it has to be with ternary
    weights; without, the float model that comparisons need."""

    def __init__(self, config: ModelConfig, device: str = "cpu", quantised: bool = True) -> None:
        self.config, self.quantised = config, quantised
        inverse, factor = inverse_frequencies(config)
        angles = torch.outer(torch.arange(config.context).float(), torch.from_numpy(inverse))
        self.cos = (angles.double().cos() * factor).float().to(device)
        self.sin = (angles.double().sin() * factor).float().to(device)
        size = min(config.context, _BLOCKS * _QUERIES)
        self._later = torch.full((size, size), -math.inf, device=device).triu(1)

    def loss(self, parameters: Parameters, rounded: Rounded, rows: Any) -> Any:
        """Mean cross entropy in nats per token. ``rows`` int64 [batch, 1 + tokens]: each token is
        to be told from those before it."""
        logits = self.logits(parameters, rounded, rows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())

    def logits(self, parameters: Parameters, rounded: Rounded, tokens: Any,
               look: dict[str, Any] | None = None) -> Any:
        """float32 [batch, tokens, vocab]. ``look`` gathers the codes and gates of the layers."""
        x = functional.embedding(tokens, parameters["embedding"])
        for layer in range(self.config.layers):
            x = x + self._attention(parameters, rounded, layer, x)
            x = x + self._mlp(parameters, rounded, layer, x, look)
        x = self.norm(x, parameters["final_norm"])
        return functional.linear(x, parameters["embedding" if self.config.tied else "head"])

    def norm(self, x: Any, weight: Any) -> Any:
        """RMSNorm (arXiv 1910.07467)."""
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config.eps))

    def codes(self, x: Any) -> tuple[Any, Any]:
        """int8 codes as floats, and the factor that they were scaled with. The gradient of a code
        is that of the number before it was rounded."""
        scale = 127 / x.detach().abs().amax(-1, keepdim=True).clamp(min=_SMALLEST)
        scaled = x * scale
        return scaled + (scaled.round().clamp(-128, 127) - scaled).detach(), scale

    def product(self, rounded: Rounded, place: str, x: Any) -> Any:
        """sums of codes times ternary weights, times scale / s."""
        weight, factor = rounded.weights[place], rounded.factors[place]
        if not self.quantised:
            return functional.linear(x, weight) * factor
        codes, scale = self.codes(x)
        return functional.linear(codes, weight).float() * (factor / scale)

    def rotated(self, x: Any) -> Any:
        """RoPE (arXiv 2104.09864) of [batch, heads, tokens, head_dim]: the first half of a head
        turns with the second one."""
        count, half = x.shape[2], x.shape[3] // 2
        cos, sin = self.cos[:count], self.sin[:count]
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def activation(self, gate: Any) -> Any:
        if self.config.activation == "silu":
            return functional.silu(gate)
        return functional.relu(gate).square()

    def _attention(self, parameters: Parameters, rounded: Rounded, layer: int, x: Any) -> Any:
        c = self.config
        own = _own(parameters, layer)
        qkv = self.product(rounded, f"{layer}.qkv", self.norm(x, own("input_norm")))
        heads = qkv.unflatten(2, (-1, c.head_dim)).transpose(1, 2)
        q, k, v = heads.split((c.heads, c.kv_heads, c.kv_heads), 1)
        if c.qk_norms:
            q, k = self.norm(q, own("q_norm")), self.norm(k, own("k_norm"))
        mixed = self._mixed(self.rotated(q), self.rotated(k), v).transpose(1, 2).flatten(2)
        if c.sub_norms:
            mixed = self.norm(mixed, own("attn_sub_norm"))
        return self.product(rounded, f"{layer}.o", mixed)

    def _mixed(self, q: Any, k: Any, v: Any) -> Any:
        """Softmax attention to what came before, float32 [batch, heads, tokens, head_dim]. In short
        rows block by block of queries, all heads of a KV head in one product: on a CPU that takes
        two thirds of the time of PyTorch's own."""
        count = q.shape[2]
        if count > _BLOCKS * _QUERIES:
            return functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        grouped = q.unflatten(1, (k.shape[1], -1)) * q.shape[3] ** -0.5
        parts = []
        for start in range(0, count, _QUERIES):
            end = min(start + _QUERIES, count)
            block = grouped[:, :, :, start:end]
            scores = (block.flatten(2, 3) @ k[:, :, :end].mT).unflatten(2, block.shape[2:4])
            weights = (scores + self._later[start:end, :end]).softmax(-1).flatten(2, 3)
            parts.append((weights @ v[:, :, :end]).unflatten(2, block.shape[2:4]))
        return torch.cat(parts, 3).flatten(1, 2)

    def _mlp(self, parameters: Parameters, rounded: Rounded, layer: int, x: Any,
             look: dict[str, Any] | None) -> Any:
        own = _own(parameters, layer)
        both = self.product(rounded, f"{layer}.gate_up", self.norm(x, own("post_norm")))
        gate, up = both.chunk(2, -1)
        inner = self.activation(gate) * up
        if self.config.sub_norms:
            inner = self.norm(inner, own("ffn_sub_norm"))
        if look is not None:
            look.setdefault("gates", []).append((gate <= 0).float().mean())
            look.setdefault("codes", []).append((self.codes(inner)[0] == 0).float().mean())
        return self.product(rounded, f"{layer}.down", inner)


def _own(parameters: Parameters, layer: int) -> Any:
    return lambda name: parameters[f"{layer}.{name}"]
