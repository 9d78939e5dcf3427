"""A run that is killed and goes on ends with the weights of one that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from bitnet_host.errors import BadFile
from bitnet_host.train.run import Budget
from bitnet_host.train.state import Interval, State, load_state, save_state
from small_language import SHAPE, write_grammar

STEPS = 60


def _start(*arguments):
    return subprocess.Popen([sys.executable, "-m", "bitnet_host", "train", *map(str, arguments)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _ended(process, code=0):
    out, error = process.communicate(timeout=120)
    assert process.returncode == code, (out, error)
    assert "Traceback" not in error, error
    return out + error


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_grammar(tmp_path_factory.mktemp("texts") / "grammar.txt", 1000)


def _new(texts, folder, *more):
    return _start(texts, "-o", folder, "--size", SHAPE, "--steps", STEPS, "--batch", 8,
                  "--at-once", 4, "--threads", 1, *more)


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "model"
    _ended(_new(texts, folder))
    return (folder / "model.safetensors").read_bytes()


def _state(folder):
    return folder / "training/state.safetensors"


def _wait_for_state(folder, process, seconds):
    """Until it has begun, and some time more."""
    end = time.monotonic() + 60
    while not _state(folder).exists() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(seconds)


def test_killed_at_any_moment(texts, tmp_path, whole):
    folder, rng = tmp_path / "model", random.Random(5)
    process = _new(texts, folder)
    for _ in range(4):
        _wait_for_state(folder, process, rng.uniform(0, 0.7))
        process.kill()
        process.communicate()
        assert not (folder / "model.safetensors").exists() or process.returncode == 0
        before = load_state(_state(folder)).step
        process = _start("--resume", "-o", folder)
    out = _ended(process)
    assert before < STEPS and "wrote" in out
    assert (folder / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_between_two_looks(texts, tmp_path, whole, number):
    """Ctrl-C keeps the step that it was at, which is none at which a run is saved by itself."""
    folder = tmp_path / "model"
    process = _new(texts, folder)
    _wait_for_state(folder, process, 0.15)
    process.send_signal(number)
    out = _ended(process, 130)
    step = load_state(_state(folder)).step
    assert 0 < step < STEPS
    assert f"stopped after {step} steps: `bitnet-host train --resume -o {folder}` goes on" in out
    out = _ended(_start("--resume", "-o", folder))
    assert "It says: " in out
    assert (folder / "model.safetensors").read_bytes() == whole


def test_what_is_done_stays_done(texts, tmp_path, whole):
    folder = tmp_path / "model"
    _ended(_new(texts, folder))
    assert (folder / "model.safetensors").read_bytes() == whole
    _ended(_start("--resume", "-o", folder))
    assert (folder / "model.safetensors").read_bytes() == whole
    # other texts make no difference only if nobody looks
    texts_copy = tmp_path / "other.txt"
    texts_copy.write_text(texts.read_text().replace("Ada", "Ida"))
    settings = json.loads((folder / "training/settings.json").read_text())
    (folder / "training/settings.json").write_text(json.dumps(
        settings | {"texts": [str(texts_copy)]}))
    out = _ended(_start("--resume", "-o", folder), 2)
    assert "is of another run, or the texts have changed since" in out


def test_the_seed_makes_another_model(texts, tmp_path, whole):
    _ended(_new(texts, tmp_path / "model", "--seed", 2))
    assert (tmp_path / "model/model.safetensors").read_bytes() != whole


@pytest.mark.parametrize("file, change", [
    ("training/tokenizer.json", lambda raw: raw.replace('"use_regex": true', '"use_regex": false')),
    ("training/settings.json", lambda raw: raw.replace('"batch": 8', '"batch": 16')),
    ("training/settings.json", lambda raw: raw.replace('"hidden"', '"hiden"')),
    ("training/settings.json", lambda raw: raw[:-5]),
])
def test_what_a_run_follows_from_has_changed(state_file, tmp_path, file, change):
    folder = tmp_path / "model"
    shutil.copytree(state_file.parent.parent, folder)
    raw = (folder / file).read_text()
    assert change(raw) != raw
    (folder / file).write_text(change(raw))
    out = _ended(_start("--resume", "-o", folder), 2)
    assert "start anew without --resume" in out or "is not valid JSON" in out


def test_a_state_of_another_shape(state_file, tmp_path):
    """With the right words about itself."""
    folder = tmp_path / "model"
    shutil.copytree(state_file.parent.parent, folder)
    state = load_state(state_file)
    name = "parameter.0.q"
    for change in ({name: state.tensors[name][:1].contiguous()}, {name: None}):
        tensors = {key: value for key, value in (state.tensors | change).items()
                   if value is not None}
        save_state(_state(folder), replace(state, tensors=tensors))
        out = _ended(_start("--resume", "-o", folder), 2)
        assert "is of a model of another shape: start anew without --resume" in out


@pytest.mark.parametrize("change", [
    lambda raw: raw[:len(raw) // 2], lambda raw: b"", lambda raw: raw[:8] + b"\xff" + raw[9:],
    lambda raw: raw.replace(b"version", b"verzion"),
    lambda raw: raw.replace(b'version\\": 1', b'version\\": 2'),
    lambda raw: raw.replace(b"slope", b"slape"),
])
def test_a_damaged_state(texts, tmp_path, change, state_file):
    path = tmp_path / "state.safetensors"
    raw = state_file.read_bytes()
    assert change(raw) != raw
    path.write_bytes(change(raw))
    with pytest.raises(BadFile, match=r"is damaged|is of another version") as refused:
        load_state(path)
    assert "start anew without --resume" in str(refused.value)


@pytest.fixture(scope="module")
def state_file(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("state") / "model"
    process = _new(texts, folder)
    _wait_for_state(folder, process, 0.1)
    process.send_signal(signal.SIGINT)
    _ended(process, 130)
    return _state(folder)


def test_a_full_disk_keeps_what_there_was(texts, tmp_path):
    """A state that cannot be written: one sentence, and the one before can be gone on with."""
    folder = tmp_path / "model"
    process = _new(texts, folder)
    _wait_for_state(folder, process, 0.1)
    process.send_signal(signal.SIGINT)
    _ended(process, 130)
    before = _state(folder).read_bytes()
    script = ("import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
              f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2},) * 2); "
              "import sys; sys.argv[0] = 'bitnet-host'; "
              "from bitnet_host.apps.cli import main; main()")
    done = subprocess.run([sys.executable, "-c", script, "train", "--resume", "-o", str(folder)],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and "cannot write" in done.stderr
    assert _state(folder).read_bytes() == before
    assert sorted(os.listdir(folder / "training")) == ["settings.json", "state.safetensors",
                                                       "tokenizer.json"]


@pytest.mark.parametrize("pace", [0.01, 1.0, 7.0, 300.0])
def test_the_clock_decides_how_many_steps_are_left(pace):
    """Whatever the pace, and if it changes: the run ends when its time is over, at a progress of
    one, which is a learning rate of zero."""
    rng, budget = random.Random(3), Budget(600.0)
    state = State({}, Interval(0, 0, 0.0, 0.0, False))
    told, seen = pace, []
    while state.interval.after(state.step) < 1:
        state.interval = budget.interval(state, told)
        for _ in range(state.interval.end - state.step):
            state.step += 1
            state.seconds += pace * rng.uniform(0.8, 1.3)
            seen.append(state.interval.after(state.step))
        told = state.seconds / state.step
    assert seen == sorted(seen) and seen[-1] == 1
    assert abs(state.seconds - 600) <= max(0.15 * 600, 2 * pace)
    steps = Budget(0.0, 7)
    state, count = State({}, Interval(0, 0, 0.0, 0.0, False)), 0
    while state.interval.after(state.step) < 1:
        state.interval = steps.interval(state, pace)
        count += state.interval.end - state.step
        state.step = state.interval.end
    assert count == 7
