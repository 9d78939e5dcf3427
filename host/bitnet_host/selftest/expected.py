"""Measures on the simulated board what selftest compares with: `python -m
bitnet_host.selftest.expected` writes expected.json beside it (half an hour)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bitnet_host.bench.measure import CLOCK_HZ, PRESETS, BenchOptions, measure_model
from bitnet_host.bench.performance import SHARES
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import over_udp
from bitnet_host.selftest.diagnosed import Diagnosed
from bitnet_host.selftest.speed import EXPECTED, measure

__all__ = ["main", "streams"]


def streams(preset: str, build: Path | None = None) -> dict[str, float]:
    """Bytes per cycle of each stream, with a memory model."""
    simulator = Simulator(preset, build=build)
    try:
        transport = over_udp("127.0.0.1", simulator.ports["udp"])
        try:
            return {name: round(rate, 4)
                    for name, rate in measure(Diagnosed(transport, simulator)).items()}
        finally:
            transport.close()
    finally:
        simulator.close()


def _decode() -> list[list[float]]:
    points = []
    for memory in SHARES:
        rate = streams(memory)["four ports"]
        cycles = measure_model(BenchOptions("2b4t", ddr=memory))["cycles"]
        print(f"{memory}: {rate} bytes per cycle, {cycles:,} cycles per token", flush=True)
        points.append([rate, cycles])
    return points


def main() -> int:
    values = {"clock_hz": CLOCK_HZ, "streams": {preset: streams(preset) for preset in PRESETS},
              "decode": _decode()}
    EXPECTED.write_text(json.dumps(values, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
