"""The firmware's self-test: a TVU program whose results the Machine computes, written as C.

It runs before a model is there, on data that the CPU puts into DDR, and after a restart in the
middle of anything: it reads nothing that it did not write. It uses every instruction, and every
slice of the product array with both of its signs, for all eight vectors. What CONTROL instructions
do is checked by firmware/selftest.c.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from .isa import BYTE_VECTORS, FACTORS, MODES, PICKS, QUANTISERS, SCALARS, VECTORS, by_name
from .layout import WEIGHTS_PER_WORD, pack_ternary, stripe
from .machine import Machine

__all__ = ["BASE", "SECTION", "c_header", "program", "run"]

BASE = 0x0010_0000  # DDR address; nothing else uses the second megabyte
SECTION = 15  # whose counters the test looks at
_OUT, _OUT_BYTES = BASE + 0x4000, 0x4000
_N, _ROWS, _LEVELS = 160, 24, 3
_ZEROS, _RESULTS = 288, 200  # scratchpad rows: cleared at first; where results begin

_Program = list[tuple[str, dict[str, int]]]


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _data() -> tuple[bytes, dict[str, int]]:
    """What lies at BASE in linear order, and the address of each part."""
    rng = np.random.default_rng(2026)
    parts: dict[str, np.ndarray] = {"x": (rng.standard_normal(_N) * 2).astype(np.float32),
                                    "zeros": np.zeros(8 * 32, np.float32)}
    for mode, columns in WEIGHTS_PER_WORD.items():
        if mode == "int8":
            parts[mode] = rng.integers(-128, 128, (_ROWS, columns)).astype(np.int8)
        else:  # each column has both signs
            parts[mode] = pack_ternary(rng.permuted(np.resize(np.array([-1, 0, 1], np.int8),
                    (_ROWS, columns)).T, axis=1).T, mode)
    data, places = b"", {}
    for name, part in parts.items():
        places[name] = BASE + len(data)
        data += part.tobytes() + bytes(-part.nbytes % 32)
    return data, places


def program() -> tuple[bytes, _Program]:
    """The data and the instructions."""
    data, at = _data()
    rep = dict(count=2, step_s=0, step_t=1, stride_dst=20, stride_a=20, stride_b=0)
    epi = dict(b=0, factor=0, pick=PICKS["none"], rank=0, first=0, base=0)
    n = dict(n=_N)
    p: _Program = [("SSET", dict(d=d, value=0)) for d in range(1, SCALARS)]
    p += [("SSET", dict(d=1, value=_bits(0.75))), ("SSET", dict(d=2, value=_bits(30.0))),
          ("SSET", dict(d=3, value=_bits(-2.5)))]
    for row in range(0, _ZEROS, 32):
        p += [("STREAM", dict(addr=at["zeros"], words=32)), ("LOADF", dict(dst=row, n=8 * 32, t=0))]
    p += [
        ("STREAM", dict(addr=at["x"], words=20)), ("LOADF", n | dict(dst=0, t=4)),
        ("SUMSQ", n | dict(a=0, t=5)),
        ("SSQRT", dict(d=6, a=5)), ("SDIV", dict(d=7, a=2, b=6)), ("SADD", dict(d=8, a=7, b=3)),
        ("SMUL", dict(d=9, a=8, b=1)),
        ("SMAX", dict(d=10, a=9, b=7)), ("MULS", n | dict(dst=20, a=0, s=1, t=11)),
        ("MULV", n | dict(dst=40, a=0, s=1, b=20, t=12)),
        ("ADDV", n | dict(dst=60, a=40, b=20, t=13)),
        ("AXPY", n | dict(dst=80, a=0, s=3, b=60, t=14)),
        ("EXP2", n | dict(dst=100, a=0, s=1, c=2, t=15)), ("SUM", n | dict(a=100, t=16)),
        ("SIGMOID", n | dict(dst=180, a=0)), ("MULI", n | dict(dst=180, a=180, s=1, b=21, t=20)),
        ("MAX", n | dict(a=0, t=17)),
        ("STREAM", dict(addr=at["x"], words=20)), ("MULM", n | dict(dst=120, a=20, s=1, t=18)),
        ("STREAM", dict(addr=at["x"], words=20)), ("AXPYM", n | dict(dst=140, a=20, s=3, t=0)),
        ("STREAM", dict(addr=at["int8"], words=_ROWS)), ("LOADB", dict(dst=160, s=1, n=_N, t=0)),
        ("CHECK", dict(t=0, words=_ROWS - 5)),
        ("REP", rep), ("ABSMAX", n | dict(a=0, t=19)),
    ]
    row = _RESULTS
    for mode, code in MODES.items():
        vectors = BYTE_VECTORS if mode == "int8" else VECTORS
        columns = dict(n=WEIGHTS_PER_WORD[mode])
        dot = dict(words=1, mode=code, last_vector=vectors - 1, s=1, step_s=0, stride=3, rows=_ROWS)
        p += [(QUANTISERS[mode], columns | dict(vector=v, a=20 * v, s=2)) for v in range(vectors)]
        p += [("STREAM", dict(addr=at[mode], words=_ROWS)), ("DOT", dot | dict(dst=row)),
              ("STREAMR", dict(addr=at[mode], rows=1, words=_ROWS, stride=0)),
              ("DOTA", dot | dict(dst=row))]
        row += 3 * vectors
    # a product that marks rows and one of the picked ones; columns, which are lost on words 16 to
    # 31; the rankings of two vectors
    one = dict(words=1, mode=MODES["base3"], last_vector=0, s=1, step_s=0, stride=0, rows=_ROWS)
    picked = dict(addr=at["base3"], groups=_ROWS // 8, words=1)
    p += [
        ("QUANT5", n | dict(vector=0, a=0, s=2)), ("STREAM", dict(addr=at["base3"], words=_ROWS)),
        ("EPI", epi | dict(factor=FACTORS["relu2"], pick=PICKS["mark"])),
        ("DOT", one | dict(dst=row)), ("STREAMP", picked),
        ("EPI", epi | dict(factor=FACTORS["dst"], pick=PICKS["picked"])),
        ("DOT", one | dict(dst=row)),
        ("PICK", dict(a=0, s=2, n=_ROWS)), ("STREAMP", picked),
        ("COLS", dict(dst=row + 4, words=1, mode=MODES["base3"], s=1, rows=_N)),
        ("RANK", dict(levels=_LEVELS)), ("STREAM", dict(addr=at["base3"], words=_ROWS)),
        ("EPI", epi | dict(b=20, factor=FACTORS["b"], rank=1, first=0, base=100)),
        ("DOT", one | dict(dst=0, last_vector=1)),
        ("STOREF", dict(addr=_OUT, a=0, n=8 * (row + 24))),
        ("STOREQ", n | dict(addr=_OUT + 0x3000, a=0, s=2)),
        ("STOREQT", dict(addr=_OUT + 0x3200, a=0, n=5, s=2)),
        ("STORES", dict(addr=_OUT + 0x3104, s=5)), ("SECTION", dict(section=SECTION)),
        ("STREAM", dict(addr=_OUT | 1, words=_OUT_BYTES // 32)),
        ("CHECK", dict(t=31, words=_OUT_BYTES // 32)),
        ("SECTION", dict(section=0)),
    ]
    assert 32 * (row + 24) <= 0x3000
    return data, p


def run(machine: Machine) -> None:
    """The program on a machine whose memory holds ``stripe`` of the data at BASE."""
    for name, operands in program()[1]:
        machine.execute(name, **operands)


def c_header() -> str:
    """Data, the program as calls of intrinsics, and the expected scalar registers."""
    data, instructions = program()
    packed = stripe(data)
    memory = np.zeros(2 << 20, np.uint8)
    memory[BASE:BASE + packed.size] = packed
    machine = Machine(memory)
    run(machine)
    assert not machine.errors, machine.errors
    words = packed.view("<u4")
    words = words[:np.flatnonzero(words)[-1] + 1]  # the rest is zeros
    lines = ["// Generated from toolchain/xtvu/selftest.py.", "#pragma once",
             "#include <generated/tvu.h>", "",
             f"#define SELFTEST_BASE 0x{BASE:x}u", f"#define SELFTEST_OUT 0x{_OUT:x}u",
             f"#define SELFTEST_OUT_BYTES 0x{_OUT_BYTES:x}u",
             f"#define SELFTEST_BYTES 0x{packed.size:x}u", f"#define SELFTEST_SECTION {SECTION}u",
             f"#define SELFTEST_MOVED {_OUT_BYTES // 32}u // stream words consumed in that section",
             f"#define SELFTEST_ENTRIES {(1 << _LEVELS) - 1}u // of a ranking",
             f"#define SELFTEST_NUMBERS {sum(machine.ranked(0))}u // their sum",
             f"#define SELFTEST_NUMBERS_1 {sum(machine.ranked(1))}u // ... of vector 1", "",
             "static const uint32_t selftest_data[] = {"]
    lines += ["    " + " ".join(f"0x{w:08x}," for w in words[i:i + 8])
              for i in range(0, len(words), 8)]
    lines += ["};", "", "static inline void selftest_run(void)", "{"]
    for name, operands in instructions:
        values = ", ".join(f"0x{operands[f.name]:x}" for f in by_name(name).fields)
        lines.append(f"    tvu_{name.lower()}({values});")
    lines += ["}", "", "static const uint32_t selftest_expected[] = {"]
    lines += ["    " + " ".join(f"0x{int(s):08x}," for s in machine.scalars[i:i + 8])
              for i in range(0, SCALARS, 8)]
    lines += ["};", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the firmware's self-test.")
    parser.add_argument("output", type=Path)
    path = parser.parse_args().output
    path.write_text(c_header())
