"""PLLs and clocks of the processing system (UG585, chapter "Clocks")."""

from __future__ import annotations

import math
from fractions import Fraction

from ..boards.board import Clocks
from .steps import Step, poll, write

__all__ = ["dci_divisors", "divisors", "peripherals", "plls"]

#: Most an FDIV is for: charge pump, resistor, and how many cycles to lock (UG585, table "PLL
#: Frequency Control Settings").
_LOCK = ((13, 2, 6, 750), (14, 2, 6, 700), (15, 2, 6, 650), (16, 2, 10, 625), (17, 2, 10, 575),
         (18, 2, 10, 550), (19, 2, 10, 525), (20, 2, 12, 500), (21, 2, 12, 475), (22, 2, 12, 450),
         (23, 2, 12, 425), (25, 2, 12, 400), (26, 2, 12, 375), (28, 2, 12, 350), (30, 2, 12, 325),
         (33, 2, 2, 300), (36, 2, 2, 275), (40, 2, 2, 250), (47, 3, 12, 250), (66, 2, 4, 250))
_DCI_MHZ = Fraction("10.159")  # at most: what the vendor's tool aims at
_SOURCES = {"io": 0, "arm": 2, "ddr": 3}


def _pll(name: str, multiplier: int) -> list[Step]:
    if not 13 <= multiplier <= 66:
        raise ValueError(f"the {name.upper()} PLL cannot multiply with {multiplier}")
    pump, resistor, count = next(row[1:] for row in _LOCK if multiplier <= row[0])
    control = f"{name.upper()}_PLL_CTRL"
    return [
        write(f"{name.upper()}_PLL_CFG", PLL_RES=resistor, PLL_CP=pump, LOCK_CNT=count),
        write(control, "what it multiplies the oscillator with", PLL_FDIV=multiplier),
        write(control, "the oscillator itself in the meantime", PLL_BYPASS_FORCE=1),
        write(control, PLL_RESET=1),
        write(control, PLL_RESET=0),
        poll("PLL_STATUS", f"{name.upper()}_PLL_LOCK", f"the {name.upper()} PLL is locked"),
        write(control, PLL_BYPASS_FORCE=0),
    ]


def plls(clocks: Clocks) -> list[Step]:
    return [
        *_pll("arm", clocks.pll("arm")),
        write("ARM_CLK_CTRL", SRCSEL=0, DIVISOR=clocks.cpu, CPU_6OR4XCLKACT=1, CPU_3OR2XCLKACT=1,
              CPU_2XCLKACT=1, CPU_1XCLKACT=1, CPU_PERI_CLKACT=1),
        *_pll("ddr", clocks.pll("ddr")),
        write("DDR_CLK_CTRL", "the DRAM's clock, and two thirds of it for the controller",
              DDR_3XCLKACT=1, DDR_2XCLKACT=1, DDR_3XCLK_DIVISOR=clocks.ddr,
              DDR_2XCLK_DIVISOR=clocks.ddr * 3 // 2),
        *_pll("io", clocks.pll("io")),
    ]


def divisors(rate: Fraction, wanted: float, limits: tuple[int, int] = (63, 63)) -> tuple[int, int]:
    """Two divisors of at most ``limits`` by which ``rate`` comes nearest to ``wanted``, both in
    MHz; the second as small as can be. Raises ValueError if ``wanted`` is not within 5 %."""
    if wanted <= 0:
        raise ValueError(f"a clock of {wanted} MHz cannot be made: say how fast it is to be")
    pairs = ((min(limits[0], max(1, round(rate / two / Fraction(wanted)))), two)
             for two in range(1, limits[1] + 1))
    best = min(pairs, key=lambda pair: (abs(rate / pair[0] / pair[1] - Fraction(wanted)), pair[1]))
    if abs(rate / best[0] / best[1] - Fraction(wanted)) > Fraction(wanted) / 20:
        raise ValueError(f"{float(rate):.1f} MHz cannot be divided to {wanted} MHz")
    return best


def dci_divisors(rate: Fraction) -> tuple[int, int]:
    """The two divisors of the impedance calibration: the fastest clock that is not above 10.16 MHz,
    the second divisor as small as can be."""
    pairs = ((math.ceil(rate / two / _DCI_MHZ), two) for two in range(1, 64))
    return min((pair for pair in pairs if pair[0] <= 63),
               key=lambda pair: (pair[0] * pair[1], pair[1]))


def _simple(register: str, rate: Fraction, wanted: float, **active: int) -> Step:
    one, _ = divisors(rate, wanted, (63, 1))
    return write(register, f"{float(rate / one):.4g} MHz", **active, SRCSEL=_SOURCES["io"],
                 DIVISOR=one)


def _ethernet(rate: Fraction, clocks: Clocks, functions: dict[str, str]) -> list[Step]:
    steps: list[Step] = []
    for i in range(2):
        if f"enet{i}" in functions:
            one, two = divisors(rate, clocks.gem)
            steps += [
                write(f"GEM{i}_RCLK_CTRL", "the PHY's clock, from the pins", CLKACT=1, SRCSEL=0),
                write(f"GEM{i}_CLK_CTRL", f"{clocks.gem:g} MHz", CLKACT=1, SRCSEL=0, DIVISOR=one,
                      DIVISOR1=two)]
    return steps


def _pair(functions: dict[str, str], name: str) -> dict[str, int]:
    return {f"CLKACT{i}": int(f"{name}{i}" in functions) for i in range(2)}


def peripherals(clocks: Clocks, functions: dict[str, str]) -> list[Step]:
    """Clocks of everything that ``functions`` (MIO.functions) names, of the programming port and of
    the fabric. What has no clock must not be read: the bus would hang."""
    rate = Fraction(clocks.crystal * clocks.pll("io"), 1_000_000)
    one, two = dci_divisors(Fraction(clocks.crystal * clocks.pll("ddr"), 1_000_000))
    steps: list[Step] = [write("DCI_CLK_CTRL", "at most 10.16 MHz", CLKACT=1, DIVISOR0=one,
                               DIVISOR1=two), *_ethernet(rate, clocks, functions)]
    if "smc" in functions:
        steps.append(_simple("SMC_CLK_CTRL", rate, clocks.smc, CLKACT=1))
    if "qspi" in functions:
        steps.append(_simple("LQSPI_CLK_CTRL", rate, clocks.qspi, CLKACT=1))
    for name, register in (("sd", "SDIO_CLK_CTRL"), ("uart", "UART_CLK_CTRL"),
                           ("spi", "SPI_CLK_CTRL")):
        if any(_pair(functions, name).values()):
            wanted = getattr(clocks, {"sd": "sdio"}.get(name, name))
            steps.append(_simple(register, rate, wanted, **_pair(functions, name)))
    if any(_pair(functions, "can").values()):
        one, two = divisors(rate, clocks.can)
        steps += [write("CAN_CLK_CTRL", f"{clocks.can:g} MHz", **_pair(functions, "can"), SRCSEL=0,
                        DIVISOR0=one, DIVISOR1=two),
                  write("CAN_MIOCLK_CTRL", CAN0_MUX=0, CAN0_REF_SEL=0, CAN1_MUX=0, CAN1_REF_SEL=0)]
    steps.append(_simple("PCAP_CLK_CTRL", rate, clocks.pcap, CLKACT=1))
    for i, wanted in enumerate(clocks.fclk):
        one, two = divisors(rate, wanted)
        steps.append(write(f"FPGA{i}_CLK_CTRL", f"FCLK{i}, {wanted:g} MHz", SRCSEL=_SOURCES["io"],
                           DIVISOR0=one, DIVISOR1=two))
    steps.append(write("CLK_621_TRUE", "CPU clocks 6:3:2:1", CLK_621_TRUE=1))
    steps.append(_registers(functions))
    return steps


def _registers(functions: dict[str, str]) -> Step:
    """Whose registers can be read: what Linux expects of every board, and what is used."""
    always = ("DMA", "USB0", "USB1", "I2C0", "I2C1", "GPIO", "SMC")
    names = {"GEM": "enet", "SDI": "sd", "LQSPI": "qspi"}

    def used(block: str) -> bool:
        kind = block.rstrip("01")
        return block in always or names.get(kind, kind.lower()) + block[len(kind):] in functions

    register = write("APER_CLK_CTRL").register
    return write(register.name, "whose registers can be read", **{
        field.name: int(used(field.name.split("_")[0])) for field in register.fields})
