"""What the performance counters call a stall: programs whose every cycle is known to be of one
kind."""

from __future__ import annotations

import numpy as np
import pytest
from tvu_bench import MEGABYTE, WAIT, run_rtl
from xtvu import isa

DATA, SIZE = 2 * MEGABYTE, 4 * MEGABYTE
# cycles to a burst's first beat, soc/bitnet_soc/sim/ddr_preset.cpp
LATENCY = {"ug585": 25, "conservative": 46}


def _counts(tvu_sim, tmp_path, program, preset="ug585"):
    """The counters of section 3, in which ``program`` runs, by name."""
    program = [("SECTION", dict(section=3)), *program, ("SECTION", dict(section=0)), WAIT]
    program += [("COUNTER", dict(index=i, section=3)) for i in range(len(isa.COUNTERS))]
    got, _, _ = run_rtl(tvu_sim, tmp_path, np.zeros(SIZE, np.uint8), program, preset)
    return dict(zip(isa.COUNTERS, got[-len(isa.COUNTERS):], strict=True))


@pytest.mark.parametrize("preset", LATENCY)
@pytest.mark.parametrize("operation", ["LOADF", "CHECK", "DOT"])
def test_waiting_for_memory(tvu_sim, tmp_path, preset, operation):
    """Each of 20 words is asked for when the last one was consumed: what is stalled is the latency
    of memory."""
    take = {"LOADF": ("LOADF", dict(dst=0, n=8, t=0)), "CHECK": ("CHECK", dict(t=0, words=1)),
            "DOT": ("DOT",
                    dict(dst=0, words=1,
                         mode=0, last_vector=0, s=0, step_s=0, stride=0, rows=1))}[operation]
    turn = [("STREAM", dict(addr=DATA, words=1)), take, ("PASS", dict(cycles=300))]
    counts = _counts(tvu_sim, tmp_path, turn * 20, preset)
    assert counts["moving"] == counts["requested"] == 20 and counts["operations"] == 22 - 1
    assert 20 * (LATENCY[preset] - 15) <= counts["stall_memory"] <= 20 * (LATENCY[preset] + 25)
    # the longest: DOT with the slices at the system clock
    assert counts["stall_compute"] < 20 * 80 and counts["stall_control"] > 20 * 100


def test_computing(tvu_sim, tmp_path):
    counts = _counts(tvu_sim, tmp_path, [("MULS", dict(dst=0, a=0, s=0, n=8192, t=0))] * 4)
    assert counts["moving"] == counts["stall_memory"] == counts["requested"] == 0
    assert 4 * 1024 < counts["stall_compute"] < 4 * 1024 + 400


def test_nothing_queued(tvu_sim, tmp_path):
    counts = _counts(tvu_sim, tmp_path, [("PASS", dict(cycles=5000))])
    assert (counts["moving"] == counts["stall_memory"] == 0
            and 4950 < counts["stall_control"] < 5100 and counts["stall_compute"] < 20)


def test_words_and_beats(tvu_sim, tmp_path):
    """Every word moved and every beat written is counted, once."""
    counts = _counts(tvu_sim, tmp_path, [
        ("STREAM",
         dict(addr=DATA,
              words=700)),
        ("CHECK", dict(t=0, words=700)), ("STOREF", dict(addr=3 * MEGABYTE, a=0, n=801)),
        ("STOREQ",
         dict(addr=3 * MEGABYTE,
              a=0, n=64, s=0)), ("STOREQT", dict(addr=3 * MEGABYTE, a=0, n=9, s=0)),
        ("STORES", dict(addr=3 * MEGABYTE, s=0)), ("STREAM", dict(addr=3 * MEGABYTE | 1, words=1)),
        ("CHECK", dict(t=0, words=1))])
    assert counts["moving"] == counts["requested"] == 701
    assert counts["write_beats"] == 401 + 8 + 9 + 1


@pytest.mark.parametrize("vectors,passes", [(1, 1), (4, 1), (5, 2), (8, 2)])
@pytest.mark.parametrize("mode", ["base3", "int8"])
def test_passes_of_a_word(each_tvu_sim, tmp_path, mode, vectors, passes):
    """With slices at the system clock a word takes a cycle for each pass that it needs; at twice
    that clock always one."""
    if mode == "int8":
        vectors, passes = min(vectors, 4), 2
    rows, words = 30, 16
    counts = _counts(each_tvu_sim, tmp_path, [
        ("STREAM", dict(addr=DATA, words=rows * words)), ("PASS", dict(cycles=400)),
        ("DOT", dict(dst=0, words=words, mode=isa.MODES[mode], last_vector=vectors - 1, s=0,
                     step_s=0, stride=64, rows=rows))])
    assert counts["moving"] == rows * words
    slow = each_tvu_sim.parts[-3] == "1x" and passes == 2
    least = rows * words if slow else 0
    assert least - 10 <= counts["stall_compute"] <= least + 110
