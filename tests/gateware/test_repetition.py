"""REP against all of its runs, one by one: whether they depend on each other, and whether one
operation can be all of them."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator
from tvu.repetition import Repetition
from xtvu import isa


def _rows(start: int, stride: int, runs: int, rows: int) -> list[set[int]]:
    return [{(start + run * stride + row) % isa.SCRATCH_ROWS for row in range(rows)}
            for run in range(runs)]


def _depends(case: dict[str, int], name: str) -> bool:
    """Whether a run reads at ``name`` what another one writes."""
    rows = -(-case["count"] // isa.LANES)
    written = _rows(case["dst"], case["stride_dst"], case["runs"], rows)
    read = _rows(case[name], case[f"stride_{name}"], case["runs"], rows)
    return any(read[i] & written[j] for i in range(case["runs"]) for j in range(case["runs"])
               if i != j)


def _case(rng) -> dict[str, int]:
    """Places near each other, so that some overlap and some do not."""
    case = {name: int(rng.integers(isa.SCRATCH_ROWS)) if rng.random() < 0.2
            else int(rng.integers(400)) for name in ("dst", "a", "b")}
    for name in ("a", "b"):
        if rng.random() < 0.3:
            case[name] = case["dst"]
    case |= {f"stride_{name}": int(rng.choice([0, 1, 4, 20, 40, 300]))
             for name in ("dst", "a", "b")}
    return case | {"count": int(rng.integers(1, 200)), "runs": int(rng.integers(2, 9))}


def _ask(cases, settings):
    """The unit's answers, a cycle after each case."""
    unit, answers = Repetition(), []

    async def bench(ctx):
        for case in cases:
            ctx.set(unit.runs, {"count": case["runs"],
                                **{f"stride_{n}": case[f"stride_{n}"] for n in ("dst", "a", "b")},
                                "step_s": 0, "step_t": case.get("step_t", 0)})
            for name in ("dst", "a", "b", "count"):
                ctx.set(getattr(unit, name), case[name])
            for name, value in (settings | case.get("set", {})).items():
                ctx.set(getattr(unit, name), value)
            await ctx.tick()
            await ctx.delay(1e-9)
            answers.append({name: ctx.get(getattr(unit, name))
                            for name in ("together", "apart_a", "apart_b")})

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return answers


def test_runs_that_depend_on_each_other():
    """What is told apart is apart; what is refused overlaps, or could by the rule in the table
    (all runs and what is between them, taken together)."""
    rng = np.random.default_rng(3)
    cases = [_case(rng) for _ in range(3000)]
    told = {name: 0 for name in ("a", "b")}
    for case, answer in zip(cases, _ask(cases, {}), strict=True):
        for name in ("a", "b"):
            if answer[f"apart_{name}"]:
                told[name] += 1
                assert not _depends(case, name), (case, name)
            else:
                rows = -(-case["count"] // isa.LANES)
                spans = [(case["runs"] - 1) * case[f"stride_{n}"] + rows for n in ("dst", name)]
                distance = (case[name] - case["dst"]) % isa.SCRATCH_ROWS
                assert (spans[0] > distance or distance + spans[1] > isa.SCRATCH_ROWS), case
    assert min(told.values()) > 300


@pytest.mark.parametrize("runs", [2, 8, 9])
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("target,step_t", [(0, 0), (0, 1), (5, 0), (5, 1)])
def test_scalars_of_runs_together(runs, steps, target, step_t):
    """A maximum of its own for each run or none; eight factors at most; no run reads a maximum."""
    case = {"dst": 0, "a": 100, "b": 200, "count": 8, "runs": runs, "step_t": step_t,
            "stride_dst": 1, "stride_a": 1, "stride_b": 0}
    firsts = range(isa.SCALARS)
    answers = _ask([case | {"set": {"first": first}} for first in firsts],
                   {"target": target, "steps": steps, "reads_first": 1})
    for first, answer in zip(firsts, answers, strict=True):
        maxima = bool(target) == bool(step_t)
        factors = not steps or runs <= isa.VECTORS
        # a register within as many places of the maxima as there are runs
        near = target and min((first - target) % 32, (target - first) % 32) < runs
        assert answer["together"] == (maxima and factors and not near), first


@pytest.mark.parametrize("dst,stride,runs,count,to_bytes,digits5,together", [
    (0, 1, 4, 160 * 32, 0, 1, 1),  # vectors 0 to 3, as long as they are
    (0, 1, 8, 160 * 16, 0, 1, 1), (0, 1, 8, 160 * 16 + 1, 0, 1, 0),  # those that share words
    (0, 1, 8, 128 * 16, 0, 0, 1), (0, 1, 8, 128 * 16 + 1, 0, 0, 0),
    (0, 1, 4, 32 * 32, 1, 0, 1), (0, 1, 4, 32 * 32 + 1, 1, 0, 0), (0, 1, 5, 8, 1, 0, 0),
    (3, 1, 2, 160 * 32, 0, 1, 0), (2, 1, 2, 160 * 32, 0, 1, 1),
])
def test_activations_of_runs_together(dst, stride, runs, count, to_bytes, digits5, together):
    assert isa.ACT_WORDS == 32 and isa.SHARED_WORDS == 16
    case = {"dst": dst, "a": 100, "b": 200, "count": count, "runs": runs, "stride_dst": stride,
            "stride_a": 1, "stride_b": 0}
    answer, = _ask([case], {"to_bytes": to_bytes, "digits5": digits5,
                            "quantises": 1 - to_bytes})
    assert answer["together"] == together
