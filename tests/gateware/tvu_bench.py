"""Runs TVU programs on the Verilated unit and on the Machine, for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from xtvu.isa import ERRORS, by_name
from xtvu.layout import stripe
from xtvu.machine import Machine

WAIT = ("WAIT", {})
#: What the bench does beside instructions (soc/bitnet_soc/sim/tvu_main.cpp): function id and what
#: rs1 and rs2 are.
_BENCH = {"WAIT": (0xFFFFFFFF,), "FAIL": (0xFFFFFFFE, "ports"),
          "RESET_LINE": (0xFFFFFFFD, "after", "cycles"),
          "FREEZE": (0xFFFFFFFC, "on"), "PASS": (0xFFFFFFFB, "cycles")}
__all__ = ["MEGABYTE", "WAIT", "error_bit", "float_bits", "memory_of", "run_model", "run_rtl"]

MEGABYTE = 1 << 20


def memory_of(data: bytes) -> np.ndarray:
    """uint8 [4 MB]: ``data`` in stream order from 2 MB on, zeros elsewhere."""
    memory = np.zeros(4 * MEGABYTE, np.uint8)
    packed = stripe(data)
    memory[2 * MEGABYTE:2 * MEGABYTE + packed.size] = packed
    return memory


def run_rtl(binary: Path, folder: Path, memory: np.ndarray, program: list, preset: str = "ug585",
            seed: int = 1):
    """Responses (list of int), the memory afterwards, and the bench's closing line."""
    memory.tofile(folder / "memory.bin")
    words = []
    for name, operands in program:
        if name in _BENCH:
            function_id, *names = _BENCH[name]
            words += [function_id, *[operands[n] for n in names], *[0] * (2 - len(names))]
        elif name == "RAW":
            words += [operands["function_id"], operands["rs1"], operands["rs2"]]
        else:
            words += [by_name(name).function_id, *by_name(name).pack(**operands)]
    np.array(words, np.uint32).tofile(folder / "program.bin")
    command = [binary, "memory.bin", "program.bin", "output.bin", preset, str(seed)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    output = np.fromfile(folder / "output.bin", np.uint8)
    responses = output[:4 * len(program)].view(np.uint32).tolist()
    return responses, output[4 * len(program):], done.stderr.splitlines()[-1]


def run_model(memory: np.ndarray, program: list):
    """Responses and the memory afterwards, by the Machine."""
    machine = Machine(memory.copy())
    responses = []
    for name, operands in program:
        responses.append(machine.execute("STATUS") if name == "WAIT"
                         else machine.execute(name, **operands))
    return responses, machine.memory


def error_bit(name: str) -> int:
    """The error's bit in STATUS."""
    return 1 << list(ERRORS).index(name)


def float_bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))
