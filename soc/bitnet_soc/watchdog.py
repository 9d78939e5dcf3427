"""A watchdog that restarts the CPU, and the vector unit with it, but not the network or what memory
holds.

LiteX's own is made to be reset by what it resets: here it would go on firing, as its registers lie
in the SoC's reset.
"""

from __future__ import annotations

from litex.gen import LiteXModule
from litex.soc.interconnect.csr import CSRStatus, CSRStorage
from migen import If, Signal

__all__ = ["CPUWatchdog"]


class CPUWatchdog(LiteXModule):
    """``cpu_reset`` is high for two cycles when ``feed`` was not written for as many cycles as were
    written there last. It is off after that, and at first, until it is fed. ``restarts`` counts how
    often that happened.
    """

    def __init__(self, width: int):
        self.feed = CSRStorage(width, description="Cycles until the CPU is restarted; 0: off.")
        self.restarts = CSRStatus(8, description="CPU restarts since the SoC's reset.")
        self.cpu_reset = Signal()
        remaining, fired = Signal(width), Signal()
        self.comb += self.cpu_reset.eq((remaining == 1) | fired)
        self.sync += [
            fired.eq(remaining == 1),
            If(self.feed.re
               & ~self.cpu_reset,
               remaining.eq(self.feed.storage)).Elif(remaining != 0, remaining.eq(remaining - 1)),
            If(remaining == 1, self.restarts.status.eq(self.restarts.status + 1)),
        ]
