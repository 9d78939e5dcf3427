"""Steps of a build: run in order, and skipped when their inputs did not change."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["ROOT", "BuildError", "Steps", "digest", "interrupt", "run", "sources",
           "write_if_changed"]

ROOT = Path(__file__).resolve().parents[2]

_interrupted = False


def interrupt(number: int, frame: object) -> None:
    """A handler of SIGINT. Remembers it, too: where Python must not raise, such as in a finaliser,
    it only prints."""
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


class BuildError(Exception):
    """A step failed; the message says which and where its output is."""


def digest(paths: Iterable[Path], *extra: str) -> str:
    """Of the files' names and contents, and of what else matters."""
    state = hashlib.sha256("\0".join(extra).encode())
    for path in sorted(paths):
        state.update(str(path).encode() + path.read_bytes())
    return state.hexdigest()


def sources(*folders: str) -> list[Path]:
    """Python and C++ below folders of the project."""
    return [p
            for folder in folders
            for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".cpp", ".hpp")]


def write_if_changed(path: Path, text: str) -> None:
    """Keeps the file's time when nothing changed, so that make does not rebuild."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run(command: list[str | Path], folder: Path, log: Path) -> None:
    """Raises BuildError with the end of the log."""
    with log.open("w") as output:
        done = subprocess.run([str(c) for c in command], cwd=folder, stdout=output,
                              stderr=subprocess.STDOUT)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BuildError(f"{command[0]} failed, see {log}:\n{tail}")


class Steps:
    """Numbers the steps and remembers their inputs' digests in ``folder``."""

    def __init__(self, folder: Path, total: int) -> None:
        self._folder, self._total, self._done = folder, total, 0

    def step(self, name: str, digest: str, action: Callable[[], None], *outputs: Path) -> None:
        """Runs ``action`` unless ``outputs`` are there and ``digest`` is what it was."""
        self._done += 1
        stamp = self._folder / f"{name.replace(' ', '-')}.stamp"
        fresh = (stamp.exists()
                 and stamp.read_text() == digest and all(output.exists() for output in outputs))
        print(f"[{self._done}/{self._total}] {name}{': up to date' if fresh else ' ...'}",
              flush=True)
        if not fresh:
            stamp.unlink(missing_ok=True)  # a step that fails half-way is not up to date
            action()
            if _interrupted:
                raise KeyboardInterrupt
            stamp.write_text(digest)
