"""Xilinx ZC702."""

from __future__ import annotations

from ._parts import MT41J256M8
from .board import MIO, UART, Board, Clocks, Dram, Phy

__all__ = ["BOARD"]

BOARD = Board(
    name="zc702", title="Xilinx ZC702", part="xc7z020clg484-1", grade=1,
    dram=Dram(**MT41J256M8, vref="internal", clock_lag=(0.217, 0.133, 0.089, 0.248),
              delay=(0.537, 0.442, 0.464, 0.521)),
    mio=MIO(functions={"qspi": "1-6 8", "enet0": "16-27", "usb0": "28-39", "sd0": "40-45",
                       "sd0_cd": "0", "sd0_wp": "15", "can0": "46-47", "uart1": "48-49",
                       "i2c0": "50-51", "mdio0": "52-53"},
            banks=("LVCMOS18", "LVCMOS18"), hstl="16-27", pullup="0-1 9-15 46-47 50-51",
            resets=(7, 11, 13)),
    clocks=Clocks(can=23.8),
    network="ps", phy=Phy("88E1116R", 7, "marvell"), uart=UART("ps1", "CP2103"),
    jtag="source [find interface/ftdi/digilent_jtag_smt2.cfg]\n",
    sources="U-Boot 6073c36b board/xilinx/zynq/zynq-zc702; yuyichao/xilinx_ps_config at fd037d85, "
            "data/zynq_presets/zc702.toml (delays)",
)
