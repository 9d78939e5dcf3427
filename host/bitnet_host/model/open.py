"""From a path to a model: an image as it is, a checkpoint folder converted, large ones once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import xtvu.isa
import xtvu.layout
import xtvu.semantics

from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.files import cache_folder, regular_size
from bitnet_host.model.checkpoint import Checkpoint
from bitnet_host.model.convert import convert, convert_file, shorten, suit
from bitnet_host.model.image import FILE_MAGIC, Image, read_image
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.gguf_model import open_gguf
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.hub import HubName, download
from bitnet_host.reporting import Progress, quiet

__all__ = ["is_image", "name_of", "open_model", "open_source", "source_digest"]

_SMALL = 64 << 20  # bytes of a checkpoint that is converted each time, in memory


def open_model(path: str | Path | None = None, *, weights: str = "", context: int = 0,
               progress: Progress = quiet) -> Image:
    """Opens an image, or converts a checkpoint (a folder of Hugging Face, a GGUF file, or a name on
    huggingface.co as in sources/hub.py); without a path, the bundled model. A large checkpoint is
    converted once: its image is kept in the cache folder ($XDG_CACHE_HOME/bitnet-zynq) until its
    files change. ``weights`` (base3, 2bit or nothing for what suits the model) and ``context`` (0:
    the checkpoint's, or the longest that fits) are for checkpoints. Raises BadModel, BadFile or
    BadArgument."""
    source = _on_disk(Path(path)) if path is not None else BUNDLED
    if not source.is_dir() and not _is_gguf(source):
        if context:
            raise BadArgument(f"{source} is an image and keeps the context it was made for: "
                              f"convert the checkpoint with another one")
        return read_image(source)
    checkpoint = open_source(source)
    checkpoint = shorten(checkpoint, context) if context else suit(checkpoint, weights)
    name = name_of(path or source)
    if sum(file.stat().st_size for file in checkpoint.files
           if file.suffix in (".safetensors", ".gguf")) < _SMALL:
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


def _begins_with(path: Path, word: bytes) -> bool:
    try:
        if not path.is_file():  # a pipe would wait for its writer
            return False
        with path.open("rb") as file:
            return file.read(len(word)) == word
    except OSError:
        return False  # whoever reads it says why


def _is_gguf(path: Path) -> bool:
    return _begins_with(path, b"GGUF")


def name_of(path: str | Path) -> str:
    """What a model is called that was read from there: a folder's or a file's own name, not that of
    the place where it is kept."""
    name = None if Path(path).exists() else HubName.parse(str(path))
    if name:
        return Path(name.file).stem if name.file else name.repo.split("/")[1]
    return Path(path).absolute().name or Path(path).resolve().name


def is_image(path: Path) -> bool:
    """Whether a file on this machine says that it is a model image."""
    return _begins_with(path, FILE_MAGIC)


def _on_disk(path: Path) -> Path:
    """The path itself, or where the checkpoint lies that has this name on huggingface.co."""
    name = None if path.exists() else HubName.parse(str(path))
    return download(name) if name else path


def open_source(path: Path, layout: str = "") -> Checkpoint:
    """Opens a checkpoint: a folder with safetensors, a GGUF file, a folder with one of those, or
    what has a name on huggingface.co (sources/hub.py), which is downloaded. ``layout`` of I2_S
    matrices, where a file's own does not fit (gguf_blocks.LAYOUTS). Raises BadModel, BadFile or
    BadArgument."""
    path = _on_disk(path)
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        if not found or (path / "config.json").exists():
            if layout:
                raise BadArgument(f"{path} is no GGUF file: only those have a layout to choose")
            return open_checkpoint(path)
        if len(found) > 1:
            raise BadArgument(f"{path} holds {len(found)} GGUF files: name one of them")
        path = found[0]
    if not _is_gguf(path):
        regular_size(path)  # or what is wrong with it
        raise BadArgument(f"{path} is neither a folder with a checkpoint nor a GGUF file")
    return open_gguf(path, layout)


def source_digest() -> str:
    """Of the code that decides what an image holds."""
    files = [*sorted(Path(__file__).parent.rglob("*.py")),
             *(Path(str(module.__file__)) for module in (xtvu.isa, xtvu.layout, xtvu.semantics))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _key(source: Path, checkpoint: Checkpoint, weights: str) -> str:
    """Names what an image was made of: the place, its files' sizes and times, the options, and
    this tool."""
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns)
             for file in checkpoint.files]
    what = [str(source.resolve()), files, vars(checkpoint.config), weights, source_digest()]
    return hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()[:16]
