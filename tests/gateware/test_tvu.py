"""The whole TVU in Verilator, on random programs, against the Machine: every bit of memory and
every response."""

from __future__ import annotations

import numpy as np
import pytest
from tvu_bench import MEGABYTE, WAIT, float_bits, memory_of, run_model, run_rtl
from xtvu import isa
from xtvu.layout import WEIGHTS_PER_WORD, pack_ternary, row_words
from xtvu.machine import Machine

DATA, RESULT, SIZE = 2 * MEGABYTE, 3 * MEGABYTE, 4 * MEGABYTE


def _check(tvu_sim, tmp_path, memory, program, preset="ug585"):
    program = [*program, WAIT]
    got, got_memory, line = run_rtl(tvu_sim, tmp_path, memory, program, preset)
    want, want_memory = run_model(memory, program)
    differing = np.flatnonzero(got_memory != want_memory)
    assert differing.size == 0, f"{differing.size} bytes differ, first at 0x{differing[0]:x}"
    assert got == want
    return got, line


def _load(program, floats, row):
    """Loads float32 from DATA to scratch rows from ``row`` on."""
    program += [("STREAM", dict(addr=DATA, words=-(-floats.size // 8))),
                ("LOADF", dict(dst=row, n=floats.size, t=0))]


def _store(program, row, n, offset):
    program.append(("STOREF", dict(addr=RESULT + offset, a=row, n=n)))


@pytest.mark.parametrize("n", [1, 7, 8, 9, 61, 64, 65, 333, 2560])
def test_elementwise(each_tvu_sim, tmp_path, n):
    rng = np.random.default_rng(n)
    x = (rng.standard_normal(2 * 2560) * 3).astype(np.float32)
    program: list = []
    _load(program, x, 0)
    program += [
        ("SSET", dict(d=1, value=float_bits(0.37))), ("SSET", dict(d=2, value=float_bits(-1.25))),
        ("MULS", dict(dst=1000, a=0, s=1, n=n, t=3)),
        ("MULV", dict(dst=1400, a=0, s=2, b=320, n=n, t=4)),
        ("ADDV", dict(dst=1800, a=0, b=320, n=n, t=5)),
        ("AXPY", dict(dst=2200, a=0, s=1, b=320, n=n, t=6)),
        ("MULV", dict(dst=2600, a=0, s=1, b=321, n=n, t=7)),
        ("EXP2", dict(dst=3000, a=0, s=2, c=1, n=n, t=8)),
        ("SIGMOID", dict(dst=4200, a=0, n=n)),
        ("MULI", dict(dst=4600, a=4200, s=1, b=321, n=n, t=16)),
        ("STREAM", dict(addr=DATA, words=-(-n // 8))),
        ("MULM", dict(dst=3400, a=320, s=2, n=n, t=9)),
        ("STREAM", dict(addr=DATA, words=-(-n // 8))),
        ("AXPYM", dict(dst=3800, a=320, s=2, n=n, t=15)),
        ("SUM", dict(a=0, n=n, t=10)), ("SUMSQ", dict(a=0, n=n, t=11)),
        ("MAX", dict(a=0, n=n, t=12)),
        ("ABSMAX", dict(a=0, n=n, t=13)), ("MAX", dict(a=320, n=n, t=14)),
    ]
    for i, row in enumerate((1000, 1400, 1800, 2200, 2600, 3000, 3400, 3800, 4200,
                             4600)):
        _store(program, row, n, 16384 * i)
    program.append(WAIT)
    program += [("SGET", dict(s=s)) for s in range(17)]
    _check(each_tvu_sim, tmp_path, memory_of(x.tobytes()), program)


_SHAPES = [(16, 320, 1), (37, 32, 4), (9, 1000, 3), (64, 2560, 2), (1, 1, 1), (21, 4096, 1),
           (50, 300, 8), (33, 128, 5), (200, 30, 8),
           (70, 1024, 4)]


@pytest.mark.parametrize("mode,rows,columns,vectors", [
    (mode, *shape) for mode in isa.MODES for shape in _SHAPES])
def test_dot(each_tvu_sim, tmp_path, mode, rows, columns, vectors):
    rng = np.random.default_rng(rows * columns)
    if mode == "int8":  # 127 words at most; only one vector may be longer than 32
        columns, vectors = (min(columns, 127 * 32),
                            min(vectors, isa.BYTE_VECTORS if columns <= 1024 else 1))
    x = rng.standard_normal(vectors * 8 * -(-columns // 8)).astype(np.float32)
    if mode == "int8":
        width = row_words(columns, mode) * 32
        matrix = rng.integers(-128, 128, (rows, width)).astype(np.int8).view(np.uint8)
    else:
        matrix = pack_ternary(rng.integers(-1, 2, (rows, columns)).astype(np.int8), mode)
    data = x.tobytes()
    data += bytes(-len(data) % 512)
    program: list = []
    _load(program, x, 0)
    quant = isa.QUANTISERS[mode]
    program += [("SSET", dict(d=4 + v, value=float_bits(0.01 + v))) for v in range(8)]
    program += [("SSET", dict(d=1, value=float_bits(40.0)))]
    program += [(quant, dict(vector=v, a=v * -(-columns // 8), s=1, n=columns))
                for v in range(vectors)]
    for name in ("DOT", "DOTA"):
        program += [
            ("STREAM", dict(addr=DATA + len(data), words=rows * row_words(columns, mode))),
            (name,
             dict(dst=5000, words=row_words(columns, mode), mode=isa.MODES[mode],
                  last_vector=vectors - 1, s=4, step_s=int(name == "DOT"), stride=32, rows=rows)),
        ]
    for v in range(vectors):
        _store(program, 5000 + 32 * v, rows, 1024 * v)
    _check(each_tvu_sim, tmp_path, memory_of(data + matrix.tobytes()), program, "conservative")


@pytest.mark.parametrize("mode", isa.MODES)
@pytest.mark.parametrize("first,words,vectors", [(1, 1, 1), (7, 2, 4), (31, 1, 3), (15, 1, 8),
                                                 (5, 11, 6)])
def test_dot_from_a_word_on(each_tvu_sim, tmp_path, mode, first, words, vectors):
    """EPI's `first`: two products with words of the activations from there on, and one without."""
    if mode == "int8":
        vectors = min(vectors, isa.BYTE_VECTORS)
    rng = np.random.default_rng(first)
    rows, columns = 21, (first + words) * WEIGHTS_PER_WORD[mode]
    x = rng.standard_normal(vectors * columns).astype(np.float32)
    weights = rng.integers(0, 256, 3 * rows * words * 32).astype(np.uint8)
    data = x.tobytes()
    data += bytes(-len(data) % 512)
    dot = dict(words=words, mode=isa.MODES[mode], last_vector=vectors - 1, s=4, step_s=0, stride=3,
               rows=rows)
    program: list = []
    for v in range(vectors):
        program += [("STREAM", dict(addr=DATA + 4 * v * columns, words=columns // 8)),
                    ("LOADF", dict(dst=0, n=columns, t=0)),
                    ("SSET", dict(d=1, value=float_bits(40.0))),
                    (isa.QUANTISERS[mode], dict(vector=v, a=0, s=1, n=columns))]
    epi = dict(b=0, factor=isa.FACTORS["b"], pick=0, rank=0, first=first, base=0)
    program += [("SSET", dict(d=4, value=float_bits(0.01))),
                ("STREAM", dict(addr=DATA + len(data), words=3 * rows * words)),
                ("EPI", epi), ("DOT", dot | dict(dst=5000)),
                ("EPI", epi | dict(factor=0)), ("DOT", dot | dict(dst=5100)),
                ("DOT", dot | dict(dst=5200))]
    for place in range(3):
        _store(program, 5000 + 100 * place, 8 * 3 * vectors, 4096 * place)
    _check(each_tvu_sim, tmp_path, memory_of(data + weights.tobytes()), program)


@pytest.mark.parametrize("mode", isa.MODES)
def test_every_byte_in_every_lane(each_tvu_sim, tmp_path, mode):
    """256 rows in which each byte lane has each value once, those that stand for no weights too,
    times eight or four vectors."""
    rng = np.random.default_rng(256)
    vectors = isa.BYTE_VECTORS if mode == "int8" else isa.VECTORS
    columns = {"base3": 160, "2bit": 128, "int8": 32}[mode]
    x = rng.standard_normal(vectors * columns).astype(np.float32)
    matrix = (np.arange(256)[:, None] + rng.permutation(256)[:32][None, :]).astype(np.uint8)
    program: list = []
    _load(program, x, 0)
    program += [("SSET", dict(d=1, value=float_bits(50.0))),
                ("SSET", dict(d=2, value=float_bits(1.0)))]
    program += [(isa.QUANTISERS[mode], dict(vector=v, a=v * columns // 8, s=1, n=columns))
                for v in range(vectors)]
    program += [("STREAM", dict(addr=DATA + 0x2000, words=256)),
                ("DOT",
                 dict(dst=400, words=1,
                      mode=isa.MODES[mode],
                      last_vector=vectors - 1, s=2, step_s=0, stride=32, rows=256))]
    _store(program, 400, 256 * vectors, 0)
    data = x.tobytes() + bytes(0x2000 - x.nbytes) + matrix.tobytes()
    _check(each_tvu_sim, tmp_path, memory_of(data), program)


def test_repeat_and_stores(each_tvu_sim, tmp_path):
    rng = np.random.default_rng(7)
    x = rng.standard_normal(512).astype(np.float32)
    program: list = []
    _load(program, x, 0)
    rep = dict(count=4, step_s=1, step_t=1, stride_dst=16, stride_a=16, stride_b=0)
    program += [
        ("REP", rep | dict(stride_dst=0)), ("MAX", dict(a=0, n=100, t=8)),
        ("SSET", dict(d=2, value=float_bits(-1.0))), ("SSET", dict(d=3, value=float_bits(127.0))),
        ("REP", rep | dict(step_t=0)), ("SMUL", dict(d=12, a=8, b=2)),
        ("SSET", dict(d=1, value=float_bits(1.0))),
        ("REP", rep | dict(step_s=0, step_t=0, stride_b=1)),
        ("EXP2", dict(dst=100, a=0, s=1, c=12, n=100, t=0)),
        ("REP", rep | dict(stride_dst=0)), ("SUM", dict(a=100, n=100, t=16)),
        ("REP", rep | dict(step_s=0)), ("SDIV", dict(d=20, a=3, b=16)),
        ("REP", rep | dict(stride_dst=1)), ("QUANT8", dict(vector=0, a=100, s=20, n=100)),
        ("SSQRT", dict(d=24, a=16)), ("SADD", dict(d=25, a=16, b=17)),
        ("SMAX", dict(d=26, a=16, b=17)),
        ("STOREQ", dict(addr=RESULT + 0x4000 + 96, a=0, n=61, s=3)),
        ("STOREQT", dict(addr=RESULT + 0x8000 + 45, a=0, n=61, s=3)),
        ("STORES", dict(addr=RESULT + 0x2004, s=24)), ("STORES", dict(addr=RESULT + 0x20f8, s=25)),
        # a fenced stream sees what the stores before it wrote
        ("STREAM", dict(addr=RESULT + 0x4000 + 96 | 1, words=2)), ("CHECK", dict(t=28, words=2)),
        ("STREAMR", dict(addr=DATA, rows=3, words=1, stride=1)), ("CHECK", dict(t=29, words=3)),
        ("STREAM", dict(addr=DATA + 96, words=40)), ("CHECK", dict(t=30, words=40)),
        ("STREAM", dict(addr=DATA + 64, words=2)), ("LOADB", dict(dst=300, s=3, n=64, t=31)),
    ]
    _store(program, 100, 512, 0)
    _store(program, 300, 64, 0x3000)
    program.append(WAIT)
    program += [("SGET", dict(s=s)) for s in range(32)]
    _check(each_tvu_sim, tmp_path, memory_of(x.tobytes()), program)


@pytest.mark.parametrize("seed", range(4))
def test_scalar_operations_behind_others(each_tvu_sim, tmp_path, seed):
    """Few registers and much traffic: whoever names a register gets what the last operation before
    it left there."""
    rng = np.random.default_rng(seed)
    x = (rng.random(512) + 0.5).astype(np.float32)
    program: list = []
    _load(program, x, 0)
    program += [("SSET", dict(d=d, value=float_bits(rng.uniform(0.5, 2)))) for d in range(1, 10)]
    names = ["SADD", "SMUL", "SDIV", "SSQRT", "SMAX", "SSET", "RUN", "MULS", "EXP2", "SUM",
             "MAXIMA", "STORES", "STOREQT", "STOREF"]
    for i in range(400):
        name, d, a, b = (rng.choice(names), int(rng.integers(10)), int(rng.integers(1, 10)),
                         int(rng.integers(1, 10)))
        row, to = int(rng.integers(40)), 1000 + 8 * int(rng.integers(40))
        program += {
            "SSET": [("SSET", dict(d=d, value=float_bits(rng.uniform(0.5, 2))))],
            "SSQRT": [("SSQRT", dict(d=d, a=a))],
            "RUN": [("REP",
                     dict(count=12, step_s=0, step_t=1, stride_dst=0, stride_a=0, stride_b=0)),
                    ("SDIV", dict(d=10, a=a, b=1)),
                    ("REP",
                     dict(count=3, step_s=1,
                          step_t=0, stride_dst=0,
                          stride_a=0, stride_b=0)), ("SMAX", dict(d=2, a=6, b=b))],
            "MULS": [("MULS", dict(dst=to, a=row, s=a, n=40, t=d))],
            "EXP2": [("EXP2", dict(dst=to, a=row, s=a, c=b, n=40, t=0))],
            "SUM": [("SUM", dict(a=row, n=24, t=d))],
            "MAXIMA": [("REP",
                        dict(count=3, step_s=0,
                             step_t=1, stride_dst=0,
                             stride_a=5, stride_b=0)), ("MAX", dict(a=row, n=40, t=a))],
            "STORES": [("STORES", dict(addr=RESULT + 4 * i, s=a))],
            "STOREQT": [("STOREQT", dict(addr=RESULT + 0x10000 + i, a=row, n=100, s=a))],
            "STOREF": [("STOREF", dict(addr=RESULT + 0x20000 + 1024 * (i % 100), a=to, n=200))],
        }.get(name, [(name, dict(d=d, a=a, b=b))])
        # whatever grew, or shrank, shrinks again
        program += ([("SSET", dict(d=a, value=float_bits(rng.uniform(0.5, 2))))]
                    if name in ("SUM", "SADD", "SMUL", "SDIV") else [])
    program.append(WAIT)
    program += [("SGET", dict(s=s)) for s in range(32)]
    _check(each_tvu_sim, tmp_path, memory_of(x.tobytes()), program)


def test_grouped_repetition(each_tvu_sim, tmp_path):
    """REP of operations that run as one: strides of all kinds, operands in equal and in different
    banks, up to 40 groups."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal(4096).astype(np.float32)
    program: list = []
    _load(program, x, 0)
    program += [("SSET", dict(d=4 + i, value=float_bits(3.0 - i))) for i in range(8)]
    rep = dict(count=4, step_s=0, step_t=0, stride_dst=12, stride_a=10, stride_b=7)
    program += [
        ("REP", rep), ("MULV", dict(dst=1000, a=0, s=4, b=100, n=77, t=0)),
        ("REP", rep | dict(step_s=1)),
        ("MULV", dict(dst=1100, a=0, s=4, b=101, n=77, t=0)), ("REP", rep | dict(count=40)),
        ("ADDV", dict(dst=1200, a=1, b=3, n=80, t=0)),
        ("REP", rep | dict(count=40, stride_dst=8)), ("MULS", dict(dst=1700, a=0, s=5, n=64, t=0)),
        ("REP", rep | dict(stride_b=0, count=3)),
        ("AXPY", dict(dst=2100, a=0, s=6, b=100, n=50, t=0)),
        ("REP", rep | dict(stride_b=1)), ("EXP2", dict(dst=2200, a=0, s=4, c=7, n=50, t=0)),
        ("REP", rep | dict(count=9, step_s=1)), ("MULS", dict(dst=2300, a=0, s=1, n=90, t=0)),
        ("REP", rep | dict(count=3, step_t=1)), ("MULS", dict(dst=2500, a=0, s=4, n=90, t=20)),
        ("REP", rep | dict(stride_dst=1, step_s=1)), ("QUANT5", dict(vector=0, a=0, s=4, n=300)),
        ("STREAM", dict(addr=DATA + 1024, words=4 * 40)),
        ("DOT",
         dict(dst=2700, words=2,
              mode=isa.MODES["base3"], last_vector=3, s=5, step_s=1, stride=11, rows=80)),
    ]
    for start in range(1000, 2800, 256):
        _store(program, start, 2048, 8192 * ((start - 1000) // 256))
    program.append(WAIT)
    program += [("SGET", dict(s=s)) for s in range(32)]
    _check(each_tvu_sim, tmp_path, memory_of(x.tobytes()), program)


@pytest.mark.parametrize("preset", ["ug585", "conservative"])
@pytest.mark.parametrize("mode", ["base3", "2bit"])
@pytest.mark.parametrize("rows,columns,share", [
    (64, 64, 0.5),
    (333, 320, 0.3), (8, 100, 0.0), (200, 2560, 0.1), (77, 500, 1.0), (512, 128, 0.02)])
def test_picked_rows_and_columns(each_tvu_sim, tmp_path, mode, preset, rows, columns, share):
    """gate, up and down of an MLP: rows of up where the gate is positive, columns of down where the
    activation is not zero."""
    rng = np.random.default_rng(rows + columns)
    words, outputs = row_words(columns, mode), columns
    x = rng.standard_normal(8 * -(-columns // 8)).astype(np.float32)
    gate = rng.integers(-1, 2, (rows, columns)).astype(np.int8)
    gate[rng.random(rows) >= share] = 0  # rows of zeros give zero, which is not picked
    up = rng.integers(-1, 2, (rows, columns)).astype(np.int8)
    # column c of the matrix is row c here
    down = rng.integers(-1, 2, (rows, columns)).astype(np.int8)
    data = x.tobytes()
    data += bytes(-len(data) % 512)
    places = []
    for matrix in (gate, up, down):
        places.append(DATA + len(data))
        data += pack_ternary(matrix, mode).tobytes()
        data += bytes(-len(data) % 512)
    quant = isa.QUANTISERS[mode]
    dot = dict(words=words, mode=isa.MODES[mode], last_vector=0, s=2, step_s=0, stride=0, rows=rows)
    groups = -(-rows // 8)
    program: list = []
    _load(program, x, 0)
    program += [
        ("SSET", dict(d=1, value=float_bits(40.0))), ("SSET", dict(d=2, value=float_bits(0.01))),
        (quant, dict(vector=0, a=0, s=1, n=columns)),
        ("STREAM", dict(addr=places[0], words=rows * words)),
        ("EPI", dict(b=0, factor=isa.FACTORS["relu2"], pick=isa.PICKS["mark"], rank=0, first=0,
                     base=0)),
        ("DOT", dot | dict(dst=1000)),
        ("STREAMP", dict(addr=places[1], groups=groups, words=words)),
        ("EPI", dict(b=0, factor=isa.FACTORS["dst"], pick=isa.PICKS["picked"], rank=0, first=0,
                     base=0)),
        ("DOT", dot | dict(dst=1000)),
        ("PICK",
         dict(a=1000, s=1, n=rows)), ("STREAMP", dict(addr=places[2], groups=groups, words=words)),
        ("COLS", dict(dst=0, words=words, mode=isa.MODES[mode], s=2, rows=outputs)),
        # the units are as they were: an ordinary product, and columns once more
        (quant, dict(vector=0, a=1000, s=1, n=columns)),  # COLS took words 16 to 31
        ("STREAM", dict(addr=places[1], words=rows * words)), ("DOT", dot | dict(dst=2000)),
        ("STREAMP", dict(addr=places[0], groups=groups, words=words)),
        ("COLS", dict(dst=500, words=words, mode=isa.MODES[mode], s=1, rows=outputs)),
    ]
    if rows % 8 == 0:  # all columns, those of code zero too
        program += [("STREAMP", dict(addr=places[2] | 1, groups=groups, words=words)),
                    ("COLS", dict(dst=500, words=words, mode=isa.MODES[mode], s=1, rows=outputs))]
    for place, (row, n) in enumerate(((1000, rows), (0, outputs), (2000, rows), (500, outputs))):
        _store(program, row, n, 0x8000 * place)
    _check(each_tvu_sim, tmp_path, memory_of(data), program, preset)


def test_empty_picked_streams_and_maxima_into_register_zero(each_tvu_sim, tmp_path):
    """A STREAMP without groups or words gives a product no rows; a REP whose first maximum goes
    nowhere keeps the others."""
    rng = np.random.default_rng(12)
    x = rng.standard_normal(512).astype(np.float32)
    rows = pack_ternary(rng.integers(-1, 2, (16, 160)).astype(np.int8), "base3")
    place = DATA + x.nbytes
    picked = dict(b=0, factor=0, pick=isa.PICKS["picked"], rank=0, first=0, base=0)
    dot = dict(dst=200, words=1, mode=isa.MODES["base3"], last_vector=0, s=1, step_s=0, stride=0,
               rows=16)
    program: list = []
    _load(program, x, 0)
    program += [
        ("REP", dict(count=4, step_s=0, step_t=1, stride_dst=0, stride_a=16, stride_b=0)),
        ("MAX", dict(a=0, n=100, t=0)),
        ("SSET", dict(d=1, value=float_bits(20.0))), ("QUANT5", dict(vector=0, a=0, s=1, n=160)),
        ("PICK", dict(a=0, s=1, n=16)),
        ("STREAMP", dict(addr=place, groups=0, words=1)), ("EPI", picked), ("DOT", dot),
        ("STREAMP", dict(addr=place, groups=2, words=0)),
        ("COLS", dict(dst=210, words=1, mode=0, s=1, rows=64)),
        ("STREAMP", dict(addr=place, groups=2, words=1)), ("EPI", picked), ("DOT", dot), WAIT,
    ]
    _store(program, 200, 512, 0)
    program += [WAIT, *(("SGET", dict(s=s)) for s in range(5))]
    _check(each_tvu_sim, tmp_path, memory_of(x.tobytes() + rows.tobytes()), program)


def test_factor_from_the_scratchpad(each_tvu_sim, tmp_path):
    rng = np.random.default_rng(4)
    columns, rows = 96, 45
    x = rng.standard_normal(4 * columns).astype(np.float32)
    codes = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
    program: list = []
    _load(program, x, 0)
    program += [
        ("SSET", dict(d=1, value=float_bits(30.0))),
        ("REP", dict(count=4, step_s=0, step_t=0, stride_dst=1, stride_a=12, stride_b=0)),
        ("QUANT8", dict(vector=0, a=0, s=1, n=columns)),
        ("SSET", dict(d=2, value=float_bits(1e-3))),
        ("STREAM", dict(addr=DATA + x.nbytes, words=3 * rows)),
        ("EPI", dict(b=3, factor=isa.FACTORS["b"], pick=0, rank=0, first=0, base=0)),
        ("DOT",
         dict(dst=100, words=3,
              mode=isa.MODES["int8"], last_vector=3, s=2, step_s=0, stride=9, rows=rows)),
        ("MULS", dict(dst=200, a=100, s=2, n=16, t=3)),
    ]
    for v in range(4):
        _store(program, 100 + 9 * v, rows, 512 * v)
    _check(each_tvu_sim, tmp_path, memory_of(x.tobytes() + codes.tobytes()), program)


@pytest.mark.parametrize("levels,rows,vectors", [
    (1, 50, 1), (4, 333, 4), (6, 1024, 1), (8, 200, 2), (8, 3000, 1), (8, 1500, 4),
])
def test_ranking_keeps_the_largest(each_tvu_sim, tmp_path, levels, rows, vectors):
    """Scores with many equal ones, in two products; the kept numbers are those that sorting
    gives, for each vector."""
    rng = np.random.default_rng(levels)
    x = rng.standard_normal((vectors, 32)).astype(np.float32)
    codes = rng.integers(-3, 4, (2 * rows, 32)).astype(np.int8)
    program: list = []
    _load(program, x.reshape(-1), 0)
    program += [("SSET", dict(d=1, value=float_bits(2.0))), ("RANK", dict(levels=levels)),
                *(("QUANT8", dict(vector=v, a=4 * v, s=1, n=32)) for v in range(vectors))]
    for part in range(2):
        program += [
            # its rows are still leaving when the product, whose rows go to the ranking, could start
            ("STOREQT", dict(addr=RESULT + part, a=0, n=32, s=1)),
            ("STREAM", dict(addr=DATA + 512 + part * rows * 32, words=rows)),
            ("EPI", dict(b=0, factor=0, pick=0, rank=1, first=0, base=part * rows)),
            ("DOT",
             dict(dst=0, words=1,
                  mode=isa.MODES["int8"], last_vector=vectors - 1, s=1, step_s=0, stride=0,
                  rows=rows)),
        ]
    program += [("STORES", dict(addr=RESULT + 0x8000, s=1)), WAIT]  # no vector operation between
    data = np.zeros(512, np.uint8)
    data[:x.nbytes] = x.reshape(-1).view(np.uint8)
    memory = memory_of(data.tobytes() + codes.tobytes())
    entries = range(1, 1 << levels)
    got, stored, _ = run_rtl(each_tvu_sim, tmp_path, memory, [
        *program, *(("RANKED", dict(index=i, vector=v)) for v in range(isa.VECTORS)
                    for i in entries)])
    machine = Machine(memory.copy())
    for name, operands in program[:-1]:
        machine.execute(name, **operands)
    numbers = np.array(got[len(program):]).reshape(isa.VECTORS, -1)
    for v in range(isa.VECTORS):
        found = set(numbers[v].tolist()) - {0xFFFFFFFF}
        assert machine.ranked(v) == found
        if v >= vectors:
            assert not found
            continue
        scores = codes.astype(np.int32) @ np.clip(np.rint(x[v] * 2), -127, 127).astype(np.int32)
        best = sorted(range(2 * rows), key=lambda i, scores=scores: (-scores[i], i))
        assert found == set(best[:len(entries)])
    assert np.array_equal(machine.memory, stored)


@pytest.mark.parametrize("late", range(10, 14))
def test_grouped_maxima_come_after_scalar_results(each_tvu_sim, tmp_path, late):
    """Divisions still wait in the scalar queue when a run of maxima, done as one operation,
    overwrites the register of the last one."""
    x = np.random.default_rng(late).standard_normal(64).astype(np.float32)
    program: list = []
    _load(program, x, 0)
    program += [("SSET", dict(d=1, value=float_bits(3.0))),
                ("SSET", dict(d=2, value=float_bits(7.0))), WAIT]
    program += ([("SDIV", dict(d=20 + i, a=1, b=2)) for i in range(7)]
                + [("SDIV", dict(d=late, a=1, b=2))])
    program += [("REP", dict(count=4, step_s=0, step_t=1, stride_dst=0, stride_a=1, stride_b=0)),
                ("MAX", dict(a=0, n=8, t=10)), WAIT]
    program += [("SGET", dict(s=s)) for s in range(10, 14)]
    _check(each_tvu_sim, tmp_path, memory_of(x.tobytes()), program)
