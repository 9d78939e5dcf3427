"""The TVU instruction set: THE definition.

Every TVU instruction is an R-type instruction in RISC-V's *custom-0* opcode space. The CPU hands
``function_id = {funct7, funct3}`` and the values of rs1 and rs2 to the unit; the response goes to
rd.

``funct3`` is the group:

====  ========  ==========================================================================
0     CONTROL   answered at once from the unit's state
1     STREAM    queued to the DMA readers, which run ahead of everything else
2     VECTOR    queued; works on scratchpad rows of ``LANES`` float32
3     SCALAR    queued; works on the ``SCALARS`` float32 scalar registers, s0 reads as zero
4     STORE     queued; writes to DDR
====  ========  ==========================================================================

Queued instructions return 0 at once and run in order. The gateware decoder, the C header, the
assembler, the disassembler and docs/isa.md are all made from the table below.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

__all__ = [
    "ACT_WORDS", "BUSY_BIT", "BYTE_VECTORS", "COLUMN_WORDS", "CONTROL", "COUNTERS", "CUSTOM0",
    "ERRORS", "FACTORS", "Field", "GROUPS", "INSTRUCTIONS",
    "Instruction", "IsaError", "LANES", "MODES", "MOST_ROWS", "PICKS", "PICK_ROWS", "QUANTISERS",
    "RANK_LEVELS",
    "SCALAR", "SCALARS", "SCRATCH_ROWS",
    "SECTIONS", "SHARED_WORDS", "STORE", "STREAM", "VECTOR", "VECTORS", "WORD_BYTES",
    "by_function_id", "by_name", "check", "isa_hash",
    "largest",
]

CUSTOM0 = 0x0B
LANES = 8  # float32 per scratchpad row; one 32-byte stream word holds one row
WORD_BYTES = 32  # bytes of the stream that arrive per clock
VECTORS = 8  # activation vectors that share one pass over ternary weights
BYTE_VECTORS = 4  # activation vectors that share one pass over int8 operands
SCALARS = 32
SCRATCH_ROWS = 8192
# words of activation vectors 0 to 3: 160 codes each for base-3 weights, 128 for 2-bit weights, 32
# for int8
ACT_WORDS = 32
SHARED_WORDS = ACT_WORDS // 2  # of them when vectors 4 to 7 are in use, which take the other half
COLUMN_WORDS = 32  # words of a matrix column that COLS accumulates
MOST_ROWS = 32768  # of a DOT or DOTA
PICK_ROWS = 2048  # rows of the pick memory, 8 codes each
BUSY_BIT = 31  # of STATUS
RANK_LEVELS = 8  # levels of the ranking's heap: it keeps 2^levels - 1 entries
SECTIONS = 16  # parts of a program that counters are kept apart for

CONTROL, STREAM, VECTOR, SCALAR, STORE = range(5)
GROUPS = ("CONTROL", "STREAM", "VECTOR", "SCALAR", "STORE")

#: DOT's ``mode`` field.
MODES = {"base3": 0, "2bit": 1, "int8": 2}
#: The instruction that quantises what DOT of a mode multiplies with.
QUANTISERS = {"base3": "QUANT5", "2bit": "QUANT4", "int8": "QUANT8"}

#: EPI's ``factor`` field: what a dot product, already scaled, is multiplied with.
FACTORS = {"none": 0, "b": 1, "dst": 2, "relu2": 3}
#: EPI's ``pick`` field.
PICKS = {"none": 0, "mark": 1, "picked": 2}

#: Bits of the sticky error register, as STATUS returns them and CLEAR takes them.
ERRORS = {
    "undefined": "an instruction that the table does not define",
    "descriptor": "a zero length, a misaligned address, more than a buffer holds, or a REP whose "
                  "runs depend on each other",
    "read": "an AXI read was answered with an error",
    "write": "an AXI write was answered with an error",
    "queue": "nothing got on for 2^22 cycles; what is queued from here on is dropped until RESET",
    "overflow": "an infinity or NaN: a float32 operand is one, a result overflowed, or a division "
                "by zero was asked for",
}

#: Performance counters (32 bit, wrapping), by the index that COUNTER takes. While the TVU is in a
#: section, every cycle is counted in exactly one of the first four.
COUNTERS = {
    "moving": "cycles in which a stream word was consumed",
    "stall_memory": "cycles in which an operation waited for a stream word that memory had not "
                    "delivered",
    "stall_compute": "other cycles in which an operation was executing",
    "stall_control": "cycles without an operation",
    "operations": "queued operations completed",
    "write_beats": "AXI write beats accepted",
    "requested": "stream words requested from memory",
}


class IsaError(ValueError):
    """The instruction table contradicts itself."""


@dataclass(frozen=True)
class Field:
    """A bit field of rs1 or rs2: ``lo`` is its lowest bit, ``width`` its number of bits."""

    name: str
    source: int
    lo: int
    width: int

    @property
    def mask(self) -> int:
        return (1 << self.width) - 1


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Members: ``name``; ``group`` (funct3); ``funct7``; ``fields`` (operands packed in rs1 and rs2);
    ``meaning`` (formula); ``doc`` (one line for people).
    """

    name: str
    group: int
    funct7: int
    fields: tuple[Field, ...]
    meaning: str
    doc: str

    @property
    def function_id(self) -> int:
        return self.funct7 << 3 | self.group

    @property
    def queued(self) -> bool:
        return self.group != CONTROL

    def field(self, name: str) -> Field:
        """Where the operand of that name stands. Raises KeyError."""
        return {field.name: field for field in self.fields}[name]

    def pack(self, **values: int) -> tuple[int, int]:
        """Packs operand values into (rs1, rs2). Raises ValueError for an unknown, missing or too
        large value."""
        words = [0, 0]
        if set(values) != {field.name for field in self.fields}:
            raise ValueError(f"{self.name} takes {[field.name for field in self.fields]}, not "
                             f"{sorted(values)}")
        for field in self.fields:
            value = values[field.name]
            if value < 0 or value > field.mask:
                raise ValueError(f"{self.name}: {field.name}={value} does not fit {field.width} "
                                 f"bits")
            words[field.source - 1] |= value << field.lo
        return words[0], words[1]

    def unpack(self, rs1: int, rs2: int) -> dict[str, int]:
        """The operand values in (rs1, rs2)."""
        return {f.name: ((rs1, rs2)[f.source - 1] >> f.lo) & f.mask for f in self.fields}


def _fields(text: str) -> tuple[Field, ...]:
    """Parses ``name=source:lo+width`` items; for example ``n=2:12+15`` is 15 bits of rs2 from bit
    12 on."""
    out = []
    for item in text.split():
        name, place = item.split("=")
        source, bits = place.split(":")
        lo, width = bits.split("+")
        out.append(Field(name, int(source), int(lo), int(width)))
    return tuple(out)


_D, _A, _S = "dst=1:0+13", "a=1:13+13", "s=1:26+5"
_B, _N, _T = "b=2:0+13", "n=2:13+14", "t=2:27+5"

_DOT = (f"{_D} words=1:13+7 mode=1:20+2 last_vector=1:22+3 step_s=1:25+1 {_S} "
        "stride=2:0+13 rows=2:13+19")

_TABLE: tuple[tuple[int, str, int, str, str, str], ...] = (
    (CONTROL, "ID", 0, "",
     "rd = isa_hash", "Hash of this table; firmware and gateware must agree on it."),
    (CONTROL, "STATUS", 1, "", "rd = busy << 31 | errors",
     "Bit 31 is set while anything is queued or running; the low bits are the sticky errors."),
    (CONTROL, "CLEAR", 2, "mask=1:0+16", "errors &= ~mask", "Clears sticky errors."),
    (CONTROL, "COUNTER", 3,
     "index=1:0+4 section=1:4+4", "rd = counter[index] of section", "Reads a performance counter."),
    (CONTROL, "SGET", 4,
     "s=1:0+5", "rd = s[s]", "Reads a scalar register's bits; meaningful when STATUS is not busy."),
    (CONTROL, "RANKED", 5,
     "index=1:0+8 vector=1:8+3",
     "rd = number of entry index of vector's ranking, or all ones if it is empty",
     "Reads a ranking, whose entries 1 to 2^levels - 1 are in no order; meaningful after a RANK "
     "that no RESET followed, while no RANK or ranking DOT is pending."),

    (CONTROL, "RESET", 6, "", "everything but memories as after power-on",
     "Gives up all work and all errors. Takes effect before the next instruction, which waits "
     "until memory has answered what was "
     "asked; scratchpad, scalars, activations and counters keep what they hold."),

    (CONTROL, "PORTS", 7, "mask=1:0+4 apart=1:4+1 bursts=1:5+6",
     "streams come by the ports in mask", "To measure memory. What the others bring does not "
     "matter; with apart, bits 26 and 27 of the addresses of port i are flipped by i, 64 MB and "
     "128 MB; no burst is asked for while more than 16 x (bursts - 1) words are asked for or "
     "buffered, 0: as many as there is room for. A descriptor error unless STATUS is not busy, or "
     "with no port. RESET undoes it."),

    (STREAM, "STREAM", 0, "addr=1:0+32 words=2:0+24", "fetch words x 32 bytes from addr",
     "Contiguous stream. addr is a linear address, 32-byte aligned; bit 0 set: wait for the stores "
     "issued before, "
     "of which at most 32,767 may be incomplete."),
    (STREAM, "STREAMR", 1, "addr=1:0+32 rows=2:0+12 words=2:12+8 stride=2:20+12",
     "for r < rows: fetch words x 32 bytes from addr + 512 stride r",
     "Strided stream: rows of `words` stream words, `stride` x 512 bytes apart; bit 0 of addr as "
     "in STREAM."),
    (STREAM, "STREAMP", 2, "addr=1:0+32 groups=2:0+12 words=2:12+8",
     "for r < 8 groups where pick[r] != 0: fetch words x 32 bytes from addr + 32 words r",
     "Picked rows only, or with bit 0 of addr all of them, to see what picking saves. Waits for "
     "the PICK, or the DOT of the marking "
     "EPI, issued before; a DOT with picked rows or a COLS takes them."),

    (VECTOR, "REP", 0,
     "count=1:0+6 step_s=1:6+1 step_t=1:7+1 stride_dst=1:19+13 stride_a=2:0+13 stride_b=2:13+13",
     "the next operation runs count times; dst, a, b advance by their strides, s and t by their "
     "steps",
     "Prefix for the next VECTOR (not DOT, DOTA, COLS, CHECK) or SCALAR operation; a SCALAR one "
     "steps d always, a with step_s, b with "
     "step_t. MULS, MULV, ADDV, AXPY and EXP2 are refused with a descriptor error if a run reads "
     "rows that another one writes: each of "
     "a and b that is read must lie apart from dst, all runs and what is between them taken "
     "together and strides counted upward; or it "
     "is dst, with the same stride of at least a run's rows."),
    (VECTOR, "MULS", 1,
     f"{_D} {_A} {_S} {_N} {_T}", "dst = a * s; s[t] = max|dst|", "Scales a vector."),
    (VECTOR, "MULV", 2,
     f"{_D} {_A} {_S} {_B} {_N} {_T}", "dst = (a * s) * b; s[t] = max|dst|",
     "Multiplies two vectors and a scalar."),
    (VECTOR, "MULM", 3, f"{_D} {_A} {_S} {_N} {_T}", "dst = (a * s) * stream; s[t] = max|dst|",
     "Multiplies a vector with a scalar and with float32 from the stream."),
    (VECTOR, "ADDV", 4,
     f"{_D} {_A} {_B} {_N} {_T}", "dst = a + b; s[t] = max|dst|", "Adds two vectors."),
    (VECTOR, "AXPY", 5, f"{_D} {_A} {_S} {_B} {_N} {_T}", "dst = (a * s) + b; s[t] = max|dst|",
     "Scaled vector plus vector, rounded twice."),
    (VECTOR, "AXPYM", 13, f"{_D} {_A} {_S} {_N} {_T}", "dst = (a * s) + stream; s[t] = max|dst|",
     "Scaled vector plus float32 from the stream, rounded twice."),
    (VECTOR, "EXP2", 6,
     f"{_D} {_A} {_S} c=2:0+5 {_N} {_T}", "dst = 2^((a * s) - s[c]); s[t] = max|dst|",
     "Base-2 exponential; relative error below 2e-5. Under REP, stride_b advances c."),
    (VECTOR, "SIGMOID", 23, f"{_D} {_A} n=2:13+14", "dst = integer(2^23 / (1 + e^-a))",
     "Logistic function, as integers from 0 to 2^23; error below 8e-7 of one. Only MULI takes "
     "them: to all others they are subnormals, which are zero."),
    (VECTOR, "MULI", 24,
     f"{_D} {_A} {_S} {_B} {_N} {_T}", "dst = (float(a) * s) * b; s[t] = max|dst|",
     "As MULV, where a are signed integers of 28 bits."),
    (VECTOR, "LOADF", 7,
     f"{_D} {_N} {_T}", "dst = stream; s[t] = max|dst|", "Loads float32 from the stream."),
    (VECTOR, "LOADB", 8, f"{_D} {_S} {_N} {_T}", "dst = float(int8 stream) * s; s[t] = max|dst|",
     "Loads int8 from the stream, scaled; n is a multiple of 32."),
    (VECTOR, "SUM", 9,
     f"{_A} {_N} {_T}", "s[t] = sum(a)", "Sum in the fixed order of semantics.reduce_sum."),
    (VECTOR, "SUMSQ", 10, f"{_A} {_N} {_T}", "s[t] = sum(a * a)", "Sum of squares, same order."),
    (VECTOR, "MAX", 11, f"{_A} {_N} {_T}", "s[t] = max(a)", "Largest element."),
    (VECTOR, "ABSMAX", 12, f"{_A} {_N} {_T}", "s[t] = max|a|", "Largest magnitude."),
    (VECTOR, "QUANT5", 14,
     f"vector=1:0+3 {_A} {_S} {_N}", "act[vector] = clamp(rne(a * s), -127, 127)",
     "Quantises into an activation vector for base-3 weights; pads with zeros to 160. Vectors 4 to "
     "7 lie in words 16 to 31 of vectors 0 "
     "to 3."),
    (VECTOR, "QUANT4", 15,
     f"vector=1:0+3 {_A} {_S} {_N}", "act[vector] = clamp(rne(a * s), -127, 127)",
     "Quantises into an activation vector for 2-bit weights; pads with zeros to 128."),
    (VECTOR, "QUANT8", 16,
     f"vector=1:0+3 {_A} {_S} {_N}", "act[vector] = clamp(rne(a * s), -127, 127)",
     "Quantises into an activation vector (0 to 3) for int8 operands; pads with zeros to 32. What "
     "does not fit goes on in the next "
     "vector."),
    (VECTOR, "PICK", 17, f"{_A} {_S} {_N}", "pick = clamp(rne(a * s), -127, 127)",
     "Quantises into the pick memory; pads with zeros to 8."),
    (VECTOR, "EPI", 18,
     "b=1:0+13 factor=1:13+2 pick=1:15+2 rank=1:17+1 first=1:18+5 base=2:0+20",
     "the next DOT's scaled products r become: b: r * b[row]; dst: r * dst[row]; relu2: max(r, "
     "0)^2",
     "Prefix for the next DOT. `b` is the same for all vectors. pick = mark: pick[row] = (result > "
     "0); pick = picked: the stream holds "
     "picked rows, others are left alone. rank: results enter their vectors' rankings as numbers "
     "base + row, not the scratchpad. The product takes the activations from word `first` on."),
    (VECTOR, "DOT", 19,
     _DOT,
     "dst[v*stride][r] = float(row r of the stream . act[v]) * s[s + step_s*v], v = 0..last_vector",
     "Matrix rows from the stream times 1 to 8 activation vectors, or 1 to 4 of int8; "
     "`last_vector` is the number of the last. Up to 32 words, those before the first counted, "
     "for four vectors, 16 for more; a single int8 vector may go on in the next ones."),
    (VECTOR, "DOTA", 20,
     _DOT,
     "as DOT, added to dst: dst = (float(dot) * s) + dst",
     "DOT that accumulates into the scratchpad."),
    (VECTOR, "COLS", 21, f"{_D} words=1:13+7 mode=1:20+2 {_S} rows=2:13+19",
     "dst = (float(sum over picked c of pick[c] * column c) * s) + dst",
     "Picked columns of a ternary matrix, `words` stream words each, times their codes; `rows` "
     "results. Words 16 to 31 of the activation "
     "vectors are lost."),
    (VECTOR, "CHECK", 22, "t=1:0+5 words=2:0+24", "s[t] = semantics.checksum(stream words)",
     "Order-sensitive 32-bit checksum of stream words."),

    (SCALAR, "SSET", 0, "d=1:0+5 value=2:0+32", "s[d] = value", "Sets a scalar register's bits."),
    (SCALAR, "SADD", 1, "d=1:0+5 a=1:5+5 b=1:10+5", "s[d] = s[a] + s[b]", "Adds."),
    (SCALAR, "SMUL", 2, "d=1:0+5 a=1:5+5 b=1:10+5", "s[d] = s[a] * s[b]", "Multiplies."),
    (SCALAR, "SDIV", 3,
     "d=1:0+5 a=1:5+5 b=1:10+5", "s[d] = s[a] / s[b]", "Divides, correctly rounded."),
    (SCALAR, "SSQRT", 4,
     "d=1:0+5 a=1:5+5", "s[d] = sqrt(s[a])", "Square root, correctly rounded; negative: error."),
    (SCALAR, "SMAX", 5, "d=1:0+5 a=1:5+5 b=1:10+5", "s[d] = max(s[a], s[b])", "The larger one."),
    (SCALAR, "RANK", 6,
     "levels=1:0+4",
     "rankings = empty", "Empties the rankings, one for each activation vector, which then keep "
     "the 2^levels - 1 largest; of equal ones those with the smaller numbers."),
    (SCALAR, "SECTION", 7,
     "section=1:0+4", "counters count for section from here on", "Marks a part of the program."),

    (STORE, "STOREF", 0,
     f"addr=1:0+32 a=2:0+13 {_N}", "mem[addr..] = a",
     "Stores float32 at a linear address, 32-byte aligned."),
    (STORE, "STOREQ", 1,
     f"addr=1:0+32 a=2:0+13 {_N} s=2:27+5", "mem[addr..] = clamp(rne(a * s), -127, 127)",
     "Stores int8 codes at a linear address, 32-byte aligned."),
    (STORE, "STOREQT", 2,
     f"addr=1:0+32 a=2:0+13 {_N} s=2:27+5", "mem[addr + 512 i] = clamp(rne(a[i] * s), -127, 127)",
     "Stores int8 codes one byte each, 512 bytes apart: a column of a transposed cache."),
    (STORE, "STORES", 3,
     "addr=1:0+32 s=2:0+5",
     "mem[addr] = s[s]", "Stores a scalar's 4 bytes at a linear address, 4-byte aligned."),
)

INSTRUCTIONS: tuple[Instruction, ...] = tuple(
    Instruction(name, group, funct7, _fields(fields), meaning, doc)
    for group, name, funct7, fields, meaning, doc in _TABLE)


def check(instructions: tuple[Instruction, ...] = INSTRUCTIONS) -> None:
    """Raises IsaError if encodings overlap, leave their range, or operand fields collide."""
    seen: dict[int, str] = {}
    names: set[str] = set()
    for ins in instructions:
        if ins.group not in range(len(GROUPS)):
            raise IsaError(f"{ins.name}: funct3 {ins.group} is no group")
        if ins.funct7 not in range(128):
            raise IsaError(f"{ins.name}: funct7 {ins.funct7} does not fit 7 bits")
        if ins.function_id in seen:
            raise IsaError(f"{ins.name} and {seen[ins.function_id]} share function id "
                           f"{ins.function_id}")
        if ins.name in names:
            raise IsaError(f"{ins.name} is defined twice")
        if not ins.meaning or not ins.doc:
            raise IsaError(f"{ins.name} has no meaning or no documentation line")
        seen[ins.function_id] = ins.name
        names.add(ins.name)
        used = [0, 0]
        for field in ins.fields:
            bits = field.mask << field.lo
            if field.source not in (1, 2) or field.lo + field.width > 32 or field.width < 1:
                raise IsaError(f"{ins.name}.{field.name} lies outside of rs1 and rs2")
            if used[field.source - 1] & bits:
                raise IsaError(f"{ins.name}.{field.name} overlaps another field of "
                               f"rs{field.source}")
            used[field.source - 1] |= bits
    for group in range(len(GROUPS)):
        codes = sorted(ins.funct7 for ins in instructions if ins.group == group)
        if codes != list(range(len(codes))):
            raise IsaError(f"group {GROUPS[group]} leaves an unassigned encoding below its last "
                           f"one: {codes}")


def by_name(name: str) -> Instruction:
    """The instruction of that name. Raises KeyError."""
    return _BY_NAME[name]


def by_function_id(function_id: int) -> Instruction | None:
    """The instruction of that function id, or None where the table defines none."""
    return _BY_ID.get(function_id)


def largest(instruction: str, field: str) -> int:
    """The largest value that an operand field takes. Raises KeyError."""
    return by_name(instruction).field(field).mask


def isa_hash() -> int:
    """32-bit hash over everything that gateware and firmware must agree on."""
    text = repr([(i.name,
                  i.function_id, [(f.name, f.source, f.lo, f.width) for f in i.fields], i.meaning)
                 for i in INSTRUCTIONS])
    text += repr((LANES,
                  WORD_BYTES, VECTORS,
                  BYTE_VECTORS, SCALARS,
                  SCRATCH_ROWS, ACT_WORDS, SHARED_WORDS, COLUMN_WORDS, PICK_ROWS,
                  RANK_LEVELS, SECTIONS))
    text += repr((MODES, FACTORS, PICKS, list(ERRORS), list(COUNTERS)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


check()
_BY_NAME = {ins.name: ins for ins in INSTRUCTIONS}
_BY_ID = {ins.function_id: ins for ins in INSTRUCTIONS}
