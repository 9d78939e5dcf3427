"""How fast this PC uploads to a board that takes everything at once, by the round trip on the way
there: `python tests/upload_speed.py`.

Ends with exit code 1 if a byte is wrong, or if half a millisecond costs more than half of the
speed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bitnet_host.run.link.bulk import upload
from bitnet_host.run.link.client import Link
from bitnet_host.run.link.wires import UDPWire

__all__ = ["main"]

_SOURCE = Path(__file__).parent / "responder.cpp"
_BYTES = 256 << 20
_ROUND_TRIPS = (0, 200, 500, 1000, 5000)  # microseconds
_ROUNDS = 3


def _run(program: Path, microseconds: int, data: np.ndarray, memory: Path) -> tuple[float, int]:
    """Bytes per second, and datagrams that were sent again. Raises ValueError if what arrived is
    something else."""
    with subprocess.Popen([program, str(microseconds), str(len(data)), memory],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as responder:
        link = Link(UDPWire("127.0.0.1", int(responder.stdout.readline())))
        start = time.monotonic()
        sent = upload(link, 0, data)
        seconds = time.monotonic() - start
        link.close()
        responder.stdin.close()
    if responder.returncode or not np.array_equal(np.fromfile(memory, np.uint8), data):
        raise ValueError(f"what arrived with {microseconds} us is not what was sent")
    return len(data) / seconds, sent.repeated


def main() -> int:
    """Prints a line for each round trip: the best of several rounds, in which the round trips take
    turns."""
    data = np.random.default_rng(1).integers(0, 256, _BYTES, np.uint8)
    best = dict.fromkeys(_ROUND_TRIPS, (0.0, 0))
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "responder"
        subprocess.run(["g++",
                        "-std=c++17", "-O2",
                        "-Wall", "-Wextra", "-Werror", _SOURCE, "-o", program], check=True)
        for _ in range(_ROUNDS):
            for trip in _ROUND_TRIPS:
                best[trip] = max(best[trip], _run(program, trip, data, Path(folder) / "memory"))
    for trip, (speed, repeated) in best.items():
        print(f"{trip / 1000:4.1f} ms: {speed / 1e6:6.1f} MB/s, {speed / best[0][0]:4.0%} of that "
              f"without, {repeated} sent again")
    return int(best[500][0] < best[0][0] / 2)


if __name__ == "__main__":
    sys.exit(main())
