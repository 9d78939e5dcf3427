"""Runs TVU programs on the Verilated unit and on the Machine, for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from xtvu.isa import by_name
from xtvu.machine import Machine

WAIT = ("WAIT", {})
FAIL = ("FAIL", {})
__all__ = ["FAIL", "MEGABYTE", "WAIT", "float_bits", "run_model", "run_rtl"]

MEGABYTE = 1 << 20


def run_rtl(binary: Path, folder: Path, memory: np.ndarray, program: list, preset: str = "ug585"):
    """Responses (list of int), the memory afterwards, and the bench's closing line."""
    memory.tofile(folder / "memory.bin")
    words = []
    for name, operands in program:
        if name in ("WAIT", "FAIL"):
            words += [0xFFFFFFFF - (name == "FAIL"), 0, 0]
        elif name == "RAW":
            words += [operands["function_id"], operands["rs1"], operands["rs2"]]
        else:
            words += [by_name(name).function_id, *by_name(name).pack(**operands)]
    np.array(words, np.uint32).tofile(folder / "program.bin")
    done = subprocess.run([binary, "memory.bin", "program.bin", "output.bin", preset], cwd=folder, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    output = np.fromfile(folder / "output.bin", np.uint8)
    responses = output[:4 * len(program)].view(np.uint32).tolist()
    return responses, output[4 * len(program):], done.stderr.splitlines()[-1]


def run_model(memory: np.ndarray, program: list):
    """Responses and the memory afterwards, by the Machine."""
    machine = Machine(memory.copy())
    responses = []
    for name, operands in program:
        responses.append(machine.execute("STATUS") if name == "WAIT" else machine.execute(name, **operands))
    return responses, machine.memory


def float_bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))
