"""A board that is examined: commands of diagnosis, without a model, whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import COUNTERS, WORD_BYTES

from bitnet_host.errors import BoardError, LinkError, UserError
from bitnet_host.run.exchange import Exchange
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import Transport
from bitnet_host.run.protocol import (
    MEMORY_FIELDS,
    MOST_READ,
    OUTSIDE_FIELDS,
    PARTS,
    STREAM_FIELDS,
    error_text,
)
from bitnet_host.run.shared import read_info

__all__ = ["Diagnosed"]

Bytes = NDArray[np.uint8]
_TIMEOUT = 120.0  # seconds; a simulated board is slow


class Diagnosed:
    """``transport`` to the board, which is closed by whoever opened it; ``info``: INFO_FIELDS.
    Ends the conversation and lets go of the model, so that memory may be written; a UART runs as
    fast as it can from then on. Raises UserError if the board does not answer or has firmware of
    another version."""

    def __init__(self, transport: Transport, simulator: Simulator | None = None) -> None:
        self.transport, self.simulator = transport, simulator
        self._exchange = Exchange(transport)
        self.info = read_info(self.ask("INFO", [], "INFO"))
        if transport.bytes_per_second:
            transport.speed_up()
        self.ask("UNLOAD", [], "DONE")

    def ask(self, command: str, payload: Sequence[int], event: str) -> NDArray[np.uint32]:
        """The event that answers a command. Raises BoardError if the board refuses it."""
        try:
            sequence = self._exchange.send(command, payload)
            name, words = self._exchange.receive(sequence, _TIMEOUT)
            self._exchange.forget(sequence)
            if name == "ERROR":
                code, detail = int(words[0]), int(words[1])
                raise BoardError(error_text(code, detail), code, detail)
            if name != event:
                raise LinkError(f"the board answered {name} where {event} belongs: restart it and "
                                f"try again")
            return words
        except UserError:
            failure = self.simulator.failure() if self.simulator else None
            if failure:
                raise LinkError(f"the simulator stopped: {failure}") from None
            raise

    def outside(self) -> dict[str, int]:
        """OUTSIDE_FIELDS, some of them UNKNOWN."""
        return dict(zip(OUTSIDE_FIELDS, self.ask("OUTSIDE", [], "OUTSIDE").tolist(), strict=True))

    def cpu_memory(self, address: int, words: int, flip: int) -> dict[str, int]:
        """MEMORY_FIELDS: how the CPU finds a pattern that it wrote."""
        found = self.ask("MEMORY", [address, words, flip], "MEMORY")
        return dict(zip(MEMORY_FIELDS, found.tolist(), strict=True))

    def stream(self, **fields: int) -> int:
        """Cycles that a stream of STREAM_FIELDS takes."""
        words = self.ask("STREAM", [fields[name] for name in STREAM_FIELDS], "COUNTERS")
        counters = dict(zip(COUNTERS, words.tolist(), strict=True))
        return sum(counters[part] for part in PARTS)

    def port_bytes(self, address: int, words: int) -> Bytes:
        """What the ports read of stream words at a linear address, uint8 [words * 32]."""
        parts = []
        for start in range(0, words, MOST_READ):
            count = min(MOST_READ, words - start)
            found = self.ask("READ", [address + WORD_BYTES * start, count], "READ")
            parts.append(found.astype("<u4").view(np.uint8))
        return np.concatenate(parts)
