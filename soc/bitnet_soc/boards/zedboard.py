"""Avnet ZedBoard: 512 MB, for models that fit."""

from __future__ import annotations

from ._parts import MT41J128M16
from .board import MIO, UART, Board, Dram, Led, Phy

__all__ = ["BOARD"]

BOARD = Board(
    name="zedboard", title="Avnet ZedBoard", part="xc7z020clg484-1", grade=1,
    dram=Dram(**MT41J128M16, vref="internal", clock_lag=(0.025, 0.028, -0.009, -0.061),
              delay=(0.41, 0.411, 0.341, 0.358)),
    mio=MIO(functions={"qspi": "1-6", "enet0": "16-27", "usb0": "28-39", "sd0": "40-45",
                       "sd0_cd": "47", "sd0_wp": "46", "uart1": "48-49", "mdio0": "52-53"},
            fast="1-6 8 16-45", inputs="50-51"),
    network="ps", phy=Phy("88E1518", 0, "marvell"), uart=UART("ps1", "CY7C64225"),
    jtag="source [find interface/ftdi/digilent_jtag_smt2.cfg]\n",
    leds=(Led("T22", "LVCMOS33"), Led("T21", "LVCMOS33"), Led("U22", "LVCMOS33"),
          Led("U21", "LVCMOS33")),
    sources="U-Boot 6073c36b board/xilinx/zynq/zynq-zed and arch/arm/dts/zynq-zed.dts; OpenOCD "
            "tcl/board/digilent/zedboard.cfg (cable); LEDs: nmigen-boards' ZedboardPlatform. The "
            "PHY's chip and the UART's are from memory",
)
