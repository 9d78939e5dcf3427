"""Coming back: resets at every moment, wedged operations, dead memory; after each the next program
computes right."""

from __future__ import annotations

import numpy as np
import pytest
from tvu_bench import MEGABYTE, WAIT, error_bit, float_bits, run_model, run_rtl
from xtvu import isa
from xtvu.layout import stripe

DATA, RESULT, SIZE = 2 * MEGABYTE, 3 * MEGABYTE, 4 * MEGABYTE
BUSY = 1 << 31
RESET = ("RESET", {})


def _memory() -> np.ndarray:
    memory = np.zeros(SIZE, np.uint8)
    floats = np.random.default_rng(1).standard_normal(16384).astype(np.float32)
    memory[DATA:DATA + floats.nbytes] = stripe(floats.view(np.uint8))
    return memory


#: Traffic on every port, both ways: a long stream, and stores that are still leaving.
TRAFFIC = [
    ("STREAM", dict(addr=DATA, words=64)), ("LOADF", dict(dst=0, n=512, t=0)),
    ("STREAM", dict(addr=DATA, words=500)),
    ("STOREF", dict(addr=RESULT + 0x40000, a=0, n=512)), ("CHECK", dict(t=1, words=500)),
]
#: What shows a stale beat, a lost one, or a wrong count of open writes: sums over a stream, and a
#: fenced read of a store.
PROBE = [
    ("STREAM", dict(addr=DATA + 32 * 70, words=100)), ("CHECK", dict(t=2, words=100)),
    ("STREAM", dict(addr=DATA, words=32)), ("LOADF", dict(dst=100, n=256, t=3)),
    ("STOREF", dict(addr=RESULT, a=100, n=256)), ("STREAM", dict(addr=RESULT | 1, words=32)),
    ("CHECK", dict(t=4, words=32)),
    ("SSET", dict(d=1, value=float_bits(20.0))), ("QUANT5", dict(vector=0, a=100, s=1, n=160)),
    ("PICK", dict(a=100, s=1, n=64)),
    ("STREAMP", dict(addr=DATA, groups=8, words=1)),
    ("EPI", dict(b=0, factor=0, pick=isa.PICKS["picked"], rank=0, first=0, base=0)),
    ("DOT", dict(dst=200, words=1, mode=0, last_vector=0, s=1, step_s=0, stride=0, rows=64)),
    ("STOREF", dict(addr=RESULT + 4096, a=200, n=8)),
    WAIT, *(("SGET", dict(s=s)) for s in range(2, 5)),
]


def _probe_answers() -> list[int]:
    zeros = [("STREAM", dict(addr=DATA, words=1)), ("LOADF", dict(dst=200, n=8, t=0))]
    return run_model(_memory(), [*zeros, *PROBE])[0][-4:]


def _recovers(tvu_sim, tmp_path, ways: list[list], preset="ug585", seed=1) -> None:
    """After each of the ways into trouble, PROBE answers as it does on the Machine."""
    program = [instruction for way in ways for instruction in (*way, *PROBE)]
    got, _, _ = run_rtl(tvu_sim, tmp_path, _memory(), program, preset, seed)
    want, place = _probe_answers(), 0
    for number, way in enumerate(ways):
        place += len(way) + len(PROBE)
        assert got[place - 4:place] == want, f"after way {number} of {len(ways)}"


@pytest.mark.parametrize("preset", ["ug585", "conservative", "hostile"])
def test_reset_line_in_every_cycle(tvu_sim, tmp_path, preset):
    """The line rises 0 to 220 cycles after traffic was asked for, that is in each cycle of bursts
    on all ports."""
    _recovers(tvu_sim,
              tmp_path,
              [[*TRAFFIC,
                ("RESET_LINE", dict(after=after, cycles=1 + after % 3))] for after in range(221)],
              preset, 7)


@pytest.mark.parametrize("preset", ["ug585", "conservative", "hostile"])
def test_reset_instruction_in_every_cycle(tvu_sim, tmp_path, preset):
    _recovers(tvu_sim,
              tmp_path, [[*TRAFFIC, ("PASS", dict(cycles=after)), RESET] for after in range(221)],
              preset, 8)


_STORES = [("STOREF", dict(addr=RESULT + 0x40000, a=0, n=512))]


@pytest.mark.parametrize("preset", ["ug585", "hostile"])
@pytest.mark.parametrize("traffic", [TRAFFIC, _STORES], ids=["all ports", "writes only"])
def test_errors_of_work_given_up_are_forgotten(tvu_sim, tmp_path, preset, traffic):
    """Memory answers everything with errors while traffic is cut by a RESET: none shows afterwards,
    however late it comes."""
    program = [step for after in range(0, 221, 3) for step in (
        ("FAIL",
         dict(ports=0x1F)),
        *traffic,
        ("PASS", dict(cycles=after)), RESET, WAIT, ("PASS", dict(cycles=300)), ("STATUS", {}))]
    got, _, _ = run_rtl(tvu_sim, tmp_path, _memory(),
                        [*program, ("FAIL", dict(ports=0)), RESET, *PROBE], preset, 9)
    turn = len(traffic) + 6
    assert ([got[turn * i + turn - 1] for i in range(len(program) // turn)] == [0]
            * (len(program) // turn))
    assert got[-4:] == _probe_answers()


#: Cycles after which a unit that was reset in the middle of TRAFFIC is idle, rounded up:
#: docs/reliability.md says so.
_READY_AFTER = {"ug585": 350, "conservative": 375, "hostile": 600}


@pytest.mark.parametrize("preset", _READY_AFTER)
def test_how_long_a_reset_takes(tvu_sim, tmp_path, preset):
    turn = [*TRAFFIC, ("PASS", dict(cycles=0)), RESET, ("PASS", dict(cycles=_READY_AFTER[preset])),
            ("STATUS", {}), WAIT]
    program = [("PASS", dict(cycles=after)) if step == turn[len(TRAFFIC)] else step
               for after in range(0, 221, 2) for step in turn]
    got, _, _ = run_rtl(tvu_sim, tmp_path, _memory(), program, preset, 3)
    assert not any(got[len(turn) * i - 2] for i in range(1, len(program) // len(turn) + 1))


_DOT = dict(dst=0, words=33, mode=0, last_vector=0, s=1, step_s=0, stride=0, rows=1)
_CHECK = ("CHECK", dict(t=1, words=1))
_WEDGES = {
    "refused DOT leaves its words": [("STREAM", dict(addr=DATA, words=33)), ("DOT", _DOT)],
    "words that nobody takes": [("STREAM", dict(addr=DATA, words=2000))],
    "operation without words": [_CHECK],
    "full queue": [_CHECK] * 33,
    "product without its picked rows": [("EPI", dict(b=0, factor=0, pick=2, rank=0, first=0,
                                                     base=0)), ("DOT", _DOT | dict(words=1))],
    "columns without theirs": [("COLS", dict(dst=0, words=1, mode=0, s=1, rows=8))],
    "half a program": [("REP",
                        dict(count=9, step_s=1, step_t=1, stride_dst=1, stride_a=1, stride_b=1)),
                       ("EPI", dict(b=0, factor=3, pick=1, rank=1, first=0, base=5))],
    "picked stream that nobody takes": [("STREAMP", dict(addr=DATA | 1, groups=200, words=2))],
    "full stream queue": [("STREAM", dict(addr=DATA, words=2000))] * 9,
}


@pytest.mark.parametrize("wedge", _WEDGES)
def test_wedge_then_recover(tvu_sim, tmp_path, wedge):
    _recovers(tvu_sim,
              tmp_path,
              [[*_WEDGES[wedge], ("PASS", dict(cycles=300)), RESET], [*_WEDGES[wedge], RESET]])


def test_refused_operation_keeps_the_unit_busy_until_reset(tvu_sim, tmp_path):
    program = [*_WEDGES["refused DOT leaves its words"], ("PASS", dict(cycles=300)),
               ("STATUS", {}), RESET, ("PASS", dict(cycles=3)),
               ("STATUS", {})]
    got, _, _ = run_rtl(tvu_sim, tmp_path, _memory(), program)
    assert got[3] == BUSY | error_bit("descriptor") and got[-1] == 0


@pytest.mark.parametrize("wedge",
                         ["full queue",
                          "words that nobody takes", "operation without words",
                          "full stream queue"])
def test_what_does_not_get_on_is_an_error(tvu_sim, tmp_path, wedge):
    """Within 2^22 cycles and a little the queue error stands; from then on instructions are dropped
    at once."""
    program = [*_WEDGES[wedge], ("PASS", dict(cycles=(1 << 22) + 400)), ("STATUS", {}),
               *[_CHECK] * 200, *PROBE[:2],
               ("CLEAR", dict(mask=0xFFFF)), ("STATUS", {}), _CHECK, ("STATUS", {}), RESET, *PROBE]
    got, _, line = run_rtl(tvu_sim, tmp_path, _memory(), program)
    assert got[len(_WEDGES[wedge]) + 1] == BUSY | error_bit("queue")
    assert got[-len(PROBE) - 2] == BUSY | error_bit("queue")  # clearing it does not help
    assert got[-4:] == _probe_answers()
    assert (1 << 22) < int(line.split()[1]) < (1 << 22) + 20000


def test_a_long_operation_is_no_hang(tvu_sim, tmp_path):
    """Checksums of 700,000 words in all take more than 2^22 cycles, while the queue behind it is
    full."""
    words = 100_000
    program = [("STREAM", dict(addr=MEGABYTE, words=words)),
               *[("STREAM", dict(addr=MEGABYTE, words=words))] * 6,
               *[("CHECK", dict(t=1, words=words))] * 7, *[("MAX", dict(a=0, n=8, t=0))] * 40, WAIT]
    got, _, line = run_rtl(tvu_sim, tmp_path, np.zeros(8 * MEGABYTE, np.uint8), program)
    assert got[-1] == 0 and int(line.split()[1]) > 1 << 22


def test_memory_that_stops_answering(tvu_sim, tmp_path):
    """The unit waits, is not idle, says so after 2^22 cycles, and computes right when memory is
    back."""
    frozen = [*TRAFFIC, ("PASS", dict(cycles=60)), ("FREEZE", dict(on=1)), RESET,
              ("PASS", dict(cycles=1000)), ("STATUS", {}), _CHECK]
    program = [*frozen, ("STATUS", {}), ("ID", {}), ("FREEZE", dict(on=0)), RESET, *PROBE]
    got, _, _ = run_rtl(tvu_sim, tmp_path, _memory(), program)
    assert got[len(frozen) - 2] == BUSY
    assert got[len(frozen)] == BUSY | error_bit("queue") and got[len(frozen) + 1] == isa.isa_hash()
    assert got[-4:] == _probe_answers()


def test_reset_forgets_errors_and_keeps_memories(tvu_sim, tmp_path):
    program = [("STREAM", dict(addr=DATA, words=64)), ("LOADF", dict(dst=0, n=512, t=5)),
               ("STOREF", dict(addr=RESULT, a=0, n=0)),
               ("RAW", dict(function_id=1023, rs1=0, rs2=0)), WAIT, RESET, WAIT,
               ("STOREF", dict(addr=RESULT, a=0, n=512)), WAIT,
               ("SGET", dict(s=5))]
    got, stored, _ = run_rtl(tvu_sim, tmp_path, _memory(), program)
    assert got[4] == error_bit("undefined") | error_bit("descriptor") and got[6] == got[8] == 0
    assert np.array_equal(stored[RESULT:RESULT + 2048], stored[DATA:DATA + 2048]) and got[9] != 0


@pytest.mark.parametrize("count", [130, 200, 300])
def test_many_stores_behind_a_fence(tvu_sim, tmp_path, count):
    """A fenced stream waits in the queue while many later stores complete."""
    stores = [("STORES", dict(addr=RESULT + 0x10000 + 4 * i, s=0)) for i in range(count)]
    program = [("STREAM", dict(addr=DATA, words=1024 + 40)),
               ("STOREF", dict(addr=RESULT, a=0, n=8)),
               ("STREAM", dict(addr=RESULT | 1, words=1)), *stores,
               ("CHECK", dict(t=1, words=1024 + 40)), _CHECK, WAIT]
    got, _, _ = run_rtl(tvu_sim, tmp_path, _memory(), program)
    assert got[-1] == 0


def test_a_mark_that_is_replaced_counts_for_nothing(tvu_sim, tmp_path):
    """Two EPIs before one DOT, an EPI before another operation: STREAMP waits for what happens."""
    mark = ("EPI", dict(b=0, factor=0, pick=isa.PICKS["mark"], rank=0, first=0, base=0))
    dot = ("DOT", _DOT | dict(words=1, rows=64))
    take = [("STREAMP", dict(addr=DATA | 1, groups=1, words=1)),
            ("EPI", dict(b=0, factor=0, pick=2, rank=0, first=0, base=0)), dot]
    stream = ("STREAM", dict(addr=DATA, words=64))
    repeat = ("REP", dict(count=1, step_s=0, step_t=0, stride_dst=0, stride_a=0, stride_b=0))
    program = [mark, mark, stream, dot, *take, mark, ("MULS", dict(dst=0, a=0, s=0, n=8, t=0)),
               *take, mark, repeat, stream, dot, *take]
    program.append(WAIT)
    got, _, _ = run_rtl(tvu_sim, tmp_path, _memory(), program)
    assert got[-1] == 0
