"""Ethernet glue: a stream PHY for simulation, and a repair of LiteX 2024.12's packet FIFO."""

from __future__ import annotations

import liteeth.frontend.etherbone as liteeth_etherbone
import litex.soc.interconnect.packet as litex_packet
from liteeth.common import eth_phy_description
from litex.gen import ClockDomain, ClockSignal, LiteXModule, ResetSignal
from litex.soc.interconnect import stream

__all__ = ["PacketFIFO", "StreamPHY", "repair_packet_fifo"]


class PacketFIFO(litex_packet.PacketFIFO):
    """LiteX's packet FIFO, with parameters accepted only together with the last word.

    As LiteX 2024.12 has it, a payload FIFO that is full on the last word lets the parameters in once per waiting
    cycle; Etherbone then repeats bus accesses and hangs. The later assignment overrides the earlier one.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.comb += self.param_fifo.sink.valid.eq(self.sink.valid & self.sink.last & self.payload_fifo.sink.ready)


def repair_packet_fifo() -> None:
    """Makes LiteX and LiteEth use the repaired FIFO; call it before a SoC is constructed."""
    litex_packet.PacketFIFO = PacketFIFO
    liteeth_etherbone.PacketFIFO = PacketFIFO


class _SystemClocks(LiteXModule):
    def __init__(self):
        self.cd_eth_rx = ClockDomain()
        self.cd_eth_tx = ClockDomain()
        for domain in (self.cd_eth_rx, self.cd_eth_tx):
            self.comb += [domain.clk.eq(ClockSignal("sys")), domain.rst.eq(ResetSignal("sys"))]


class StreamPHY(LiteXModule):
    """A PHY whose medium is a byte stream with valid, ready and last on top-level pads: frames without preamble and FCS.

    Unlike LiteEthPHYModel it passes back-pressure both ways, so no frame is lost however close they come.
    """

    dw = 8
    with_preamble_crc = False
    integrated_ifg_inserter = True

    def __init__(self, pads):
        self.crg = _SystemClocks()
        self.sink = sink = stream.Endpoint(eth_phy_description(8))
        self.source = source = stream.Endpoint(eth_phy_description(8))
        self.comb += [
            pads.source_valid.eq(sink.valid), pads.source_data.eq(sink.data), pads.source_last.eq(sink.last),
            sink.ready.eq(pads.source_ready),
            source.valid.eq(pads.sink_valid), source.data.eq(pads.sink_data), source.last.eq(pads.sink_last),
            source.last_be.eq(pads.sink_last), pads.sink_ready.eq(source.ready),
        ]
