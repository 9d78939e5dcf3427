"""ALINX AX7020."""

from __future__ import annotations

from ._parts import MT41K256M16
from .board import MIO, UART, Board, Dram, Phy

__all__ = ["BOARD"]

BOARD = Board(
    name="ax7020", title="ALINX AX7020", part="xc7z020clg400-2", grade=2,
    # the vendor's projects leave board delays at the tool's defaults
    dram=Dram(**MT41K256M16 | {"part": "MT41J256M16 RE-125"}, vref="external"),
    mio=MIO(functions={"qspi": "1-6", "enet0": "16-27", "usb0": "28-39", "sd0": "40-45",
                       "sd0_cd": "47", "uart1": "48-49", "mdio0": "52-53"},
            hstl="16-27", pullup="0-1 9-53", fast="16-27", resets=(46,)),
    network="ps", phy=Phy("RTL8211E", 1), uart=UART("ps1", "CP2102"),
    jtag="source [find interface/ftdi/digilent-hs2.cfg]\n",
    sources="alinxalinx/AX7020_2023.1 at d8e08568, course_s2_vitis/06_net_test/Vivado/"
            "auto_create_project/ps_config.tcl (pins, DRAM, reference voltage); "
            "MaxClerkwell/ax7020-bringup at 6460d648, uboot/zynq-ax7020.dts (PHY, memory of 1 GB)",
)
