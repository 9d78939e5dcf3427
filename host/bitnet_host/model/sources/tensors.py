"""Tensors of a folder of safetensors files, read from disk when they are asked for.

The ``safetensors`` package checks the files' headers; it gives BF16 only through torch, so values
are read here, at the places that its order of tensors says (the format stores them one behind the
other, without holes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from bitnet_host.errors import BadModel
from bitnet_host.files import read_json, regular_size
from bitnet_host.model.checkpoint import F32

__all__ = ["StoredTensor", "TensorFolder"]

_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: ``kind`` is BF16, F16, F32 or U8. Slicing reads rows, as float32 or, of
    U8, as uint8."""

    file: Path
    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        width = math.prod(self.shape[1:])
        dtype = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "U8": "u1"}[self.kind]
        count = max(0, stop - start) * width
        raw = np.fromfile(self.file, dtype, count,
                          offset=self.offset + start * width * _BYTES[self.kind])
        if raw.size != count:
            raise BadModel(f"{self.file} became shorter while it was read: start again")
        values = (raw.astype(np.uint32) << 16).view(np.float32) if self.kind == "BF16" else raw
        return (values if self.kind == "U8" else values.astype(np.float32)).reshape(-1,
                *self.shape[1:])

    def floats(self) -> F32:
        """All of it, float32. Raises BadModel if it is packed or not finite."""
        if self.kind == "U8":
            raise BadModel(f"{self.file}: tensor {self.name} holds bytes where numbers belong: "
                           f"download it again")
        values: F32 = self[:]
        if not np.isfinite(values).all():
            raise BadModel(f"{self.file}: tensor {self.name} holds an infinity or NaN: it is "
                           f"damaged or was not trained to its end")
        return values


class TensorFolder:
    """The tensors of a checkpoint folder by name. ``files`` are what was opened. Raises
    BadModel."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._taken = folder, set[str]()
        self.files = self._choose(folder)
        self._tensors: dict[str, StoredTensor] = {}
        for file in self.files:
            for tensor in _headers(file):
                if tensor.name in self._tensors:
                    raise BadModel(f"{tensor.name} is both in "
                                   f"{self._tensors[tensor.name].file.name} and in {file.name}: "
                                   "download the checkpoint again")
                self._tensors[tensor.name] = tensor

    @staticmethod
    def _choose(folder: Path) -> tuple[Path, ...]:
        present = sorted(folder.glob("*.safetensors"))
        index = folder / "model.safetensors.index.json"
        if index.exists():
            names = read_json(index).get("weight_map")
            if (not isinstance(names, dict)
                or not all(isinstance(name, str) and "/" not in name for name in names.values())):
                raise BadModel(f"{index} has no weight_map of file names: download it again")
            wanted = [folder / name for name in sorted(set(names.values()))]
        else:
            wanted = ([folder / "model.safetensors"] if folder / "model.safetensors" in present
                      else present)
        if not wanted:
            raise BadModel(f"{folder} holds no .safetensors file: give the folder of a Hugging "
                           f"Face checkpoint")
        stray = [path.name for path in present if path not in wanted]
        if stray:
            raise BadModel(f"{folder} holds {', '.join(stray)} beside the files of its model, and "
                           f"nobody can say which of them "
                           "count: move it elsewhere")
        return tuple(wanted)

    def take(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """The tensor of that name. Raises BadModel if it is missing or of another shape."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise BadModel(f"{self.folder}: tensor {name} is missing: the checkpoint is incomplete")
        if tensor.shape != shape:
            raise BadModel(f"{self.folder}: tensor {name} has shape {tensor.shape}, config.json "
                           f"says {shape}")
        self._taken.add(name)
        return tensor

    def has(self, name: str) -> bool:
        return name in self._tensors

    def find(self, name: str) -> StoredTensor:
        """The tensor of that name, whatever its shape; it is still to be taken. Raises
        KeyError."""
        return self._tensors[name]

    def pass_over(self, name: str) -> None:
        """A tensor that may be there and says nothing."""
        self._taken.add(name)

    def refuse_others(self) -> None:
        """Raises BadModel if there are tensors that nobody took: they would change what the model
        computes."""
        others = sorted(self._tensors.keys() - self._taken)
        if others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise BadModel(f"{self.folder}: tensor {others[0]}{more} has no place in a model "
                           f"of this kind: this is another "
                           "architecture, which this tool would get wrong")


def _headers(file: Path) -> list[StoredTensor]:
    regular_size(file)
    try:
        with file.open("rb") as raw:
            offset = 8 + int.from_bytes(raw.read(8), "little")
        found = []
        with safetensors.safe_open(file, "numpy") as opened:
            for name in opened.offset_keys():
                view = opened.get_slice(name)
                kind, shape = str(view.get_dtype()), tuple(int(n) for n in view.get_shape())
                if kind not in _BYTES:
                    raise BadModel(f"{file}: tensor {name} has type {kind}; this tool reads BF16, "
                                   f"F16, F32 and packed U8")
                found.append(StoredTensor(file, name, kind, shape, offset))
                offset += math.prod(shape) * _BYTES[kind]
    except (OSError, safetensors.SafetensorError) as error:
        raise BadModel(f"{file} is truncated or damaged ({error}): download it again") from None
    return found
