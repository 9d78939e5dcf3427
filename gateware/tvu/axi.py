"""AXI3 channels of a Zynq HP port, as far as the TVU uses them: 64-bit data, INCR bursts, one ID."""

from __future__ import annotations

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["AXIRead", "AXIWrite", "PORTS"]

PORTS = 4


class AXIRead(wiring.Signature):
    """Read address and read data channel, as seen by the master. ``arlen`` is the number of beats minus one."""

    def __init__(self) -> None:
        super().__init__({
            "araddr": Out(32), "arlen": Out(4), "arvalid": Out(1), "arready": In(1),
            "rdata": In(64), "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1),
        })


class AXIWrite(wiring.Signature):
    """Write channels, as seen by the master; every write is a single beat."""

    def __init__(self) -> None:
        super().__init__({
            "awaddr": Out(32), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(64), "wstrb": Out(8), "wvalid": Out(1), "wready": In(1),
            "bresp": In(2), "bvalid": In(1), "bready": Out(1),
        })
