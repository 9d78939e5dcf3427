"""Link, clocks and memory ports, as the firmware finds them."""

from __future__ import annotations

import time

from bitnet_host.run.protocol import UNKNOWN
from bitnet_host.selftest.diagnosed import Diagnosed

__all__ = ["check_outside", "check_clock"]

_COMMANDS = 8  # that a memory port takes after a reset
_CLOCKS_DIFFER = 0.005  # of two clocks that come from one crystal
_CRYSTALS_DIFFER = 0.001  # of the board's and this computer's
_SIMULATED = 5e6  # Hz; a board that is slower is simulated
_SECONDS = 2.0


def check_outside(board: Diagnosed) -> tuple[list[str], list[str]]:
    """Sentences on what is wrong, and the details."""
    fields = board.outside()
    if not fields["processing_system"]:
        return [], ["Ethernet and UART are the fabric's; their PHY is not asked"]
    wrong, details = [], []
    link, phy = fields["link"], fields["phy_id"]
    if phy in (UNKNOWN, 0):
        wrong.append("no Ethernet PHY answers: see phy.address in the board's file")
    else:
        details.append(f"Ethernet PHY {phy:08x}, " + (f"{link} Mbit/s" if link else "no link"))
    fabric, expected = board.info["clock_hz"], fields["ticks_hz"]
    measured = fields["ticks"] * fabric / fields["cycles"]
    details.append(f"the processing system's bus runs at {measured / 1e6:.2f} MHz if the fabric "
                   f"runs at {fabric / 1e6:g}; {expected / 1e6:.2f} expected")
    if abs(measured / expected - 1) > _CLOCKS_DIFFER:
        wrong.append("the clocks of fabric and processing system do not fit: "
                     f"{measured / 1e6:.2f} MHz where {expected / 1e6:.2f} belong; see clocks in "
                     "the board's file")
    for port in range(4):
        for way in ("read", "write"):
            mode, commands = (fields[f"hp{port}_{way}_{name}"] for name in ("mode", "commands"))
            if mode & 1:
                wrong.append(f"HP{port} is in 32-bit mode to {way} (AFI): the board was started by "
                             "something else than this project's list")
            if (commands & 7) + 1 != _COMMANDS:
                wrong.append(f"HP{port} has {(commands & 7) + 1} of {_COMMANDS} commands under way "
                             f"to {way} (AFI): the board was started by something else than this "
                             "project's list")
    return wrong, details


def check_clock(board: Diagnosed, seconds: float = _SECONDS) -> tuple[list[str], list[str]]:
    """The board's cycles against this computer's clock: sentences on what is wrong, details. An
    answer takes its time, so all that is known is that the cycles lie between question and
    answer."""
    nominal = board.info["clock_hz"]
    (asked, begin, answered) = _now(board)
    time.sleep(seconds)
    (asked_again, end, answered_again) = _now(board)
    cycles = end - begin & 0xFFFFFFFF
    least, most = (cycles / (answered_again - asked), cycles / (asked_again - answered))
    said = f"by this computer's clock the fabric runs at {least / 1e6:.4g} to {most / 1e6:.4g} MHz"
    if most < _SIMULATED:
        return [], [f"{said}, as a simulation does"]
    wrong = (most < nominal * (1 - _CRYSTALS_DIFFER) or least > nominal * (1 + _CRYSTALS_DIFFER))
    return [f"{said}, not at {nominal / 1e6:g}"] if wrong else [], [said]


def _now(board: Diagnosed) -> tuple[float, int, float]:
    """The board's cycles, between the times of question and answer."""
    asked = time.monotonic()
    return asked, board.outside()["now"], time.monotonic()
