"""``bitnet-host batch``: killed, stopped, gone on with, on several boards and on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from bitnet_host.model.image import write_image
from serving import answering, quick_image

PROMPTS = [[{"role": "user", "content": f"Number {n} of the cats"}] for n in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image and prompts, of which every second is drawn, and one is too long."""
    folder = tmp_path_factory.mktemp("batch")
    write_image(quick_image(), folder / "model")
    lines = [{"id": f"p{place}", "messages": messages, "max_tokens": 30,
              **({"temperature": 2, "seed": place} if place % 2 else {"temperature": 0})}
             for place, messages in enumerate(PROMPTS)]
    lines[7]["messages"] = [{"role": "user", "content": "cat " * 900}]
    (folder / "prompts").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def expected():
    with answering() as answer:
        return [answer(messages, 30, **({"temperature": 2, "seed": place} if place % 2
                                        else {"temperature": 0})).text
                for place, messages in enumerate(PROMPTS)]


def _command(folder, output, *options, targets=("reference", "reference")):
    named = [part for target in targets for part in ("--target", target)]
    return [sys.executable, "-m", "bitnet_host", "batch", str(folder / "prompts"), "-o",
            str(output), "--model", str(folder / "model"), *named, *options]


def _run(*given, **more):
    return subprocess.run(_command(*given, **more), capture_output=True, text=True, timeout=120)


def _check(path, expected):
    """Every answer once, each the right one."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert Counter(row["line"] for row in rows) == Counter(range(1, 41))
    for row in rows:
        place = row["line"] - 1
        assert row["id"] == f"p{place}"
        if place == 7:
            assert "shorten it" in row["error"] and "text" not in row
            continue
        assert row["text"] == expected[place], place
        assert row["seed"] == (place if place % 2 else None)
        assert row["board"] == "reference" and row["usage"]["completion_tokens"] == 30
        assert row["model"]["id"] == f"{quick_image().header.model_id:08x}"


def _answered(path, count, process):
    """Waits until so many answers are there."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("no answers")


def test_all_of_them(folder, tmp_path, expected):
    """And nothing is left to do the second time."""
    done = _run(folder, tmp_path / "answers")
    assert done.returncode == 2
    assert "1 of 40 prompts have no answer" in done.stderr
    _check(tmp_path / "answers", expected)
    before = (tmp_path / "answers").read_bytes()
    assert _run(folder, tmp_path / "answers", targets=("nonsense",)).returncode == 2
    assert (tmp_path / "answers").read_bytes() == before


@pytest.mark.parametrize("how,code", [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_what_was_stopped_goes_on(folder, tmp_path, expected, how, code):
    path = tmp_path / "answers"
    process = subprocess.Popen(_command(folder, path, "--slots", "1", targets=("reference",)),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _answered(path, 3, process)
    process.send_signal(how)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == code
    there = path.read_bytes().count(b"\n")
    assert 3 <= there < 40 and ("the same command goes on" in said) == (how == signal.SIGINT)
    _run(folder, path)
    _check(path, expected)


def test_other_options_are_another_batch(folder, tmp_path):
    path = tmp_path / "answers"
    path.write_text('{"id": "p0", "line": 1, "key": "0", "text": ""}\n')
    done = _run(folder, path)
    assert done.returncode == 2 and "with other options" in " ".join(done.stderr.split())
    assert path.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("options,text", [
    (("--target", "nowhere"), "target nowhere is unknown"), (("--slots", "99"), "slots"),
    (("--max-tokens", "-2"), "max-tokens"), (("--ray", "local", "--take-over"), "--take-over"),
    (("--ray", "127.0.0.1:9"), "no Ray cluster answers at 127.0.0.1:9"),
    (("--ray", "ray://127.0.0.1:9"), "no Ray cluster answers at ray://127.0.0.1:9"),
    (("--ray", "auto"), "no Ray cluster answers at auto"),
    (("--ray", "1:2:x"), "no Ray cluster answers at 1:2:x"),
])
def test_bad_arguments(folder, tmp_path, options, text):
    done = _run(folder, tmp_path / "answers", *options, targets=("reference",))
    assert done.returncode == 2 and text in " ".join(done.stderr.split())
    assert done.stderr.startswith("bitnet-host: ") and "Traceback" not in done.stderr


# -- Ray -------------------------------------------------------------------------------------------

def _actors(mark):
    """Process ids of the actors whose driver has ``mark`` in its environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            marked = mark.encode() in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if name.startswith(b"ray::_Actor") and marked:
            found.append(int(folder.name))
    return found


def test_on_ray_with_a_board_that_dies(folder, tmp_path, expected):
    """Its process is killed twice; its prompts are answered by the other one, or by itself when it
    is back, and each once."""
    path, mark = tmp_path / "answers", f"BATCH_TEST={os.getpid()}"
    name, _, value = mark.partition("=")
    process = subprocess.Popen(_command(folder, path, "--ray", "local", "--slots", "2"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {name: value})
    try:
        for count in (2, 12):
            _answered(path, count, process)
            os.kill(_actors(mark)[0], signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 2 and "1 of 40 prompts have no answer" in said, said
    _check(path, expected)
