"""Fills the DDR part of an image tensor by tensor, in memory or in a file, without ever holding
more than a piece of it."""

from __future__ import annotations

import os
import zlib
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import WORD_BYTES
from xtvu.layout import BLOCK_BYTES, stripe
from xtvu.semantics import RunningChecksum

from bitnet_host.model.header import KINDS, DdrHeader, Tensor, header_sum, pack_head, start_of_id

__all__ = ["FileStore", "ImageWriter", "MemoryStore", "Store"]

_CHUNK = 4 << 20


class Store(Protocol):
    """Where the DDR part goes."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...
    def read(self, offset: int, size: int) -> bytes: ...


class MemoryStore:
    """``ddr``: uint8 [bytes]."""

    def __init__(self, size: int) -> None:
        self.ddr: NDArray[np.uint8] = np.zeros(size, np.uint8)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.ddr[offset:offset + len(data)] = np.frombuffer(data, np.uint8)

    def read(self, offset: int, size: int) -> bytes:
        return self.ddr[offset:offset + size].tobytes()


class FileStore:
    """A file from ``start`` on."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._descriptor, self._start = file.fileno(), start

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view, place = memoryview(data), self._start + offset
        while view:
            written = os.pwrite(self._descriptor, view, place)
            view, place = view[written:], place + written

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, self._start + offset)


class ImageWriter:
    """``tensors`` are those of ``lay_out``. Each is ``put`` in one or more pieces, in its order,
    whole blocks but for the last."""

    def __init__(self, header: DdrHeader, tensors: list[Tensor], store: Store) -> None:
        self.header, self.tensors, self._store = header, tensors, store
        self._places = {(KINDS[tensor.kind], tensor.layer): tensor for tensor in tensors}
        self._sizes = {place: 0 for place in self._places}
        self._sums = {place: RunningChecksum() for place in self._places}

    def put(self, kind: str, layer: int, data: NDArray[Any], scale: float = 1.0) -> None:
        """Appends ``data``, in linear order, to a tensor."""
        place = kind, layer
        tensor, size = self._places[place], self._sizes[place]
        assert size % BLOCK_BYTES == 0, (f"a piece of {kind} before this one did not fill its last "
                                         f"block")
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        if flat.size % WORD_BYTES:
            flat = np.concatenate([flat, np.zeros(-flat.size % WORD_BYTES, np.uint8)])
        self._sums[place].update(flat)
        self._store.write(tensor.offset + size, stripe(flat).data)
        self._sizes[place] = size + flat.size
        tensor.scale = float(np.float32(scale))

    def finish(self) -> int:
        """Writes header and table; returns the CRC-32 of the DDR part."""
        for place, tensor in self._places.items():
            assert self._sizes[place] == tensor.words * WORD_BYTES, (f"{place} has "
                                                                     f"{self._sizes[place]} bytes")
            tensor.checksum = self._sums[place].value
        header, tensors = self.header, self.tensors
        header.model_id, start = start_of_id(header, tensors), header.header_bytes
        for offset in range(start, header.ddr_bytes, _CHUNK):
            header.model_id = zlib.crc32(self._store.read(offset,
                                                          min(_CHUNK, header.ddr_bytes - offset)),
                                         header.model_id)
        header.header_checksum = header_sum(header, tensors)
        self._store.write(0, pack_head(header, tensors))
        crc = 0
        for offset in range(0, header.ddr_bytes, _CHUNK):
            crc = zlib.crc32(self._store.read(offset, min(_CHUNK, header.ddr_bytes - offset)), crc)
        return crc
