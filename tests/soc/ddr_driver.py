"""Compiles a C++ program with the memory model alone, for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conftest import ROOT

__all__ = ["compile_driver"]

_SIM = ROOT / "soc/bitnet_soc/sim"


def compile_driver(folder: Path, main: str) -> Path:
    """The program, in ``folder``; ``main`` is its text."""
    (folder / "main.cpp").write_text(main)
    models = [_SIM / f"{name}.cpp" for name in ("ddr", "ddr_faults", "ddr_preset")]
    subprocess.run(["g++", "-O1", f"-I{_SIM}", "main.cpp", *models, "-o", "driver"], cwd=folder,
                   check=True, capture_output=True)
    return folder / "driver"
