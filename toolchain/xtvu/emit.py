"""Writes what is generated from the instruction table: the C header and the table in
docs/isa.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from . import isa, layout, semantics

__all__ = ["c_header", "markdown"]


def _intrinsic(ins: isa.Instruction) -> str:
    """An inline function that packs its operands and issues the instruction through GNU as's
    ``.insn``."""
    parameters = ", ".join(f"uint32_t {f.name}" for f in ins.fields) or "void"
    sources = []
    for source in (1, 2):
        terms = [f"({f.name} << {f.lo})" if f.lo else f.name
                 for f in ins.fields if f.source == source]
        sources.append(" | ".join(terms) or "0")
    checks = "".join(f"    TVU_OPERAND({f.name}, 0x{f.mask:x}u)\n"
                     for f in ins.fields if f.width < 32)
    return (f"// {ins.meaning}. {ins.doc}\n"
            f"static inline __attribute__((always_inline)) uint32_t "
            f"tvu_{ins.name.lower()}({parameters})\n{{\n{checks}"
            f"    return TVU_INSN({ins.group}, {ins.funct7}, {sources[0]}, {sources[1]});\n}}\n")


def c_header() -> str:
    """C intrinsics, error bits, counter indices and sizes."""
    lines = ["// Generated from toolchain/xtvu/isa.py.", "#pragma once", "#include <stdint.h>", "",
             f"#define TVU_ISA_HASH 0x{isa.isa_hash():08x}u", f"#define TVU_LANES {isa.LANES}u",
             f"#define TVU_WORD_BYTES {isa.WORD_BYTES}u", f"#define TVU_VECTORS {isa.VECTORS}u",
             f"#define TVU_BYTE_VECTORS {isa.BYTE_VECTORS}u",
             f"#define TVU_ROW_WORDS {isa.largest('DOT', 'words')}u",
             f"#define TVU_ELEMENTS {isa.largest('MULS', 'n')}u",
             f"#define TVU_RUNS {isa.largest('REP', 'count')}u // of REP",
             f"#define TVU_SCALARS {isa.SCALARS}u", f"#define TVU_COUNTERS {len(isa.COUNTERS)}u",
             f"#define TVU_SCRATCH_ROWS {isa.SCRATCH_ROWS}u",
             f"#define TVU_ACT_WORDS {isa.ACT_WORDS}u",
             f"#define TVU_SHARED_WORDS {isa.SHARED_WORDS}u",
             f"#define TVU_COLUMN_WORDS {isa.COLUMN_WORDS}u",
             f"#define TVU_PICK_ROWS {isa.PICK_ROWS}u",
             f"#define TVU_BLOCK_BYTES {layout.BLOCK_BYTES}u",
             f"#define TVU_BLOCK_WORDS {layout.BLOCK_WORDS}u",
             f"#define TVU_BUSY 0x{1 << isa.BUSY_BIT:x}u",
             f"#define TVU_RANK_LEVELS {isa.RANK_LEVELS}u",
             f"#define TVU_RANK_NUMBERS {isa.largest('EPI', 'base') + 1}u",
             f"#define TVU_SECTIONS {isa.SECTIONS}u", ""]
    lines += [f"#define TVU_MODE_{name.upper()} {value}u" for name, value in isa.MODES.items()]
    for prefix, table in (("FACTOR", isa.FACTORS), ("PICK", isa.PICKS)):
        lines += [f"#define TVU_{prefix}_{name.upper()} {value}u" for name, value in table.items()]
    lines += [f"#define TVU_FLOAT_{name} 0x{int(value.view(np.uint32)):08x}u // {value}"
              for name, value in semantics.CONSTANTS.items()]
    lines += [f"#define TVU_ERROR_{name.upper()} 0x{1 << bit:x}u // {doc}"
              for bit, (name, doc) in enumerate(isa.ERRORS.items())]
    lines += [f"#define TVU_COUNTER_{name.upper()} {index}u // {doc}"
              for index, (name, doc) in enumerate(isa.COUNTERS.items())]
    lines += ["", "// A constant operand that does not fit its field ends the compilation.",
              "void tvu_operand_does_not_fit(void) __attribute__((error(\"an operand does not fit "
              "its field\")));",
              "#define TVU_OPERAND(value, most)                                                    "
              "             \\",
              "    if (__builtin_constant_p(value) && (value) > (most))                            "
              "             \\",
              "        tvu_operand_does_not_fit();"]
    lines += ["",
              "#define TVU_INSN(funct3, funct7, rs1, rs2)                                          "
              "              \\",
              "    ({                                                                              "
              "            \\",
              "        uint32_t rd_;                                                               "
              "            \\",
              f"        __asm__ volatile(\".insn r {isa.CUSTOM0}, %1, %2, %0, %3, %4\"             "
              f"                      \\",
              "                         : \"=r\"(rd_)                                              "
              "              \\",
              "                         : \"i\"(funct3), \"i\"(funct7), \"r\"((uint32_t)(rs1)), "
              "\"r\"((uint32_t)(rs2)) \\",
              "                         : \"memory\");                                             "
              "              \\",
              "        rd_;                                                                        "
              "            \\",
              "    })", "",
              "// Where the byte at a linear address lies in DDR.",
              "static inline uint32_t tvu_physical(uint32_t linear)", "{",
              f"    return {_physical('linear')};", "}", ""]
    return "\n".join(lines) + "\n" + "\n".join(_intrinsic(ins) for ins in isa.INSTRUCTIONS)


def _physical(linear: str) -> str:
    """layout.physical_address as a C expression: bits that stay neighbours, together."""
    runs: list[list[int]] = []
    for place, bit in enumerate(layout.ADDRESS_BITS):
        if runs and bit == layout.ADDRESS_BITS[place - 1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    terms = []
    for run in runs:
        place, bit = run[0], layout.ADDRESS_BITS[run[0]]
        mask = (1 << len(run)) - 1
        terms.append(f"({linear} & 0x{mask << place:x}u)" if bit == place
                     else f"({linear} >> {bit} & 0x{mask:x}u) << {place}")
    return " | ".join(terms)


def _fields(ins: isa.Instruction, source: int) -> str:
    fields = [f for f in ins.fields if f.source == source]
    return ", ".join(f"`{f.name}`[{f.lo + f.width - 1}:{f.lo}]" for f in fields) or "-"


def markdown() -> str:
    """docs/isa.md."""
    lines = ["# The TVU instruction set", "",
             "Generated from toolchain/xtvu/isa.py by `make generate`; `make check` fails when it "
             "is out of date.", "",
             "All instructions are R-type in the custom-0 opcode space (0x0B). funct3 is the "
             "group, funct7 the number in the group; "
             "operands are packed into rs1 and rs2 as `name`[high:low].", "",
             "- CONTROL instructions answer at once. All others are queued, return 0, and run in "
             "order.",
             "- STREAM descriptors have a queue of their own: the DMA readers fetch ahead of the "
             "operation that consumes the words, "
             "which must take exactly as many as were asked for.",
             f"- A scratchpad row is {isa.LANES} float32; `dst`, `a`, `b` are row numbers, `n` "
             f"counts elements. "
             "`dst` may equal `a` or `b`; partial overlap is undefined.",
             "- s0 reads as zero; writing it is how a result is thrown away.",
             "- Exact arithmetic: toolchain/xtvu/semantics.py and machine.py, docs/numerics.md.",
             ""]
    for group, title in enumerate(isa.GROUPS):
        lines += [f"## {title} (funct3 = {group})", "",
                  "| name | funct7 | rs1 | rs2 | meaning | |", "|---|---|---|---|---|---|"]
        for ins in isa.INSTRUCTIONS:
            if ins.group == group:
                meaning = ins.meaning.replace("|", "\\|")
                lines.append(f"| {ins.name} | {ins.funct7} | {_fields(ins, 1)} | {_fields(ins, 2)} "
                             f"| {meaning} | {ins.doc} |")
        lines.append("")
    lines += ["## Values of fields", "", "| field | values |", "|---|---|",
              *(f"| {field} | {', '.join(f'{n} = {v}' for n, v in table.items())} |"
                for field, table in (("mode", isa.MODES), ("factor", isa.FACTORS),
                                     ("pick", isa.PICKS))), "",
              "## Sticky errors (STATUS, CLEAR)", "", "| bit | name | set by |", "|---|---|---|",
              *(f"| {bit} | {n} | {d} |" for bit, (n, d) in enumerate(isa.ERRORS.items())), "",
              "## Counters (COUNTER)", "", "| index | name | counts |", "|---|---|---|",
              *(f"| {index} | {n} | {d} |" for index, (n, d) in enumerate(isa.COUNTERS.items())),
              ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write what is generated from the TVU instruction "
                                                 "table.")
    parser.add_argument("--header", type=Path)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--check", type=Path,
                        help="fail if this file is not what --docs would write")
    arguments = parser.parse_args()
    if (arguments.check is not None
        and (not arguments.check.exists() or arguments.check.read_text() != markdown())):
        sys.exit(f"{arguments.check} is out of date: run `make generate` and commit it")
    for path, text in ((arguments.header, c_header), (arguments.docs, markdown)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text())


if __name__ == "__main__":
    main()
