"""The SoC on a real board: clocks and resets from the processing system, pads, LEDs, and the files
that the vendor's tool, or the open one, builds a bitstream from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from litex.build.generic_platform import IOStandard, Pins, Subsignal
from litex.build.xilinx import Xilinx7SeriesPlatform
from litex.gen import ClockDomain, LiteXModule
from litex.soc.cores.clock import S7IDELAYCTRL, S7PLL
from litex.soc.cores.uart import RS232PHY
from migen import If, Instance, Signal
from migen.genlib.resetsync import AsyncResetSynchronizer
from xtvu.datagram import BASE_RATE

from . import openxc7
from .boards.board import Board
from .headers import litex_headers
from .parts import undated
from .processing_system import ProcessingSystem
from .ps7_block import PS7Block
from .soc import BitNetSoC, Outside

__all__ = ["GATEWARE", "NAME", "PINS", "generate"]

NAME = "bitnet"  # of the top module, and of its files
GATEWARE = ("tvu.v", "network.v", "ps.v", "slices.v")  # written by Amaranth
#: Names of Board.pins: group to signals.
PINS = {"uart": ("tx", "rx"), "eth_clock": ("rx", "tx"),
        "eth": ("rx_ctl", "rx_data", "tx_ctl", "tx_data", "rst_n", "mdc", "mdio")}
_FCLK_HZ = 125e6
_DELAY_HZ = 200e6  # of the reference of input delays


def _pads(board: Board) -> list:
    pads = [("led", i, Pins(led.pin), IOStandard(led.standard)) for i, led in enumerate(board.leds)]
    for group, signals in PINS.items():
        found = [Subsignal(signal, Pins(board.pins[f"{group}_{signal}"])) for signal in signals
                 if f"{group}_{signal}" in board.pins]
        if found:
            pads.append((group, 0, *found, IOStandard(board.standard)))
    return pads


class _Clocks(LiteXModule):
    """``sys`` and, twice as fast, ``sys2x``, from the processing system's clock, whose ports can be
    set up only while theirs runs. Until it says that it runs, ``sys`` is held in reset, which
    keeps masters from its ports, but lets them end what they have begun (tvu.axi).
    """

    def __init__(self, ps7: PS7Block, system_hz: int, grade: int, delays: bool):
        self.cd_sys = ClockDomain("sys")
        self.cd_sys2x = ClockDomain("sys2x", reset_less=True)
        self.fclk = fclk = Signal(name_override="fclk", attr={"keep"})
        self.specials += Instance("BUFG", i_I=ps7.fclk, o_O=fclk)
        self.pll = pll = S7PLL(speedgrade=-grade)
        pll.register_clkin(fclk, _FCLK_HZ)
        pll.create_clkout(self.cd_sys, system_hz, with_reset=False)
        self.specials += AsyncResetSynchronizer(self.cd_sys, ~pll.locked | ~ps7.running)
        pll.create_clkout(self.cd_sys2x, 2 * system_hz, with_reset=False)
        if delays:
            self.cd_delay = ClockDomain("delay")
            pll.create_clkout(self.cd_delay, _DELAY_HZ)
            self.delays = S7IDELAYCTRL(self.cd_delay)


class _Lamps(LiteXModule):
    """``signals``: what the LEDs show, in the order of docs/board.md."""

    def __init__(self, soc, system_hz: int):
        count, second = Signal(max=system_hz), Signal()
        self.sync += [count.eq(count + 1),
                      If(count == system_hz // 2 - 1, count.eq(0), second.eq(~second))]
        self.signals = [second, soc.network.source.status != 0, soc.working,
                        soc.watchdog.restarts.status != 0]


class _BoardSoC(BitNetSoC):
    def __init__(self, platform, board: Board, cfu: Path, clock_hz: int):
        self.ps7 = ps7 = PS7Block()
        self.ps = ps = ProcessingSystem(ps7.gp)
        fabric = board.network == "pl"
        crg = _Clocks(ps7, clock_hz, board.grade, fabric)
        outside = _fabric(platform, crg, ps.outside, clock_hz) if fabric else ps.outside
        super().__init__(platform, crg, cfu, [0x6F], ps7.hp, outside, clock_hz=clock_hz,
                         ddr_bytes=board.dram.bytes)
        platform.add_period_constraint(crg.fclk, 1e9 / _FCLK_HZ)
        self.lamps = _Lamps(self, clock_hz)
        for i, (_, signal) in enumerate(zip(board.leds, self.lamps.signals, strict=False)):
            self.comb += platform.request("led", i).eq(signal)


def _fabric(platform, crg: _Clocks, ps: Outside, clock_hz: int) -> Outside:
    """UART and Ethernet of the fabric; memory by way of the processing system."""
    from .rgmii import RGMII
    clocks, pads = platform.request("eth_clock"), platform.request("eth")
    phy = RGMII(clocks, pads)
    platform.add_period_constraint(clocks.rx, 8.0)
    for domain in ("cd_eth_rx", "cd_eth_tx"):
        platform.add_false_path_constraints(crg.cd_sys.clk, getattr(phy.phy.crg, domain).clk)
    uart = RS232PHY(platform.request("uart"), clock_hz, BASE_RATE, with_dynamic_baudrate=True)
    return Outside(uart, ps.ddr, phy, ps.windows)


def _build(platform, soc, folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # LiteX writes by relative names
    try:
        platform.build(soc, build_dir=".", build_name=NAME, run=False)
    finally:
        os.chdir(here)


def _written(folder: Path) -> list[Path]:
    """What this writes; beside it, a tool leaves what it makes, bitstreams among them."""
    return [path for path in folder.glob(f"*{NAME}*")
            if path.is_file() and path.suffix in (".v", ".xdc", ".tcl", ".ys", ".sh", ".init")]


def _clean(folder: Path) -> None:
    """Takes out of LiteX's files what is not of the design: dates, LiteX's own revision, and where
    the folder lies, which may be moved to a machine with the tool."""
    for path in _written(folder):
        path.write_text(undated(path.read_text().replace(f"{folder}/", "")))


def _for_openxc7(folder: Path, part: str, sources: list, clock_hz: int) -> None:
    (folder / f"{NAME}.tcl").unlink()
    xdc = folder / f"{NAME}.xdc"
    xdc.write_text(openxc7.constraints(xdc.read_text(), clock_hz))
    verilog = [(Path(name).name, language == "systemverilog") for name, language, *_ in sources]
    for name, text in openxc7.scripts(NAME, part, clock_hz, verilog).items():
        (folder / name).write_text(text)


def generate(board: Board, folder: Path, clock_hz: int, toolchain: str) -> dict[str, str]:
    """Writes Verilog, constraints, scripts and memory files to ``folder``, where GATEWARE already
    is; returns C headers, names and contents."""
    for old in _written(folder):  # of the other toolchain
        old.unlink()
    platform = Xilinx7SeriesPlatform(board.part, _pads(board), toolchain="vivado", name=NAME)
    gateware = [folder / name for name in GATEWARE]
    soc = _BoardSoC(platform, board, gateware[0], clock_hz)
    for source in gateware:
        platform.add_source(str(source))
    soc.finalize()
    for i, (source, language, library, *_) in enumerate(platform.sources):
        if Path(source) in gateware:
            language = "systemverilog"  # it has assertions
        else:
            shutil.copy(source, folder)
        platform.sources[i] = (Path(source).name, language, library)
    _build(platform, soc, folder)
    _clean(folder)
    if toolchain == "openxc7":
        _for_openxc7(folder, board.part, platform.sources, clock_hz)
    return litex_headers(soc)
