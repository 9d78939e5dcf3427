"""Avnet MicroZed 7020."""

from __future__ import annotations

from ._parts import MT41K256M16
from .board import MIO, UART, Board, Dram, Phy

__all__ = ["BOARD"]

BOARD = Board(
    name="microzed", title="Avnet MicroZed 7020", part="xc7z020clg400-1", grade=1,
    dram=Dram(**MT41K256M16, vref="internal", clock_lag=(-0.073, -0.072, 0.024, 0.023),
              delay=(0.294, 0.298, 0.338, 0.334)),
    mio=MIO(functions={"qspi": "1-6 8", "enet0": "16-27", "usb0": "28-39", "sd0": "40-45",
                       "sd0_cd": "46", "sd0_wp": "50", "uart1": "48-49", "mdio0": "52-53"},
            resets=(7,)),
    network="ps", phy=Phy("88E1512", 0, "marvell"), uart=UART("ps1", "CP2104"),
    jtag="source [find interface/ftdi/digilent-hs2.cfg]\n",
    sources="U-Boot 6073c36b board/xilinx/zynq/zynq-microzed; analogdevicesinc/hdl "
            "projects/common/microzed/microzed_system_ps7.tcl (delays)",
)
