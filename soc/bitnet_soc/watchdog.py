"""A watchdog that restarts the CPU, and the vector unit with it, but not the network or what memory holds."""

from __future__ import annotations

from litex.gen import LiteXModule, ResetInserter
from litex.soc.cores.watchdog import Watchdog
from litex.soc.interconnect.csr import CSRStatus
from migen import If, Signal

__all__ = ["CPUWatchdog"]


class CPUWatchdog(LiteXModule):
    """LiteX's watchdog, which is made to be reset by what it resets; here it is reset on its own, and counts how often it fired.

    Parameter: ``cpu_reset``, the CPU's reset line. After a restart it is off until the firmware turns it on again.
    """

    def __init__(self, cpu_reset: Signal, width: int):
        fire, fired = Signal(), Signal()
        self.timer = timer = ResetInserter()(Watchdog(width=width, crg_rst=fire, reset_delay=1))
        self.restarts = CSRStatus(8, description="CPU restarts since the SoC's reset.")
        self.comb += [If(fire | fired, cpu_reset.eq(1)), timer.reset.eq(fired)]
        self.sync += [fired.eq(fire), If(fire & ~fired, self.restarts.status.eq(self.restarts.status + 1))]
