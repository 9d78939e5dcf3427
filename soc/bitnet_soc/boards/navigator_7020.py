"""ALIENTEK Navigator ZYNQ-7020."""

from __future__ import annotations

from ._parts import MT41K256M16
from .board import MIO, UART, Board, Dram, Led, Phy

__all__ = ["BOARD"]

BOARD = Board(
    name="navigator_7020", title="ALIENTEK Navigator ZYNQ-7020", part="xc7z020clg400-2", grade=2,
    dram=Dram(**MT41K256M16, vref="external"),
    mio=MIO(functions={"sd0": "40-45", "uart0": "14-15", "enet0": "16-27", "mdio0": "52-53"},
            pullup="40-45"),
    network="pl", phy=Phy("RTL8211", 0), uart=UART("pl", "CH340"),
    jtag="source [find interface/ftdi/digilent-hs2.cfg]\n",
    leds=(Led("H15", "LVCMOS33"), Led("L15", "LVCMOS33")),
    pins={"uart_tx": "J15", "uart_rx": "T19", "eth_clock_rx": "K17", "eth_clock_tx": "B20",
          "eth_rx_ctl": "E17", "eth_rx_data": "B19 A20 H17 H16", "eth_tx_ctl": "K18",
          "eth_tx_data": "D18 C20 D19 D20", "eth_rst_n": "G15", "eth_mdc": "F20",
          "eth_mdio": "F19"},
    sources="shared/DESIGN.md section 6; MIO and reference voltage are not confirmed",
)
