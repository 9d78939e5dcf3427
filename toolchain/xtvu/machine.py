"""An executable model of the TVU: what every instruction does to scratchpad, scalars, activations
and memory.

This is the meaning that gateware must equal bit for bit; it knows nothing of time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import semantics as sem
from .isa import (
    ACT_WORDS,
    BYTE_VECTORS,
    COLUMN_WORDS,
    ERRORS,
    FACTORS,
    LANES,
    MODES,
    MOST_ROWS,
    PICK_ROWS,
    PICKS,
    QUANTISERS,
    RANK_LEVELS,
    SCALARS,
    SCRATCH_ROWS,
    SHARED_WORDS,
    VECTORS,
    WORD_BYTES,
    by_name,
    isa_hash,
)
from .layout import BEAT_BYTES, BLOCK_BYTES, PORTS, WEIGHTS_PER_WORD, WORD_DIGITS, physical_address

__all__ = ["Machine"]

_MODE_NAMES = {value: name for name, value in MODES.items()}
_PER_WORD = {QUANTISERS[mode]: count for mode, count in WEIGHTS_PER_WORD.items()}
_FACTOR_NAMES = {value: name for name, value in FACTORS.items()}
#: Operations that REP refuses if a run reads rows that another one writes, with the operands that
#: they read.
_ROW_OPERANDS = {"MULS": ("a",), "MULV": ("a", "b"), "ADDV": ("a", "b"), "AXPY": ("a", "b"),
                 "EXP2": ("a",)}
_STORE_ALIGNMENT = {"STOREF": WORD_BYTES, "STOREQ": WORD_BYTES, "STOREQT": 1, "STORES": 4}


class Machine:
    """State: ``scratch`` float32 [rows * 8], ``scalars`` uint32 [32], ``activations`` int8 [4, 32,
    WORD_DIGITS], ``pick`` int8 [16384], ``rankings`` (the largest values of each vector, best
    first), ``memory`` uint8 (physical order), ``errors`` (set of names)."""

    def __init__(self, memory: NDArray[np.uint8], rows: int = SCRATCH_ROWS) -> None:
        self.memory = memory
        self.scratch = np.zeros(rows * LANES, np.float32)
        self.scalars = np.zeros(SCALARS, np.uint32)
        self.activations = np.zeros((BYTE_VECTORS, ACT_WORDS, WORD_DIGITS), np.int8)
        self.pick = np.zeros(PICK_ROWS * LANES, np.int8)
        # of each vector, key and complement of the number, largest first
        self.rankings: list[list[tuple[int, int]]] = [[] for _ in range(VECTORS)]
        self.errors: set[str] = set()
        self._kept = 0
        # rows of the picked streams that nothing has consumed yet
        self._picked: deque[NDArray[np.int64]] = deque()
        self._stream: deque[NDArray[np.uint8]] = deque()
        self._reset()

    def _reset(self) -> None:
        self.errors.clear()
        self._picked.clear()
        self._stream.clear()
        self._repeat: dict[str, int] | None = None
        self._epilogue: dict[str, int] = {}
        self._mask, self._apart = 15, 0

    def execute(self, name: str, **operands: int) -> int:
        """Runs one instruction; returns its response. Raises KeyError for an unknown one,
        ValueError for bad operands."""
        instruction = by_name(name)
        instruction.pack(**operands)
        if name == "RESET":
            self._reset()
        if not instruction.queued:
            return self._control(name, operands)
        if name in ("STREAM", "STREAMR", "STREAMP"):
            self._fetch(name, operands)
        elif name == "EPI":
            self._epilogue = operands
        elif name == "REP":
            self._repeat = operands
        else:
            self._run(name, dict(operands))
        return 0

    # -- helpers -----------------------------------------------------------------------------------

    def scalar(self, index: int) -> np.float32:
        """A scalar register as an operand."""
        value = np.float32(self.scalars[index:index + 1].view(np.float32)[0])
        self._finite(value)
        return value

    def _finite(self, *values: ArrayLike) -> None:
        """An infinity or NaN among operands, or what comes of them, is the overflow error, and
        results mean nothing then."""
        if not all(np.all(np.isfinite(value)) for value in values):
            self.errors.add("overflow")

    def _refuse(self, condition: object) -> bool:
        """If an operation is refused, for the descriptor error."""
        if condition:
            self.errors.add("descriptor")
        return bool(condition)

    def _set(self, index: int, bits: int) -> None:
        if index % SCALARS:
            self.scalars[index % SCALARS] = bits

    def _set_float(self, index: int, value: np.float32) -> None:
        self._finite(value)
        self._set(index, int(np.float32(value).view(np.uint32)))

    def _control(self, name: str, o: dict[str, int]) -> int:
        if name == "CLEAR":
            self.errors -= {error for bit, error in enumerate(ERRORS) if o["mask"] >> bit & 1}
        if name == "PORTS" and not self._refuse(not o["mask"]):
            self._mask, self._apart = o["mask"], o["apart"]
        if name == "STATUS":
            return sum(1 << bit for bit, error in enumerate(ERRORS) if error in self.errors)
        if name == "ID":
            return isa_hash()
        if name == "SGET":
            return int(self.scalars[o["s"]])
        if name == "RANKED":
            raise ValueError("the ranking's order is the hardware's own; compare sets of numbers")
        return 0

    def _word(self, linear: int) -> NDArray[np.uint8]:
        """As four ports bring it; what one brings that is not in use does not matter."""
        at = [physical_address(linear + BEAT_BYTES * p) ^ (self._apart * p << 26)
              for p in range(PORTS)]
        return np.concatenate([self.memory[a:a + BEAT_BYTES] if self._mask >> p & 1
                               else np.zeros(BEAT_BYTES, np.uint8) for p, a in enumerate(at)])

    def _fetch(self, name: str, o: dict[str, int]) -> None:
        rows, stride = (o["rows"], o["stride"]) if name == "STREAMR" else (o.get("groups", 1), 0)
        empty = not rows or not o["words"]
        self._refuse(empty or o["addr"] & 0x1E)
        base = o["addr"] & ~0x1F
        if name == "STREAMP":
            picked = (np.arange(LANES * rows) if o["addr"]
                      & 1 else np.flatnonzero(self.pick[:LANES * rows]))
            picked = picked[:0] if empty else picked
            self._picked.append(picked)
            for place in picked.tolist():
                for word in range(o["words"]):
                    self._stream.append(self._word(base + WORD_BYTES * (place * o["words"] + word)))
            return
        for row in range(rows):
            for word in range(o["words"]):
                at = base + BLOCK_BYTES * stride * row + WORD_BYTES * word
                self._stream.append(self._word(at))

    def _take(self, words: int) -> NDArray[np.uint8]:
        return np.concatenate([self._stream.popleft() for _ in range(words)])

    def _write(self, linear: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            self.memory[physical_address(linear + i)] = byte

    # -- queued operations -------------------------------------------------------------------------

    def _run(self, name: str, o: dict[str, int]) -> None:
        repeat, self._repeat = self._repeat, None
        group = by_name(name).group
        epilogue, self._epilogue = self._epilogue, {}
        repeatable = group == 3 or (group == 2 and name not in ("DOT", "DOTA", "COLS", "CHECK"))
        r = repeat if repeat and repeatable else {"count": 1}
        if (self._refuse(r["count"] > 1
                         and any(not _independent(o, r, operand)
                                 for operand in _ROW_OPERANDS.get(name, ())))):
            return
        for turn in range(max(1, r["count"])):
            if turn:
                self._step(name, o, r)
            if group == 3:
                self._scalar(name, o)
            elif group == 4:
                self._store(name, o)
            elif name in ("DOT", "DOTA"):
                self._dot(name, o, epilogue)
            elif name == "COLS":
                self._columns(o)
            elif name == "CHECK":
                self._check(o)
            else:
                self._vector(name, o)

    @staticmethod
    def _step(name: str, o: dict[str, int], r: dict[str, int]) -> None:
        steps = {"dst": r["stride_dst"], "vector": r["stride_dst"], "a": r["stride_a"],
                 "b": r["stride_b"], "c": r["stride_b"],
                 "s": r["step_s"], "t": r["step_t"]}
        if by_name(name).group == 3:
            steps = {"d": 1, "a": r["step_s"], "b": r["step_t"]}
        for key, step in steps.items():
            if key in o:
                width = by_name(name).field(key).width
                o[key] = o[key] + step & (1 << width) - 1

    def _scalar(self, name: str, o: dict[str, int]) -> None:
        if name == "SSET":
            self._set(o["d"], o["value"])
            return
        if name == "RANK" and not self._refuse(not 0 < o["levels"] <= RANK_LEVELS):
            self.rankings, self._kept = [[] for _ in range(VECTORS)], (1 << o["levels"]) - 1
        if name in ("RANK", "SECTION"):
            return
        a = self.scalar(o["a"])
        b = self.scalar(o["b"]) if "b" in o else np.float32(0)
        functions: dict[str, Callable[[], Any]] = {
            "SADD": lambda: sem.add(a, b), "SMUL": lambda: sem.multiply(a, b),
            "SDIV": lambda: sem.divide(a, b),
            "SSQRT": lambda: sem.sqrt(a),
            "SMAX": lambda: a if sem.float_key(a) >= sem.float_key(b) else b,
        }
        self._set_float(o["d"], np.float32(functions[name]()))

    def _rows(self, row: int, n: int) -> NDArray[np.float32]:
        index = (row * LANES + np.arange(n)) % self.scratch.size
        return self.scratch[index]

    def _put(self, row: int, values: NDArray[np.float32]) -> None:
        self._finite(values)
        self.scratch[(row * LANES + np.arange(values.size)) % self.scratch.size] = values

    def _vector(self, name: str, o: dict[str, int]) -> None:
        n = o["n"]
        if self._refuse(n == 0 or (name == "LOADB" and n % WORD_BYTES) or not self._fits(name, o)):
            return
        a = self._rows(o["a"], n) if "a" in o else np.zeros(0, np.float32)
        b = self._rows(o["b"], n) if "b" in o else np.zeros(0, np.float32)
        s = self.scalar(o["s"]) if "s" in o else np.float32(0)
        if name == "MULI":  # integers of 28 bits
            low = a.view(np.uint32).astype(np.int64) % 2**28
            a = np.where(low < 2**27, low, low - 2**28).astype(np.float32)
        if name in ("LOADF", "MULM", "AXPYM"):
            b = self._take(-(-n // LANES)).view(np.float32)[:n]
        if name == "LOADB":
            b = self._take(-(-n // WORD_BYTES)).view(np.int8)[:n].astype(np.float32)
        self._finite(a, b)
        if name in _PER_WORD or name == "PICK":
            self._finite(sem.multiply(a, s))
        if name in _PER_WORD:
            self._quantise(o["vector"], sem.quantise(a, s), _PER_WORD[name])
            return
        if name == "PICK":
            self.pick[:-(-n // LANES) * LANES] = 0
            self.pick[:n] = sem.quantise(a, s)
            return
        if name in ("SUM", "SUMSQ", "MAX", "ABSMAX"):
            value = {
                "SUM": lambda: sem.reduce_sum(sem.flush(a)),
                "SUMSQ": lambda: sem.reduce_sum(sem.multiply(a, a)),
                "MAX": lambda: sem.maximum(sem.flush(a)),
                "ABSMAX": lambda: sem.absmax(sem.flush(a)),
            }[name]()
            self._set_float(o["t"], value)
            return
        if name == "EXP2":
            self._finite(sem.add(sem.multiply(a, s), -self.scalar(o["c"])))
        results: dict[str, Callable[[], Any]] = {
            "MULS": lambda: sem.multiply(a, s), "MULV": lambda: sem.multiply(sem.multiply(a, s), b),
            "MULM": lambda: sem.multiply(sem.multiply(a, s), b),
            "ADDV": lambda: sem.add(a, b), "AXPY": lambda: sem.add(sem.multiply(a, s), b),
            "AXPYM": lambda: sem.add(sem.multiply(a, s), b),
            "MULI": lambda: sem.multiply(sem.multiply(a, s), b),
            "SIGMOID": lambda: sem.sigmoid(a).view(np.float32),
            "EXP2": lambda: sem.exp2(sem.add(sem.multiply(a, s), -self.scalar(o["c"]))),
            "LOADF": lambda: sem.flush(b), "LOADB": lambda: sem.multiply(b, s),
        }
        result = results[name]()
        self._put(o["dst"], result)
        if o.get("t"):
            self._set_float(o["t"], sem.absmax(result))

    @staticmethod
    def _fits(name: str, o: dict[str, int]) -> bool:
        """Whether what is quantised fits the activation memory."""
        if name not in _PER_WORD:
            return True
        if name == "QUANT8":
            room = max(0, BYTE_VECTORS - o["vector"]) * ACT_WORDS
        else:
            room = ACT_WORDS if o["vector"] < BYTE_VECTORS else SHARED_WORDS
        return o["n"] <= room * _PER_WORD[name]

    def _quantise(self, vector: int, codes: NDArray[np.int8], per_word: int) -> None:
        words = -(-codes.size // per_word)
        grid = np.zeros(words * per_word, np.int8)
        grid[:codes.size] = codes
        # The fifth digit of a word with four keeps what was there, as no weight uses it. An int8
        # code stands in four digits, one for each bit of half a byte.
        copies = 4 if per_word == WORD_BYTES else 1
        places = self._words_of(vector)[:words]
        places[:, :per_word * copies] = np.tile(grid.reshape(words, per_word), copies)

    def _words_of(self, vector: int) -> NDArray[np.int8]:
        """The activation memory from a vector's first word on, [words,
        WORD_DIGITS]."""
        start = vector % BYTE_VECTORS * ACT_WORDS + vector // BYTE_VECTORS * SHARED_WORDS
        return self.activations.reshape(-1, WORD_DIGITS)[start:]

    def _ternary(self, matrix: NDArray[np.uint8], words: int, mode: str) -> NDArray[np.int32]:
        """Rows of stream words to weights int32 [rows, columns]."""
        base, digits = (3, 5) if mode == "base3" else (4, 4)
        data = matrix.reshape(-1, words, WORD_BYTES).astype(np.int32)
        valid = data < base**digits
        weights = np.stack([np.where(valid, data // base**d % base, 1) - 1 for d in range(digits)],
                           axis=2)
        return np.where(weights > 1, 0, weights).reshape(-1, words * WORD_BYTES * digits)

    def _take_rows(self, rows: int, words: int) -> NDArray[np.uint8]:
        return np.concatenate([np.zeros(0, np.uint8),
                               *(self._take(words) for _ in range(rows))]).reshape(rows,
                                       words * WORD_BYTES)

    def _dot(self, name: str, o: dict[str, int], epilogue: dict[str, int]) -> None:
        mode = _MODE_NAMES.get(o["mode"])
        first = epilogue.get("first", 0) if name == "DOT" else 0
        used = slice(first, first + o["words"])
        if mode == "int8":
            last = o["last_vector"]
            fits = (last == 0 and not first) or (last < BYTE_VECTORS and used.stop <= ACT_WORDS)
        else:
            fits = used.stop <= (ACT_WORDS if o["last_vector"] < BYTE_VECTORS else SHARED_WORDS)
        if (self._refuse(mode is None or not o["rows"] or o["rows"] > MOST_ROWS or not o["words"]
                         or not fits)):
            return
        assert mode is not None
        pick = epilogue.get("pick", 0)
        places = (self._picked.popleft() if pick == PICKS["picked"] and name == "DOT"
                  else np.arange(o["rows"]))
        matrix = self._take_rows(places.size, o["words"])
        if mode == "int8":
            weights = matrix.view(np.int8).astype(np.int32)
            codes: list[NDArray[np.int8]] = []
            for v in range(o["last_vector"] + 1):
                digits = self._words_of(v)[used].reshape(-1, 5, WORD_BYTES)[:, :4]
                if np.any(digits != digits[:, :1]):
                    raise ValueError("an int8 product with codes that QUANT8 did not write")
                codes.append(digits[:, 0].reshape(-1))
        else:
            weights = self._ternary(matrix, o["words"], mode)
            codes = [self._words_of(v)[used, :WEIGHTS_PER_WORD[mode]].reshape(-1)
                     for v in range(o["last_vector"] + 1)]
        for v in range(o["last_vector"] + 1):
            sums = (weights @ codes[v].astype(np.int32)).astype(np.float32)
            result = sem.multiply(sums, self.scalar(o["s"] + v * o["step_s"] & 31))
            self._finite(result)
            index = ((o["dst"] + v * o["stride"]) * LANES + places) % self.scratch.size
            if name == "DOTA":
                self._finite(self.scratch[index])
                result = sem.add(result, self.scratch[index])
            else:
                result = self._finish(result, index, places, epilogue, v)
            self._finite(result)
            if name == "DOT" and epilogue.get("rank"):
                self._rank(v, result, epilogue["base"])
                continue
            self.scratch[index] = result

    def _finish(self, result: NDArray[np.float32], index: NDArray[np.int64],
                places: NDArray[np.int64], epilogue: dict[str, int],
                vector: int) -> NDArray[np.float32]:
        factor = _FACTOR_NAMES[epilogue.get("factor", 0)]
        if factor in ("b", "dst"):
            other = self.scratch[index if factor == "dst" else (epilogue["b"] * LANES + places)
                                 % self.scratch.size]
            self._finite(other)
            result = sem.multiply(result, other)
        elif factor == "relu2":
            positive = np.where(result.view(np.int32) < 0, np.float32(0), result)
            result = sem.multiply(positive, positive)
        if epilogue.get("pick") == PICKS["mark"] and vector == 0:
            self.pick[:-(-places.size // LANES) * LANES] = 0
            self.pick[:places.size] = result > 0
        return result

    def _rank(self, vector: int, values: NDArray[np.float32], base: int) -> None:
        entries = [(int(key), ~(base + row)) for row, key in enumerate(sem.float_key(values))]
        self.rankings[vector] = sorted(self.rankings[vector] + entries, reverse=True)[:self._kept]

    def ranked(self, vector: int = 0) -> set[int]:
        """The numbers in a vector's ranking."""
        return {~number for _, number in self.rankings[vector]}

    def _columns(self, o: dict[str, int]) -> None:
        mode = _MODE_NAMES.get(o["mode"], "int8")
        if (self._refuse(not 0
                         < o["rows"]
                         <= o["words"]
                         * WEIGHTS_PER_WORD[mode] or o["words"] > COLUMN_WORDS or mode == "int8")):
            return
        places = self._picked.popleft()
        self.activations[:, SHARED_WORDS:] = 0  # the hardware works there
        columns = self._ternary(self._take_rows(places.size, o["words"]), o["words"], mode)[:,
                :o["rows"]]
        sums = (self.pick[places].astype(np.int32) @ columns).astype(np.float32)
        products, before = sem.multiply(sums, self.scalar(o["s"])), self._rows(o["dst"], o["rows"])
        self._finite(products, before)
        self._put(o["dst"], sem.add(products, before))

    def _check(self, o: dict[str, int]) -> None:
        if self._refuse(not o["words"]):
            return
        self._set(o["t"], sem.checksum(self._take(o["words"])))

    def _store(self, name: str, o: dict[str, int]) -> None:
        if self._refuse(o["addr"] % _STORE_ALIGNMENT[name] or o.get("n") == 0):
            return
        if name == "STORES":
            self.scalar(o["s"])
            self._write(o["addr"], self.scalars[o["s"]:o["s"] + 1].tobytes())
            return
        a = self._rows(o["a"], o["n"])
        self._finite(a)
        if name == "STOREF":
            self._write(o["addr"], sem.flush(a).tobytes())
            return
        scale = self.scalar(o["s"])
        self._finite(sem.multiply(a, scale))
        codes = sem.quantise(a, scale).tobytes()
        for i, code in enumerate(codes):
            self._write(o["addr"] + (BLOCK_BYTES * i if name == "STOREQT" else i), bytes([code]))


def _independent(o: dict[str, int], r: dict[str, int], operand: str) -> bool:
    """Whether no run of a REP reads rows from ``operand`` on that another run writes (isa.py says
    when it is refused)."""
    rows, runs = -(-o["n"] // LANES), r["count"] - 1
    written, read = runs * r["stride_dst"] + rows, runs * r[f"stride_{operand}"] + rows
    distance = (o[operand] - o["dst"]) % SCRATCH_ROWS
    same = (distance == 0 and r[f"stride_{operand}"] == r["stride_dst"] >= rows
            and written <= SCRATCH_ROWS)
    return same or (written <= distance and read + distance <= SCRATCH_ROWS)
