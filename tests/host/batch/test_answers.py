"""The file of answers: what is in it stays, what is half-written goes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest
from bitnet_host.batch.answers import Answers
from bitnet_host.batch.requests import Request
from bitnet_host.errors import BadArgument, BadFile

REQUESTS = [Request(line, f"n{line}", {"prompt": "x"}, f"key{line}", 0) for line in (1, 2, 4)]
ROWS = [request.named() | {"text": "é \ud800 \u2028"} for request in REQUESTS]


def _opened(path, requests=REQUESTS, inputs=()):
    return closing(Answers(path, requests, inputs))


def _filled(path, count):
    with _opened(path) as answers:
        for row in ROWS[:count]:
            answers.add(row)
    return path


def test_what_is_there_counts(tmp_path):
    path = _filled(tmp_path / "answers", 2)
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == ROWS[:2]
    assert "é" in path.read_text(encoding="utf-8")  # for people to read
    with _opened(path) as answers:
        assert answers.done == {1, 2} and answers.failed == 0
        answers.add(REQUESTS[2].named() | {"error": "no"})
        assert answers.done == {1, 2, 4} and answers.failed == 1
    with _opened(path) as answers:
        assert answers.done == {1, 2, 4} and answers.failed == 1


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_was_cut_off_goes(tmp_path, cut):
    """As of a process that was killed while it wrote."""
    path = _filled(tmp_path / "answers", 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with _opened(path) as answers:
        assert answers.done == {1}
        answers.add(ROWS[1])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line,text", [
    (b"hello", "line 2 is no answer"), (b"[]", "line 2 is no answer"), (b"{}", "line 2 is no a"),
    (b'{"line": "1"}', "line 2 is no answer"), (b"\xff\xfe", "line 2 is no answer"),
    (json.dumps(ROWS[0]).encode(), "two answers to line 1"),
    (json.dumps(ROWS[1] | {"key": "other"}).encode(), "answers to other prompts"),
    (json.dumps(ROWS[1] | {"id": "other"}).encode(), "answers to other prompts"),
    (json.dumps(ROWS[1] | {"line": 3}).encode(), "answers to other prompts"),
])
def test_another_file_is_left_alone(tmp_path, line, text):
    path = _filled(tmp_path / "answers", 1)
    with path.open("ab") as file:
        file.write(line + b"\nhalf")
    before = path.read_bytes()
    with pytest.raises(BadArgument, match=text):
        Answers(path, REQUESTS, ())
    assert path.read_bytes() == before


@pytest.mark.parametrize("data", [b'{"name": "somebody else"}', b"x", b"[1]", b'{"id":3}'])
def test_another_file_without_an_end(tmp_path, data):
    """It is no answer that was cut off."""
    path = tmp_path / "answers"
    path.write_bytes(data)
    with pytest.raises(BadArgument, match="line 1 is no answer"):
        Answers(path, REQUESTS, ())
    assert path.read_bytes() == data


def test_another_seed(tmp_path):
    """Unless the line has its own, nothing is drawn, or nobody gave one."""
    path = tmp_path / "answers"
    with _opened(path) as answers:
        for row, seed in zip(ROWS, (5, None, 9), strict=True):
            answers.add(row | {"seed": seed})
    given = [replace(request, seed=seed, body=request.body | body) for request, seed, body in
             zip(REQUESTS, (5, 6, 7), ({}, {}, {"seed": 9}), strict=True)]
    for requests in (given, REQUESTS):
        with closing(Answers(path, requests, (), seeded=requests is given)) as answers:
            assert len(answers.done) == 3
    with pytest.raises(BadArgument, match="another --seed"):
        Answers(path, [replace(given[0], seed=4), *given[1:]], (), seeded=True)


def test_two_at_a_time(tmp_path):
    path = _filled(tmp_path / "answers", 1)
    with _opened(path):
        with pytest.raises(BadArgument, match="another batch writes"):
            Answers(path, REQUESTS, ())
    with _opened(path) as answers:
        assert answers.done == {1}


def test_places_where_nothing_is_written(tmp_path):
    prompts = tmp_path / "prompts"
    prompts.write_text("x")
    (tmp_path / "link").symlink_to(prompts)
    for path, text in ((tmp_path, "not a regular file"), (prompts, "is being read"),
                       (tmp_path / "link", "is being read"),
                       (tmp_path / "no" / "where", "cannot write"), (tmp_path / "a\0b", "cannot")):
        with pytest.raises((BadArgument, BadFile), match=text):
            Answers(path, REQUESTS, (prompts,))
    assert prompts.read_text() == "x"


_FULL = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_answers import Answers, BadFile, REQUESTS, ROWS
answers = Answers(Path({path!r}), REQUESTS, ())
answers.add(ROWS[0])
try:
    answers.add(ROWS[1] | {{"text": "x" * 9000}})
except BadFile as error:
    print(error)
"""


def test_a_full_disk(tmp_path):
    """What was there is whole, and the batch goes on where there is room again."""
    path = tmp_path / "answers"
    code = _FULL.format(folder=os.path.dirname(__file__), path=str(path))
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE,
                                                                (4000, 4000)))
    assert "cannot write" in said.stdout and "the same command goes on" in said.stdout
    assert len(path.read_bytes().splitlines()) == 1
    with _opened(path) as answers:
        assert answers.done == {1}
