"""The CFU bus of the real CPU: random programs on VexRiscv's own Verilog, with a CFU whose `ready`
is low at random.

VexRiscv offers a command again that was already taken if `ready` is low in the cycle in which the
instruction leaves the execute stage. A CFU that keeps `ready` high while no command is offered
never meets that; one that does not gets wrong results here.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bitnet_host.run.link.client import Link
from bitnet_host.run.link.simulator import Simulator, build_folder
from bitnet_host.run.link.wires import UDPWire
from bitnet_soc import soc
from conftest import ROOT

from firmware import boot_file

HERE = Path(__file__).resolve().parent / "cfu"
SEED = int(os.environ.get("BITNET_SEED") or secrets.randbits(20))
MASK = 0xFFFFFFFF
_GCC = ["riscv64-unknown-elf-gcc", "-march=rv32im", "-misa-spec=2.2", "-mabi=ilp32", "-nostdlib",
        "-ffreestanding"]


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    """The simulator of the CPU alone."""
    folder = tmp_path_factory.mktemp("cpu")
    sources = (build_folder() / "sim/sources.txt").read_text().split()
    verilog = next(source for source in sources if source.endswith("VexRiscv_FullCfu.v"))
    subprocess.run(["verilator", "--cc", "--exe", "--build", "-O3", "-Wno-fatal", "-Wno-lint",
                    "-Wno-UNOPTFLAT", "--top-module", "VexRiscv",
                    "-CFLAGS", "-O1", verilog, HERE / "main.cpp", "-o", "cfu_cpu"], cwd=folder,
                   check=True, capture_output=True)
    return folder / "obj_dir/cfu_cpu"


def _signed(x):
    return x - (1 << 32) if x >> 31 else x


def _alu(name, a, b):
    """What RV32IM says (the RISC-V unprivileged specification, chapters I and M)."""
    s, t = _signed(a), _signed(b)
    quotient = abs(s) // abs(t) * (1 if (s < 0) == (t < 0) else -1) if b else -1
    return {"add": a + b, "sub": a - b, "xor": a ^ b, "and": a & b, "or": a | b,
            "sltu": int(a < b), "mul": a * b, "mulh": s * t >> 32,
            "mulhu": a * b >> 32,
            "div": quotient, "divu": a // b if b else MASK, "rem": s - quotient * t if b else a,
            "remu": a % b if b else a}[name] & MASK


def _cfu(function_id, a, b):
    return a * 3 + (b ^ function_id * 2654435761 & MASK) + function_id & MASK


def _program(rng, length=1500):
    """Assembly, the words that it leaves from 0x20000000 on, and the number of custom instructions.
    Every function id occurs."""
    registers = {r: int(rng.integers(0, 1 << 32)) for r in range(5, 16)}
    lines = ["li x31, 0x20000000", *(f"li x{r}, {value}" for r, value in registers.items())]
    memory, commands, ids = [0] * 4096, 0, rng.permutation(1024).tolist()
    stored = 0
    for number in range(length):
        d, a, b = (int(rng.integers(5, 16)) for _ in range(3))
        kind = rng.random()
        if ids and (kind < 0.5 or length - number <= len(ids)):
            function_id = ids.pop()
            lines.append(f".insn r 0x0b, {function_id & 7}, {function_id >> 3}, x{d}, x{a}, x{b}")
            registers[d] = _cfu(function_id, registers[a], registers[b])
            commands += 1
        elif kind < 0.85:
            name = str(rng.choice(["add", "sub", "xor", "and", "or", "sltu", "mul", "mulh",
                                   "mulhu", "div", "divu", "rem", "remu"]))
            lines.append(f"{name} x{d}, x{a}, x{b}")
            registers[d] = _alu(name, registers[a], registers[b])
        elif kind < 0.9:
            lines += [f"sw x{a}, {4 * (stored % 500)}(x31)"]
            memory[stored % 500] = registers[a]
            stored += 1
        elif kind < 0.95 and stored:
            place = int(rng.integers(0, min(stored, 500)))
            lines += [f"lw x{d}, {4 * place}(x31)"]
            registers[d] = memory[place]
        else:  # over one instruction, or not
            taken = registers[a] < registers[b]
            lines += [f"bltu x{a}, x{b}, 1f", f".insn r 0x0b, 1, 1, x{d}, x{a}, x{b}", "1:"]
            if not taken:
                registers[d] = _cfu(9, registers[a], registers[b])
                commands += 1
    for place, r in enumerate(registers):
        lines.append(f"sw x{r}, {4 * (500 + place)}(x31)")
        memory[500 + place] = registers[r]
    lines += ["li x31, 0xf0000000", "sw x0, 0(x31)", "2: j 2b"]
    enable = ["li x1, 0x80000000", "csrw 0xbc0, x1"]
    return "\n".join([".globl _start", "_start:", *enable, *lines, ""]), memory, commands


def _run(cpu, tmp_path, text, seed, rule=1):
    (tmp_path / "program.S").write_text(text)
    subprocess.run([*_GCC, "-Wl,-Ttext=0", "program.S", "-o", "program.elf"], cwd=tmp_path,
                   check=True, capture_output=True)
    subprocess.run(["riscv64-unknown-elf-objcopy", "-O", "binary", "program.elf", "program.bin"],
                   cwd=tmp_path, check=True)
    done = subprocess.run([cpu, "program.bin", str(seed), str(rule)], cwd=tmp_path,
                          capture_output=True, text=True, timeout=60)
    words = [int(line) for line in done.stdout.split()]
    return words[1:], words[0] if words else None


@pytest.mark.parametrize("number", range(12))
def test_random_programs_on_the_cpu(cpu, tmp_path, number):
    print(f"BITNET_SEED={SEED}")
    rng = np.random.default_rng([SEED, number])
    text, memory, commands = _program(rng)
    got, taken = _run(cpu, tmp_path, text, SEED + number + 1)
    assert taken == commands and got == memory


def test_a_cfu_that_breaks_the_rule_computes_wrong(cpu, tmp_path):
    """The same programs with `ready` low at random while nothing is offered: so the test above can
    see it."""
    wrong = 0
    for number in range(4):
        text, memory, commands = _program(np.random.default_rng([7, number]))
        wrong += _run(cpu, tmp_path, text, number + 1, rule=0) != (memory, commands)
    assert wrong


def test_a_full_queue_behind_a_division(tmp_path, monkeypatch):
    """The whole SoC: `divu`, an instruction that takes the queue's last slot, `addi`, with
    operations of every length."""
    (tmp_path / "firmware").mkdir()
    binary = tmp_path / "firmware/full_queue.bin"
    shutil.copytree(build_folder() / "generated", tmp_path / "generated")
    subprocess.run([*_GCC,
                    "-O2", "-std=c11",
                    f"-I{tmp_path}", "-T", ROOT / "firmware/link.ld", ROOT / "firmware/crt0.S",
                    HERE / "full_queue.c", "-o", "full_queue.elf"], cwd=tmp_path, check=True,
                   capture_output=True)
    subprocess.run(["riscv64-unknown-elf-objcopy", "-O", "binary", "full_queue.elf", binary],
                   cwd=tmp_path, check=True)
    monkeypatch.setenv("BITNET_BUILD", str(boot_file(binary, tmp_path, build_folder())))
    simulator = Simulator()
    try:
        bus = Link(UDPWire("127.0.0.1", simulator.ports["udp"]))
        while bus.read_list([soc.MAILBOX_BASE])[0] != 0x600D:
            assert simulator.stats()["cycles"] < 20_000_000
        words = bus.read(soc.MAILBOX_BASE + 4, 2 * 24).reshape(24, 2)
    finally:
        simulator.close()
    assert words[:, 0].tolist() == list(range(16, 208, 8)), "the program did not run to its end"
    assert words[:, 1].tolist() == [0] * 24
