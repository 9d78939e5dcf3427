"""From a path to a model: an image as it is, a checkpoint folder converted, large ones once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import xtvu.isa
import xtvu.layout
import xtvu.semantics

from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.files import cache_folder
from bitnet_host.model.checkpoint import Checkpoint
from bitnet_host.model.convert import convert, convert_file, shorten
from bitnet_host.model.image import Image, read_image
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.reporting import Progress, quiet

__all__ = ["open_model", "source_digest"]

_SMALL = 64 << 20  # bytes of a checkpoint that is converted each time, in memory


def open_model(path: str | Path | None = None, *, weights: str = "base3", context: int = 0,
               progress: Progress = quiet) -> Image:
    """Opens an image, or converts a checkpoint folder; without a path, the bundled model. A large
    checkpoint is converted once: its image is kept in the cache folder
    ($XDG_CACHE_HOME/bitnet-zynq) until its files change. ``weights`` (base3 or 2bit) and
    ``context`` (0: the checkpoint's) are for checkpoints. Raises BadModel, BadFile or
    BadArgument."""
    source = Path(path) if path is not None else BUNDLED
    if not source.is_dir():
        if context:
            raise BadArgument(f"{source} is an image and keeps the context it was made for: "
                              f"convert the checkpoint with another one")
        return read_image(source)
    checkpoint = open_checkpoint(source)
    if context:
        checkpoint = shorten(checkpoint, context)
    name = source.resolve().name
    if (sum(file.stat().st_size for file in checkpoint.files if file.suffix == ".safetensors")
        < _SMALL):
        return convert(checkpoint, weights, name, progress)
    image = cache_folder() / "images" / f"{name}-{_key(source, checkpoint, weights)}.bitnet"
    if not image.exists():
        try:
            image.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadFile(f"cannot write {image}: {error.strerror}; set XDG_CACHE_HOME, or use "
                          f"`bitnet-host convert`") from None
        convert_file(checkpoint, image, weights, name, progress)
    return read_image(image)


def source_digest() -> str:
    """Of the code that decides what an image holds."""
    files = [*sorted(Path(__file__).parent.rglob("*.py")),
             *(Path(str(module.__file__)) for module in (xtvu.isa, xtvu.layout, xtvu.semantics))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _key(source: Path, checkpoint: Checkpoint, weights: str) -> str:
    """Names what an image was made of: the folder, its files' sizes and times, the options, and
    this tool."""
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns)
             for file in sorted(source.iterdir()) if file.is_file()]
    what = [str(source.resolve()), files, vars(checkpoint.config), weights, source_digest()]
    return hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()[:16]
