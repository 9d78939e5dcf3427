"""The instruction table, and its encodings against GNU as, riscv-assembler and objdump."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from xtvu import emit, isa
from xtvu.asm import assemble, encode, mnemonic
from xtvu.disasm import annotate, disassemble
from xtvu.layout import pack_ternary, physical_address, stripe, unpack_ternary, unstripe

GNU = "riscv64-unknown-elf-"


def test_table_is_consistent():
    isa.check()


@pytest.mark.parametrize("change,words", [
    (dict(funct7=1),
     "share function id"), (dict(funct7=128), "does not fit"), (dict(group=7), "no group"),
    (dict(name="MULS", funct7=99), "defined twice"), (dict(doc=""), "no documentation"),
    (dict(funct7=40), "unassigned"),
    (dict(fields=(isa.Field("x", 1, 0, 8), isa.Field("y", 1, 7, 2))), "overlaps"),
    (dict(fields=(isa.Field("x", 1, 30, 8),)), "outside"),
])
def test_bad_tables_are_rejected(change, words):
    place = [i.name for i in isa.INSTRUCTIONS].index("CHECK")
    table = list(isa.INSTRUCTIONS)
    table[place] = replace(table[place], **change)
    with pytest.raises(isa.IsaError, match=words):
        isa.check(tuple(table))


def test_pack_and_unpack():
    values = dict(dst=17, a=33, s=5, n=2560, t=9)
    muls = isa.by_name("MULS")
    assert muls.unpack(*muls.pack(**values)) == values
    with pytest.raises(ValueError, match="does not fit"):
        muls.pack(**values | dict(n=40000))
    with pytest.raises(ValueError, match="takes"):
        muls.pack(dst=1)


def _gnu_words(tmp_path, source):
    (tmp_path / "t.s").write_text(source)
    subprocess.run([GNU + "as", "-march=rv32im", "-o", "t.o", "t.s"], cwd=tmp_path, check=True)
    subprocess.run([GNU + "objcopy", "-O", "binary", "-j", ".text", "t.o", "t.bin"], cwd=tmp_path,
                   check=True)
    return np.fromfile(tmp_path / "t.bin", "<u4").tolist()


def test_every_encoding_equals_gnu_as_and_riscv_assembler(tmp_path):
    registers = [(5, 6, 7), (31, 1, 30), (0, 0, 0)]
    gnu, ours, library = [], [], []
    for ins in isa.INSTRUCTIONS:
        for rd, rs1, rs2 in registers:
            gnu.append(f".insn r 0x0B, {ins.group}, {ins.funct7}, x{rd}, x{rs1}, x{rs2}")
            ours.append(encode(ins.name, rd, rs1, rs2))
            library += assemble(f"{mnemonic(ins)} x{rd}, x{rs1}, x{rs2}")
    assert _gnu_words(tmp_path, "\n".join(gnu) + "\n") == ours == library


def test_disassembler_names_every_instruction_in_objdump(tmp_path):
    source = ("\n".join(f".insn r 0x0B, {i.group}, {i.funct7}, a0, a1, a2"
                        for i in isa.INSTRUCTIONS) + "\nadd a0, a1, a2\n")
    _gnu_words(tmp_path, source)
    dump = subprocess.run([GNU + "objdump", "-d", "t.o"], cwd=tmp_path, capture_output=True,
                          text=True, check=True).stdout
    text = "".join(annotate(dump.splitlines(keepends=True)))
    for ins in isa.INSTRUCTIONS:
        assert f"{mnemonic(ins)}\ta0,a1,a2" in text
    assert "add\ta0,a1,a2" in text
    assert disassemble(0x33) is None
    assert "undefined" in disassemble(127 << 25 | 0x0B)


def test_c_intrinsics_pack_as_the_table_says(tmp_path):
    """Every intrinsic, compiled for this machine with the instruction itself replaced by a
    print."""
    rng = np.random.default_rng(3)
    calls, want = [], []
    for ins in isa.INSTRUCTIONS:
        values = {f.name: int(rng.integers(0, f.mask, endpoint=True)) for f in ins.fields}
        operands = ", ".join(f"{values[f.name]}u" for f in ins.fields)
        calls.append(f"    tvu_{ins.name.lower()}({operands});")
        want.append([ins.group, ins.funct7, *ins.pack(**values)])
    header = emit.c_header()
    (tmp_path / "tvu.h").write_text(header.replace("#define TVU_INSN(", "#define REPLACED(", 1))
    (tmp_path / "t.c").write_text(
        "#include <stdio.h>\n#include <stdint.h>\n"
        '#define TVU_INSN(f3, f7, a, b) ((uint32_t)printf("%u %u %u %u\\n", f3, f7, (uint32_t)(a), '
        '(uint32_t)(b)))\n'
        '#include "tvu.h"\nint main(void)\n{\n' + "\n".join(calls) + "\n    return 0;\n}\n")
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-o", "t", "t.c"], cwd=tmp_path,
                   check=True)
    output = subprocess.run(["./t"], cwd=tmp_path, capture_output=True, text=True,
                            check=True).stdout
    assert [[int(x) for x in line.split()] for line in output.splitlines()] == want


@pytest.mark.parametrize("mode", ["base3", "2bit"])
def test_packing_round_trip(mode):
    weights = np.random.default_rng(1).integers(-1, 2, (7, 333)).astype(np.int8)
    packed = pack_ternary(weights, mode)
    np.testing.assert_array_equal(unpack_ternary(packed, 333, mode), weights)
    with pytest.raises(ValueError, match="-1, 0 or 1"):
        pack_ternary(np.full((1, 4), 2, np.int8), mode)


def test_what_no_packing_gives_counts_as_zeros():
    """In every byte; digits of a byte stand a word's bytes apart."""
    data = np.arange(256, dtype=np.uint8).reshape(8, 32)
    threes, fours = (unpack_ternary(data, digits * 32, mode).reshape(8, digits, 32)
                     for mode, digits in (("base3", 5), ("2bit", 4)))
    for byte in range(256):
        row, place = divmod(byte, 32)
        wanted = ([0] * 5 if byte >= 243 else [byte // 3**digit % 3 - 1 for digit in range(5)])
        assert threes[row, :, place].tolist() == wanted
        assert fours[row, :, place].tolist() == [
            {0: -1, 1: 0, 2: 1, 3: 0}[byte >> 2 * digit & 3] for digit in range(4)]


def test_striping_is_the_address_map():
    data = np.random.default_rng(2).integers(0, 256, 1500).astype(np.uint8)
    striped = stripe(data)
    assert striped.size == 1536
    for linear in range(data.size):
        assert striped[physical_address(linear)] == data[linear]
    np.testing.assert_array_equal(unstripe(striped)[:1500], data)


def test_the_firmware_s_physical_addresses_are_those_of_the_layout():
    """The expression in C, which Python reads alike but for the suffixes."""
    expression = emit.c_header().split("tvu_physical(uint32_t linear)")[1].split("return ")[1]
    code = re.sub(r"\b(0x[0-9a-f]+)u\b", r"\1", expression.split(";")[0])
    rng = np.random.default_rng(2)
    for linear in [*range(1100), *rng.integers(0, 1 << 32, 300).tolist()]:
        # as the text of the layout says it: piece p of word w of a block lies at 128 p + 8 w
        word, piece, byte = linear >> 5 & 15, linear >> 3 & 3, linear & 7
        want = linear // 512 * 512 + 128 * piece + 8 * word + byte
        assert eval(code, {"linear": linear}) == want == physical_address(linear)
