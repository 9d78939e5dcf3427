"""The run: steps, looks at the clock, and what is saved on the way."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.train.look import validate, zeros_of_weights
from bitnet_host.train.network import Network, Parameters, Rounded
from bitnet_host.train.optimiser import Optimiser
from bitnet_host.train.state import Interval, Record, State
from bitnet_host.train.tokens import row_order

__all__ = ["Budget", "Run", "Stop"]

_LOOKS = 20  # at the clock, in a run of any length
_INTERVALS = (2.0, 120.0)  # seconds between them, least and most
_KEPT = 128  # rows that are validated on


class Stop:
    """Asks a run to end after its step, as a signal's handler does."""

    asked = False

    def ask(self, *_: Any) -> None:
        self.asked = True


@dataclass(frozen=True)
class Budget:
    """``seconds`` of the run, or its ``steps`` where they are given, which makes runs alike."""

    seconds: float
    steps: int = 0

    def interval(self, state: State, pace: float) -> Interval:
        """The steps until the next look: the clock says how many are left at ``pace`` seconds
        each. The last of them ends at a progress of one."""
        done = state.interval.after(state.step)
        if self.steps:
            left = self.steps - state.step
            count = -(-self.steps // _LOOKS)
        else:
            time_left = self.seconds - state.seconds
            left = max(1, round(time_left / pace))
            between = min(max(self.seconds / _LOOKS, _INTERVALS[0]), _INTERVALS[1])
            count = max(1, round(between / pace))
        return Interval(state.step, state.step + min(count, left), done, (1.0 - done) / left,
                        count >= left)


class Run:
    """``rows`` and ``kept`` int64 [rows, 1 + context]. A step takes ``batch`` rows, ``at_once`` of
    them in a forward pass. ``save`` is called with each state that is worth keeping."""

    def __init__(self, network: Network, parameters: Parameters, state: State, budget: Budget,
                 rows: Any, kept: Any, *, batch: int, at_once: int, seed: int, scale: float,
                 bfloat16: bool, compiled: bool, save: Callable[[State], None],
                 stop: Stop) -> None:
        self.network, self.parameters, self.state, self.budget = network, parameters, state, budget
        self._rows, self._kept = rows, kept[:_KEPT]
        self._batch, self._at_once, self._seed = batch, at_once, seed
        self._bfloat16, self._save, self._stop = bfloat16, save, stop
        self._device = network.cos.device.type
        self._loss = torch.compile(network.loss, dynamic=False) if compiled else network.loss
        for parameter in parameters.values():
            parameter.requires_grad_()
        self.optimiser = Optimiser(parameters, network.config, scale)
        self._restore()

    # -- state -------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Raises BadFile for a state of a model of another shape."""
        ours, theirs = self._tensors(), self.state.tensors
        if theirs and ({name: tuple(tensor.shape) for name, tensor in ours.items()}
                       != {name: tuple(tensor.shape) for name, tensor in theirs.items()}):
            raise BadFile("what was saved is of a model of another shape: start anew without "
                          "--resume")
        with torch.no_grad():
            for name, tensor in theirs.items():
                ours[name].copy_(tensor)
        self.state.tensors = {}

    def _tensors(self) -> dict[str, Any]:
        """All that a step changes, by names in a saved state."""
        optimiser = self.optimiser
        return ({f"parameter.{name}": tensor.detach() for name, tensor in self.parameters.items()}
                | {f"momentum.{name}": tensor for name, tensor in optimiser.momenta.items()}
                | {f"average{place}.{name}": pair[place]
                   for name, pair in optimiser.averages.items() for place in (0, 1)})

    def save(self) -> None:
        self._save(replace(self.state, tensors={
            name: tensor.contiguous().cpu() for name, tensor in self._tensors().items()}))

    # -- steps -------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return self.state.interval.after(self.state.step) == 1

    def rounded(self) -> Rounded:
        return Rounded.of(self.parameters, self.network.config, self.network.quantised)

    def train(self, tell: Callable[[Record], None]) -> None:
        """Goes on until it is ``done``, or was asked to stop. ``tell`` hears each record. Raises
        BadArgument if the loss is no number any more."""
        if self.done:
            return
        pace, began = self._pace(), time.monotonic() - self.state.seconds
        if not self.state.step:
            self.state.interval = self.budget.interval(self.state, pace)
            self.save()
        while not self.done:
            if self._stop.asked:
                self.save()
                return
            self._step()
            self.state.seconds = time.monotonic() - began
            if self.state.step == self.state.interval.end:
                pace = self._look(tell, pace)
                self.state.seconds = time.monotonic() - began
                if not self.done:
                    self.state.interval = self.budget.interval(self.state, pace)
                self.save()

    def _step(self) -> None:
        rounded = self.rounded()
        places = row_order(len(self._rows), self._seed, self.state.step * self._batch, self._batch)
        for start in range(0, self._batch, self._at_once):
            rows = self._rows[places[start:start + self._at_once]].to(self._device).long()
            loss = self._loss_of(rounded, rows)
            (loss * (len(rows) / self._batch)).backward()
            self.state.loss += float(loss.detach()) * len(rows) / self._batch
        rounded.pass_on(self.parameters)
        interval, step = self.state.interval, self.state.step
        self.optimiser.step(step + 1, (interval.after(step) + interval.after(step + 1)) / 2)
        self.state.step += 1
        self.state.batches += 1

    def _loss_of(self, rounded: Rounded, rows: Any) -> Any:
        with self._precision():
            return self._loss(self.parameters, rounded, rows)

    def _precision(self) -> Any:
        return (torch.autocast(self._device, torch.bfloat16) if self._bfloat16
                else contextlib.nullcontext())

    def _pace(self) -> float:
        """Seconds of a step, by a try without a change; compiles before it looks at the clock."""
        rows = self._rows[:self._at_once].to(self._device).long()
        for _ in range(2):
            began = time.monotonic()
            self._loss_of(self.rounded(), rows).backward()
            if self._device == "cuda":
                torch.cuda.synchronize()
            taken = time.monotonic() - began
        for parameter in self.parameters.values():
            parameter.grad = None
        return max(1e-4, taken * self._batch / len(rows))

    # -- looks -------------------------------------------------------------------------------------

    def validated(self, network: Network, rounded: Rounded) -> tuple[float, float, float]:
        """Loss and shares of zeros (look.validate) on what was kept back."""
        with self._precision():
            found: tuple[float, float, float] = validate(
                network, self.parameters, rounded, self._kept.to(self._device).long(),
                self._at_once)
        return found

    def _look(self, tell: Callable[[Record], None], pace: float) -> float:
        """Keeps a record; the pace of the steps since the one before."""
        state, before = self.state, self.state.history[-1:]
        steps = state.step - (before[0].step if before else 0)
        if before or steps > 1:
            pace = (state.seconds - (before[0].seconds if before else 0.0)) / steps
        valid, gates, codes = self.validated(self.network, self.rounded())
        if not math.isfinite(valid) or not math.isfinite(state.loss):
            raise BadArgument(f"the loss is no number any more after {state.step:,} steps: try a "
                              f"smaller --rate")
        record = Record(state.step, state.step * self._batch * self.network.config.context,
                        state.seconds, state.loss / max(1, state.batches), valid,
                        zeros_of_weights(self.network, self.parameters), gates, codes)
        state.history.append(record)
        state.loss, state.batches = 0.0, 0
        tell(record)
        return pace
