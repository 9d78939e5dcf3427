"""The container GGUF, versions 2 and 3: fields by name, and where tensors lie.

Layout (https://github.com/ggml-org/ggml, docs/gguf.md): magic, version, counts; fields as name,
type and value; tensors as name, dimensions (fastest first), type and offset; then, aligned, their
data. PyPI's ``gguf`` cannot open files with BitNet's types, so it is read here; a file is held
against its own length before anything is set aside for what it says.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bitnet_host.errors import BadFile, BadModel
from bitnet_host.files import regular_size

__all__ = ["GgufFile", "GgufTensor"]

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
            11: "<q", 12: "<d"}
_STRING, _ARRAY, _BOOL = 8, 9, 7
_MOST_DIMENSIONS, _DEFAULT_ALIGNMENT, _MOST_ALIGNMENT = 4, 32, 1 << 16
_MOST_ENTRIES = 1 << 22  # of an array in a field; vocabularies and merges have a tenth of that


@dataclass(frozen=True)
class GgufTensor:
    """``kind`` is the number of its type; ``shape`` slowest dimension first, as NumPy has it.
    ``room``: bytes from its ``offset`` in the file to the next tensor or the end, of which the last
    ``alignment`` - 1 may be there to fill up."""

    file: Path
    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int
    room: int
    alignment: int

    def raw(self, start: int, count: int) -> NDArray[np.uint8]:
        """``count`` bytes from byte ``start`` of the tensor. Raises BadModel if they are not
        there."""
        if start + count > self.room:
            raise BadModel(f"{self.file}: tensor {self.name} needs {start + count} bytes of "
                           f"{self.room} in the file: it is truncated, download it again")
        data = np.fromfile(self.file, np.uint8, count, offset=self.offset + start)
        if data.size != count:
            raise BadModel(f"{self.file} became shorter while it was read: start again")
        return data


class GgufFile:
    """An opened file: ``fields`` and ``tensors`` by name; arrays of fields are lists. Raises
    BadFile or BadModel."""

    def __init__(self, path: Path) -> None:
        self.path, self._size = path, regular_size(path)
        try:
            with path.open("rb") as file:
                self._parse(file)
        except OSError as error:
            raise BadFile(f"cannot read {path}: {error.strerror}") from None

    def _parse(self, file: BinaryIO) -> None:
        if self._size < 24 or file.read(4) != b"GGUF":
            raise BadModel(f"{self.path} is no GGUF file: it does not begin with that word")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(self.path, data, 4)
            version = cursor.number("<I")
            if version not in (2, 3):
                raise BadModel(f"{self.path} is of GGUF version {version}, or of a machine with "
                               f"another order of bytes: this tool reads versions 2 and 3")
            tensors, fields = cursor.number("<Q"), cursor.number("<Q")
            self.fields: dict[str, Any] = {}
            for _ in range(cursor.limited(fields, 12)):
                name = cursor.text()
                if name in self.fields:
                    raise cursor.damaged(f"it names {name[:60]} twice")
                self.fields[name] = cursor.value(cursor.number("<I"))
            found = [cursor.tensor() for _ in range(cursor.limited(tensors, 24))]
            self._place(cursor, found)

    def _place(self, cursor: _Cursor, found: list[tuple[str, tuple[int, ...], int, int]]) -> None:
        alignment = self.fields.get("general.alignment", _DEFAULT_ALIGNMENT)
        if (not isinstance(alignment, int) or not 0 < alignment <= _MOST_ALIGNMENT
                or alignment & (alignment - 1)):
            raise cursor.damaged(f"its alignment is {alignment!r}")
        base = -(-cursor.at // alignment) * alignment
        self.tensors: dict[str, GgufTensor] = {}
        if not found:
            raise cursor.damaged("it holds no tensor")
        starts = sorted(offset for *_, offset in found)
        if len(set(starts)) != len(starts):
            raise cursor.damaged("two of its tensors lie at one place")
        ends = dict(zip(starts, [*starts[1:], self._size - base], strict=True))
        for name, shape, kind, offset in found:
            if name in self.tensors:
                raise cursor.damaged(f"it has two tensors {name[:60]}")
            room = ends[offset] - offset
            if offset % alignment or room < 0:
                raise BadModel(f"{self.path}: tensor {name[:60]} lies at {offset}, where the file "
                               f"has no place for it: it is truncated, download it again")
            self.tensors[name] = GgufTensor(self.path, name, kind, shape, base + offset, room,
                                            alignment)

    def get(self, name: str, *kinds: type) -> Any:
        """The field of that name, or None. Raises BadModel if it is of another type than one of
        ``kinds``."""
        value = self.fields.get(name)
        if value is None or (isinstance(value, kinds)
                             and (not isinstance(value, bool) or bool in kinds)):
            return value
        raise BadModel(f"{self.path}: {name} is {str(value)[:60]!r}, which it cannot be: the file "
                       f"is damaged, download it again")


class _Cursor:
    """Goes through the file's head. Raises BadModel where it ends too early."""

    def __init__(self, path: Path, data: mmap.mmap, at: int) -> None:
        self._path, self._data, self.at = path, data, at

    def damaged(self, why: str) -> BadModel:
        return BadModel(f"{self._path} is damaged, {why}: download it again")

    def limited(self, count: int, size: int) -> int:
        """``count`` things of at least ``size`` bytes, if the file can hold as many."""
        if count * size > len(self._data) - self.at:
            raise self.damaged(f"it is shorter than the {count} entries that it announces")
        return count

    def number(self, code: str) -> Any:
        size = struct.calcsize(code)
        self.limited(1, size)
        (value,) = struct.unpack_from(code, self._data, self.at)
        self.at += size
        return value

    def text(self) -> str:
        size = self.limited(self.number("<Q"), 1)
        raw = self._data[self.at:self.at + size]
        self.at += size
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.damaged("a text in it is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            if count > _MOST_ENTRIES:
                raise self.damaged(f"a field announces {count} entries")
            if inner == _STRING:
                return [self.text() for _ in range(self.limited(count, 8))]
            code = self._code(inner)
            size = self.limited(count, struct.calcsize(code)) * struct.calcsize(code)
            values = np.frombuffer(self._data, np.dtype("?" if inner == _BOOL else code), count,
                                   self.at).tolist() if count else []
            self.at += size
            return values
        return self.number(self._code(kind))

    def _code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.damaged(f"a field has type {kind}")
        return _SCALARS[kind]

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset behind the head."""
        name, dimensions = self.text(), self.number("<I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise self.damaged(f"tensor {name[:60]} has {dimensions} dimensions")
        shape = tuple(self.number("<Q") for _ in range(dimensions))[::-1]
        if not 0 < math.prod(shape) < 2**40:
            raise self.damaged(f"tensor {name[:60]} has shape {shape}")
        return name, shape, self.number("<I"), self.number("<Q")
