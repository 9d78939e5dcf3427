"""Reading and writing files so that nothing surprising is read and nothing half-written is left."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from bitnet_host.errors import BadArgument, BadFile, BadModel

__all__ = ["cache_folder", "destination", "read_json", "read_regular", "read_text",
           "regular_size", "replacing"]


def cache_folder() -> Path:
    """Where this tool keeps what it can make again, and what was typed."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "bitnet-zynq"


def regular_size(path: Path) -> int:
    """Bytes of a regular file. Raises BadFile for anything else, which might have no end."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise BadFile(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise BadFile(f"{path} is not a regular file: name a file on disk")
    return status.st_size


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file. Raises BadFile, also if it is longer than ``limit``."""
    if regular_size(path) > limit:
        raise BadFile(f"{path} is larger than {limit / 2**20:.0f} MB, which no such file is: name "
                      f"another one")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadFile(f"cannot read {path}: {error.strerror}") from None


def read_text(path: Path, limit: int = 64 << 20) -> str:
    """A UTF-8 file, whatever the locale. Raises BadFile."""
    try:
        return read_regular(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadFile(f"{path} is not UTF-8 text: it is damaged or no such file") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises BadModel."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError):
        raise BadModel(f"{path} is not valid JSON: download it again") from None
    if not isinstance(value, dict):
        raise BadModel(f"{path} does not hold a JSON object: download it again")
    return value


@contextmanager
def replacing(path: Path, size: int = 0, inputs: tuple[Path, ...] = ()) -> Iterator[BinaryIO]:
    """A new file, open for reading and writing, that takes the place of ``path`` when the block
    ends well, and leaves no trace otherwise, not even of a killed process where the file system
    knows files without a name. ``size`` bytes are set aside at once. Raises BadArgument for a path
    that is no regular file or one of ``inputs``, BadFile if it cannot be written."""
    place = destination(path, inputs)
    try:
        file = _nameless(place.parent)
    except OSError as error:
        raise BadFile(f"cannot write {path}: {error.strerror}") from None
    try:
        if size:
            os.posix_fallocate(file.fileno(), 0, size)
        yield file
        file.flush()
        _publish(file, place)
    except OSError as error:
        raise BadFile(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            if isinstance(file.name, str):
                os.unlink(file.name)


def destination(path: Path, inputs: tuple[Path, ...] = ()) -> Path:
    """Where a file of that name would be written, links followed. Raises BadArgument for a path
    that is no regular file or one of ``inputs``, BadFile if it cannot be."""
    if not path.name:
        raise BadArgument(f"'{path}' names no file to write: give a file name")
    try:
        place = Path(os.path.realpath(path))
        there = os.path.lexists(place)
        if there and not stat.S_ISREG(place.stat().st_mode):
            raise BadArgument(f"{path} is not a regular file: nothing is written there; give "
                              f"another name")
        if there and not os.access(place, os.W_OK):
            raise BadArgument(f"{path} is write-protected: nothing is written there; give another "
                              f"name")
        for source in inputs:
            if there and source.exists() and os.path.samefile(place, source):
                raise BadArgument(f"{path} is {source}, which is being read: give another name")
        if len(os.fsencode(path.name)) > 200:  # a name for the way into place has to fit, too
            raise BadArgument(f"the file name of {len(path.name)} characters is too long: give a "
                              f"shorter one")
    except (OSError, ValueError) as error:
        raise BadFile(f"cannot write {str(path)[:200]!r}: "
                      f"{getattr(error, 'strerror', None) or error}") from None
    return place


def _nameless(folder: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
    except (OSError, AttributeError):  # a file system without such files, or no folder at all
        descriptor, name = tempfile.mkstemp(".partial", ".", folder)
        os.close(descriptor)
        os.chmod(name, 0o644)
        return open(name, "w+b")


def _publish(file: BinaryIO, place: Path) -> None:
    if place.exists():
        os.fchmod(file.fileno(), stat.S_IMODE(place.stat().st_mode))  # as the one that goes
    if isinstance(file.name, str):
        os.replace(file.name, place)
        return
    name = place.with_name(f".{place.name}.{os.getpid()}.partial")
    with suppress(FileNotFoundError):
        os.unlink(name)
    # a folder's descriptor makes Python follow the link, as linkat(2) needs it; the path being
    # absolute, it is not used
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.link(f"/proc/self/fd/{file.fileno()}", name, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)
    os.replace(name, place)
