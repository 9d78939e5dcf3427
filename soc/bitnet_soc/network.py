"""LiteX glue of the board's network side: the Verilog of gateware/network with its registers, and
the simulation's PHY."""

from __future__ import annotations

from litex.gen import ClockSignal, LiteXModule, ResetSignal
from litex.soc.interconnect import stream, wishbone
from litex.soc.interconnect.csr import CSRField, CSRStatus, CSRStorage
from migen import Instance, Signal
from tvu.verilog import AXI_WRITE_PORTS

__all__ = ["Network", "StreamPHY", "byte_stream"]

_STATE = (("source", 2), ("ip", 32), ("port", 16), ("seconds_held", 16), ("seconds_silent", 8),
          ("claims", 16),
          ("malformed", 32), ("crowded", 32), ("refused", 32))


def byte_stream() -> stream.Endpoint:
    """Frames without preamble and checksum, byte by byte; ``error`` with ``last``: the frame is
    damaged."""
    return stream.Endpoint([("data", 8), ("error", 1)])


class StreamPHY(LiteXModule):
    """A PHY whose medium is bytes with valid, ready and last on top-level pads."""

    def __init__(self, pads):
        self.sink, self.source = sink, source = byte_stream(), byte_stream()
        self.comb += [
            pads.source_valid.eq(sink.valid), pads.source_data.eq(sink.data),
            pads.source_last.eq(sink.last),
            sink.ready.eq(pads.source_ready),
            source.valid.eq(pads.sink_valid), source.data.eq(pads.sink_data),
            source.last.eq(pads.sink_last),
            source.error.eq(pads.sink_error), pads.sink_ready.eq(source.ready),
        ]


class Network(LiteXModule):
    """``rx``: frames from the PHY, with a pause behind each; ``tx``: frames to it; ``bus``: a
    Wishbone master; ``axi``: pads of an AXI write port to DDR. ``clock_hz`` is what a second is at
    first.
    """

    def __init__(self, axi, clock_hz: int):
        self.rx, self.tx = rx, tx = byte_stream(), byte_stream()
        self.bus = bus = wishbone.Interface(data_width=32, address_width=32, addressing="word")
        self.second = CSRStorage(32, reset=clock_hz,
                                 description="Cycles of a second, in which the silence of a holder "
                                             "is counted.")
        self.protect_first = CSRStorage(18,
                                        description="First 4 KB block of DDR that the network may "
                                                    "not write.")
        self.protect_end = CSRStorage(19, description="First block behind those.")
        self.uart_token = CSRStorage(32, description="Token of the host at the UART.")
        self.uart_ask = CSRStorage(fields=[CSRField("claim", pulse=True), CSRField("take_over"),
                                           CSRField("leave", pulse=True)],
                                   description="Claims the board for the host at the UART, or "
                                               "gives it back.")
        state = {}
        for name, width in _STATE:
            status = CSRStatus(width, name=name, description=f"{name} (xtvu.datagram).")
            setattr(self, name, status)
            state[name] = status.status
        asked = Signal()  # the fields are up with the pulse
        self.comb += asked.eq(self.uart_ask.fields.claim)
        tx_payload = Signal(10)
        self.comb += [rx.ready.eq(1), tx.data.eq(tx_payload[:8]), tx.last.eq(tx_payload[8]),
                      bus.stb.eq(bus.cyc), bus.sel.eq(0xF)]
        rx_payload = Signal(10)
        self.comb += [rx_payload[:8].eq(rx.data), rx_payload[8].eq(rx.last),
                      rx_payload[9].eq(rx.error)]
        counts = ("malformed", "crowded", "refused")
        self.specials += Instance(
            "network", i_clk=ClockSignal("sys"), i_rst=ResetSignal("sys"),
            i_rx_valid=rx.valid, i_rx_payload=rx_payload,
            o_tx_valid=tx.valid, i_tx_ready=tx.ready, o_tx_payload=tx_payload,
            o_bus_adr=bus.adr, o_bus_dat_w=bus.dat_w, i_bus_dat_r=bus.dat_r, o_bus_we=bus.we,
            o_bus_cyc=bus.cyc, i_bus_ack=bus.ack,
            i_bus_err=bus.err,
            i_second=self.second.storage, i_protect_first=self.protect_first.storage,
            i_protect_end=self.protect_end.storage,
            i_uart_claim=asked,
            i_uart_token=self.uart_token.storage, i_uart_take_over=self.uart_ask.fields.take_over,
            i_uart_leave=self.uart_ask.fields.leave,
            **{f"o_{name if name in counts else f'state_{name}'}": signal
               for name, signal in state.items()},
            **{f"{direction}_axi_{name}": getattr(axi, name)
               for name, _, direction in AXI_WRITE_PORTS})
