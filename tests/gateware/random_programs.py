"""Random TVU programs over the whole instruction set, with what the Machine makes of them.

A program ends where an operand or a result is infinite, since nothing is said of results from there
on. So each program starts by loading all that it may read.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvu_bench import MEGABYTE, float_bits
from xtvu import isa
from xtvu.layout import WEIGHTS_PER_WORD, stripe
from xtvu.machine import Machine

__all__ = ["Program", "ProgramWriter", "random_memory"]

_FLOATS, _BYTES, _RESULT = 2 * MEGABYTE, 2 * MEGABYTE + MEGABYTE // 2, 3 * MEGABYTE
_SIZE, _PART = 4 * MEGABYTE, 1 << 16
_ROWS = 512  # a and b lie below, dst from here on to twice this
_PICKED = 512  # codes that are known to lie in the pick memory

Instruction = tuple[str, dict[str, int]]


def random_memory(rng: np.random.Generator) -> np.ndarray:
    """uint8 [4 MB] in physical order: float32 and bytes to stream from, zeros elsewhere."""
    memory = np.zeros(_SIZE, np.uint8)
    memory[_FLOATS:_FLOATS
           + _PART] = stripe((rng.standard_normal(_PART // 4)
                              * 2).astype(np.float32).view(np.uint8))
    memory[_BYTES:_BYTES + _PART] = rng.integers(0, 256, _PART, np.uint8)
    return memory


class Program:
    """Instructions, the responses that the Machine gives to them, and the places of RANKED with the
    set that they show."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self.responses: list[int | None] = []
        self.ranked: list[tuple[range, set[int]]] = []  # of one vector each


class ProgramWriter:
    """Writes programs one after the other for one unit, whose state the Machine follows."""

    def __init__(self, memory: np.ndarray, rng: np.random.Generator) -> None:
        self.machine, self.rng = Machine(memory), rng
        self._program = Program()
        # words 16 to 31 of the activation vectors hold what only the hardware knows
        self._stale = False
        self._stored = 0

    # -- pieces ------------------------------------------------------------------------------------

    def _add(self, name: str, **operands: int) -> None:
        if name == "WAIT":
            response: int | None = self.machine.execute("STATUS")
        elif name == "RANKED":
            response = None
        else:
            response = self.machine.execute(name, **operands)
        self._program.instructions.append((name, operands))
        self._program.responses.append(None if name == "COUNTER" else response)

    def _int(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def _maybe(self, chance: float) -> bool:
        return bool(self.rng.random() < chance)

    def _count(self, most: int = 300) -> int:
        """Elements of a vector: often few, often about a multiple of eight."""
        return min(most,
                   max(1,
                       int(self.rng.choice([self._int(1, 20),
                                            8 * self._int(1,
                                                          12) + self._int(-1, 1),
                                            self._int(1, most)]))))

    def _scalar(self) -> int:
        return self._int(0, 31)

    def _stream(self, kind: str, words: int) -> None:
        base, room = {"floats": _FLOATS, "bytes": _BYTES}[kind], _PART // 32 - words
        self._add("STREAM", addr=base + 32 * self._int(0, room), words=words)

    def _set(self, register: int, low: float, high: float) -> None:
        self._add("SSET",
                  d=register,
                  value=float_bits(float(self.rng.uniform(low, high))
                                   * (-1 if self._maybe(0.3) else 1)))

    def _load_everything(self) -> None:
        self._add("RESET")
        self._add("STREAM", addr=_FLOATS, words=2 * _ROWS)
        self._add("LOADF", dst=0, n=16 * _ROWS, t=0)
        for register in range(1, 32):
            self._set(register, 0.3, 2)
        self._requantise()
        self._add("PICK", a=self._int(0, 200), s=1, n=_PICKED)

    def _requantise(self) -> None:
        self._add("SSET", d=1, value=float_bits(30.0))
        for vector in range(isa.BYTE_VECTORS):
            self._add("QUANT5", vector=vector, a=16 * vector, s=1, n=isa.ACT_WORDS * 160)
        self._stale = False

    # -- kinds of operations -----------------------------------------------------------------------

    def _vector(self) -> None:
        name = str(self.rng.choice(["MULS", "MULV", "ADDV", "AXPY", "EXP2", "MULM", "AXPYM",
                                    "SIGMOID", "MULI", "LOADF", "LOADB", "SUM", "SUMSQ", "MAX",
                                    "ABSMAX", "QUANT5", "QUANT4", "QUANT8", "PICK"]))
        runs = self._int(2, 6) if self._maybe(0.4) and name != "PICK" else 1
        n = self._count(100 if runs > 1 else 300)
        if name == "LOADB":
            n = 32 * self._int(1, 4)
        rows = -(-n // 8)
        a = self._int(0, _ROWS - 8 * 40)
        dst = _ROWS + self._int(0, _ROWS - 8 * 40)
        stride = rows + self._int(0, 2)
        rep = dict(count=runs, step_s=self._int(0, 1), step_t=self._int(0, 1), stride_dst=stride,
                   stride_a=self._int(0, 30),
                   stride_b=self._int(0, 30))
        b = self._int(0, _ROWS - 8 * 40)
        if self._maybe(0.2):  # in place
            dst, rep["stride_a"], b = a, stride, b + _ROWS
        if self._maybe(0.05):  # runs that may depend on each other
            dst, rep["stride_dst"], b = a + self._int(0, 1) * rows, self._int(0, 20), a + 2 * rows
            rep["stride_b"] = rep["stride_a"]
        if name == "EXP2":
            rep["stride_b"] = self._int(0, 2)
        operands = dict(dst=dst, a=a, b=b, s=self._scalar(), c=self._scalar(), t=self._scalar(),
                        n=n,
                        vector=self._int(0, 7))
        if name.startswith("QUANT"):
            rep["stride_dst"] = self._int(0, 3)
            if name == "QUANT8" and self._maybe(0.8):
                operands["vector"] = self._int(0, 3)
        for _ in range(runs):
            if name in ("MULM", "AXPYM", "LOADF"):
                self._stream("floats", rows)
            elif name == "LOADB":
                self._stream("bytes", n // 32)
        if runs > 1:
            self._add("REP", **rep)
        self._add(name, **{field.name: operands[field.name] for field in isa.by_name(name).fields})

    def _scalars(self) -> None:
        name = str(self.rng.choice(["SADD", "SMUL", "SDIV", "SSQRT", "SMAX", "SSET"]))
        if self._maybe(0.2):
            self._add("REP",
                      count=self._int(2, 12),
                      step_s=self._int(0, 1), step_t=self._int(0, 1), stride_dst=0, stride_a=0,
                      stride_b=0)
        operands = dict(d=self._scalar(), a=self._int(1, 31), b=self._int(1, 31),
                        value=float_bits(float(self.rng.uniform(0.3, 2))))
        self._add(name, **{field.name: operands[field.name] for field in isa.by_name(name).fields})
        if name in ("SMUL", "SDIV") and self._maybe(0.5):
            self._set(operands["d"], 0.3, 2)

    def _store(self) -> None:
        name = str(self.rng.choice(["STOREF", "STOREQ", "STOREQT", "STORES"]))
        address = _RESULT + 512 * self._stored
        self._stored = (self._stored + 64) % 1024
        address += {"STOREQT": self._int(0, 511), "STORES": 4 * self._int(0, 127)}.get(name,
                32 * self._int(0, 15))
        operands = dict(addr=address, a=self._int(0, 2 * _ROWS - 64), s=self._scalar(),
                        n=self._count(60 if name == "STOREQT" else 300))
        self._add(name, **{field.name: operands[field.name] for field in isa.by_name(name).fields})
        if self._maybe(0.5):  # and read back, behind it
            words = self._int(1, 20)
            self._add("STREAM", addr=address & ~31 | 1, words=words)
            self._add("CHECK", t=self._scratch_register(), words=words)

    def _scratch_register(self) -> int:
        """Where bits may go that are no number: they are replaced at once by who asks for this, as
        every number may be an operand."""
        return 0 if self._maybe(0.5) else 31

    def _check(self) -> None:
        rows, words = self._int(1, 5), self._int(1, 20)
        self._add("STREAMR", addr=_BYTES + 32 * self._int(0, 100), rows=rows, words=words,
                  stride=self._int(0, 4))
        self._add("CHECK", t=self._scratch_register(), words=rows * words)

    def _codes(self, mode: str, vectors: int, words: int) -> None:
        """Makes sure that a product finds codes which the Machine knows, too."""
        if mode == "int8":
            scale = self._int(1, 31)
            self._set(scale, 5, 60)
            single = vectors == 1 and words > isa.ACT_WORDS
            for vector in range(1 if single else vectors):
                self._add("QUANT8", vector=vector, a=self._int(0, 100), s=scale, n=32 * words)
        elif self._stale:
            self._requantise()

    def _product(self) -> None:
        mode = str(self.rng.choice(list(isa.MODES)))
        vectors = self._int(1, isa.BYTE_VECTORS if mode == "int8" else isa.VECTORS)
        most = isa.SHARED_WORDS if vectors > isa.BYTE_VECTORS else isa.ACT_WORDS
        words = min(most, int(self.rng.choice([1, 2, 3, self._int(1, most)])))
        if mode == "int8" and vectors == 1 and self._maybe(0.3):
            words = self._int(1, 60)
        rows = self._count(min(200, 1200 // words))
        stride = -(-rows // 8) + self._int(0, 2)
        name = "DOTA" if self._maybe(0.3) else "DOT"
        first = self._int(0, most - words) if words <= most and self._maybe(0.5) else 0
        self._codes(mode, vectors, first + words)
        self._set(2, 0.0005, 0.01)
        self._stream("bytes", rows * words)
        if first or self._maybe(0.5):
            self._add("EPI", b=self._int(0, _ROWS - 64), factor=self._int(0, 3),
                      pick=isa.PICKS["none"], rank=0, first=first, base=0)
        self._add(name, dst=_ROWS + self._int(0, 100), words=words, mode=isa.MODES[mode],
                  last_vector=vectors - 1, s=2, step_s=0, stride=stride,
                  rows=rows)

    def _picking(self) -> None:
        """gate marks rows, or codes are picked; then rows of a matrix, and columns of one."""
        mode = str(self.rng.choice(["base3", "2bit"]))
        words, groups = self._int(1, 4), self._int(1, 12)
        self._codes(mode, 1, words)
        self._set(2, 0.0005, 0.01)
        dot = dict(dst=_ROWS, words=words, mode=isa.MODES[mode], last_vector=0, s=2, step_s=0,
                   stride=0, rows=8 * groups)
        for _ in range(self._int(1, 2)):
            if self._maybe(0.5):
                if self._maybe(0.3):  # an EPI that another one replaces counts for nothing
                    self._add("EPI", b=0, factor=0, pick=isa.PICKS["mark"], rank=0, first=0, base=0)
                    self._add("EPI", b=0, factor=0, pick=isa.PICKS["none"], rank=0, first=0, base=0)
                    self._add("MULS", dst=_ROWS, a=0, s=2, n=8, t=0)
                self._stream("bytes", 8 * groups * words)
                self._add("EPI", b=0, factor=isa.FACTORS["relu2"], pick=isa.PICKS["mark"], rank=0,
                          first=0, base=0)
                self._add("DOT", **dot)
            else:
                self._add("SSET", d=3, value=float_bits(float(self.rng.choice([0.05, 0.3, 20]))))
                self._add("PICK", a=self._int(0, 300), s=3, n=8 * groups)
            address = _BYTES + 32 * self._int(0, 900) | self._int(0, 1)
            self._add("STREAMP", addr=address, groups=groups, words=words)
            if self._maybe(0.5):
                self._add("EPI", b=0, factor=isa.FACTORS["dst"], pick=isa.PICKS["picked"], rank=0,
                          first=0, base=0)
                self._add("DOT", **dot)
            else:
                rows = self._int(1, words * WEIGHTS_PER_WORD[mode])
                self._add("COLS", dst=_ROWS, words=words, mode=isa.MODES[mode], s=2, rows=rows)
                self._stale = True
                self._codes(mode, 1, words)

    def _ranking(self) -> None:
        levels = self._int(1, isa.RANK_LEVELS)
        self._add("RANK", levels=levels)
        mode = str(self.rng.choice(list(isa.MODES)))
        vectors = self._int(1, isa.BYTE_VECTORS if mode == "int8" else isa.VECTORS)
        self._codes(mode, vectors, 1)
        for part in range(self._int(1, 2)):
            rows = self._count(150)
            last = self._int(0, vectors - 1)
            self._stream("bytes", rows)
            self._add("EPI",
                      b=self._int(0, 100), factor=isa.FACTORS["b" if self._maybe(0.3) else "none"],
                      pick=0, rank=1, first=0, base=part * 1000)
            scale = 0 if self._maybe(0.1) else 2  # 0: all are equal
            self._add("DOT", dst=0, words=1, mode=isa.MODES[mode], last_vector=last, s=scale,
                      step_s=0, stride=0, rows=rows)
        self._add("WAIT")
        for vector in sorted({0, self._int(0, vectors - 1), vectors - 1}):
            start = len(self._program.instructions)
            for index in range(1, 1 << levels):
                self._add("RANKED", index=index, vector=vector)
            self._program.ranked.append((range(start, len(self._program.instructions)),
                                         self.machine.ranked(vector)))

    def _refusal(self) -> None:
        """Something that is not done, and says so."""
        dot = dict(dst=0, words=1, mode=0, last_vector=0, s=1, step_s=0, stride=0, rows=8)
        choices: list[Instruction] = [
            ("MULS", dict(dst=0, a=0, s=1, n=0, t=0)),
            ("STOREF", dict(addr=_RESULT + 4 * self._int(1, 7), a=0, n=8)),
            ("STOREQ", dict(addr=_RESULT + self._int(1, 31), a=0, n=8, s=1)),
            ("STORES", dict(addr=_RESULT + self._int(1, 3), s=1)),
            ("RANK", dict(levels=0)), ("RANK", dict(levels=self._int(9, 15))),
            ("DOT", dot | dict(rows=0)),
            ("DOT", dot | dict(rows=self._int(32769, (1 << 19) - 1))),
            ("DOTA", dot | dict(mode=3)), ("DOT", dot | dict(words=33)),
            ("DOT", dot | dict(words=17, last_vector=4)),
            ("DOT", dot | dict(words=self._int(2, 32), mode=self._int(0, 2), first=31)),
            ("DOT", dot | dict(words=self._int(2, 16), last_vector=4, first=15)),
            ("COLS", dict(dst=0, words=1, mode=0, s=1, rows=161)),
            ("COLS", dict(dst=0, words=2, mode=1, s=1, rows=257)),
            ("LOADB", dict(dst=0, s=1, n=32 * self._int(1, 3) + 8, t=0)),
            ("QUANT5", dict(vector=self._int(4, 7), a=0, s=1, n=2561)),
            ("QUANT8", dict(vector=self._int(4, 7), a=0, s=1, n=8)),
            ("CHECK", dict(t=0, words=0)),
        ]
        name, operands = choices[self._int(0, len(choices) - 1)]
        first = operands.pop("first", 0)
        if first:
            self._add("EPI", b=0, factor=0, pick=0, rank=0, first=first, base=0)
        self._add(name, **operands)

    def _control(self) -> None:
        kind = self._int(0, 5)
        if kind == 5:
            self._add("WAIT")
            self._add("PORTS", mask=15, apart=0, bursts=self._int(0, 63))
        elif kind == 0:
            self._add("SECTION", section=self._int(0, 15))
        elif kind == 1:
            self._add("COUNTER",
                      index=self._int(0, len(isa.COUNTERS) - 1), section=self._int(0, 15))
        elif kind == 2:
            self._add("ID")
        else:
            self._add("WAIT")
            self._add("CLEAR", mask=self._int(0, 255) if kind == 3 else 0xFFFF)

    # -- a program ---------------------------------------------------------------------------------

    def write(self, operations: int = 25) -> Program:
        """A program of so many operations, or fewer if numbers become infinite."""
        self._program = Program()
        self._load_everything()
        kinds: list[Callable[[], None]] = [self._vector, self._scalars, self._store, self._check,
                                           self._product, self._picking,
                                           self._ranking, self._refusal, self._control]
        chances = np.array([8, 6, 3, 1, 3, 2, 0.5, 0.7, 0.7])
        for _ in range(operations):
            if "overflow" in self.machine.errors:
                break
            kinds[int(self.rng.choice(len(kinds), p=chances / chances.sum()))]()
            if not abs(self.machine.scalars.view(np.float32)[31]) < 4:
                self._set(31, 0.3, 2)
        if "overflow" not in self.machine.errors:
            for row in range(0, 2 * _ROWS, 256):
                self._add("STOREF", addr=_RESULT + MEGABYTE // 2 + 32 * row, a=row, n=2048)
        self._add("WAIT")
        if "overflow" not in self.machine.errors:
            for register in range(32):
                self._add("SGET", s=register)
        return self._program
