"""Disassembler: names TVU instructions in the output of ``objdump -d``.

objdump prints custom-0 words as ``.insn`` or ``.4byte``; this replaces that by the mnemonic, its
registers and meaning. Use: riscv64-unknown-elf-objdump -d firmware.elf | python -m xtvu.disasm
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

from .asm import mnemonic
from .isa import CUSTOM0, by_function_id

__all__ = ["annotate", "disassemble"]

_LINE = re.compile(r"^(\s*[0-9a-f]+:\s+)([0-9a-f]{8})(\s+)(\S.*)$")
_REGISTERS = ("zero ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 "
              "s11 t3 t4 t5 t6").split()


def disassemble(word: int) -> str | None:
    """Text of a custom-0 instruction word, or None for any other word."""
    if word & 0x7F != CUSTOM0:
        return None
    rd, funct3, rs1, rs2, funct7 = (word >> lo & mask
                                    for lo, mask in ((7,
                                                      31), (12, 7), (15, 31), (20, 31), (25, 127)))
    instruction = by_function_id(funct7 << 3 | funct3)
    operands = f"{_REGISTERS[rd]},{_REGISTERS[rs1]},{_REGISTERS[rs2]}"
    if instruction is None:
        return f"tvu.undefined({funct7},{funct3})\t{operands}"
    return f"{mnemonic(instruction)}\t{operands}\t# {instruction.meaning}"


def annotate(lines: Iterable[str]) -> Iterator[str]:
    """The same lines, TVU instructions named."""
    for line in lines:
        match = _LINE.match(line.rstrip("\n"))
        text = disassemble(int(match[2], 16)) if match else None
        yield f"{match[1]}{match[2]}{match[3]}{text}\n" if match and text else line


if __name__ == "__main__":
    sys.stdout.writelines(annotate(sys.stdin))
