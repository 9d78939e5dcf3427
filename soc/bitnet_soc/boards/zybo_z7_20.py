"""Digilent Zybo Z7-20."""

from __future__ import annotations

from ._parts import MT41K256M16
from .board import MIO, UART, Board, Dram, Led, Phy

__all__ = ["BOARD"]

BOARD = Board(
    name="zybo_z7_20", title="Digilent Zybo Z7-20", part="xc7z020clg400-1", grade=1,
    dram=Dram(**MT41K256M16, vref="external", clock_lag=(-0.050, -0.044, -0.035, -0.100),
              delay=(0.221, 0.222, 0.217, 0.244)),
    mio=MIO(functions={"qspi": "1-6 8", "enet0": "16-27", "usb0": "28-39", "sd0": "40-45",
                       "sd0_cd": "47", "uart1": "48-49", "mdio0": "52-53"},
            pullup="0-1 9-49 52-53", fast="16-39", resets=(46,)),
    network="ps", phy=Phy("RTL8211E", 0), uart=UART("ps1", "FT2232H"),
    jtag="adapter driver ftdi\nftdi vid_pid 0x0403 0x6010\nftdi channel 0\n"
         "ftdi layout_init 0x3088 0x1f8b\n",
    leds=(Led("M14", "LVCMOS33"), Led("M15", "LVCMOS33"), Led("G14", "LVCMOS33"),
          Led("D18", "LVCMOS33")),
    sources="U-Boot 6073c36b board/xilinx/zynq/zynq-zybo-z7; Digilent vivado-boards, "
            "new/board_files/zybo-z7-20/A.0/preset.xml; litex-boards digilent_zybo_z7; OpenOCD "
            "abbbc2e tcl/board/digilent/zybo.cfg (cable)",
)
