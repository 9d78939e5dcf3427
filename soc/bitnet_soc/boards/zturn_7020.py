"""MYIR Z-turn with an XC7Z020."""

from __future__ import annotations

from ._parts import MT41K256M16
from .board import MIO, UART, Board, Clocks, Dram, Phy

__all__ = ["BOARD"]

BOARD = Board(
    name="zturn_7020", title="MYIR Z-turn 7020", part="xc7z020clg400-1", grade=1,
    # what the wires take is not published: these give the start values of U-Boot's table
    dram=Dram(**MT41K256M16 | {"t_rc": 49.5}, vref="external", clock_lag=(0.23, 0.25, 0.12, 0.14),
              delay=(0.272, 0.258, 0.217, 0.206)),
    mio=MIO(functions={"qspi": "1-6 8", "uart0": "10-11", "i2c1": "12-13", "can0": "14-15",
                       "enet0": "16-27", "usb0": "28-39", "sd0": "40-45", "sd0_cd": "46",
                       "sd0_wp": "47", "uart1": "48-49", "mdio0": "52-53"},
            pullup="0 10-45 48-49 52-53", resets=(51,)),
    clocks=Clocks(can=100),
    network="ps", phy=Phy("AR8035", 0), uart=UART("ps1", "CP2103"),
    jtag="source [find interface/ftdi/digilent-hs2.cfg]\n",
    sources="U-Boot 6073c36b board/xilinx/zynq/zynq-zturn",
)
