"""A board that is examined: commands of diagnosis, without a model, whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import COUNTERS, WORD_BYTES
from xtvu.layout import BEAT_BYTES, PORTS, unstripe

from bitnet_host.errors import BoardError, LinkError, UserError
from bitnet_host.run.board import read_info
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import Transport
from bitnet_host.run.protocol import (
    MEMORY_FIELDS,
    MOST_READ,
    OUTSIDE_FIELDS,
    PARTS,
    READ_BASE,
    STREAM_FIELDS,
    error_text,
)

__all__ = ["Diagnosed"]

Bytes = NDArray[np.uint8]
_TIMEOUT = 120.0  # seconds; a simulated board is slow


class Diagnosed:
    """``transport`` to the board, which is closed by whoever opened it; ``info``: INFO_FIELDS.
    Forgets the model that is loaded, so that memory may be written. Raises UserError if the board
    does not answer or has firmware of another version."""

    def __init__(self, transport: Transport, simulator: Simulator | None = None) -> None:
        self.transport, self.simulator = transport, simulator
        self.info = read_info(self.ask("INFO", [], "INFO"))
        self.ask("UNLOAD", [], "DONE")

    def ask(self, command: str, payload: Sequence[int], event: str) -> NDArray[np.uint32]:
        """The event that answers a command. Raises BoardError if the board refuses it."""
        try:
            self.transport.send(command, payload)
            while True:
                name, words = self.transport.receive(_TIMEOUT)
                if name == event:
                    return words
                if name == "ERROR":
                    code, detail = int(words[0]), int(words[1])
                    raise BoardError(error_text(code, detail), code, detail)
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

    def port_bytes(self, address: int, words: int) -> tuple[NDArray[np.float32], Bytes]:
        """What the ports read at a linear address: float32 [words, 4, 8], each byte as the vector
        unit stored it, and the same as uint8."""
        parts = []
        for start in range(0, words, MOST_READ):
            count = min(MOST_READ, words - start)
            place = int(self.ask("READ", [address + WORD_BYTES * start, count], "READ")[0])
            blocks = -(-count * WORD_BYTES * 4 // 512)
            raw = self.transport.read_ddr(place, blocks * 128).astype("<u4").view(np.uint8)
            # the lower half of such a float is zero, whatever a wrong line makes of it
            bits = unstripe(raw).view(np.uint32)[:count * WORD_BYTES] & np.uint32(0xFFFF0000)
            parts.append(bits.view(np.float32))
        floats = np.concatenate(parts).reshape(words, PORTS, BEAT_BYTES)
        with np.errstate(invalid="ignore"):
            return floats, np.nan_to_num(floats).astype(np.int64).astype(np.uint8)

    def forget_port_bytes(self) -> None:
        """Fills what ``port_bytes`` reads with something that no port can have brought."""
        self.transport.write_ddr(READ_BASE, np.full(MOST_READ * WORD_BYTES, 0x7FC00000, np.uint32))
