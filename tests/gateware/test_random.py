"""Random programs over the whole instruction set: the Verilated unit against the Machine, bit for
bit.

BITNET_SEED chooses the programs (a random seed is drawn and printed otherwise), BITNET_PROGRAMS
their number; `make fuzz` runs many.
"""

from __future__ import annotations

import os
import secrets

import numpy as np
import pytest
from random_programs import ProgramWriter, random_memory
from tvu_bench import run_rtl
from xtvu import isa

PROGRAMS = int(os.environ.get("BITNET_PROGRAMS", 320))
BATCH = 20
SEED = int(os.environ.get("BITNET_SEED") or secrets.randbits(31))


@pytest.mark.parametrize("batch", range(-(-PROGRAMS // BATCH)))
def test_random_programs(each_tvu_sim, tmp_path, batch):
    """Batches take turns in the memory models."""
    seed = SEED + batch
    print(f"BITNET_SEED={SEED}, batch {batch}")
    rng = np.random.default_rng(seed)
    memory = random_memory(rng)
    writer = ProgramWriter(memory.copy(), rng)
    programs = [writer.write() for _ in range(BATCH)]
    instructions = [instruction for program in programs for instruction in program.instructions]
    preset = ("hostile", "ug585", "hostile", "conservative")[batch % 4]
    got, stored, _ = run_rtl(each_tvu_sim, tmp_path, memory, instructions, preset, seed)
    place = 0
    for number, program in enumerate(programs):
        answers = got[place:place + len(program.instructions)]
        for index, (want, answer) in enumerate(zip(program.responses, answers, strict=True)):
            done = program.instructions[max(0, index - 12):index]
            assert want in (None, answer), (
                f"program {number}, {program.instructions[index]} answered 0x{answer:x}, "
                f"not 0x{want:x}, after {done}")
        for where, numbers in program.ranked:
            assert sorted(n for n in answers[where.start:where.stop]
                          if n != 0xFFFFFFFF) == sorted(numbers), f"program {number}: ranking"
        place += len(program.instructions)
    differing = np.flatnonzero(stored != writer.machine.memory)
    assert differing.size == 0, (f"{differing.size} bytes of memory differ, first at "
                                 f"0x{differing[0]:x}")


def test_every_instruction_occurs():
    """What the writer leaves out is what no test of this file would find."""
    rng = np.random.default_rng(1)
    writer = ProgramWriter(random_memory(rng), rng)
    seen = {name for _ in range(40) for name, _ in writer.write().instructions}
    assert {ins.name for ins in isa.INSTRUCTIONS} - seen == {"STATUS"}  # which WAIT asks for
