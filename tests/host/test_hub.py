"""Checkpoints by their name, from a server on this machine that answers as huggingface.co does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from bitnet_host.model.convert import convert
from bitnet_host.model.image import read_image
from bitnet_host.model.open import open_source
from bitnet_host.model.sources.hub import HubName
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from gguf_files import write_gguf
from models import Shape, write_checkpoint

COMMITS = {"main": "a" * 40, "v2": "b" * 40}


class _Hub(BaseHTTPRequestHandler):
    """``server.files``: bytes by repository, revision and name; ``cut``: how many answers with a
    large file end in its middle; ``token``: who may have gated/model."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_): ...

    def _answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server
        hub.seen.append((self.command, self.path, self.headers.get("Range")))
        path = self.path.split("?")[0]
        match = (re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(?:revision|tree)/([^/]+))?", path)
                 or re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path))
        repo, revision = (match[1], match[2] or "main") if match else ("", "")
        by_commit = {commit: name for name, commit in COMMITS.items()}
        revision = by_commit.get(revision, revision)
        if repo == "gated/model" and self.headers.get("Authorization") != "Bearer open":
            return self._answer(403, X_Error_Code="GatedRepo")
        if repo == "org/proxy":
            return self._answer(200, b"<html>Please log in</html>", Content_Type="text/html")
        if repo not in hub.repos:
            return self._answer(401, X_Error_Code="RepoNotFound")
        if revision not in hub.repos[repo]:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        files = hub.repos[repo][revision]
        if match.re.pattern.startswith("/api"):
            described = [{"type": "file", "path": name, "rfilename": name, "size": len(data),
                          "oid": hashlib.sha1(data).hexdigest()} for name, data in files.items()]
            listing = described if "/tree/" in path else {
                "id": repo, "sha": COMMITS[revision], "siblings": described, "tags": []}
            return self._answer(200, json.dumps(listing).encode(), Content_Type="application/json")
        return self._file(files.get(match[3]), COMMITS[revision])

    def _file(self, data, commit):
        if data is None:
            return self._answer(404, X_Error_Code="EntryNotFound")
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": commit,
                   "Accept_Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start = int(span[1]) if span else 0
        part = data[start:]
        if span:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and len(data) > 20_000 and self.server.cut:
            self.server.cut -= 1
            self._answer(206 if span else 200, part[:len(part) // 2], Length=str(len(part)),
                         **headers)
            self.close_connection = True
            return None
        return self._answer(206 if span else 200, part, **headers)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = write_checkpoint(tmp_path_factory.mktemp("model"), Shape(64, 96, 2, 2, 1, 64, seed=3))
    other = write_checkpoint(tmp_path_factory.mktemp("other"), Shape(64, 96, 1, 2, 1, 64, seed=4))
    file = write_gguf(folder.parent / "file.gguf", open_source(folder), "F32")
    # the library keeps what came in pieces of 10 MB
    large = write_gguf(folder.parent / "large.gguf", synthetic_checkpoint(parse_shape(
        "hidden=384,intermediate=64,layers=1,heads=1,kv_heads=1,head_dim=32,vocab=16384,"
        "context=32"), 0.6, 1), "F32")

    def files(place):
        return {path.name: path.read_bytes() for path in place.iterdir()}

    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        server.daemon_threads, server.seen, server.cut = True, [], 0
        extra = {"pytorch_model.bin": b"x" * 100_000, "README.md": b"# A model"}
        server.repos = {
            "org/model": {"main": files(folder) | extra, "v2": files(other)},
            "gated/model": {"main": files(folder)},
            "org/one-gguf": {"main": {"model.gguf": file.read_bytes()}},
            "org/large": {"main": {"large.gguf": large.read_bytes()}},
            "org/two-gguf": {"main": {"a.gguf": b"GGUF", "b.gguf": file.read_bytes()}},
            "org/nothing": {"main": extra},
        }
        server.expected = {"model": convert(open_source(folder)).header.model_id,
                           "v2": convert(open_source(other)).header.model_id,
                           "large": convert(open_source(large)).header.model_id,
                           "gguf": convert(open_source(file)).header.model_id}
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def ask(hub, tmp_path):
    """Converts what has a name; the process, and the image if there is one."""

    def run(name, **env):
        hub.seen.clear()
        image = tmp_path / "out.bitnet"
        image.unlink(missing_ok=True)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-m", "bitnet_host", "convert", name, "-o", image], text=True,
            capture_output=True, timeout=120, cwd=tmp_path,
            env=clean | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"),
                         "HF_HUB_DISABLE_XET": "1"} | env)
        return done, read_image(image).header.model_id if image.exists() else None

    return run


def _refused(done, words):
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("bitnet-host: ")]
    assert len(lines) == 1 and re.search(words, lines[0]), done.stderr


def test_a_name_is_downloaded_once(hub, ask):
    done, model = ask("org/model")
    assert done.returncode == 0 and model == hub.expected["model"], done.stderr
    fetched = [path for method, path, _ in hub.seen if method == "GET" and "/resolve/" in path]
    assert len(fetched) == 2 and not any("pytorch" in path or "README" in path for path in fetched)
    _, again = ask("org/model")
    assert again == model
    assert not [path for method, path, _ in hub.seen if method == "GET" and "/resolve/" in path]


def test_revisions_and_files(hub, ask):
    assert ask("org/model@v2")[1] == hub.expected["v2"]
    assert ask("org/one-gguf")[1] == hub.expected["gguf"]
    assert ask("org/two-gguf:b.gguf")[1] == hub.expected["gguf"]
    _refused(ask("org/model@v9")[0], "no revision v9")
    _refused(ask("org/two-gguf")[0], "2 GGUF files: say org/two-gguf:FILE, .* a.gguf, b.gguf")
    _refused(ask("org/two-gguf:c.gguf")[0], "no GGUF file c.gguf; it has a.gguf, b.gguf")
    _refused(ask("org/nothing")[0], "neither safetensors")


def test_a_download_that_was_cut_off_goes_on(hub, ask):
    hub.cut = 50  # more often than is tried again
    _refused(ask("org/model")[0], "cut off|goes on where it ended")
    hub.cut = 0
    done, model = ask("org/model")
    assert done.returncode == 0 and model == hub.expected["model"], done.stderr
    hub.cut = 1
    done, model = ask("org/large")
    assert model == hub.expected["large"], done.stderr
    assert sorted(span for *_, span in hub.seen if span) == ["bytes=10485760-"]


def test_who_may_not_have_it_is_told(hub, ask):
    _refused(ask("gated/model")[0], "accepted its licence")
    _refused(ask("gated/model", HF_TOKEN="wrong")[0], "accepted its licence")
    assert ask("gated/model", HF_TOKEN="open")[1] == hub.expected["model"]
    _refused(ask("org/no-model")[0], "no path on this machine, and huggingface.co has no such")


def test_without_a_network_what_is_there_is_taken(hub, ask):
    dead = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    _refused(ask("org/model", **dead)[0], "cannot be reached")
    assert ask("org/model")[1] == hub.expected["model"]
    done, model = ask("org/model", **dead)
    assert model == hub.expected["model"], done.stderr
    assert ask("org/model", HF_HUB_OFFLINE="1")[1] == hub.expected["model"]
    assert ask("org/two-gguf:b.gguf")[1] == hub.expected["gguf"]
    assert ask("org/two-gguf:b.gguf", **dead)[1] == hub.expected["gguf"]
    _refused(ask("org/two-gguf:a.gguf", **dead)[0], "cannot be reached")


@pytest.mark.parametrize("name", ["org/bar--baz", "models/bitnet.git", "modèles/x.gguf",
                                  "out/x-", "a/b/c"])
def test_a_mistyped_path_is_said(ask, name):
    _refused(ask(name)[0], "there is no|cannot read|no path on this machine")


def test_what_is_not_the_hub(ask):
    _refused(ask("org/proxy")[0], "is not huggingface.co, but a page")


def test_models_have_the_names_that_they_were_asked_by(hub, ask, tmp_path):
    ask("org/model@v2")
    assert read_image(tmp_path / "out.bitnet").meta["name"] == "model"
    ask("org/two-gguf:b.gguf")
    assert read_image(tmp_path / "out.bitnet").meta["name"] == "b"


@pytest.mark.parametrize("text, expected", [
    ("org/model", ("org/model", None, None)), ("o-r.g/m_1@v2", ("o-r.g/m_1", "v2", None)),
    ("org/model@refs/pr/1:a b.gguf", ("org/model", "refs/pr/1", "a b.gguf")),
    ("model", None), ("/org/model", None), ("./org/model", None), ("../model", None),
    ("a/b/c", None), ("org/", None), ("", None),
])
def test_names(text, expected):
    name = HubName.parse(text)
    assert (name and (name.repo, name.revision, name.file)) == expected
