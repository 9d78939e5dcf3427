"""The small libraries of the web page: pinned packages of npm, fetched when the project is built.

``python -m bitnet_host.serve.libraries`` puts them into page/lib.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bitnet_host.errors import BadFile, UserError
from bitnet_host.files import replacing

__all__ = ["AXE", "LIBRARIES", "PAGE", "Library", "fetch", "main"]

PAGE = Path(__file__).parent / "page"
_REGISTRY = "https://registry.npmjs.org"
_SECONDS = 60


@dataclass(frozen=True)
class Library:
    """``file`` of a package is stored as ``name``.js; ``digest`` is the SHA-512 of the package, as
    npm writes it."""

    name: str
    version: str
    file: str
    digest: str


LIBRARIES = (
    Library("htm", "3.1.1", "preact/standalone.module.js",  # with Preact: elements and state
            "983Vyg8NwUE7JkZ6NmOqpCZ+sh1bKv2iYTlUkzlWmA5JD2acKoxd4KVxbMmxX/85mtfdnDmTFoNKcg5DGAvxNQ=="),
    Library("marked", "16.3.0", "lib/marked.esm.js",  # Markdown to HTML
            "K3UxuKu6l6bmA5FUwYho8CfJBlsUWAooKtdGgMcERSpF7gcBUrCGsLH7wDaaNOzwq18JzSUDyoEb/YsrqMac3w=="),
    Library("dompurify", "3.2.7", "dist/purify.es.mjs",  # and what of that is safe
            "WhL/YuveyGXJaerVlMYGWhvQswa7myDG17P7Vu65EWC05o8vfeNbvNf4d/BOvH99+ZW+LlQsc1GDKMa1vNK6dw=="),
)
#: What tests look for barriers with.
AXE = Library("axe-core", "4.10.3", "axe.min.js",
              "Xm7bpRXnDSX2YE2YFfBk2FnF0ep6tmG7xPh8iHee8MIcrgq762Nkce856dYtJYLkuIoYZvGfTs/PbZhideTcEg==")


def fetch(library: Library, folder: Path) -> Path:
    """The library's file in ``folder``, fetched if it is not there. Raises BadFile."""
    target = folder / f"{library.name}-{library.version}.js"
    if target.exists():
        return target
    url = f"{_REGISTRY}/{library.name}/-/{library.name}-{library.version}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:
            data = response.read()
    except OSError as error:
        raise BadFile(f"cannot fetch {url}: {error}") from None
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != library.digest:
        raise BadFile(f"{url} is not what it was: look what has changed")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile(f"package/{library.file}")
        assert file is not None
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(target) as out:
            out.write(file.read())
    return target


def main() -> int:
    try:
        for library in LIBRARIES:
            fetch(library, PAGE / "lib")
    except UserError as error:
        print(f"libraries: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
