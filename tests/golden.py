"""Recorded runs of transformers' operators, in fixtures/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bitnet_host.verify.operators import OperatorRecord

__all__ = ["PROMPT_FIXTURE", "fixture_path", "load_records", "save_records"]

_FIXTURES = Path(__file__).resolve().parent / "fixtures"
PROMPT_FIXTURE = _FIXTURES / "prompts.json"


def fixture_path(name: str) -> Path:
    return _FIXTURES / f"{name}.npz"


def save_records(path: Path, records: list[OperatorRecord]) -> None:
    path.parent.mkdir(exist_ok=True)
    arrays = {f"{i:03d}|{r.kind}|{r.name}|{key}": value for i, r in enumerate(records)
              for key, value in r.arrays.items()}
    np.savez_compressed(path, **arrays)


def load_records(path: Path) -> list[OperatorRecord]:
    records: dict[str, OperatorRecord] = {}
    with np.load(path) as file:
        for label in file.files:
            index, kind, name, key = label.split("|")
            records.setdefault(index, OperatorRecord(name, kind, {})).arrays[key] = file[label]
    return list(records.values())
