"""Builds the container and chats with the simulated board in it: `make container`.

Where no registry answers, Debian's base image is made by debootstrap.
"""

from __future__ import annotations

import configparser
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from bitnet_host import Session, open_board, open_model
from bitnet_host.model.text import TextModel
from bitnet_host.run.session import Spelling

ROOT = Path(__file__).parents[1]
BASE = "docker.io/library/debian:bookworm-slim"
IMAGE = "localhost/bitnet-zynq-test"
KEY = "container-test"
MESSAGES = [{"role": "user", "content": "Tell me a story about a cat."}]
# crun and runc may not raise them everywhere
_CERTIFICATES = "/opt/certificates.crt"
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


def _podman(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(["podman", *arguments], text=True, **options)


def _base() -> None:
    if _podman("image", "exists", BASE).returncode == 0:
        return
    if _podman("pull", "-q", BASE, capture_output=True).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", folder], check=True,
                       stdout=subprocess.DEVNULL)
        packed = subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE)
        _podman("import", "-q", "-", BASE, stdin=packed.stdout, check=True)


def _of_this_machine() -> list[str]:
    """What pip and certificates need to be as they are here."""
    places = set()
    for name in ("/etc/xdg/pip/pip.conf", "/etc/pip.conf", "~/.config/pip/pip.conf"):
        file = Path(name).expanduser()
        if not file.exists():
            continue
        places.add(str(file.parent if "xdg" in name else file))
        values = configparser.ConfigParser()
        values.read(file)
        for section in values.values():
            for value in section.values():
                places |= {urlsplit(part).path for part in value.split()
                           if part.startswith(("file:", "/"))}
    arguments = []
    # an index's files may lie beside its pages
    places = {str(Path(place).parent) if place.endswith("/simple") else place for place in places}
    for place in sorted(places):
        if Path(place).exists() and not place.startswith("/etc/ssl"):
            inside = place.replace(str(Path.home()), "/root", 1)
            arguments += ["--volume", f"{place}:{inside}:ro"]
    if "PIP_FIND_LINKS" in os.environ:
        arguments += ["--env", "PIP_FIND_LINKS"]
    certificates = os.environ.get("SSL_CERT_FILE")
    if certificates:  # not in their own place, where a package of the container puts its own
        arguments += ["--volume", f"{certificates}:{_CERTIFICATES}:ro"]
        for name in ("SSL_CERT_FILE", "PIP_CERT"):
            arguments += ["--env", f"{name}={_CERTIFICATES}"]
    return arguments


def _build() -> None:
    # a copy of what git knows, as a person would have cloned it
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(f"git -C {ROOT} archive HEAD | tar -x -C {folder}", shell=True, check=True)
        _podman("build", "--pull=never", "--isolation", "chroot", "--network", "host",
                *_of_this_machine(), "-t", IMAGE, folder, check=True)


@contextmanager
def _running(*arguments: str):
    runtime = ("--runtime", "runc") if shutil.which("runc") else ()
    started = _podman(*runtime, "run", "-d", "--network", "host", *LIMITS, "-e",
                      f"BITNET_API_KEY={KEY}", IMAGE, *arguments, capture_output=True, check=True)
    name = started.stdout.strip()
    try:
        yield name
    except BaseException:
        _podman("logs", name)
        raise
    finally:
        _podman("rm", "-f", "-t", "5", name, capture_output=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def _check() -> None:
    with open_board("reference", open_model()) as board:
        text = TextModel(board.image)
        right = Session(board, text, Spelling(text, 0)).chat(MESSAGES, max_tokens=20).reply.text
    port = _free_port()
    with _running("serve", "--host", "0.0.0.0", "--port", str(port)) as name:
        url, limit = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while time.monotonic() < limit:
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        body = {"messages": MESSAGES, "max_tokens": 20, "temperature": 0}
        assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 401
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300,
                            headers={"Authorization": f"Bearer {KEY}"}).json()
        assert answer["choices"][0]["message"]["content"] == right, answer
        assert answer["board"]["cycles_per_token"] > 10_000  # it is no golden model
        assert "<html" in httpx.get(url).text
        user = _podman("top", name, "user", capture_output=True, check=True).stdout.split()
        assert "root" not in user, user


def main() -> int:
    for tool in ("podman", "debootstrap"):
        if not shutil.which(tool):
            print(f"container: {tool} is missing: apt-get install podman runc debootstrap")
            return 2
    _base()
    _build()
    _check()
    size = _podman("image", "inspect", "--format", "{{.Size}}", IMAGE, capture_output=True)
    print(f"the container answers; {int(size.stdout) / 2**20:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
