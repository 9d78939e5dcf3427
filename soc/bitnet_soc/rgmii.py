"""Ethernet of the fabric: LiteEth's RGMII PHY and MAC as a stream of frames each way."""

from __future__ import annotations

from liteeth.mac.core import LiteEthMACCore
from liteeth.phy.s7rgmii import LiteEthPHYRGMII
from litex.gen import LiteXModule
from migen import Signal

from .network import byte_stream

__all__ = ["RGMII"]


class RGMII(LiteXModule):
    """``source`` and ``sink``: frames without preamble and checksum; a pause is behind each that
    comes. Gigabit only. The PHY chip adds the delay of the clock that it receives and, but for
    ``rx_delay`` seconds, of the one that it sends."""

    def __init__(self, clock_pads, pads, rx_delay: float = 0.0):
        self.source, self.sink = source, sink = byte_stream(), byte_stream()
        self.phy = LiteEthPHYRGMII(clock_pads, pads, tx_delay=0, rx_delay=rx_delay)
        self.core = core = LiteEthMACCore(self.phy, 8)
        pause = Signal()
        self.sync += pause.eq(source.valid & source.last)
        self.comb += [
            source.valid.eq(core.source.valid & ~pause), source.data.eq(core.source.data),
            source.last.eq(core.source.last), source.error.eq(core.source.error),
            core.source.ready.eq(~pause),
            core.sink.valid.eq(sink.valid), core.sink.data.eq(sink.data),
            core.sink.last.eq(sink.last), core.sink.last_be.eq(sink.last),
            sink.ready.eq(core.sink.ready),
        ]
