"""What a run knows of itself: saved whole, so that one that was killed goes on exactly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open

from bitnet_host.errors import BadFile
from bitnet_host.files import regular_size, replacing

__all__ = ["Interval", "Record", "State", "load_state", "save_state"]

_VERSION = 1


@dataclass(frozen=True)
class Record:
    """A line of the table of losses. ``loss``: mean of the batches since the line before, and
    ``valid``: of what was kept back, in nats per token; shares of zeros among ``weights``, in the
    ``gates`` and among the ``codes`` of the MLP's inner vectors."""

    step: int
    tokens: int
    seconds: float
    loss: float
    valid: float
    weights: float
    gates: float
    codes: float


@dataclass(frozen=True)
class Interval:
    """The steps between two looks at the clock: from ``first`` to before ``end``, with the progress
    of the run rising from ``progress`` by ``slope`` each. ``last``: it is one behind them."""

    first: int
    end: int
    progress: float
    slope: float
    last: bool

    def after(self, steps: int) -> float:
        """Progress when so many steps are done."""
        if self.last and steps >= self.end:
            return 1.0
        return self.progress + (steps - self.first) * self.slope


@dataclass
class State:
    """``settings`` as the command had them; ``step``: how many are done; ``seconds``: that the run
    has taken; ``loss`` and ``batches``: sum since the last record; ``tensors``: parameters and the
    state of the optimiser."""

    settings: dict[str, Any]
    interval: Interval
    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    batches: int = 0
    history: list[Record] = field(default_factory=list)
    tensors: dict[str, Any] = field(default_factory=dict)


def save_state(path: Path, state: State) -> None:
    """Raises BadFile if it cannot be written; what was there is there then."""
    about = {key: value for key, value in vars(state).items() if key != "tensors"}
    about |= {"interval": asdict(state.interval), "version": _VERSION,
              "history": [asdict(record) for record in state.history]}
    with replacing(path) as file:
        file.write(safetensors.torch.save(state.tensors, {"run": json.dumps(about)}))


def load_state(path: Path) -> State:
    """Raises BadFile if there is none, or if it is damaged or of another version."""
    regular_size(path)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["run"])
            if about.pop("version") != _VERSION:
                raise BadFile(f"{path} is of another version of this tool: start anew without "
                              f"--resume")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        about |= {"interval": Interval(**about["interval"]),
                  "history": [Record(**record) for record in about["history"]]}
        return State(**about, tensors=tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFile(f"{path} is damaged ({type(error).__name__}): start anew without "
                      f"--resume") from None
