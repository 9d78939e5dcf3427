"""Shared fixtures: what `make build` built. A missing build is an error, never a skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["BUILD", "ROOT"]

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("BITNET_BUILD") or ROOT / "build")


def _built(path: Path) -> Path:
    if not path.exists():
        pytest.fail(f"{path} is missing: run `make build` first")
    return path


@pytest.fixture(scope="session")
def tvu_sim() -> Path:
    """The Verilated TVU with its test bench."""
    return _built(BUILD / "sim" / "tvu_sim")
