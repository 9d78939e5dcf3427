"""Shared fixtures: what `make build` built. A missing build is an error, never a skip."""

from __future__ import annotations

from pathlib import Path

import pytest
from bitnet_host.run.link.simulator import build_folder

__all__ = ["BUILD", "DSP_CLOCK", "ROOT"]

ROOT = Path(__file__).resolve().parent.parent
BUILD = build_folder()
#: The clock of the DSP slices that it was built with, as soc/build.py names it.
DSP_CLOCK = "1x" if BUILD.name == "1x" else "2x"


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
