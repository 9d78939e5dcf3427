"""Muon for the ternary matrices, AdamW for the embedding, the head and the norms.

Muon (Jordan, 2024, kellerjordan.github.io/posts/muon) makes each step's matrix orthogonal, by five
rounds of Newton and Schulz's iteration. PyTorch's own computes them in bfloat16, which takes a CPU
without such instructions thirty times as long (7.3 s a step instead of 0.25 at the bundled model's
size, one core), so they are computed in float32 here.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from bitnet_host.model.checkpoint import ModelConfig, matrix_shapes
from bitnet_host.train.network import Parameters

__all__ = ["Optimiser", "decay", "rate"]

_MUON_RATE, _ADAM_RATE, _MOMENTUM, _DECAY = 0.02, 5e-3, 0.95, 0.1
_BETAS, _EPS = (0.9, 0.95), 1e-9
_WARM_UP = 0.02  # of the run
_CLIP = 1.0


def rate(progress: float) -> float:
    """The share of the learning rate at ``progress`` 0 to 1 of a run: a short rise, then a straight
    line to zero."""
    return min(1.0, progress / _WARM_UP + 0.02) * (1 - progress)


def decay(progress: float) -> float:
    """Weight decay, in the first half only: masters shall settle in the second one, as 2B-4T's
    report has it (arXiv 2504.12285)."""
    return _DECAY if progress < 0.5 else 0.0


class Optimiser:
    """``scale``: of the learning rates. ``momenta`` and ``averages`` are its state: float32 tensors
    by the parameters' names."""

    def __init__(self, parameters: Parameters, config: ModelConfig, scale: float = 1.0) -> None:
        self._parameters, self._scale = parameters, scale
        matrices = {f"{layer}.{name}" for layer in range(config.layers)
                    for name in matrix_shapes(config)}
        self.momenta = {name: torch.zeros_like(parameters[name]) for name in sorted(matrices)}
        others = sorted(set(parameters) - matrices)
        self.averages = {name: (torch.zeros_like(parameters[name]),
                                torch.zeros_like(parameters[name])) for name in others}
        self._by_shape: dict[Any, list[str]] = defaultdict(list)
        for name in self.momenta:
            self._by_shape[tuple(parameters[name].shape)].append(name)

    @torch.no_grad()
    def step(self, number: int, progress: float) -> None:
        """Takes the gradients that the parameters have. ``number``: from 1 on."""
        self._clip()
        now = self._scale * rate(progress)
        for names in self._by_shape.values():
            self._muon(names, _MUON_RATE * now, decay(progress))
        for name in self.averages:
            self._adam(name, _ADAM_RATE * now, number)
        for parameter in self._parameters.values():
            parameter.grad = None

    def _clip(self) -> None:
        """Gradients of what AdamW moves, together, to a length of at most one; Muon's have none."""
        gradients = [self._parameters[name].grad for name in self.averages]
        length = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(())))
        for gradient in gradients:
            gradient.mul_((_CLIP / (length + 1e-6)).clamp(max=1.0))

    def _muon(self, names: list[str], step: float, weight_decay: float) -> None:
        directions = []
        for name in names:
            gradient, momentum = self._parameters[name].grad, self.momenta[name]
            momentum.lerp_(gradient, 1 - _MOMENTUM)
            directions.append(gradient.lerp(momentum, _MOMENTUM))
        rows, columns = directions[0].shape
        turned = _orthogonal(torch.stack(directions)) * max(1.0, rows / columns) ** 0.5
        for name, direction in zip(names, turned, strict=True):
            self._parameters[name].mul_(1 - step * weight_decay).add_(direction, alpha=-step)

    def _adam(self, name: str, step: float, number: int) -> None:
        """Kingma and Ba, arXiv 1412.6980; no weight decay, which norms and embedding do without."""
        parameter, (first, second) = self._parameters[name], self.averages[name]
        first.lerp_(parameter.grad, 1 - _BETAS[0])
        second.lerp_(parameter.grad.square(), 1 - _BETAS[1])
        root = (second / (1 - _BETAS[1] ** number)).sqrt().add_(_EPS)
        parameter.addcdiv_(first, root, value=-step / (1 - _BETAS[0] ** number))


def _orthogonal(matrices: Any) -> Any:
    """float32 [n, rows, columns]: singular values near one, singular vectors as they were."""
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * (square @ square)) @ x
    return x.mT if tall else x
