"""What the firmware is told of a board's processing system, against the start of that board and
against what U-Boot and the PHYs' tables in ../shared/boards say."""

from __future__ import annotations

import re

import pytest
from bitnet_soc import boards
from bitnet_soc.ps7.sequence import start
from bitnet_soc.ps7.steps import Write
from bitnet_soc.ps_header import c_header

_MAC = 0x10E2D5000001
_WITH_PS = [name for name in boards.names() if boards.load(name).uart.where != "pl"]


def _numbers(name: str) -> dict[str, int]:
    text = c_header(boards.load(name), _MAC, 125_000_000)
    return {found[0]: int(found[1].rstrip("u"), 0)
            for found in re.findall(r"#define PS_(\w+) (\w+)", text)}


def _left(name: str, address: int) -> int:
    """What the start of the board leaves in a register, as far as it writes it."""
    value = 0
    for phase in start(boards.load(name)).values():
        for step in phase:
            if isinstance(step, Write) and step.register.address == address:
                value = value & ~step.mask | step.value & step.mask
    return value


@pytest.mark.parametrize("name", _WITH_PS)
def test_clocks_are_those_that_the_start_leaves(name: str) -> None:
    numbers = _numbers(name)
    assert numbers["GEM_CLOCK_1000"] == _left(name, numbers["GEM_CLK_CTRL"])
    divisor = _left(name, 0xF8000154) >> 8 & 63
    assert abs(numbers["UART_HZ"] * divisor - 1_000_000_000) < 1_000_000 * divisor
    assert numbers["UART_BAUDGEN"] == 0x18 and numbers["UART"] in (0xE0000000, 0xE0001000)


def test_what_is_published_of_a_zybo() -> None:
    """U-Boot: 0x00100801 for 1000 Mbit/s, IO PLL by 8 and 5 for 100; the UART at E000_1000, the
    controller at E000_B000, PHY 0."""
    numbers = _numbers("zybo_z7_20")
    assert numbers["GEM_CLOCK_1000"] == 0x00100801
    for speed, by in ((100, 40), (10, 400)):
        clock = numbers[f"GEM_CLOCK_{speed}"]
        assert clock & 0x71 == 1 and (clock >> 8 & 63) * (clock >> 20 & 63) == by
    assert (numbers["UART"], numbers["GEM"], numbers["GEM_CLK_CTRL"]) == (0xE0001000, 0xE000B000,
                                                                          0xF8000140)
    assert numbers["GEM_MDC"] == 3  # 111 MHz by 48; by 32 it would be 3.5 MHz
    assert (numbers["PHY_ADDRESS"], numbers["PHY_TOLD_DELAYS"]) == (0, 0)
    assert (numbers["MAC_LOW"], numbers["MAC_HIGH"]) == (0x00D5E210, 0x0100)
    assert numbers["LOOK_CYCLES"] == 12_500_000


def test_phys_that_have_to_be_told_their_delays() -> None:
    assert _numbers("microzed")["PHY_TOLD_DELAYS"] == 1
    assert _numbers("zc702")["PHY_ADDRESS"] == 7


def test_a_board_without() -> None:
    with pytest.raises(ValueError, match=r"the UART of .* is not the processing system's"):
        c_header(boards.load("navigator_7020"), _MAC, 125_000_000)
