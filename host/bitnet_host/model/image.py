"""The model image: one file that holds all a board and its host need to run a model.

File: a 64-byte head, a JSON part for the host (tokenizer, chat template, origin), and the DDR part,
which is uploaded as it is to ``MODEL_BASE``. The DDR part starts with a binary header (``header``)
that the firmware reads; tensors follow, striped over the four ports (``xtvu.layout``), each at a
multiple of 512 bytes. Behind them the header reserves memory for the KV cache and the logits. A
file is mapped, not read: only what is used is ever in memory.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import RANK_LEVELS

from bitnet_host.errors import BadFile, BadModel
from bitnet_host.files import regular_size, replacing
from bitnet_host.model.header import (
    ACTIVATIONS,
    BLOCK_BYTES,
    DDR_MAGIC,
    FORMAT_VERSION,
    KINDS,
    LARGE_VOCABULARY,
    MAX_LAYERS,
    MAX_STOPS,
    MODEL_BASE,
    SMALL_LEVELS,
    TENSOR_BYTES,
    WEIGHT_MODES,
    DdrHeader,
    Tensor,
    float_bits,
    head_bytes,
    header_sum,
    lay_out,
    start_of_id,
)
from bitnet_host.model.padding import padded_head, padded_inner
from bitnet_host.model.rows import broken_limit

__all__ = ["FILE_HEAD", "FILE_MAGIC", "Image", "c_file_head", "check_image", "file_head",
           "json_part", "read_image", "write_image"]

FILE_MAGIC = b"BITNETFW"
#: Fields of the head, with their forms; zeros fill it up.
_FILE_FIELDS = {"magic": "Q", "version": "I", "text_bytes": "I", "ddr_bytes": "Q", "text_crc": "I",
                "ddr_crc": "I", "head_crc": "I"}
_FILE_REST = 28
FILE_HEAD = struct.Struct(f"<{''.join(_FILE_FIELDS.values())}{_FILE_REST}x")
_MAX_TEXT = 256 << 20  # bytes of the JSON part
_CHUNK = 4 << 20


@dataclass
class Image:
    """A model image: ``header``, ``tensors``, ``ddr`` (uint8, the DDR part, possibly mapped),
    ``meta`` (the JSON part)."""

    header: DdrHeader
    tensors: list[Tensor]
    ddr: NDArray[np.uint8]
    meta: dict[str, Any]
    _places: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._places = {(tensor.kind, tensor.layer): tensor for tensor in self.tensors}

    def tensor(self, kind: str, layer: int = 0) -> Tensor:
        """Raises KeyError if there is none."""
        return self._places[KINDS.index(kind), layer]

    def data(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The tensor's bytes as they lie in DDR, whole blocks."""
        size = -(-tensor.words * 32 // BLOCK_BYTES) * BLOCK_BYTES
        return self.ddr[tensor.offset:tensor.offset + size]

    @property
    def vocab(self) -> int:
        """Tokens that there are; the header's number is padded to a multiple of eight."""
        return int((self.meta.get("config") or {}).get("vocab", self.header.vocab))

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return frozenset(getattr(self.header, f"stop{i}") for i in range(self.header.stop_count))


def json_part(meta: dict[str, Any]) -> bytes:
    """The JSON part of a file, filled up with blanks so that the DDR part begins at a multiple of
    BLOCK_BYTES: a board that reads it from a card moves whole blocks."""
    text = json.dumps(meta).encode()
    return text + b" " * (-(FILE_HEAD.size + len(text)) % BLOCK_BYTES)


def file_head(text: bytes, ddr_size: int, ddr_crc: int) -> bytes:
    """The first 64 bytes of an image file."""
    values = (int.from_bytes(FILE_MAGIC, "little"), FORMAT_VERSION, len(text), ddr_size,
              zlib.crc32(text), ddr_crc)
    return FILE_HEAD.pack(*values, zlib.crc32(FILE_HEAD.pack(*values, 0)))


def c_file_head() -> str:
    """The head as C, for the boot stub."""
    kinds = {"I": "uint32_t", "Q": "uint64_t"}
    return "\n".join([
        f"#define IMAGE_FILE_MAGIC 0x{int.from_bytes(FILE_MAGIC, 'little'):x}ull",
        f"#define IMAGE_FILE_VERSION {FORMAT_VERSION}u",
        f"#define IMAGE_FILE_BLOCK {BLOCK_BYTES}u",
        f"#define MODEL_BASE 0x{MODEL_BASE:x}u", "", "struct image_file {",
        *(f"    {kinds[form]} {name};" for name, form in _FILE_FIELDS.items()),
        f"    uint32_t rest[{_FILE_REST // 4}];", "};", ""])


def write_image(image: Image, path: Path) -> None:
    """Writes an image that is in memory, whole or not at all. Raises BadFile."""
    text = json_part(image.meta)
    with replacing(path, FILE_HEAD.size + len(text) + image.ddr.size) as file:
        file.write(file_head(text, image.ddr.size, zlib.crc32(image.ddr.data)) + text)
        file.write(image.ddr.data)


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = file.read(min(size, _CHUNK))
        if not piece:
            return
        size -= len(piece)
        yield piece


def _read_head(file: BinaryIO, path: Path, size: int) -> tuple[bytes, int, int]:
    """The JSON part, verified, and size and checksum of the DDR part."""
    head = file.read(FILE_HEAD.size)
    if head[:8] != FILE_MAGIC or len(head) < FILE_HEAD.size:
        raise BadModel(f"{path} is not a model image: make one with `bitnet-host convert "
                       f"CHECKPOINT -o IMAGE`")
    magic, version, text_size, ddr_size, text_crc, ddr_crc, head_crc = FILE_HEAD.unpack(head)
    if (zlib.crc32(FILE_HEAD.pack(magic, version, text_size, ddr_size, text_crc, ddr_crc, 0))
        != head_crc):
        raise BadModel(f"{path} is damaged (its head does not match its checksum): convert the "
                       f"model again")
    if version != FORMAT_VERSION:
        raise BadModel(f"{path} has image format {version}, this tool reads {FORMAT_VERSION}: "
                       f"convert the model again")
    if size != FILE_HEAD.size + text_size + ddr_size or text_size > _MAX_TEXT:
        raise BadModel(f"{path} is truncated or too long ({size} bytes, its head says "
                       f"{FILE_HEAD.size + text_size + ddr_size}): "
                       "copy or convert it again")
    text = file.read(text_size)
    if zlib.crc32(text) != text_crc:
        raise BadModel(f"{path} is damaged (checksum mismatch): copy or convert it again")
    return text, ddr_size, ddr_crc


def _read_tensors(file: BinaryIO, path: Path, ddr_size: int, ddr_crc: int) -> tuple[DdrHeader,
        list[Tensor]]:
    """Header and table; every byte of the DDR part is held against the file's checksum and the
    model's id."""
    count = len(fields(DdrHeader))
    first = file.read(min(4 * count, ddr_size))
    header = (DdrHeader(*struct.unpack(f"<{count}I", first)) if len(first) == 4 * count
              else DdrHeader())
    rest = file.read(max(0,
                         min(header.header_bytes, head_bytes(MAX_LAYERS * len(KINDS)), ddr_size)
                         - len(first)))
    table = rest[:header.tensors * TENSOR_BYTES]
    tensors = [Tensor.unpack(table[i:i + TENSOR_BYTES])
               for i in range(0, len(table) // TENSOR_BYTES * TENSOR_BYTES, TENSOR_BYTES)]
    crc, model_id = zlib.crc32(first + rest), start_of_id(header, tensors)
    for piece in _pieces(file, ddr_size - len(first) - len(rest)):
        crc, model_id = zlib.crc32(piece, crc), zlib.crc32(piece, model_id)
    if crc != ddr_crc:
        raise BadModel(f"{path} is damaged (checksum mismatch): copy or convert it again")
    if (len(tensors) != header.tensors or model_id != header.model_id
        or header_sum(header, tensors) != header.header_checksum):
        raise BadModel(f"{path} contradicts itself (its id or its table of {header.tensors} "
                       f"tensors): convert the model again")
    return header, tensors


def read_image(path: Path) -> Image:
    """Maps and verifies an image. Raises BadFile or BadModel if it is no image, truncated, damaged
    or of another version, or if what it says cannot be."""
    size = regular_size(path)
    try:
        with path.open("rb") as file:
            text, ddr_size, ddr_crc = _read_head(file, path, size)
            header, tensors = _read_tensors(file, path, ddr_size, ddr_crc)
        ddr = np.memmap(path, np.uint8, "r", offset=FILE_HEAD.size + len(text), shape=(ddr_size,))
    except OSError as error:
        raise BadFile(f"cannot read {path}: {error.strerror}") from None
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise BadModel(f"{path} has no readable description of its model: convert the model again")
    image = Image(header, tensors, ddr, meta)
    problem = check_image(image)
    if problem:
        raise BadModel(f"{path} contradicts itself ({problem}): convert the model again")
    return image


def check_image(image: Image) -> str:
    """What in the image cannot be, or nothing. Held against the same table as on the board."""
    header, tensors = image.header, image.tensors
    if header.magic != DDR_MAGIC or header.version != FORMAT_VERSION:
        return f"header of format {header.version}"
    limit = broken_limit(vars(header))
    if limit:
        return limit
    down_rows = any(tensor.kind == KINDS.index("DOWN_ROWS") for tensor in tensors)
    laid = replace(header)
    expected = lay_out(laid, down_rows)
    for name in (f.name for f in fields(DdrHeader)):
        if (name not in ("model_id", "header_checksum")
            and getattr(laid, name) != getattr(header, name)):
            return f"{name} is {getattr(header, name)}, not {getattr(laid, name)}"
    if header.ddr_bytes != image.ddr.size or header.header_bytes != head_bytes(len(tensors)):
        return f"{image.ddr.size} bytes of tensors, not {header.ddr_bytes}"
    for tensor, wanted in zip(tensors, expected, strict=True):
        if replace(wanted, scale=tensor.scale, checksum=tensor.checksum) != tensor:
            return (f"tensor {KINDS[wanted.kind]} of layer {wanted.layer} is not where or what it "
                    f"has to be")
        if (not math.isfinite(tensor.scale) or tensor.scale == 0
                or (header.group and tensor.scale != 1)):  # each group has its own
            return (f"tensor {KINDS[wanted.kind]} of layer {wanted.layer} has the scale "
                    f"{tensor.scale}")
    return _check_constants(header) or _check_meta(image)


def _check_constants(header: DdrHeader) -> str:
    """Fields that follow from others."""
    head = header.head_elements
    sizes = {"head_dim": padded_head(head), "intermediate": padded_inner(header.inner_elements)}
    for field_, size in sizes.items():
        if getattr(header, field_) != size:
            return f"{field_} is {getattr(header, field_)}, not {size}"
    constants = {
        "inverse_hidden_bits": 1 / header.hidden, "inverse_query_bits": 1 / (header.heads * head),
        "inverse_head_bits": 1 / head, "inverse_intermediate_bits": 1 / header.inner_elements,
        "score_scale_bits": math.log2(math.e) / math.sqrt(head)}
    for name, value in constants.items():
        if getattr(header, name) != float_bits(value):
            return f"{name} is not that of the model's shape"
    eps = struct.unpack("<f", struct.pack("<I", header.eps_bits))[0]
    if not 0 < eps <= 0.1:
        return f"eps is {eps:g}"
    if header.rank_levels != (RANK_LEVELS if header.vocab >= LARGE_VOCABULARY else SMALL_LEVELS):
        return f"rank_levels is {header.rank_levels}"
    stops = [getattr(header, f"stop{i}") for i in range(MAX_STOPS)]
    if (any(stop >= header.vocab for stop in stops[:header.stop_count])
        or any(stops[header.stop_count:])):
        return "stop tokens outside of the vocabulary"
    return ""


def _check_meta(image: Image) -> str:
    """The description's numbers are the header's."""
    header, meta = image.header, image.meta
    for name, kinds in (("name", (str,)), ("tokenizer", (dict, type(None))),
                        ("chat_template", (str, type(None))),
                        ("special", (dict, type(None))), ("defaults", (dict, type(None))),
                        ("config", (dict,))):
        if not isinstance(meta.get(name), kinds):
            return f"{name} of the description is {str(meta.get(name))[:40]!r}"
    config = meta["config"]
    on_board = {name: getattr(header, name)
                for name in ("layers", "hidden", "heads", "kv_heads", "context")}
    on_board |= {"intermediate": header.inner_elements, "head_dim": header.head_elements,
                 "activation": next(name for name, value in ACTIVATIONS.items()
                                    if value == header.activation),
                 "sub_norms": bool(header.sub_norms), "qk_norms": bool(header.qk_norms),
                 "tied": not header.untied, "group": header.group}
    for name, value in on_board.items():
        if config.get(name) != value:
            return f"{name} is {config.get(name)!r} in the description and {value} on the board"
    vocab, eps = config.get("vocab"), config.get("eps")
    if not isinstance(vocab, int) or not 0 <= header.vocab - vocab < 8:
        return f"vocab is {vocab!r} in the description and {header.vocab} on the board"
    if not isinstance(eps, float) or not 0 < eps < 1 or float_bits(eps) != header.eps_bits:
        return f"eps is {eps!r} in the description"
    if config.get("stop_tokens") != [getattr(header, f"stop{i}") for i in range(header.stop_count)]:
        return "the description has other stop tokens"
    if WEIGHT_MODES.get(str(meta.get("weights"))) != header.weight_mode:
        return f"weights are {meta.get('weights')!r} in the description"
    return ""
