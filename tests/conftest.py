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


@pytest.fixture(scope="session", params=["", "1x"])
def each_tvu_sim(request: pytest.FixtureRequest) -> Path:
    """The same with the clock of its DSP slices as the build has it, and at the system clock."""
    return _built(ROOT / "build/1x/sim/tvu_sim" if request.param else BUILD / "sim/tvu_sim")
