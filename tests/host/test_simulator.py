"""What a simulated board says when it ends, to whoever asks."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from bitnet_host.errors import BadArgument, LinkError
from bitnet_host.run.link.simulator import Simulator


def _build(folder: Path, script: str) -> Path:
    """A build folder whose simulator is a shell script."""
    (folder / "sim").mkdir()
    (folder / "sim/soc_rom.init").touch()
    binary = folder / "sim/soc_sim"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    return folder


def _ended(simulator: Simulator) -> str:
    end = time.monotonic() + 10
    while not (said := simulator.failure()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return said


@pytest.mark.parametrize("script, said", [
    ("echo '{}'; echo 'out of luck' >&2; exit 3", "out of luck"),
    ("echo '{}'; exit 3", "exit code 3"),
    ("echo '{}'; kill -9 $$", "exit code -9"),
])
def test_all_threads_hear_what_it_ended_of(tmp_path, script, said):
    """At the same time, again, and after it was closed."""
    simulator = Simulator(build=_build(tmp_path, script))
    assert _ended(simulator) == said
    heard = []
    threads = [threading.Thread(target=lambda: heard.append(simulator.failure()))
               for _ in range(8)]
    for thread in threads:
        thread.start()
    simulator.close()
    for thread in threads:
        thread.join()
    assert heard == [said] * 8 and simulator.failure() == said


def test_what_nobody_asked_about_before_it_was_closed(tmp_path):
    simulator = Simulator(build=_build(tmp_path, "echo '{}'; echo 'out of luck' >&2; exit 3"))
    simulator._process.wait(10)
    simulator.close()
    assert simulator.failure() == "out of luck"


def test_one_that_was_closed_did_not_fail(tmp_path):
    simulator = Simulator(build=_build(tmp_path, "echo '{}'; exec sleep 100"))
    assert simulator.failure() is None
    simulator.close()
    simulator.close()
    assert simulator.failure() is None


def test_one_that_does_not_start(tmp_path):
    with pytest.raises(BadArgument, match=r"^no such preset$"):
        Simulator(build=_build(tmp_path, "echo 'no such preset' >&2; exit 2"))
    (tmp_path / "b").mkdir()
    with pytest.raises(LinkError, match="did not start: run `make build` again"):
        Simulator(build=_build(tmp_path / "b", "exit 1"))
