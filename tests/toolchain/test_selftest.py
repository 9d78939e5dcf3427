"""What the self-test would find: it uses every instruction and both signs of every slice, and shows
any wrong code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from xtvu import isa, selftest
from xtvu.layout import stripe, unpack_ternary
from xtvu.machine import Machine

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"


def _machine(fault=None) -> Machine:
    data, instructions = selftest.program()
    memory = np.zeros(2 << 20, np.uint8)
    packed = stripe(data)
    memory[selftest.BASE:selftest.BASE + packed.size] = packed
    machine = Machine(memory)
    rng = np.random.default_rng(1)  # nothing is assumed of what the unit holds at first
    machine.scratch[:] = rng.standard_normal(machine.scratch.size)
    machine.activations[:] = rng.integers(-127, 128, machine.activations.shape)
    machine.pick[:] = 1
    machine.scalars[1:] = rng.integers(1, 1 << 30, 31)
    for place, (name, operands) in enumerate(instructions):
        machine.execute(name, **operands)
        if fault is not None:
            fault(machine, place, name)
    assert not machine.errors
    return machine


def test_every_instruction_is_used():
    text = ((FIRMWARE / "selftest.c").read_text() + (FIRMWARE / "main.c").read_text()
            + (FIRMWARE / "fault.c").read_text())
    used = {name for name, _ in selftest.program()[1]}
    used |= {ins.name for ins in isa.INSTRUCTIONS if f"tvu_{ins.name.lower()}(" in text}
    assert used == {ins.name for ins in isa.INSTRUCTIONS}


def test_results_do_not_depend_on_what_was_there():
    clean = Machine(np.zeros(2 << 20, np.uint8))
    data, _ = selftest.program()
    packed = stripe(data)
    clean.memory[selftest.BASE:selftest.BASE + packed.size] = packed
    selftest.run(clean)
    dirty = _machine()
    np.testing.assert_array_equal(clean.scalars, dirty.scalars)
    assert clean.ranked() == dirty.ranked()


def test_every_slice_works_with_both_signs():
    data, instructions = selftest.program()
    linear = np.frombuffer(data, np.uint8)
    for mode, columns in (("base3", 160), ("2bit", 128)):
        address = (next(o["addr"] for n, o in instructions if n == "STREAMR" and o["words"] > 1)
                   if mode == "base3" else None)
        if address is None:
            address = [o["addr"] for n, o in instructions if n == "STREAMR"][1]
        rows = 24
        weights = unpack_ternary(linear[address - selftest.BASE:][:32 * rows].reshape(rows, 32),
                                 columns, mode)
        assert all({-1, 1} <= set(weights[:, column]) for column in range(columns))


def test_a_wrong_code_shows():
    """One code of one vector, at any place of the word, changes what is expected."""
    want = _machine().scalars
    rng = np.random.default_rng(2)
    for vector in range(isa.VECTORS):
        for element in rng.integers(0, 160, 6).tolist():
            def damage(machine, place, name, vector=vector, element=element):
                if (name == "QUANT5"
                    and not hasattr(machine, "damaged")
                    and selftest.program()[1][place][1]["vector"] == isa.VECTORS - 1):
                    machine._words_of(vector)[0, element] ^= 1
                    machine.damaged = True
            assert not np.array_equal(_machine(damage).scalars, want), (vector, element)
