"""Boards that others configured with the vendor's tool, described for our generator: five of ours,
set up as that tool was told to, and three that are not ours."""

from __future__ import annotations

from dataclasses import replace

from bitnet_soc import boards
from bitnet_soc.boards._parts import MT41J256M8, MT41K256M16
from bitnet_soc.boards.board import MIO, UART, Board, Clocks, Dram, Phy

__all__ = ["REFERENCES"]


def _configured(name: str, clocks: Clocks) -> Board:
    return replace(boards.load(name), clocks=clocks)


def _other(name: str, dram: Dram, mio: MIO, clocks: Clocks) -> Board:
    return Board(name=name, title=name, part="", grade=1, dram=dram, mio=mio, clocks=clocks,
                 network="ps", phy=Phy("", 0), uart=UART("ps1", ""), jtag="", sources="")


_USUAL = {"qspi": "1-6 8", "enet0": "16-27", "usb0": "28-39", "sd0": "40-45", "uart1": "48-49",
          "mdio0": "52-53"}

#: Name of a table in ps7_tables: the board.
REFERENCES: dict[str, Board] = {
    "zybo_z7_20": _configured("zybo_z7_20", Clocks(fclk=(50,))),
    "microzed": _configured("microzed", Clocks(uart=50, fclk=(100, 100, 33.333, 50))),
    "zc702": _configured("zc702", Clocks(uart=50, gem=25, can=23.8, fclk=(50, 50, 50, 50))),
    # the tool that wrote it took the DRAM's clock for a hair more than 533.33 MHz
    "zturn": _configured("zturn_7020", Clocks(crystal=33_333_336, can=100, fclk=(100, 50))),
    "zedboard": _configured("zedboard", Clocks(uart=50, fclk=(100, 142.857, 50, 50))),
    # a crystal of 50 MHz, and 512 MB
    "zybo": _other(
        "zybo",
        Dram(**MT41K256M16 | {"megabits": 2048, "rows": 14, "t_rfc": 160}, vref="external",
             clock_lag=(-0.073, -0.034, -0.03, -0.082), delay=(0.176, 0.159, 0.162, 0.187)),
        MIO(_USUAL | {"sd0_cd": "47"}, hstl="16-27", pullup="0 9-15 46", fast="1-6 8 16-45",
            resets=(46,)),
        Clocks(crystal=50_000_000, fclk=(100, 142.857, 200, 50))),
    "zc706": _other(
        "zc706",
        Dram(**MT41J256M8, vref="internal", clock_lag=(0.226, 0.278, 0.184, 0.309),
             delay=(0.521, 0.636, 0.54, 0.621)),
        MIO(_USUAL | {"qspi": "0-6 8-13", "sd0_cd": "14", "sd0_wp": "15", "i2c0": "50-51"},
            banks=("LVCMOS18", "LVCMOS18"), hstl="16-27", pullup="0-1 9-15 46-47 50-51",
            resets=(47, 7, 46)),
        Clocks(uart=50, gem=25, fclk=(50, 50, 50, 50))),
    # one device on a bus of 16 bits, hot, and other PLLs
    "brcp1_1r": _other(
        "brcp1_1r",
        Dram("1 Gb x16", 1024, 16, t_rc=48.75, t_ras=35, t_faw=40, t_rrd=7.5, t_rfc=110, rows=13,
             vref="external", cl=11, cwl=8, t_rcd=11, t_rp=11, t_refi=3.9, bus=16,
             clock_lag=(-0.047, -0.025, 0, -0.018), delay=(0.078, 0.064, 0.056, 0.067)),
        MIO({"qspi": "1-6 8", "spi1": "10-13", "i2c0": "14-15", "enet0": "16-27", "usb0": "28-39",
             "sd0": "40-45", "jtag": "46-49", "uart0": "50-51", "mdio0": "52-53",
             "can0": "emio"}, fast="0-27 40-49 52-53", pullup="50"),
        Clocks(arm_pll=60, cpu=3, io_pll=60, spi=200, sdio=100, can=8, fclk=(50,))),
}
