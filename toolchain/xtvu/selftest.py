"""The firmware's self-test: a TVU program whose results the Machine computes, written as C.

It runs before a model is there, on data that the CPU puts into DDR, and touches every unit once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from .isa import FACTORS, MODES, PICKS, QUANTISERS, by_name
from .layout import pack_ternary, row_words, stripe
from .machine import Machine

__all__ = ["BASE", "c_header"]

BASE = 0x0010_0000  # DDR address; nothing else uses the second megabyte
_OUT = BASE + 0x4000
_N, _ROWS = 40, 9


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _program() -> tuple[bytes, list[tuple[str, dict[str, int]]]]:
    rng = np.random.default_rng(2026)
    x = (rng.standard_normal(_N) * 2).astype(np.float32)
    parts = [x.tobytes()]
    offsets = [0]
    for mode in MODES:
        if mode == "int8":
            matrix = rng.integers(-128, 128, (_ROWS, row_words(_N, mode) * 32)).astype(np.int8).view(np.uint8)
        else:
            matrix = pack_ternary(rng.integers(-1, 2, (_ROWS, _N)).astype(np.int8), mode)
        offsets.append(sum(len(part) for part in parts))
        parts.append(matrix.tobytes())
    words = -(-_N // 8)
    program: list[tuple[str, dict[str, int]]] = [
        ("SSET", dict(d=1, value=_bits(0.75))), ("SSET", dict(d=2, value=_bits(30.0))), ("SSET", dict(d=3, value=_bits(-2.5))),
        ("STREAM", dict(addr=BASE, words=words)), ("LOADF", dict(dst=0, n=_N, t=4)),
        ("SUMSQ", dict(a=0, n=_N, t=5)), ("SSQRT", dict(d=6, a=5)), ("SDIV", dict(d=7, a=2, b=6)), ("SADD", dict(d=8, a=7, b=3)),
        ("MULS", dict(dst=8, a=0, s=1, n=_N, t=9)), ("MULS", dict(dst=16, a=0, s=2, n=_N, t=10)),
        ("EXP2", dict(dst=24, a=0, s=1, c=3, n=_N, t=11)), ("MULV", dict(dst=32, a=16, s=1, b=24, n=_N, t=12)),
        ("SUM", dict(a=24, n=_N, t=13)),
        ("AXPY", dict(dst=40, a=0, s=1, b=8, n=_N, t=14)), ("MAX", dict(a=0, n=_N, t=15)),
    ]
    for place, (mode, code) in enumerate(MODES.items()):
        quant = QUANTISERS[mode]
        row = 48 + 8 * place
        program += [
            (quant, dict(vector=place, a=0, s=2, n=_N)), (quant, dict(vector=0, a=0, s=2, n=_N)),
            ("STREAM", dict(addr=BASE + offsets[place + 1], words=_ROWS * row_words(_N, mode))),
            ("DOT", dict(dst=row, words=row_words(_N, mode), mode=code, vectors=0, s=1, step_s=0, stride=0, rows=_ROWS)),
            ("SUM", dict(a=row, n=_ROWS, t=17 + place)),
        ]
    # the picked rows of the base-3 matrix, and its columns: as many words as it has rows
    picked = dict(addr=BASE + offsets[1], groups=-(-_ROWS // 8), words=1)
    program += [
        ("QUANT5", dict(vector=0, a=0, s=2, n=_N)), ("STREAM", dict(addr=BASE + offsets[1], words=_ROWS)),
        ("EPI", dict(b=0, factor=FACTORS["relu2"], pick=PICKS["mark"], rank=0, base=0)),
        ("DOT", dict(dst=80, words=1, mode=MODES["base3"], vectors=0, s=1, step_s=0, stride=0, rows=_ROWS)), ("STREAMP", picked),
        ("EPI", dict(b=0, factor=FACTORS["dst"], pick=PICKS["picked"], rank=0, base=0)),
        ("DOT", dict(dst=80, words=1, mode=MODES["base3"], vectors=0, s=1, step_s=0, stride=0, rows=_ROWS)),
        ("SUM", dict(a=80, n=_ROWS, t=21)), ("PICK", dict(a=0, s=2, n=_ROWS)), ("STREAMP", picked),
        ("COLS", dict(dst=84, words=1, mode=MODES["base3"], s=1, rows=_N)), ("SUM", dict(a=84, n=_N, t=22)),
        ("STOREF", dict(addr=_OUT, a=8, n=_N)), ("STOREQ", dict(addr=_OUT + 0x200, a=0, n=_N, s=2)),
        ("STOREQT", dict(addr=_OUT + 0x400, a=0, n=8, s=2)), ("STORES", dict(addr=_OUT + 0x304, s=5)),
        ("STREAM", dict(addr=_OUT | 1, words=160)), ("CHECK", dict(t=20, words=160)),
    ]
    return b"".join(parts), program


def c_header() -> str:
    """Data, the program as calls of intrinsics, and the expected scalar registers."""
    data, program = _program()
    packed = stripe(data)
    memory = np.zeros(2 << 20, np.uint8)
    memory[BASE:BASE + packed.size] = packed
    machine = Machine(memory)
    for name, operands in program:
        machine.execute(name, **operands)
    lines = ["// Generated from toolchain/xtvu/selftest.py.", "#pragma once", "#include <generated/tvu.h>", "",
             f"#define SELFTEST_BASE 0x{BASE:x}u", f"#define SELFTEST_OUT 0x{_OUT:x}u", "#define SELFTEST_OUT_BYTES 0x1400u", "",
             "static const uint32_t selftest_data[] = {"]
    words = packed.view("<u4")
    lines += ["    " + " ".join(f"0x{w:08x}," for w in words[i:i + 8]) for i in range(0, len(words), 8)]
    lines += ["};", "", "static inline void selftest_run(void)", "{"]
    for name, operands in program:
        values = ", ".join(f"0x{operands[f.name]:x}" for f in by_name(name).fields)
        lines.append(f"    tvu_{name.lower()}({values});")
    lines += ["}", "", "static const uint32_t selftest_expected[] = {"]
    lines += ["    " + " ".join(f"0x{int(s):08x}," for s in machine.scalars[i:i + 8]) for i in range(0, 24, 8)]
    lines += ["};", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the firmware's self-test.")
    parser.add_argument("output", type=Path)
    path = parser.parse_args().output
    path.write_text(c_header())
