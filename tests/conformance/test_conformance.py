"""Cases of llama.cpp's server tests that passed once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_what_passed_before(tmp_path):
    suite = Path(__file__).parent / "suite.py"
    done = subprocess.run([sys.executable, suite, "--held", "--jobs", "2", "--folder", tmp_path],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "141 of 141 cases" in done.stdout
