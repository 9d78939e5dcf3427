"""The model image: one file that holds all a board and its host need to run a model.

File: a 64-byte head, a JSON part for the host (tokenizer, chat template, origin), and the DDR part, which is uploaded
as it is to ``MODEL_BASE``. The DDR part starts with a binary header (hyper-parameters and tensor table) that the
firmware reads; tensors follow, striped over the four ports (``xtvu.layout``), each at a multiple of 512 bytes. Behind
them the header reserves memory for the KV cache and the logits.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import RANK_LEVELS, SHARED_WORDS, VECTORS, WORD_BYTES
from xtvu.layout import BLOCK_BYTES, WEIGHTS_PER_WORD, row_words, stripe
from xtvu.semantics import checksum

from bitnet_host.errors import UserError

__all__ = [
    "DDR_MAGIC", "DdrHeader", "FORMAT_VERSION", "Image", "KINDS", "LARGE_VOCABULARY", "MAX_LAYERS", "MAX_STOPS", "MEMORY_BYTES",
    "MODEL_BASE", "Part", "RESERVED", "SHAPES", "SMALL_LEVELS", "Tensor", "WEIGHT_MODES", "build_image", "c_header", "down_chunks",
    "expected_words", "read_image", "write_image",
]

FILE_MAGIC = b"BITNETFW"
FORMAT_VERSION = 3
DDR_MAGIC = 0x544E5442
MODEL_BASE = 0x0020_0000  # DDR offset of the DDR part; HP ports do not reach the first megabyte
MEMORY_BYTES = 0x4000_0000
WEIGHT_MODES = {"base3": 0, "2bit": 1}
MAX_LAYERS = 64  # of the firmware's tensor table
MAX_STOPS = 4  # stop0 to stop3 of the header
CHUNK_TOKENS = 512  # tokens of one chunk of the transposed V cache: a row of it is one 512-byte block

#: Tensor kinds. Per layer from INPUT_NORM on. Columns of a matrix are its inputs, but DOWN is stored transposed: a row of it
#: holds what one input gives to all outputs, so that inputs of zero need not be read. DOWN_ROWS is the same matrix by rows, for passes
#: of several tokens: chunks of columns, one behind the other, that fit the activation memory (``down_chunks``).
KINDS = ("EMBEDDING", "EMBEDDING_SCALE", "SKETCH", "SKETCH_SCALE", "ROPE", "FINAL_NORM", "INPUT_NORM", "Q", "K", "V", "O", "ATTN_SUB_NORM",
         "POST_NORM", "GATE", "UP", "FFN_SUB_NORM", "DOWN", "DOWN_ROWS")

#: Elements of each kind's tensor: rows, columns (products of header fields), and how they are stored. The board holds an image
#: against this before it believes it (``expected_words``, and the same in the firmware's header).
SHAPES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "EMBEDDING": (("vocab",), ("hidden",), "int8"), "EMBEDDING_SCALE": ((), ("vocab",), "float"),
    "SKETCH": (("vocab",), ("hidden",), "ternary"), "SKETCH_SCALE": ((), ("vocab",), "float"),
    "ROPE": (("context",), ("head_dim", "2"), "float"), "FINAL_NORM": ((), ("hidden",), "float"),
    "INPUT_NORM": ((), ("hidden",), "float"), "Q": (("heads", "head_dim"), ("hidden",), "ternary"),
    "K": (("kv_heads", "head_dim"), ("hidden",), "ternary"), "V": (("kv_heads", "head_dim"), ("hidden",), "ternary"),
    "O": (("hidden",), ("heads", "head_dim"), "ternary"), "ATTN_SUB_NORM": ((), ("heads", "head_dim"), "float"),
    "POST_NORM": ((), ("hidden",), "float"), "GATE": (("intermediate",), ("hidden",), "ternary"),
    "UP": (("intermediate",), ("hidden",), "ternary"), "FFN_SUB_NORM": ((), ("intermediate",), "float"),
    "DOWN": (("intermediate",), ("hidden",), "ternary"), "DOWN_ROWS": (("hidden",), ("intermediate",), "ternary"),
}
#: Memory behind the tensors, in this order: the field with its address, and its bytes as a C and Python expression of the others.
RESERVED: dict[str, str] = {
    "k_base": "layers * kv_heads * k_head_bytes", "v_base": "layers * kv_heads * v_head_bytes",
    "ks_base": "layers * kv_heads * s_head_bytes", "vs_base": "layers * kv_heads * s_head_bytes",
    "logits_base": "vocab * 4", "candidates_base": f"{2 * (4 << RANK_LEVELS)}", "residual_base": f"{VECTORS} * hidden * 4",
}
#: What one KV head takes of the first four.
HEAD_BYTES: dict[str, str] = {
    "k_head_bytes": f"(context * ((head_dim + 31) // 32) * 32 + {BLOCK_BYTES - 1}) // {BLOCK_BYTES} * {BLOCK_BYTES}",
    "v_head_bytes": f"(context + {CHUNK_TOKENS - 1}) // {CHUNK_TOKENS} * head_dim * {BLOCK_BYTES}",
    "s_head_bytes": f"(context * 4 + {BLOCK_BYTES - 1}) // {BLOCK_BYTES} * {BLOCK_BYTES}",
}
# Rows of the head that the ternary sketch leaves for rescoring: 63, or 255 of a large vocabulary. The row that the full head
# would choose was never seen below rank 25 of 2,048 (DESIGN.md) and 56 of 128,256 (bitnet-kv260, as DESIGN.md cites it).
LARGE_VOCABULARY, SMALL_LEVELS = 16384, 6

#: A tensor on its way into an image: kind, layer, linear bytes as any array, rows, columns, scale.
Part = tuple[str, int, NDArray[Any], int, int, float]

_FILE_HEAD = struct.Struct("<8sIIQIIII24x")  # magic, version, JSON bytes, DDR bytes, CRCs of JSON and DDR, head CRC, 0


@dataclass
class DdrHeader:
    """The binary header, 32-bit words in this order; ``_bits`` fields hold float32 bits, ``_base`` fields DDR addresses."""

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
    weight_mode: int = 0
    tensors: int = 0
    eps_bits: int = 0
    inverse_hidden_bits: int = 0
    inverse_query_bits: int = 0
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
    header_checksum: int = 0

    def words(self) -> list[int]:
        return [int(getattr(self, f.name)) for f in fields(self)]


@dataclass
class Tensor:
    """One tensor of the table. ``offset`` from MODEL_BASE; ``words`` stream words; ``scale`` of a ternary matrix."""

    kind: int
    layer: int
    offset: int
    words: int
    rows: int
    columns: int
    scale: float
    checksum: int

    def pack(self) -> bytes:
        return struct.pack("<IIIIIIfI", self.kind, self.layer, self.offset, self.words, self.rows, self.columns, self.scale,
                           self.checksum)

    @classmethod
    def unpack(cls, data: bytes) -> Tensor:
        return cls(*struct.unpack("<IIIIIIfI", data))


_TENSOR_BYTES = 32


@dataclass
class Image:
    """A model image in memory: ``header``, ``tensors``, ``ddr`` (uint8, the DDR part), ``meta`` (the JSON part)."""

    header: DdrHeader
    tensors: list[Tensor]
    ddr: NDArray[np.uint8]
    meta: dict[str, Any]

    def tensor(self, kind: str, layer: int = 0) -> Tensor:
        """Raises KeyError if there is none."""
        for tensor in self.tensors:
            if tensor.kind == KINDS.index(kind) and tensor.layer == layer:
                return tensor
        raise KeyError(f"{kind} of layer {layer}")

    def data(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The tensor's bytes as they lie in DDR, whole blocks."""
        size = -(-tensor.words * 32 // BLOCK_BYTES) * BLOCK_BYTES
        return self.ddr[tensor.offset:tensor.offset + size]


def _header_bytes(tensor_count: int) -> int:
    raw = 4 * len(fields(DdrHeader)) + tensor_count * _TENSOR_BYTES
    return -(-raw // BLOCK_BYTES) * BLOCK_BYTES


def _blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _reserve(header: DdrHeader, offset: int) -> int:
    """Places KV cache, logits and the firmware's own memory behind ``offset``; returns where they end."""
    for name, size in (*HEAD_BYTES.items(), *RESERVED.items()):
        value = eval(size, {}, vars(header))  # expressions of this module
        if name in RESERVED:
            setattr(header, name, MODEL_BASE + offset)
            offset += _blocks(value)
        else:
            setattr(header, name, value)
    return offset


def expected_words(header: DdrHeader, kind: str) -> int:
    """Stream words of a model's tensor of that kind. Raises KeyError for a kind or weight mode that does not exist."""
    def product(names: tuple[str, ...]) -> int:
        return math.prod(int(name) if name.isdigit() else getattr(header, name) for name in names)

    rows, columns, storage = (product(SHAPES[kind][0]), product(SHAPES[kind][1]), SHAPES[kind][2])
    if storage == "float":
        return -(-rows * columns * 4 // WORD_BYTES)
    mode = "int8" if storage == "int8" else {value: name for name, value in WEIGHT_MODES.items()}[header.weight_mode]
    if kind == "DOWN_ROWS":
        return rows * sum(row_words(chunk, mode) for chunk in down_chunks(columns, mode))
    return rows * row_words(columns, mode)


def down_chunks(columns: int, mode: str) -> list[int]:
    """Columns in each chunk of DOWN_ROWS: what the activation memory holds of eight vectors."""
    step = SHARED_WORDS * WEIGHTS_PER_WORD[mode]
    return [min(step, columns - start) for start in range(0, columns, step)]


def _part_bytes(part: Part) -> int:
    return _blocks(part[2].nbytes)


def build_image(header: DdrHeader, parts: list[Part], meta: dict[str, Any]) -> Image:
    """Lays out tensors and reserved memory. DOWN_ROWS, which is not needed, is left out where it does not fit.

    ``parts``: (kind, layer, linear bytes as any array, rows, columns, scale). Raises UserError if memory does not suffice.
    """
    size = MODEL_BASE + _header_bytes(len(parts)) + sum(map(_part_bytes, parts)) + _reserve(header, 0)
    if size > MEMORY_BYTES:
        parts = [part for part in parts if part[0] != "DOWN_ROWS"]
    header.tensors = len(parts)
    header.header_bytes = _header_bytes(len(parts))
    offset = header.header_bytes
    tensors, blobs = [], []
    for kind, layer, data, rows, columns, scale in parts:
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        words = -(-flat.size // 32)
        padded = np.zeros(words * 32, np.uint8)
        padded[:flat.size] = flat
        tensors.append(Tensor(KINDS.index(kind), layer, offset, words, rows, columns, float(np.float32(scale)), checksum(padded)))
        blob = stripe(padded)
        blobs.append(blob)
        offset += blob.size
    header.ddr_bytes = offset

    offset = header.total_bytes = _reserve(header, offset)
    if MODEL_BASE + offset > MEMORY_BYTES:
        raise UserError(f"the model needs {(MODEL_BASE + offset) / 2**20:.0f} MB of the board's {MEMORY_BYTES / 2**20:.0f} MB: "
                        "choose a smaller model, base3 weights or a shorter --context")

    body = np.concatenate(blobs)
    table = b"".join(t.pack() for t in tensors)
    # over everything that changes an answer: header (id and checksum still zero), table and tensors
    header.model_id = zlib.crc32(struct.pack(f"<{len(header.words())}I", *header.words()) + table + body.tobytes())
    unsigned = header.words()[:-1]  # all but the checksum
    header.header_checksum = _sum_words(struct.pack(f"<{len(unsigned)}I", *unsigned) + table)
    head = np.zeros(header.header_bytes, np.uint8)
    raw = struct.pack(f"<{len(unsigned) + 1}I", *header.words()) + table
    head[:len(raw)] = np.frombuffer(raw, np.uint8)
    return Image(header, tensors, np.concatenate([head, body]), meta)


def _sum_words(data: bytes) -> int:
    """Sum of 32-bit words, each rotated in: what the firmware checks the header with."""
    total = 0
    for (word,) in struct.iter_unpack("<I", data):
        total = ((total << 1 | total >> 31) + word) & 0xFFFFFFFF
    return total


def write_image(image: Image, path: Path) -> None:
    """Writes the file; a reader never sees half of it. Raises UserError if the folder cannot be written."""
    text = json.dumps(image.meta).encode()
    ddr = image.ddr.tobytes()
    head = _FILE_HEAD.pack(FILE_MAGIC, FORMAT_VERSION, len(text), len(ddr), zlib.crc32(text), zlib.crc32(ddr), 0, 0)
    head = _FILE_HEAD.pack(FILE_MAGIC, FORMAT_VERSION, len(text), len(ddr), zlib.crc32(text), zlib.crc32(ddr), zlib.crc32(head), 0)
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            file.write(head + text + ddr)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def read_image(path: Path) -> Image:
    """Reads and verifies an image. Raises UserError if it is no image, truncated, damaged or of another version."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if data[:8] != FILE_MAGIC or len(data) < _FILE_HEAD.size:
        raise UserError(f"{path} is not a model image: make one with `bitnet-host convert CHECKPOINT -o IMAGE`")
    magic, version, text_size, ddr_size, text_crc, ddr_crc, head_crc, _ = _FILE_HEAD.unpack_from(data)
    blank = _FILE_HEAD.pack(magic, version, text_size, ddr_size, text_crc, ddr_crc, 0, 0)
    if zlib.crc32(blank) != head_crc:
        raise UserError(f"{path} is damaged (its head does not match its checksum): convert the model again")
    if version != FORMAT_VERSION:
        raise UserError(f"{path} has image format {version}, this tool reads {FORMAT_VERSION}: convert the model again")
    text = data[_FILE_HEAD.size:_FILE_HEAD.size + text_size]
    ddr = data[_FILE_HEAD.size + text_size:]
    if len(ddr) != ddr_size:
        raise UserError(f"{path} is truncated or too long ({len(ddr)} of {ddr_size} bytes of model data): copy or convert it again")
    if zlib.crc32(text) != text_crc or zlib.crc32(ddr) != ddr_crc:
        raise UserError(f"{path} is damaged (checksum mismatch): copy or convert it again")
    count = len(fields(DdrHeader))
    header = DdrHeader(*struct.unpack_from(f"<{count}I", ddr))
    tensors = [Tensor.unpack(ddr[4 * count + _TENSOR_BYTES * i:][:_TENSOR_BYTES]) for i in range(header.tensors)]
    return Image(header, tensors, np.frombuffer(ddr, np.uint8), json.loads(text))


def c_header() -> str:
    """The firmware's view of the DDR part."""
    lines = ["// Generated from host/bitnet_host/image.py.", "#pragma once", "#include <stdint.h>", ""]
    lines += [f"#define IMAGE_MAGIC 0x{DDR_MAGIC:x}u", f"#define IMAGE_VERSION {FORMAT_VERSION}u",
              f"#define MODEL_BASE 0x{MODEL_BASE:x}u", f"#define IMAGE_MAX_LAYERS {MAX_LAYERS}u",
              f"#define CHUNK_TOKENS {CHUNK_TOKENS}u", ""]
    lines += ["struct image_header {", *(f"    uint32_t {f.name};" for f in fields(DdrHeader)), "};", ""]
    lines += ["struct image_tensor {"]
    lines += [f"    {'float' if f.name == 'scale' else 'uint32_t'} {f.name};" for f in fields(Tensor)]
    lines += ["};", "", "enum image_kind {", *(f"    KIND_{kind}," for kind in KINDS), "    KIND_COUNT", "};", ""]
    lines += [f"#define IMAGE_RANK_LEVELS(vocab) ((vocab) < {LARGE_VOCABULARY}u ? {SMALL_LEVELS}u : {RANK_LEVELS}u)",
              f"#define IMAGE_BLOCKS(bytes) (((uint64_t)(bytes) + {BLOCK_BYTES - 1}) / {BLOCK_BYTES} * {BLOCK_BYTES})", ""]
    return "\n".join(lines + _c_expected_words() + _c_reserved()) + "\n"


def _c_expected_words() -> list[str]:
    """``image_expected_words``: as ``expected_words``, for a header whose fields are within the firmware's limits."""
    lines = ["// Stream words of the model's tensor of a kind.",
             "static inline uint64_t image_expected_words(const struct image_header *h, uint32_t kind)", "{",
             f"    uint64_t per_word = h->weight_mode ? {WEIGHTS_PER_WORD['2bit']} : {WEIGHTS_PER_WORD['base3']};",
             f"    uint64_t chunk = {SHARED_WORDS} * per_word, rest = h->intermediate % chunk;", "    switch (kind) {"]

    def product(names: tuple[str, ...]) -> str:
        return " * ".join(["(uint64_t)1", *(name if name.isdigit() else f"h->{name}" for name in names)])

    for kind, (rows, columns, storage) in SHAPES.items():
        per_word = {"int8": str(WEIGHTS_PER_WORD["int8"]), "ternary": "per_word", "float": str(WORD_BYTES // 4)}[storage]
        value = f"{product(rows)} * (({product(columns)} + {per_word} - 1) / {per_word})"
        if storage == "float":
            value = f"({product(rows + columns)} + {per_word} - 1) / {per_word}"
        if kind == "DOWN_ROWS":
            value = f"{product(rows)} * (h->intermediate / chunk * {SHARED_WORDS} + (rest + per_word - 1) / per_word)"
        lines += [f"    case KIND_{kind}:", f"        return {value};"]
    return [*lines, "    default:", "        return 0;", "    }", "}", ""]


def _c_reserved() -> list[str]:
    """``image_layout``: the fields that say where memory behind the tensors lies, from the others."""
    names = [f.name for f in fields(DdrHeader)]

    def expression(text: str) -> str:
        return re.sub(r"[a-z_]+", lambda m: f"h->{m[0]}" if m[0] in names else m[0], text.replace("//", "/"))

    lines = ["// Fills in where KV cache, logits and the firmware's own memory lie behind ddr_bytes; returns where they end.",
             "static inline uint64_t image_layout(struct image_header *h)", "{", "    uint64_t offset = h->ddr_bytes;"]
    lines += [f"    h->{name} = (uint32_t)({expression(size)});" for name, size in HEAD_BYTES.items()]
    for name, size in RESERVED.items():
        lines += [f"    h->{name} = MODEL_BASE + (uint32_t)offset;", f"    offset += IMAGE_BLOCKS((uint64_t)1 * {expression(size)});"]
    return [*lines, "    return offset;", "}"]
