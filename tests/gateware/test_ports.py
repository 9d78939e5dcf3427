"""PORTS, by which memory is measured: when it is taken, and what streams then do."""

from __future__ import annotations

import numpy as np
import pytest
from tvu_bench import MEGABYTE, WAIT, error_bit, memory_of, run_model, run_rtl

DATA, WORDS = 2 * MEGABYTE, 2048
STATUS, CLEAR, RESET = ("STATUS", {}), ("CLEAR", dict(mask=0xFFFF)), ("RESET", {})


def _ports(mask=15, apart=0, bursts=0):
    return "PORTS", dict(mask=mask, apart=apart, bursts=bursts)


def _stream(section):
    """WORDS words past the product array, which takes one a cycle, counted in a section."""
    dot = dict(dst=0, words=16, mode=0, last_vector=0, s=0, step_s=0, stride=0, rows=WORDS // 16)
    return [("SECTION", dict(section=section)), ("STREAM", dict(addr=DATA, words=WORDS)),
            ("DOT", dot), ("SECTION", dict(section=0)), WAIT]


def _cycles(section):
    return [("COUNTER", dict(index=index, section=section)) for index in range(4)]


def test_what_is_refused(tvu_sim, tmp_path):
    """No port at all; and any while something is under way, or a reset: then nothing changes."""
    check = [("STREAM", dict(addr=DATA, words=40)), ("CHECK", dict(t=1, words=40))]
    look = ("SGET", dict(s=1))
    program = [_ports(0), STATUS, CLEAR, *check, _ports(1), STATUS, WAIT, CLEAR, look, *check, WAIT,
               look, _ports(7), STATUS, *check, RESET, _ports(15), STATUS]
    memory = memory_of(np.random.default_rng(3).bytes(40 * 32))
    got, _, _ = run_rtl(tvu_sim, tmp_path, memory, program)
    refused = error_bit("descriptor")
    sums = [answer for (name, _), answer in zip(program, got, strict=True) if name == "SGET"]
    states = [answer & ~(1 << 31) for (name, _), answer in zip(program, got, strict=True)
              if name == "STATUS"]
    assert states == [refused, refused, 0, refused]
    assert sums == [run_model(memory, [*check, look])[0][-1]] * 2


@pytest.mark.parametrize("mask", [1, 2, 4, 8, 3, 5, 14])
def test_only_ports_in_the_mask_are_asked(tvu_sim, tmp_path, mask):
    """The others answer with errors, which nobody sees; after a RESET all are asked again."""
    stream = [("STREAM", dict(addr=DATA, words=WORDS)), ("CHECK", dict(t=1, words=64)),
              ("DOT", dict(dst=0, words=16, mode=0, last_vector=0, s=0, step_s=0, stride=0,
                           rows=(WORDS - 64) // 16)), WAIT]
    program = [("FAIL", dict(ports=~mask & 15)), _ports(mask), *stream, STATUS,
               ("FAIL", dict(ports=mask)), *stream, CLEAR, RESET, WAIT,
               ("FAIL", dict(ports=~mask & 15)), *stream]
    got, _, _ = run_rtl(tvu_sim, tmp_path, memory_of(bytes(WORDS * 32)), program)
    waits = [answer for (name, _), answer in zip(program, got, strict=True) if name == "WAIT"]
    assert waits == [0, error_bit("read"), 0, error_bit("read")]


def test_bursts_under_way(tvu_sim, tmp_path):
    """One at a time costs each the latency of memory (25 cycles), its own 16, and 11 until the
    fourth port's turn; two nearly half of that; as many as the queues hold are the default."""
    limits = (1, 2, 3, 0)
    program = [part for number, bursts in enumerate(limits)
               for part in (_ports(bursts=bursts), *_stream(number + 1))]
    program += [part for number in range(len(limits)) for part in _cycles(number + 1)]
    got, _, _ = run_rtl(tvu_sim, tmp_path, memory_of(bytes(WORDS * 32)), program)
    cycles = np.array(got[-4 * len(limits):]).reshape(-1, 4).sum(axis=1) / (WORDS // 16)
    assert 16 + 25 + 11 <= cycles[0] < 16 + 25 + 11 + 12
    assert 0.5 * cycles[0] <= cycles[1] < 0.56 * cycles[0] and cycles[2] < 0.8 * cycles[1]
    assert cycles[3] < 18.5


def test_what_is_read_does_not_depend_on_bursts(tvu_sim, tmp_path):
    memory = memory_of(np.random.default_rng(7).bytes(300 * 32))
    program = []
    for bursts in (1, 5, 63):
        program += [_ports(bursts=bursts), ("STREAM", dict(addr=DATA + 96, words=290)),
                    ("CHECK", dict(t=bursts % 31 + 1, words=290)), WAIT]
    program += [("SGET", dict(s=bursts % 31 + 1)) for bursts in (1, 5, 63)]
    got, _, _ = run_rtl(tvu_sim, tmp_path, memory, program)
    model = run_model(memory, program)[0]
    assert got[-3:] == model[-3:] and len(set(got[-3:])) == 1
