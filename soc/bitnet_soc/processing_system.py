"""LiteX glue of the processing system's peripherals: the Verilog of gateware/ps as PHYs, main
memory and bus slaves of the SoC."""

from __future__ import annotations

from amaranth.lib.wiring import Out
from litex.gen import ClockSignal, LiteXModule, ResetSignal
from litex.soc.integration.soc import SoCRegion
from litex.soc.interconnect import stream, wishbone
from litex.soc.interconnect.csr import CSRStatus, CSRStorage
from migen import Instance, Signal
from ps.gp import GP
from ps.window import BLOCKS

from .network import byte_stream
from .soc import Outside

__all__ = ["GP_PORTS", "GP_SIGNALS", "ProcessingSystem"]

#: Registers, UART and Ethernet on the first, main memory on the second.
GP_PORTS = ("gp0", "gp1")
#: Of a port: name, width, direction as of an Instance.
GP_SIGNALS = [(name, member.shape, "o" if member.flow is Out else "i")
              for name, member in GP().members.items()]


def _bus() -> wishbone.Interface:
    return wishbone.Interface(data_width=32, address_width=32, addressing="word")


class _UART(LiteXModule):
    def __init__(self):
        self.sink, self.source = stream.Endpoint([("data", 8)]), stream.Endpoint([("data", 8)])


class _Ethernet(LiteXModule):
    def __init__(self):
        self.sink, self.source = byte_stream(), byte_stream()
        self.enable = CSRStorage(description="The rings of buffers are set up.")
        self.idle = CSRStatus(description="Nobody touches the rings.")


class ProcessingSystem(LiteXModule):
    """``outside`` for the SoC. ``pads``: record with the signals ``gp0_araddr`` and so on."""

    def __init__(self, pads):
        uart, ethernet, ddr, window = _UART(), _Ethernet(), _bus(), _bus()
        regions = [SoCRegion(origin=first, size=1 << (end - first - 1).bit_length(), mode="rw",
                             cached=False) for first, end in BLOCKS]
        windows = [(region, _bus()) for region in regions]
        self.outside = Outside(uart, ddr, ethernet, windows)
        self.arbiter = wishbone.Arbiter([bus for _, bus in windows], window)
        rx_payload, tx_payload = Signal(10), Signal(10)
        self.comb += [
            tx_payload[:8].eq(ethernet.sink.data), tx_payload[8].eq(ethernet.sink.last),
            ethernet.source.data.eq(rx_payload[:8]), ethernet.source.last.eq(rx_payload[8]),
            ethernet.source.error.eq(rx_payload[9]),
        ]
        self.specials += Instance(
            "processing_system", i_clk=ClockSignal("sys"), i_rst=ResetSignal("sys"),
            i_uart_tx_valid=uart.sink.valid, i_uart_tx_payload=uart.sink.data,
            o_uart_tx_ready=uart.sink.ready,
            o_uart_rx_valid=uart.source.valid, o_uart_rx_payload=uart.source.data,
            i_uart_rx_ready=uart.source.ready,
            i_tx_valid=ethernet.sink.valid, i_tx_payload=tx_payload,
            o_tx_ready=ethernet.sink.ready,
            o_rx_valid=ethernet.source.valid, o_rx_payload=rx_payload,
            i_enable=ethernet.enable.storage, o_idle=ethernet.idle.status,
            i_window_adr=window.adr, i_window_dat_w=window.dat_w, i_window_we=window.we,
            i_window_cyc=window.cyc & window.stb,
            o_window_dat_r=window.dat_r, o_window_ack=window.ack, o_window_err=window.err,
            i_ram_adr=ddr.adr, i_ram_dat_w=ddr.dat_w, i_ram_sel=ddr.sel, i_ram_we=ddr.we,
            i_ram_cyc=ddr.cyc, i_ram_stb=ddr.stb, i_ram_cti=ddr.cti,
            o_ram_dat_r=ddr.dat_r, o_ram_ack=ddr.ack, o_ram_err=ddr.err,
            **{f"{direction}_{port}_{name}": getattr(pads, f"{port}_{name}")
               for port in GP_PORTS for name, _, direction in GP_SIGNALS})
