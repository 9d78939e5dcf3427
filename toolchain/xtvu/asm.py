"""Assembler for TVU instructions, through riscv-assembler's tables of R-type instructions.

Only R-type goes through that package: version 1.2.1 encodes several other formats wrongly, so
firmware is built by gcc.
"""

from __future__ import annotations

from riscv_assembler import instr_arr
from riscv_assembler.convert import AssemblyConverter

from .isa import CUSTOM0, INSTRUCTIONS, Instruction, by_name

__all__ = ["assemble", "encode", "mnemonic", "register_instructions"]


def mnemonic(instruction: Instruction) -> str:
    """How the instruction is written: ``tvu.muls``."""
    return f"tvu.{instruction.name.lower()}"


def encode(name: str, rd: int, rs1: int, rs2: int) -> int:
    """The 32-bit instruction word; registers by number. Raises ValueError for a register that does
    not exist."""
    instruction = by_name(name)
    for register in (rd, rs1, rs2):
        if register not in range(32):
            raise ValueError(f"there is no register x{register}")
    return (instruction.funct7 << 25 | rs2 << 20 | rs1 << 15 | instruction.group << 12 | rd << 7
            | CUSTOM0)


def register_instructions() -> None:
    """Adds the TVU instructions to riscv-assembler's tables; does nothing the second time."""
    for instruction in INSTRUCTIONS:
        name = mnemonic(instruction)
        if name not in instr_arr.instr_map:
            instr_arr.R_instr.append(name)
            instr_arr.instr_map[name] = [f"{CUSTOM0:07b}", f"{instruction.group:03b}",
                                         f"{instruction.funct7:07b}"]


def assemble(text: str) -> list[int]:
    """Assembles lines such as ``tvu.muls x5, x6, x7`` (rd, rs1, rs2) to instruction words."""
    register_instructions()
    words = AssemblyConverter(output_mode="a").convert(text)
    return [int(word, 2) for word in words]
