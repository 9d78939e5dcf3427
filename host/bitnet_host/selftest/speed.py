"""How fast memory is by its ports, and what the memory model says of the same streams."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from xtvu.layout import BEAT_BYTES, BLOCK_WORDS, PORTS

from bitnet_host.errors import BadArgument, BoardError
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.reporting import Progress, quiet
from bitnet_host.selftest.diagnosed import Diagnosed

__all__ = ["EXPECTED", "STREAMS", "Stream", "cycles_per_token", "dead_ports", "expected",
           "findings", "measure", "preset_file"]

EXPECTED = Path(__file__).parent / "expected.json"
_ROWS = 2048
_ALL = (1 << PORTS) - 1
_ROW_BLOCKS = 8  # blocks of 512 bytes from a DRAM row to the next
_SLOW = 0.95  # of what the pessimistic model has
_LAME = 0.5  # the same, of a port by which something must be wrong
# of the memory model (soc/bitnet_soc/sim/ddr.cpp): the DRAM's clock, the share that refresh leaves,
# bursts in a DRAM row; and of ug585 (ddr_preset.cpp)
_DRAM_HZ, _REFRESH, _BURST_ROWS = 533.33e6, 1 - 300 / 7740, 32
_READ_NS, _READ_CYCLES, _BURST_OVERHEAD, _ROW_MISS = 169.0, 3.4, 0.26, 12.0


@dataclass(frozen=True)
class Stream:
    """2,048 runs of ``words_each`` stream words by the ports in ``mask``, ``stride`` blocks of 512
    bytes apart; ``apart``: the ports 64 MB from each other; ``bursts`` under way, 0 for all."""

    name: str
    mask: int = _ALL
    words_each: int = BLOCK_WORDS
    stride: int = 1
    apart: int = 0
    bursts: int = 0

    @property
    def bytes(self) -> int:
        return _ROWS * self.words_each * BEAT_BYTES * self.mask.bit_count()


STREAMS = (
    Stream("four ports"),
    Stream("HP0 and HP1", 0b0011), Stream("HP0 and HP2", 0b0101),
    *(Stream(f"HP{port}", 1 << port) for port in range(PORTS)),
    Stream("bursts of 8 beats", words_each=8), Stream("bursts of 4 beats", words_each=4),
    *(Stream(f"{count} burst{'s' * (count > 1)} under way", bursts=count) for count in (4, 2, 1)),
    Stream("another DRAM row each time", stride=_ROW_BLOCKS),
    Stream("ports 64 MB apart", apart=1),
    Stream("HP0, 1 burst under way", 1, bursts=1),
)


def measure(board: Diagnosed, progress: Progress = quiet) -> dict[str, float]:
    """Bytes per cycle of each of STREAMS. Raises BoardError if memory answers with errors or not at
    all."""
    rates = {}
    for number, stream in enumerate(STREAMS):
        progress("memory speed", number, len(STREAMS))
        cycles = board.stream(address=MODEL_BASE, rows=_ROWS, words_each=stream.words_each,
                              stride=stream.stride, mask=stream.mask, apart=stream.apart,
                              bursts=stream.bursts)
        rates[stream.name] = stream.bytes / max(1, cycles)
    progress("memory speed", len(STREAMS), len(STREAMS))
    return rates


def expected() -> dict[str, Any]:
    """What the simulated board gives: ``clock_hz``; bytes per cycle of each of STREAMS by preset in
    ``streams``; ``decode``, pairs of bytes per cycle of four ports and cycles per token of 2b4t at
    context 128, rising. ``python -m bitnet_host.selftest.expected`` measures it."""
    values: dict[str, Any] = json.loads(EXPECTED.read_text())
    return values


def findings(rates: dict[str, float], clock_hz: int) -> tuple[list[str], list[str]]:
    """Sentences on ports that must be set up wrong, and on what else is slower than the more
    pessimistic of the models, which nobody has measured."""
    known = expected()
    if clock_hz != known["clock_hz"]:
        return [], [f"not judged: the models are known at {known['clock_hz'] / 1e6:g} MHz only"]
    least, mega = known["streams"]["conservative"], clock_hz / 1e6
    lame = [name for name in (f"HP{port}" for port in range(PORTS))
            if rates[name] < _LAME * least[name]]
    said = [f"{name} alone brings {rates[name] * mega:.0f} MB/s, where the model has "
            f"{least[name] * mega:.0f}: has it one command under way only?" for name in lame]
    slow = [name for name, rate in rates.items() if rate < _SLOW * least[name] and name not in lame]
    return said, [f"slower than the pessimistic model: {', '.join(slow)}"] if slow else []


def dead_ports(board: Diagnosed) -> list[str]:
    """Sentences on ports that answer a short stream with errors, or not at all."""
    said = []
    for port in range(PORTS):
        try:
            board.stream(address=MODEL_BASE, rows=1, words_each=BLOCK_WORDS, stride=1,
                         mask=1 << port, apart=0, bursts=0)
        except BoardError as error:
            said.append(f"HP{port} does not read: {error}")
    return said


def cycles_per_token(rate: float) -> float:
    """Of 2b4t at context 128, for ``rate`` bytes per cycle of four ports: between measured points
    the time that memory takes, beyond them in proportion."""
    points: list[list[float]] = expected()["decode"]
    if rate <= points[0][0]:
        return points[0][1] * points[0][0] / rate
    for (low, slow), (high, fast) in pairwise(points):
        if rate <= high:
            share = (1 / low - 1 / rate) / (1 / low - 1 / high)
            return slow + share * (fast - slow)
    return points[-1][1]


def preset_file(rates: dict[str, float], clock_hz: int) -> str:
    """A memory model of the board for `bitnet-host bench --ddr`, from what was measured: how much
    more than with ug585 a burst takes in two streams, and by a port that asks for one at a time.
    Raises BadArgument for a clock of which no figures are known."""
    if clock_hz != expected()["clock_hz"]:
        raise BadArgument(f"--memory needs a board at {expected()['clock_hz'] / 1e6:g} MHz, of "
                          f"which the model's figures are; this one has {clock_hz / 1e6:g}")
    known: dict[str, float] = expected()["streams"]["ug585"]
    burst = BLOCK_WORDS * BEAT_BYTES

    def more_clocks(name: str) -> float:
        """DRAM clocks of a burst of 16 beats, without refresh."""
        return burst * _DRAM_HZ / clock_hz * _REFRESH * (1 / rates[name] - 1 / known[name])

    plain, rows = more_clocks("four ports"), more_clocks("another DRAM row each time")
    more_miss = max(-_ROW_MISS, (rows - plain) / (1 / PORTS - 1 / _BURST_ROWS))
    alone = "HP0, 1 burst under way"
    more_cycles = burst / rates[alone] - burst / known[alone]
    commands = min(8, max(1, round(rates["HP0"] / rates[alone])))
    values = {
        "read_ns": max(0.0, _READ_NS + more_cycles * 1e9 / clock_hz), "read_cycles": _READ_CYCLES,
        "burst_overhead": max(0.0, _BURST_OVERHEAD + plain - more_miss / _BURST_ROWS),
        "row_miss": _ROW_MISS + more_miss,
        "commands": commands if rates["HP0"] < 0.9 * BEAT_BYTES else 8,
    }
    return "\n".join(["# Memory as `bitnet-host selftest` measured it", "base ug585",
                      *(f"{name} {value:.6g}" for name, value in values.items())]) + "\n"
