"""What a board file says: everything in which one XC7Z020 board differs from another.

docs/board.md explains how to write one from a schematic and data sheets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

__all__ = ["Board", "Clocks", "Dram", "Led", "MIO", "Phy", "UART"]


@dataclass(frozen=True)
class Dram:
    """DDR3 devices, all alike, and their wires.

    ``megabits`` and ``width`` are of one device; ``bus`` is the width of all together, in bits.
    Times are those of the data sheet's speed bin, in ns: ``t_rc`` from activate to activate,
    ``t_ras`` from activate to precharge, ``t_faw`` four activates, ``t_rrd`` activate to activate
    of another bank, ``t_rfc`` a refresh; ``t_refi`` is the time between refreshes in microseconds
    (7.8, or 3.9 above 85 degrees). ``cl``, ``cwl``, ``t_rcd`` and ``t_rp`` are cycles.

    ``vref``: ``external`` where the board drives the VREF pins of bank 502, else ``internal``.
    ``clock_lag``: how many ns later than a byte's strobe the clock arrives at its device (negative:
    earlier); ``delay``: how many ns data and clock take on the board and in the packages, on
    average. One figure for each byte of the bus. What is not known stays at the defaults: training
    finds the values, these are where it starts.
    """

    part: str
    megabits: int
    width: int
    t_rc: float
    t_ras: float
    t_faw: float
    t_rrd: float
    t_rfc: float
    rows: int
    vref: str
    cl: int = 7
    cwl: int = 6
    t_rcd: int = 7
    t_rp: int = 7
    t_refi: float = 7.8
    volts: float = 1.5
    bus: int = 32
    clock_lag: tuple[float, float, float, float] = (0, 0, 0, 0)
    delay: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        """Raises ValueError for what no controller can do, or a word that means nothing here."""
        for name, allowed in (("vref", ("external", "internal")), ("volts", (1.5, 1.35)),
                              ("bus", (16, 32)), ("width", (8, 16))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} of the DRAM is {getattr(self, name)!r}: it can be "
                                 f"{' or '.join(map(repr, allowed))}")

    @property
    def bytes(self) -> int:
        return self.megabits * (self.bus // self.width) << 17


@dataclass(frozen=True)
class Clocks:
    """The oscillator at PS_CLK, in Hz, and what the three PLLs multiply it with; 0: whatever gives
    1333, 1067 and 1000 MHz or just below. ``cpu`` and ``ddr`` divide the first two; the other
    figures are rates in MHz that are wanted of the peripherals. ``fclk``: of the clocks to the
    fabric."""

    crystal: int = 33_333_333
    arm_pll: int = 0
    ddr_pll: int = 0
    io_pll: int = 0
    cpu: int = 2
    ddr: int = 2
    qspi: float = 200
    sdio: float = 50
    uart: float = 100
    can: float = 0
    spi: float = 0
    smc: float = 100
    pcap: float = 200
    gem: float = 125
    fclk: tuple[float, ...] = (125,)

    def pll(self, name: str) -> int:
        """What ``arm``, ``ddr`` or ``io`` multiplies the oscillator with."""
        given: int = getattr(self, f"{name}_pll")
        # a hair more than the rates, as 33.333 MHz is less than a third of 100
        most = {"arm": 1_333_400_000, "ddr": 1_066_700_000, "io": 1_000_100_000}[name]
        return given or most // self.crystal

    def ddr_mhz(self) -> Fraction:
        """The clock of the DRAM."""
        return Fraction(self.crystal * self.pll("ddr"), self.ddr * 1_000_000)


@dataclass(frozen=True)
class MIO:
    """The 54 multiplexed pins: what stands on which, as text such as ``"16-27"`` or ``"1-6 8"``.

    ``functions`` has names of mio.FUNCTIONS; pins without one are GPIO. ``banks``: the standards of
    pins 0 to 15 and 16 to 53 (``LVCMOS33``, ``LVCMOS25``, ``LVCMOS18``), and ``hstl`` the pins of
    the second bank that are HSTL instead. ``inputs`` are GPIO without an output; ``unset`` are left
    as they come up. ``resets`` are GPIO pins at which a low pulse resets a device.
    """

    functions: dict[str, str]
    banks: tuple[str, str] = ("LVCMOS33", "LVCMOS18")
    hstl: str = ""
    pullup: str = ""
    fast: str = ""
    inputs: str = ""
    unset: str = ""
    resets: tuple[int, ...] = ()


@dataclass(frozen=True)
class Phy:
    """The PHY of the processing system's Ethernet: its chip, MDIO address, and whether it adds the
    delays of RGMII by itself (``strapped``) or has to be told (``marvell``)."""

    chip: str
    address: int
    delays: str = "strapped"


@dataclass(frozen=True)
class UART:
    """The controller whose pins lead to the USB port (``ps0``, ``ps1``), or ``pl``."""

    where: str
    chip: str


@dataclass(frozen=True)
class Led:
    pin: str
    standard: str


@dataclass(frozen=True)
class Board:
    """One board. ``part`` as the vendor writes it, ``grade`` its speed grade (1 or 2); ``network``
    is ``ps`` or ``pl``; ``jtag`` are OpenOCD's commands that choose the cable. ``sources`` say
    where the facts are from.

    ``pins`` are of the fabric, by names of design.PINS, in the standard ``standard``: what is there
    for Ethernet and UART of the fabric.
    """

    name: str
    title: str
    part: str
    grade: int
    dram: Dram
    mio: MIO
    network: str
    phy: Phy
    uart: UART
    jtag: str
    sources: str
    clocks: Clocks = field(default_factory=Clocks)
    leds: tuple[Led, ...] = ()
    pins: dict[str, str] = field(default_factory=dict)
    standard: str = "LVCMOS33"
