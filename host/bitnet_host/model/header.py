"""The binary header that board and host share: hyper-parameters, where things lie in DDR, and which
tensors a model has.

What is stated here once is emitted as C for the firmware (``c_header``), which holds every image
against it.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass, fields, replace

from xtvu.isa import ACT_WORDS, RANK_LEVELS, SHARED_WORDS, VECTORS, WORD_BYTES
from xtvu.layout import BLOCK_BYTES, WEIGHTS_PER_WORD, row_words

__all__ = [
    "ACTIVATIONS", "BLOCK_BYTES", "CHUNK_TOKENS", "DDR_MAGIC", "FORMAT_VERSION", "GROUP",
    "HEAD_BYTES",
    "KINDS", "LARGE_VOCABULARY", "MAX_LAYERS", "MAX_STOPS",
    "MEMORY_BYTES", "MODEL_BASE", "PAGE_TOKENS", "PRESENT", "RESERVED", "SHAPES", "SLOTS",
    "SMALL_LEVELS", "TENSOR_BYTES",
    "WEIGHT_MODES", "DdrHeader", "Tensor", "c_header",
    "down_chunks", "expected_words", "float_bits", "head_bytes", "header_sum", "lay_out", "mode_of",
    "pack_head", "shape_of", "start_of_id",
    "tensor_list",
]

FORMAT_VERSION = 5
DDR_MAGIC = 0x544E5442
MODEL_BASE = 0x0020_0000  # DDR offset of the DDR part; HP ports do not reach the first megabyte
MEMORY_BYTES = 0x4000_0000
WEIGHT_MODES = {"base3": 0, "2bit": 1}
#: What stands between gate and up: max(g, 0)^2, or g / (1 + e^-g).
ACTIVATIONS = {"relu2": 0, "silu": 1}
MAX_LAYERS = 64  # of the firmware's tensor table
MAX_STOPS = 4  # stop0 to stop3 of the header
CHUNK_TOKENS = BLOCK_BYTES  # of the transposed V cache: a row of a chunk is one block
#: Conversations take the KV cache in pages of so many tokens, a quarter of a chunk.
PAGE_TOKENS = CHUNK_TOKENS // 4
SLOTS = 8  # conversations that a board has under way

#: Tensor kinds. Per layer from INPUT_NORM on. Columns of a matrix are its inputs, but DOWN is
#: stored transposed: a row of it holds what one input gives to all outputs, so that inputs of zero
#: need not be read. DOWN_ROWS is the same matrix by rows, for passes of several tokens: chunks of
#: columns, one behind the other, that fit the activation memory (``down_chunks``). HEAD is there if
#: it is not the embedding; SKETCH is that of the head.
KINDS = ("EMBEDDING", "EMBEDDING_SCALE", "HEAD", "HEAD_SCALE", "SKETCH", "SKETCH_SCALE", "ROPE",
         "FINAL_NORM",
         "INPUT_NORM", "Q", "K", "V", "Q_NORM", "K_NORM", "O", "ATTN_SUB_NORM",
         "POST_NORM", "GATE", "UP", "FFN_SUB_NORM", "DOWN", "DOWN_ROWS",
         "Q_SCALES", "K_SCALES", "V_SCALES", "O_SCALES", "GATE_SCALES", "UP_SCALES", "DOWN_SCALES")
#: Weights of a row that share a scale, in models that have scales of groups: those of a stream word
#: in 2 bit.
GROUP = WEIGHTS_PER_WORD["2bit"]
#: Which models have a kind, as a C and Python expression of the header's fields; all have the
#: others. DOWN_ROWS stands in those without DOWN, too, and in the others if there is room.
PRESENT: dict[str, str] = {
    "HEAD": "untied", "HEAD_SCALE": "untied", "Q_NORM": "qk_norms", "K_NORM": "qk_norms",
    "ATTN_SUB_NORM": "sub_norms", "FFN_SUB_NORM": "sub_norms",
    "DOWN": f"activation == {ACTIVATIONS['relu2']}",
    **{f"{name}_SCALES": "group != 0" for name in ("Q", "K", "V", "O", "GATE", "UP", "DOWN")},
}

#: Elements of each kind's tensor: rows, columns (products of header fields), and how they are
#: stored. The board holds an image against this before it believes it (``expected_words``, and the
#: same in the firmware's header).
SHAPES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "EMBEDDING": (("vocab",), ("hidden",), "int8"), "EMBEDDING_SCALE": ((), ("vocab",), "float"),
    "HEAD": (("vocab",), ("hidden",), "int8"), "HEAD_SCALE": ((), ("vocab",), "float"),
    "SKETCH": (("vocab",), ("hidden",), "ternary"), "SKETCH_SCALE": ((), ("vocab",), "float"),
    "ROPE": (("context",), ("head_dim", "2"), "float"), "FINAL_NORM": ((), ("hidden",), "float"),
    "INPUT_NORM": ((), ("hidden",), "float"), "Q": (("heads", "head_dim"), ("hidden",), "ternary"),
    "K": (("kv_heads", "head_dim"), ("hidden",), "ternary"),
    "V": (("kv_heads", "head_dim"), ("hidden",), "ternary"),
    "Q_NORM": ((), ("head_dim",), "float"), "K_NORM": ((), ("head_dim",), "float"),
    "O": (("hidden",), ("heads", "head_dim"), "ternary"),
    "ATTN_SUB_NORM": ((), ("heads", "head_dim"), "float"),
    "POST_NORM": ((), ("hidden",), "float"), "GATE": (("intermediate",), ("hidden",), "ternary"),
    "UP": (("intermediate",), ("hidden",), "ternary"),
    "FFN_SUB_NORM": ((), ("intermediate",), "float"),
    "DOWN": (("intermediate",), ("hidden",), "ternary"),
    "DOWN_ROWS": (("hidden",), ("intermediate",), "ternary"),
}
# One float32 for each row, group by group.
SHAPES |= {f"{name}_SCALES": (SHAPES[kind][0], SHAPES[kind][1], "groups")
           for name, kind in (("Q", "Q"), ("K", "K"), ("V", "V"), ("O", "O"), ("GATE", "GATE"),
                              ("UP", "UP"), ("DOWN", "DOWN_ROWS"))}
#: Memory behind the tensors, in this order: the field with its address, and its bytes as a C and
#: Python expression of the others.
RESERVED: dict[str, str] = {
    "k_base": "layers * kv_heads * k_head_bytes", "v_base": "layers * kv_heads * v_head_bytes",
    "ks_base": "layers * kv_heads * s_head_bytes", "vs_base": "layers * kv_heads * s_head_bytes",
    "logits_base": "vocab * 4", "candidates_base": f"{2 * (4 << RANK_LEVELS)}",
    "residual_base": f"{VECTORS} * hidden * 4", "history_base": f"{SLOTS} * context * 4",
}
#: What one KV head takes of the first four.
HEAD_BYTES: dict[str, str] = {
    "k_head_bytes": "cache_tokens * ((head_dim + 31) // 32) * 32",
    "v_head_bytes": f"(cache_tokens + {CHUNK_TOKENS - 1}) // {CHUNK_TOKENS} * head_dim * "
                    f"{BLOCK_BYTES}",
    "s_head_bytes": "cache_tokens * 4",
}
# Rows of the head that the ternary sketch leaves for rescoring: 63, or 255 of a large vocabulary.
# The row that the full head would choose was never seen below rank 25 of 2,048 (DESIGN.md) and 56
# of 128,256 (bitnet-kv260, as DESIGN.md cites it).
LARGE_VOCABULARY, SMALL_LEVELS = 16384, 6

@dataclass
class DdrHeader:
    """The binary header, 32-bit words in this order; ``_bits`` fields hold float32 bits, ``_base``
    fields DDR addresses. ``context``: tokens of the longest conversation; ``cache_tokens``: of all
    conversations together, whole pages. ``head_elements`` and ``inner_elements``: those of head_dim
    and intermediate that are the model's own; the others are zeros which fill up what the machine
    takes at once. ``group``: weights that share a scale, GROUP or 0 for a whole matrix; with it the
    words of a matrix lie group by group, in each the rows one behind the other."""

    magic: int = DDR_MAGIC
    version: int = FORMAT_VERSION
    model_id: int = 0
    header_bytes: int = 0
    ddr_bytes: int = 0
    total_bytes: int = 0
    layers: int = 0
    hidden: int = 0
    intermediate: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    vocab: int = 0
    context: int = 0
    cache_tokens: int = 0
    weight_mode: int = 0
    activation: int = 0
    sub_norms: int = 1
    qk_norms: int = 0
    untied: int = 0
    group: int = 0
    head_elements: int = 0
    inner_elements: int = 0
    tensors: int = 0
    eps_bits: int = 0
    inverse_hidden_bits: int = 0
    inverse_query_bits: int = 0
    inverse_head_bits: int = 0
    inverse_intermediate_bits: int = 0
    score_scale_bits: int = 0
    stop_count: int = 0
    stop0: int = 0
    stop1: int = 0
    stop2: int = 0
    stop3: int = 0
    k_base: int = 0
    k_head_bytes: int = 0
    v_base: int = 0
    v_head_bytes: int = 0
    ks_base: int = 0
    vs_base: int = 0
    s_head_bytes: int = 0
    logits_base: int = 0
    rank_levels: int = 0
    candidates_base: int = 0
    residual_base: int = 0
    history_base: int = 0
    header_checksum: int = 0

    def words(self) -> list[int]:
        return [int(getattr(self, f.name)) for f in fields(self)]


@dataclass
class Tensor:
    """One tensor of the table. ``offset`` from MODEL_BASE; ``words`` stream words; ``scale`` of a
    ternary matrix."""

    kind: int
    layer: int
    offset: int
    words: int
    rows: int
    columns: int
    scale: float
    checksum: int

    def pack(self) -> bytes:
        return struct.pack("<IIIIIIfI", self.kind, self.layer, self.offset, self.words, self.rows,
                           self.columns, self.scale,
                           self.checksum)

    @classmethod
    def unpack(cls, data: bytes) -> Tensor:
        return cls(*struct.unpack("<IIIIIIfI", data))


TENSOR_BYTES = 32


def float_bits(value: float) -> int:
    """The bits of ``value`` as float32."""
    return int.from_bytes(struct.pack("<f", value), "little")


def head_bytes(tensor_count: int) -> int:
    """Bytes of header and tensor table, whole blocks."""
    return _blocks(4 * len(fields(DdrHeader)) + tensor_count * TENSOR_BYTES)


def _blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def tensor_list(header: DdrHeader, down_rows: bool) -> list[tuple[str, int]]:
    """(kind, layer) of every tensor, in the order in which they lie in an image."""
    present = [kind for kind in KINDS
               if eval(PRESENT.get(kind, "1"), {}, vars(header))]  # expressions of this module
    first = KINDS.index("INPUT_NORM")
    single, layered = ([kind for kind in present if (KINDS.index(kind) < first) is alone]
                       for alone in (True, False))
    matrices = [kind for kind in layered if SHAPES[kind][2] == "ternary" and kind != "DOWN_ROWS"]
    norms = [kind for kind in layered if SHAPES[kind][2] in ("float", "groups")]
    rows = ["DOWN_ROWS"] if down_rows or "DOWN" not in layered else []
    return ([(kind, 0) for kind in single]
            + [(kind, layer) for layer in range(header.layers)
               for kind in (*matrices, *norms, *rows)])


def shape_of(header: DdrHeader, kind: str) -> tuple[int, int]:
    """Rows and columns of a model's tensor of that kind."""
    rows, columns = (math.prod(int(name) if name.isdigit() else getattr(header, name)
                               for name in names)
                     for names in SHAPES[kind][:2])
    return rows, columns


def lay_out(header: DdrHeader, down_rows: bool) -> list[Tensor]:
    """Places every tensor and what is reserved behind them; fills in ``header``. Scales and
    checksums are still to come."""
    names = tensor_list(header, down_rows)
    header.tensors, header.header_bytes = len(names), head_bytes(len(names))
    offset, tensors = header.header_bytes, []
    for kind, layer in names:
        words = expected_words(header, kind)
        tensors.append(Tensor(KINDS.index(kind), layer, offset, words, *shape_of(header, kind),
                              1.0, 0))
        offset += _blocks(words * WORD_BYTES)
    header.ddr_bytes = offset
    for name, size in (*HEAD_BYTES.items(), *RESERVED.items()):
        value = eval(size, {}, vars(header))  # expressions of this module
        if name in RESERVED:
            setattr(header, name, MODEL_BASE + offset)
            offset += _blocks(value)
        else:
            setattr(header, name, value)
    header.total_bytes = offset
    return tensors


def _raw(header: DdrHeader, tensors: list[Tensor]) -> bytes:
    return (struct.pack(f"<{len(header.words())}I", *header.words())
            + b"".join(tensor.pack() for tensor in tensors))


def start_of_id(header: DdrHeader, tensors: list[Tensor]) -> int:
    """CRC-32 of header and table; going on over the tensors' bytes, all that changes an answer, it
    becomes ``model_id``."""
    return zlib.crc32(_raw(replace(header, model_id=0, header_checksum=0), tensors))


def header_sum(header: DdrHeader, tensors: list[Tensor]) -> int:
    """What ``header_checksum`` has to be: all words of header and table but itself, each rotated
    in."""
    words = 4 * (len(header.words()) - 1)
    raw, total = _raw(header, tensors), 0
    for (word,) in struct.iter_unpack("<I", raw[:words] + raw[words + 4:]):
        total = ((total << 1 | total >> 31) + word) & 0xFFFFFFFF
    return total


def pack_head(header: DdrHeader, tensors: list[Tensor]) -> bytes:
    """Header and table as they stand at the start of the DDR part, padded to ``header_bytes``."""
    return _raw(header, tensors).ljust(header.header_bytes, b"\0")


def mode_of(header: DdrHeader) -> str:
    """How weights are packed, by its name in WEIGHT_MODES. Raises KeyError for a mode that does not
    exist."""
    return {value: name for name, value in WEIGHT_MODES.items()}[header.weight_mode]


def expected_words(header: DdrHeader, kind: str) -> int:
    """Stream words of a model's tensor of that kind. Raises KeyError for a kind or weight mode that
    does not exist."""
    rows, columns = shape_of(header, kind)
    storage = SHAPES[kind][2]
    if storage == "float":
        return -(-rows * columns * 4 // WORD_BYTES)
    if storage == "groups":
        return -(-rows * -(-columns // GROUP) * 4 // WORD_BYTES)
    mode = "int8" if storage == "int8" else mode_of(header)
    if kind == "DOWN_ROWS":
        return rows * sum(row_words(chunk, mode) for chunk in down_chunks(header))
    return rows * row_words(columns, mode)


def down_chunks(header: DdrHeader) -> list[int]:
    """Columns in each chunk of DOWN_ROWS: what the activation memory holds of as many vectors as a
    pass of the model can have, eight or four."""
    mode = mode_of(header)
    widest = max(header.hidden, header.heads * header.head_dim)
    words = ACT_WORDS if row_words(widest, mode) > SHARED_WORDS else SHARED_WORDS
    step = words * WEIGHTS_PER_WORD[mode]
    return [min(step, header.intermediate - start)
            for start in range(0, header.intermediate, step)]


def c_header() -> str:
    """The firmware's view of the DDR part."""
    lines = ["// Generated from host/bitnet_host/model/header.py.", "#pragma once",
             "#include <stdbool.h>", "#include <stdint.h>", ""]
    lines += [f"#define IMAGE_MAGIC 0x{DDR_MAGIC:x}u", f"#define IMAGE_VERSION {FORMAT_VERSION}u",
              f"#define MODEL_BASE 0x{MODEL_BASE:x}u", f"#define IMAGE_MAX_LAYERS {MAX_LAYERS}u",
              f"#define CHUNK_TOKENS {CHUNK_TOKENS}u", f"#define PAGE_TOKENS {PAGE_TOKENS}u",
              f"#define SLOTS {SLOTS}u", f"#define IMAGE_GROUP {GROUP}u", ""]
    lines += [f"#define IMAGE_{name.upper()} {value}u" for name, value in ACTIVATIONS.items()]
    lines += ["", "struct image_header {", *(f"    uint32_t {f.name};" for f in fields(DdrHeader)),
              "};", ""]
    lines += ["struct image_tensor {"]
    lines += [f"    {'float' if f.name == 'scale' else 'uint32_t'} {f.name};"
              for f in fields(Tensor)]
    lines += ["};", "", "enum image_kind {", *(f"    KIND_{kind}," for kind in KINDS),
              "    KIND_COUNT", "};", ""]
    lines += [f"#define IMAGE_RANK_LEVELS(vocab) ((vocab) < {LARGE_VOCABULARY}u ? {SMALL_LEVELS}u "
              f": {RANK_LEVELS}u)",
              f"#define IMAGE_BLOCKS(bytes) (((uint64_t)(bytes) + {BLOCK_BYTES - 1}) / "
              f"{BLOCK_BYTES} * {BLOCK_BYTES})", ""]
    return "\n".join(lines + _c_present() + _c_expected_words() + _c_reserved()) + "\n"


def _c_present() -> list[str]:
    """``image_has``: PRESENT."""
    lines = ["// Whether such a model has tensors of a kind; DOWN_ROWS some have, some have not.",
             "static inline bool image_has(const struct image_header *h, uint32_t kind)", "{",
             "    switch (kind) {"]
    for kind, expression in PRESENT.items():
        lines += [f"    case KIND_{kind}:", f"        return h->{expression};"]
    return [*lines, "    default:", "        return true;", "    }", "}", ""]


def _c_expected_words() -> list[str]:
    """``image_expected_words``: as ``expected_words``, for a header whose fields are within the
    firmware's limits."""
    lines = ["// Stream words of the model's tensor of a kind.",
             "static inline uint64_t image_expected_words(const struct image_header *h, uint32_t "
             "kind)", "{",
             f"    uint64_t per_word = h->weight_mode ? {WEIGHTS_PER_WORD['2bit']} : "
             f"{WEIGHTS_PER_WORD['base3']};",
             "    uint64_t widest = (uint64_t)h->heads * h->head_dim;",
             "    widest = widest > h->hidden ? widest : h->hidden;",
             f"    uint64_t words = (widest + per_word - 1) / per_word > {SHARED_WORDS} ? "
             f"{ACT_WORDS} : {SHARED_WORDS};",
             "    uint64_t chunk = words * per_word, rest = h->intermediate % chunk;",
             "    switch (kind) {"]

    def product(names: tuple[str, ...]) -> str:
        return (" * ".join(["(uint64_t)1",
                            *(name if name.isdigit() else f"h->{name}" for name in names)]))

    for kind, (rows, columns, storage) in SHAPES.items():
        per_word = {"int8": str(WEIGHTS_PER_WORD["int8"]), "ternary": "per_word",
                    "float": str(WORD_BYTES // 4), "groups": str(GROUP)}[storage]
        value = f"{product(rows)} * (({product(columns)} + {per_word} - 1) / {per_word})"
        if storage == "float":
            value = f"({product(rows + columns)} + {per_word} - 1) / {per_word}"
        if storage == "groups":
            each = WORD_BYTES // 4
            value = f"({value} + {each - 1}) / {each}"
        if kind == "DOWN_ROWS":
            value = (f"{product(rows)} * (h->intermediate / chunk * words"
                     " + (rest + per_word - 1) / per_word)")
        lines += [f"    case KIND_{kind}:", f"        return {value};"]
    return [*lines, "    default:", "        return 0;", "    }", "}", ""]


def _c_reserved() -> list[str]:
    """``image_layout``: the fields that say where memory behind the tensors lies, from the
    others."""
    names = [f.name for f in fields(DdrHeader)]

    def expression(text: str) -> str:
        return re.sub(r"[a-z_]+", lambda m: f"h->{m[0]}" if m[0] in names else m[0],
                      text.replace("//", "/"))

    lines = ["// Fills in where KV cache, logits and the firmware's own memory lie behind "
             "ddr_bytes; returns where they end.",
             "static inline uint64_t image_layout(struct image_header *h)", "{",
             "    uint64_t offset = h->ddr_bytes;"]
    lines += [f"    h->{name} = (uint32_t)({expression(size)});"
              for name, size in HEAD_BYTES.items()]
    for name, size in RESERVED.items():
        lines += [f"    h->{name} = MODEL_BASE + (uint32_t)offset;",
                  f"    offset += IMAGE_BLOCKS((uint64_t)1 * {expression(size)});"]
    return [*lines, "    return offset;", "}"]
