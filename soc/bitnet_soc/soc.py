"""The SoC: VexRiscv with the TVU on its CFU bus, DDR as main_ram, UART, timer, mailbox and
network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from litex.gen import ClockSignal, ResetSignal
from litex.soc.cores.uart import UART
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCCore
from litex.soc.interconnect import wishbone
from migen import Signal
from network.bus import Memory, Region
from network.frames import Addresses
from tvu.axi import PORTS
from tvu.verilog import AXI_READ_PORTS, AXI_WRITE_PORTS

from .network import Network
from .watchdog import CPUWatchdog

__all__ = ["BitNetSoC", "CLOCK_HZ", "DDR_BASE", "DDR_BYTES", "MAILBOX_BASE", "MAILBOX_BYTES",
           "ROM_SPACE", "SOC_ADDRESSES", "Outside", "memory"]

CLOCK_HZ = 125_000_000
DDR_BASE, DDR_BYTES = 0x4000_0000, 0x4000_0000
MAILBOX_BASE, MAILBOX_BYTES = 0x9000_0000, 0x4000  # above 0x8000_0000 the CPU does not cache
WATCHDOG_SECONDS = 0.5  # without a sign of life from the firmware
ROM_BYTES, SRAM_BYTES = 0xC000, 0x8000
ROM_SPACE = 0x1_0000  # of addresses: a power of two
UART_BYTES = 1024  # that wait in each direction while the CPU does something else
CSR_BASE, CSR_BYTES = 0xF000_0000, 0x1_0000
SOC_ADDRESSES = Addresses(mac=0x10E2D5000001, ip=0xC0A8_0132)  # 192.168.1.50


def memory(ddr_bytes: int = DDR_BYTES) -> Memory:
    """What the network may reach."""
    ddr = Region(DDR_BASE, ddr_bytes)
    return Memory((Region(0, ROM_SPACE, writable=False), Region(0x1000_0000, SRAM_BYTES), ddr,
                   Region(MAILBOX_BASE, MAILBOX_BYTES), Region(CSR_BASE, CSR_BYTES)), ddr)


@dataclass
class Outside:
    """What the SoC meets, wherever it lies: ``uart_phy``; ``ddr``, the Wishbone bus of main_ram;
    ``phy`` of Ethernet, frames as bytes; ``windows``: regions and Wishbone buses of registers that
    are not the SoC's."""

    uart_phy: Any
    ddr: Any
    phy: Any
    windows: list[tuple[SoCRegion, Any]] = field(default_factory=list)


class BitNetSoC(SoCCore):
    """Everything but clocking, pads and PHYs, which the platform brings.

    Parameters: ``crg``; ``cfu`` (path of the TVU's Verilog); ``rom`` (initial words); ``hp``
    (record with the AXI signals ``read0_araddr`` and so on); ``outside``; ``tvu_clock`` (record
    with ``clk``, ``dot_clk`` and ``fill_clk``, copies of the system clock, and ``fast_clk``, twice
    as fast, that may stop when ``awake`` allows it, or None to use the domains ``sys`` and
    ``sys2x`` of ``crg``); ``clock_hz`` of the system clock; ``ddr_bytes``. ``working``: the TVU
    does something.
    """

    # Pinned: otherwise every CSR address moves when a peripheral comes or goes, and old firmware
    # talks to the wrong ones.
    csr_map = {"ctrl": 0, "uart": 1, "timer0": 2, "ethphy": 3, "watchdog": 4, "network": 5,
               "uart_phy": 6, "ps7": 7}

    def __init__(self, platform, crg, cfu: Path, rom: list[int], hp, outside: Outside,
                 tvu_clock=None, clock_hz: int = CLOCK_HZ, ddr_bytes: int = DDR_BYTES):
        self.crg = crg
        SoCCore.__init__(
            self, platform, clk_freq=clock_hz, cpu_type="vexriscv", cpu_variant="full+cfu",
            cpu_cfu=str(cfu),
            integrated_rom_size=ROM_BYTES, integrated_rom_init=rom, integrated_sram_size=SRAM_BYTES,
            with_uart=False, timer_uptime=True, ident="", ident_version=False)
        self._connect_axi(hp)
        self.uart_phy = outside.uart_phy
        self.uart = UART(self.uart_phy, tx_fifo_depth=UART_BYTES, rx_fifo_depth=UART_BYTES)
        watchdog_cycles = int(clock_hz * WATCHDOG_SECONDS)
        self.watchdog = CPUWatchdog(width=watchdog_cycles.bit_length())
        reset = ResetSignal("sys") | self.cpu.reset | self.watchdog.cpu_reset
        self.cpu.cpu_params.update(i_reset=reset)
        self.cpu.cfu_params.update(i_reset=reset)
        self.add_constant("WATCHDOG_CYCLES", watchdog_cycles)
        awake = Signal(3)
        self.working = awake[0]
        self.cpu.cfu_params.update(o_awake=awake)
        if tvu_clock is None:
            clock = ClockSignal("sys")
            self.cpu.cfu_params.update(i_dot_clk=clock, i_fill_clk=clock,
                                       i_fast_clk=ClockSignal("sys2x"))
        else:
            self.cpu.cfu_params.update(i_clk=tvu_clock.clk, i_dot_clk=tvu_clock.dot_clk,
                                       i_fast_clk=tvu_clock.fast_clk,
                                       i_fill_clk=tvu_clock.fill_clk)
            self.comb += tvu_clock.awake.eq(awake)

        self.bus.add_slave("main_ram", outside.ddr,
                           SoCRegion(origin=DDR_BASE, size=ddr_bytes, mode="rwx"))
        for i, (region, bus) in enumerate(outside.windows):
            self.bus.add_slave(f"ps{i}", bus, region)

        # "mailbox" is a SystemVerilog keyword
        self.mailbox = mailbox = wishbone.SRAM(MAILBOX_BYTES, name="mailbox_ram")
        self.bus.add_slave("mailbox", mailbox.bus,
                           SoCRegion(origin=MAILBOX_BASE, size=MAILBOX_BYTES, mode="rw",
                                     cached=False))

        upload = SimpleNamespace(**{name: getattr(hp, f"upload_{name}")
                                    for name, _, _ in AXI_WRITE_PORTS})
        self.network = Network(upload, clock_hz)
        self.bus.add_master("network", master=self.network.bus)
        self.ethphy = phy = outside.phy
        self.comb += [phy.source.connect(self.network.rx), self.network.tx.connect(phy.sink)]

    def _connect_axi(self, hp) -> None:
        masters = ([(f"read{i}", AXI_READ_PORTS) for i in range(PORTS)]
                   + [("write", AXI_WRITE_PORTS)])
        self.cpu.cfu_params.update({
            f"{direction}_{prefix}_{name}": getattr(hp, f"{prefix}_{name}")
            for prefix, signals in masters for name, _, direction in signals})
