"""Sticky errors: what each of them is set by, everywhere it can come from, in the Verilated unit as
on the Machine."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from tvu_bench import MEGABYTE, WAIT, error_bit, float_bits, memory_of, run_model, run_rtl
from xtvu import isa

DATA, RESULT, SIZE = 2 * MEGABYTE, 3 * MEGABYTE, 4 * MEGABYTE


def _same_answers(tvu_sim, tmp_path, memory, program):
    """What unit and Machine both answer."""
    got, _, _ = run_rtl(tvu_sim, tmp_path, memory, program)
    assert got == run_model(memory, program)[0]
    return got


def test_every_function_id_is_answered(tvu_sim, tmp_path):
    """All 1,024 ids respond and end; the undefined ones, and only those, set the sticky error."""
    program: list = []
    for function_id in range(1024):
        rs1 = RESULT if function_id & 7 == isa.STORE else 0  # STORES writes even with zero operands
        program += [("RAW", dict(function_id=function_id, rs1=rs1, rs2=0)), WAIT,
                    ("CLEAR", dict(mask=0xFFFF))]
    program += [WAIT, ("ID", {})]
    got, _, _ = run_rtl(tvu_sim, tmp_path, np.zeros(SIZE, np.uint8), program)
    undefined = error_bit("undefined")
    for function_id in range(1024):
        raised = got[3 * function_id + 1] & undefined
        assert bool(raised) == (isa.by_function_id(function_id) is None), function_id
    assert got[-2] == 0 and got[-1] == isa.isa_hash()


@pytest.mark.parametrize("port", range(4))
def test_read_error_is_sticky(tvu_sim, tmp_path, port):
    program = [("FAIL", dict(ports=1 << port)), ("STREAM", dict(addr=DATA, words=4)),
               ("CHECK", dict(t=1, words=4)), WAIT]
    got, _, _ = run_rtl(tvu_sim, tmp_path, memory_of(bytes(512)), program)
    assert got[-1] == error_bit("read")


def test_write_error_is_sticky(tvu_sim, tmp_path):
    program = [("FAIL", dict(ports=16)), ("STOREF", dict(addr=RESULT, a=0, n=8)), WAIT]
    got, _, _ = run_rtl(tvu_sim, tmp_path, memory_of(bytes(512)), program)
    assert got[-1] == error_bit("write")


@pytest.mark.parametrize("name,operands", [
    ("QUANT5", dict(vector=0, a=0, s=1, n=5121)), ("QUANT5", dict(vector=4, a=0, s=1, n=2561)),
    ("DOT",
     dict(dst=0, words=17,
          mode=0, last_vector=4, s=1,
          step_s=0, stride=0, rows=1)), ("QUANT8", dict(vector=0, a=0, s=1, n=4097)),
    ("QUANT8", dict(vector=2, a=0, s=1, n=2049)), ("QUANT8", dict(vector=4, a=0, s=1, n=8)),
    ("DOT", dict(dst=0, words=33, mode=2, last_vector=1, s=1, step_s=0, stride=0, rows=1)),
    ("DOT", dict(dst=0, words=1, mode=2, last_vector=4, s=1, step_s=0, stride=0, rows=1)),
    ("COLS",
     dict(dst=0, words=33,
          mode=0, s=1, rows=8)), ("COLS", dict(dst=0, words=1, mode=2, s=1, rows=8)),
    ("QUANT4", dict(vector=0, a=0, s=1, n=4097)),
    ("DOT",
     dict(dst=0, words=33,
          mode=0, last_vector=0, s=1, step_s=0, stride=0, rows=1)), ("SUM", dict(a=0, n=0, t=1)),
    ("CHECK", dict(t=1, words=0)), ("STOREF", dict(addr=RESULT, a=0, n=0)),
    *(("STOREF", dict(addr=RESULT + 4 * i, a=0, n=8)) for i in range(1, 8)),
    ("STOREF", dict(addr=RESULT + 1, a=0, n=8)),
    *(("STOREQ", dict(addr=RESULT + (1 << i), a=0, n=8, s=1)) for i in range(5)),
    ("STORES", dict(addr=RESULT + 1, s=1)), ("STORES", dict(addr=RESULT + 2, s=1)),
    ("RANK", dict(levels=0)), *(("RANK", dict(levels=levels)) for levels in range(9, 16)),
    ("DOT", dict(dst=0, words=1, mode=0, last_vector=0, s=1, step_s=0, stride=0, rows=32769)),
    ("DOTA", dict(dst=0, words=1, mode=0, last_vector=0, s=1, step_s=0, stride=0, rows=1 << 18)),
    ("DOT", dict(dst=0, words=1, mode=3, last_vector=0, s=1, step_s=0, stride=0, rows=1)),
    ("COLS",
     dict(dst=0, words=1,
          mode=0, s=1, rows=161)), ("COLS", dict(dst=0, words=3, mode=1, s=1, rows=385)),
    ("COLS", dict(dst=0, words=32, mode=0, s=1, rows=5121)), ("LOADB", dict(dst=0, s=1, n=8, t=0)),
    ("LOADB", dict(dst=0, s=1, n=48, t=0)),
])
def test_operations_that_do_not_fit_are_refused(tvu_sim, tmp_path, name, operands):
    program = [(name, operands), WAIT, ("MULS", dict(dst=1, a=0, s=1, n=8, t=0)), WAIT]
    got = _same_answers(tvu_sim, tmp_path, memory_of(bytes(512)), program)
    assert got[1] == error_bit("descriptor")


@pytest.mark.parametrize("address", [0x8000, SIZE])
def test_axi_violation_stops_the_simulation(tvu_sim, tmp_path, address):
    """HP ports reach neither the first megabyte nor beyond the memory; the model refuses what a
    board could not do."""
    memory_of(bytes(512)).tofile(tmp_path / "memory.bin")
    stream = isa.by_name("STREAM")
    np.array([stream.function_id, *stream.pack(addr=address, words=4), 0xFFFFFFFF, 0, 0],
             np.uint32).tofile(tmp_path / "program.bin")
    done = subprocess.run([tvu_sim, "memory.bin", "program.bin", "output.bin"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode == 3 and "AXI3 violation on HP" in done.stderr
            and "outside of what HP ports reach" in done.stderr)


def test_overflow_is_sticky(tvu_sim, tmp_path):
    program = [("SSET", dict(d=1, value=float_bits(3e38))), ("SADD", dict(d=2, a=1, b=1)), WAIT,
               ("CLEAR", dict(mask=0xFFFF)), WAIT]
    _same_answers(tvu_sim, tmp_path, memory_of(bytes(512)), program)


@pytest.mark.parametrize("name,operands", [
    ("STREAM",
     dict(words=2)),
    ("STREAMR", dict(rows=2, words=1, stride=1)), ("STREAMP", dict(groups=1, words=1))])
@pytest.mark.parametrize("bit", range(1, 5))
def test_misaligned_stream(tvu_sim, tmp_path, name, operands, bit):
    """The error is set, and the stream begins at the aligned address below."""
    taker = ([("COLS", dict(dst=0, words=1, mode=0, s=1, rows=8))] if name == "STREAMP"
             else [("CHECK", dict(t=1, words=2))])
    program = [(name, operands | dict(addr=DATA + (1 << bit))), *taker, WAIT, ("SGET", dict(s=1))]
    got = _same_answers(tvu_sim, tmp_path, memory_of(bytes(range(256)) * 8), program)
    assert got[-2] == error_bit("descriptor")


_INFINITE = (0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x7F800001)
_OPERATIONS = {
    "LOADF": [("LOADF", dict(dst=100, n=8, t=0))],
    "MULM": [("MULM", dict(dst=100, a=50, s=1, n=8, t=0))],
    "AXPYM": [("AXPYM", dict(dst=100, a=50, s=1, n=8, t=0))],
    "MULS": [("MULS", dict(dst=100, a=0, s=1, n=8, t=0))],
    "MULV a": [("MULV", dict(dst=100, a=0, s=1, b=50, n=8, t=0))],
    "MULV b": [("MULV", dict(dst=100, a=50, s=1, b=0, n=8, t=0))],
    "ADDV a": [("ADDV", dict(dst=100, a=0, b=50, n=8, t=0))],
    "ADDV b": [("ADDV", dict(dst=100, a=50, b=0, n=8, t=0))],
    "AXPY b": [("AXPY", dict(dst=100, a=50, s=1, b=0, n=8, t=0))],
    "EXP2": [("EXP2", dict(dst=100, a=0, s=1, c=1, n=8, t=0))],
    "SIGMOID": [("SIGMOID", dict(dst=100, a=0, n=8))],
    "MULI b": [("MULI", dict(dst=100, a=50, s=1, b=0, n=8, t=0))],
    "SUM": [("SUM", dict(a=0, n=8, t=0))],
    "SUMSQ": [("SUMSQ", dict(a=0, n=8, t=0))], "MAX": [("MAX", dict(a=0, n=8, t=0))],
    "ABSMAX": [("ABSMAX", dict(a=0, n=8, t=0))],
    "QUANT5": [("QUANT5", dict(vector=0, a=0, s=1, n=8))],
    "QUANT4": [("QUANT4", dict(vector=0, a=0, s=1, n=8))],
    "QUANT8": [("QUANT8", dict(vector=0, a=0, s=1, n=8))], "PICK": [("PICK", dict(a=0, s=1, n=8))],
    "STOREF": [("STOREF", dict(addr=RESULT, a=0, n=8))],
    "STOREQ": [("STOREQ", dict(addr=RESULT, a=0, n=8, s=1))],
    "STOREQT": [("STOREQT", dict(addr=RESULT, a=0, n=8, s=1))],
}
_PRODUCT = dict(dst=0, words=1, mode=0, last_vector=0, s=1, step_s=0, stride=0, rows=8)
_EPI = dict(b=0, factor=0, pick=0, rank=0, first=0, base=0)
_PRODUCTS = {
    "DOTA": [("DOTA", _PRODUCT)],
    "EPI b": [("EPI", _EPI | dict(factor=isa.FACTORS["b"])), ("DOT", _PRODUCT | dict(dst=100))],
    "EPI dst": [("EPI", _EPI | dict(factor=isa.FACTORS["dst"])), ("DOT", _PRODUCT)],
}


@pytest.mark.parametrize("lane", range(8))
@pytest.mark.parametrize("name", [*_OPERATIONS, *_PRODUCTS])
def test_infinite_operand(tvu_sim, tmp_path, name, lane):
    """In each lane, of each operand of each operation, by every kind of infinity and NaN, times a
    factor of zero too."""
    floats = np.ones((8, 8), np.float32).view(np.uint32)
    for row, value in enumerate(_INFINITE):
        floats[row, lane] = value
    program, statuses = ([("STREAM", dict(addr=DATA + 32 * 6, words=1)),
                          ("LOADF", dict(dst=50, n=8, t=0))], [])
    for row in range(len(_INFINITE)):
        program.append(("SSET", dict(d=1, value=float_bits(1.0 if row % 2 else 0.0))))
        program += [("STREAM", dict(addr=DATA + 32 * row, words=1))]
        if name not in ("LOADF", "MULM", "AXPYM"):
            program += [("LOADF", dict(dst=0, n=8, t=0)), WAIT, ("CLEAR", dict(mask=0xFFFF))]
        if name in _PRODUCTS:
            program += [("STREAM", dict(addr=DATA, words=8))]
        program += [*(_OPERATIONS | _PRODUCTS)[name], WAIT, ("CLEAR", dict(mask=0xFFFF))]
        statuses.append(len(program) - 2)
    got = _same_answers(tvu_sim, tmp_path, memory_of(floats.tobytes()), program)
    assert [got[i] for i in statuses] == [error_bit("overflow")] * len(_INFINITE)


@pytest.mark.parametrize("n", [1, 7, 8])
def test_what_lies_behind_a_vector_is_no_operand(tvu_sim, tmp_path, n):
    floats = np.ones(16, np.float32)
    floats[n:] = np.inf
    program = [("STREAM", dict(addr=DATA, words=2)), ("LOADF", dict(dst=0, n=n, t=0)),
               ("LOADF", dict(dst=9, n=n, t=0)), WAIT]
    got = _same_answers(tvu_sim, tmp_path,
                        memory_of(np.concatenate([floats[:8], floats[:8]]).tobytes()), program)
    assert got[-1] == 0


_SCALAR_READERS = {
    "MULS": dict(dst=0, a=0, s=1, n=8, t=0), "SADD": dict(d=2, a=1, b=3),
    "SMUL": dict(d=2, a=3, b=1), "SMAX": dict(d=2, a=3, b=1),
    "SSQRT": dict(d=2, a=1), "SDIV": dict(d=2, a=3, b=1),
    "EXP2": dict(dst=0, a=0, s=3, c=1, n=8, t=0),
    "STORES": dict(addr=RESULT, s=1), "QUANT5": dict(vector=0, a=0, s=1, n=8),
    "STOREQ": dict(addr=RESULT, a=0, n=8, s=1),
}


@pytest.mark.parametrize("name", _SCALAR_READERS)
@pytest.mark.parametrize("value", _INFINITE)
def test_infinite_scalar(tvu_sim, tmp_path, name, value):
    program = [("SSET", dict(d=1, value=value)), ("SSET", dict(d=3, value=float_bits(1.0))), WAIT,
               (name, _SCALAR_READERS[name]), WAIT]
    got = _same_answers(tvu_sim, tmp_path, memory_of(bytes(512)), program)
    assert got[2] == 0 and got[-1] == error_bit("overflow")


@pytest.mark.parametrize("lane", range(8))
def test_overflow_on_the_way(tvu_sim, tmp_path, lane):
    """A product or sum that becomes infinite, in each lane, though what comes of it may be finite
    again."""
    floats = np.ones((3, 8), np.float32)
    floats[0, lane], floats[2] = 3e38, 0
    start = [("STREAM", dict(addr=DATA, words=3)), ("LOADF", dict(dst=0, n=24, t=0)),
             ("SSET", dict(d=1, value=float_bits(4.0))),
             ("SSET", dict(d=2, value=float_bits(-3e38)))]
    ways = [("MULV", dict(dst=10, a=0, s=1, b=2, n=8, t=0)),
            ("ADDV", dict(dst=10, a=0, b=0, n=8, t=0)), ("SUMSQ", dict(a=0, n=8, t=0)),
            ("QUANT8", dict(vector=0, a=0, s=1, n=8)),
            ("STOREQ", dict(addr=RESULT, a=0, n=8, s=1)), ("PICK", dict(a=0, s=1, n=8)),
            ("EXP2", dict(dst=10, a=0, s=2, c=1, n=8, t=0))]
    program = start + [part for way in ways for part in (way, WAIT, ("CLEAR", dict(mask=0xFFFF)))]
    got = _same_answers(tvu_sim, tmp_path, memory_of(floats.tobytes()), program)
    assert got[len(start) + 1::3] == [error_bit("overflow")] * len(ways)


def test_sum_that_overflows_in_its_folds(tvu_sim, tmp_path):
    """No running sum is infinite; two of them together are, and a third one would make the total
    finite again."""
    floats = np.zeros((8, 8), np.float32)
    floats[0, 0] = floats[4, 0] = 3e38
    floats[2, 0] = -3e38
    program = [("STREAM", dict(addr=DATA, words=8)), ("LOADF", dict(dst=0, n=64, t=0)),
               ("SUM", dict(a=0, n=64, t=0)), WAIT]
    assert (_same_answers(tvu_sim, tmp_path, memory_of(floats.tobytes()), program)[-1]
            == error_bit("overflow"))


def _rep(**changes):
    return ("REP",
            dict(count=4, step_s=0, step_t=0, stride_dst=10, stride_a=10, stride_b=0) | changes)


_MULV = dict(dst=1000, a=0, s=1, b=500, n=80, t=0)


@pytest.mark.parametrize("rep,changes,refused", [
    ({}, {}, False),
    ({}, dict(dst=0),
     False), (dict(stride_dst=9, stride_a=9), dict(dst=0), True), ({}, dict(dst=39), True),
    ({}, dict(dst=40),
     False),
    ({}, dict(a=1039), True), ({}, dict(a=1040), False), (dict(stride_a=11), dict(dst=0), True),
    ({}, dict(b=1039),
     True), ({}, dict(b=1040), False), ({}, dict(b=990), False), ({}, dict(b=991), True),
    ({}, dict(dst=8160),
     True), (dict(count=3), dict(dst=8162), False), (dict(stride_dst=8191), {}, True),
    (dict(stride_b=10),
     dict(dst=500), False),
    (dict(count=1), dict(dst=39), False), (dict(count=0), dict(dst=39), False),
    (dict(step_t=1),
     dict(dst=39, t=5),
     True), (dict(step_t=1), dict(t=1), False), (dict(step_t=1, step_s=1), dict(t=3), False),
])
def test_repetition_whose_runs_depend_on_each_other(tvu_sim, tmp_path, rep, changes, refused):
    """Refused where rows meet; where only scalars do, done one by one. Memory afterwards is the
    Machine's either way."""
    rng = np.random.default_rng(5)
    floats = rng.uniform(0.5, 1.5, 16384).astype(np.float32)
    program = [("STREAM", dict(addr=DATA, words=2047)), ("LOADF", dict(dst=0, n=16376, t=0)),
               *(("SSET", dict(d=d, value=float_bits(1 + d / 64))) for d in range(1, 12)),
               _rep(**rep),
               ("MULV", _MULV | changes), WAIT, ("STOREF", dict(addr=RESULT, a=0, n=16376)), WAIT,
               *(("SGET", dict(s=s)) for s in range(12))]
    memory = memory_of(floats.tobytes())
    got, stored, _ = run_rtl(tvu_sim, tmp_path, memory, program)
    want, expected = run_model(memory, program)
    assert got == want and np.array_equal(stored, expected)
    assert got[-13] == (error_bit("descriptor") if refused else 0)


@pytest.mark.parametrize("name,vector,stride,n,refused", [
    ("QUANT5", 2, 1, 5120,
     True),
    ("QUANT5", 2, 1, 2560, False), ("QUANT4", 3, 3, 4096, True), ("QUANT4", 0, 1, 4096, False),
    ("QUANT8", 2, 1, 8,
     True),
    ("QUANT8", 1, 1, 1024, False), ("QUANT8", 1, 1, 1025, True), ("QUANT5", 6, 1, 2560, False)])
def test_repetition_of_quantising_checks_each_vector(tvu_sim, tmp_path, name, vector, stride, n,
                                                     refused):
    program = [_rep(count=3, stride_dst=stride), (name, dict(vector=vector, a=0, s=0, n=n)), WAIT]
    assert (_same_answers(tvu_sim, tmp_path, memory_of(bytes(512)), program)[-1]
            == (error_bit("descriptor") if refused else 0))
