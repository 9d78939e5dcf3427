"""The multiplexed pins (MIO), and the buffers between the controller and the DRAM (DDRIOB).

Which function has which code: UG585 table "MIO-at-a-glance" and the register MIO_PIN_00.
"""

from __future__ import annotations

from ..boards.board import MIO, Dram
from .steps import Step, poll, write

__all__ = ["FUNCTIONS", "buffers", "dci_done", "pins", "pin_numbers", "terminate"]

#: Function: fields that choose it, and which of its pins only listen (by their place among them).
FUNCTIONS: dict[str, tuple[dict[str, int], tuple[int, ...]]] = {
    "qspi": ({"L0_SEL": 1}, ()),
    "enet0": ({"L0_SEL": 1}, (6, 7, 8, 9, 10, 11)),
    "enet1": ({"L0_SEL": 1}, (6, 7, 8, 9, 10, 11)),
    "usb0": ({"L1_SEL": 1}, (1, 3, 8)),
    "usb1": ({"L1_SEL": 1}, (1, 3, 8)),
    "smc": ({"L2_SEL": 2}, (13,)),
    "can0": ({"L3_SEL": 1}, (0,)),
    "can1": ({"L3_SEL": 1}, (1,)),
    "i2c0": ({"L3_SEL": 2}, ()),
    "i2c1": ({"L3_SEL": 2}, ()),
    "jtag": ({"L3_SEL": 3}, (0, 2, 3)),
    "sd0": ({"L3_SEL": 4}, ()),
    "sd1": ({"L3_SEL": 4}, ()),
    "sd0_power": ({"L2_SEL": 3}, ()),
    "sd1_power": ({"L2_SEL": 3}, ()),
    "mdio0": ({"L3_SEL": 4}, ()),
    "mdio1": ({"L3_SEL": 5}, ()),
    "spi0": ({"L3_SEL": 5}, ()),
    "spi1": ({"L3_SEL": 5}, ()),
    "ttc0": ({"L3_SEL": 6}, (1,)),
    "ttc1": ({"L3_SEL": 6}, (1,)),
    "uart0": ({"L3_SEL": 7}, (0,)),
    "uart1": ({"L3_SEL": 7}, (1,)),
}
_SENSES = ("sd0_cd", "sd0_wp", "sd1_cd", "sd1_wp")  # a pin that a controller looks at
_STANDARDS = {"LVCMOS18": 1, "LVCMOS25": 2, "LVCMOS33": 3, "HSTL18": 4}


def pin_numbers(text: str) -> list[int]:
    """``"1-6 8"`` as numbers. ``"emio"``, pins of the fabric, has none."""
    numbers: list[int] = []
    if text == "emio":
        return numbers
    for part in text.split():
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _functions(mio: MIO) -> dict[int, tuple[dict[str, int], bool]]:
    """Pin: fields that choose its function, and whether it only listens."""
    found: dict[int, tuple[dict[str, int], bool]] = {}
    for name, text in mio.functions.items():
        if name in _SENSES:
            continue
        if name not in FUNCTIONS:
            raise ValueError(f"no MIO pin can be {name}: there are {', '.join(FUNCTIONS)} and "
                             f"{', '.join(_SENSES)}")
        fields, listening = FUNCTIONS[name]
        for place, pin in enumerate(pin_numbers(text)):
            if pin > 53:
                raise ValueError(f"there is no MIO {pin}")
            if pin in found:
                raise ValueError(f"MIO {pin} has two functions")
            found[pin] = fields, place in listening
    return found


def pins(mio: MIO) -> list[Step]:
    """The 54 pins, and where the card detect and write protect of the SD card slots come in."""
    functions = _functions(mio)
    sensed = {pin for name in _SENSES for pin in pin_numbers(mio.functions.get(name, ""))}
    pullup, fast = set(pin_numbers(mio.pullup)), set(pin_numbers(mio.fast))
    hstl, inputs = set(pin_numbers(mio.hstl)), set(pin_numbers(mio.inputs))
    for bank in mio.banks:
        if bank not in _STANDARDS:
            raise ValueError(f"a bank of MIO is {bank}: it can be {', '.join(_STANDARDS)}")
    steps: list[Step] = []
    for pin in range(54):
        if pin in pin_numbers(mio.unset):
            continue
        standard = "HSTL18" if pin in hstl else mio.banks[pin > 15]
        common = {"Speed": int(pin in fast), "IO_Type": _STANDARDS[standard],
                  "PULLUP": int(pin in pullup)}
        if pin in sensed:
            # its function stays what it is: an input goes to all that look at it
            steps.append(write(f"MIO_PIN_{pin:02}", TRI_ENABLE=1, **common, DisableRcvr=0))
            continue
        chosen, listens = functions.get(pin, ({}, pin in inputs))
        selection = {f"L{level}_SEL": chosen.get(f"L{level}_SEL", 0) for level in range(4)}
        # an HSTL receiver takes current: off where nothing is received
        steps.append(write(f"MIO_PIN_{pin:02}", TRI_ENABLE=int(listens), **selection, **common,
                           DisableRcvr=int(pin in hstl and not listens)))
    for i in range(2):
        if f"sd{i}" in mio.functions:
            sense = {kind: pin_numbers(mio.functions.get(f"sd{i}_{kind}", str(fabric)))[0]
                     for kind, fabric in (("wp", 55 + 2 * i), ("cd", 56 + 2 * i))}
            steps.append(write(f"SD{i}_WP_CD_SEL", "above 53: the fabric says it",
                               **{f"SDIO{i}_{kind.upper()}_SEL": pin
                                  for kind, pin in sense.items()}))
    return steps


def buffers(dram: Dram, hstl: bool) -> list[Step]:
    """The DRAM's pins: drivers, terminations, reference voltage, and the start of the calibration
    of their impedance (DCI). ``hstl``: MIO pins need the reference voltage of their bank."""
    steps: list[Step] = []
    if hstl:
        steps.append(write("GPIOB_CTRL", "before calibration: HSTL inputs compare with it",
                           VREF_EN=1, VREF_SEL=0))
    plain = dict(INP_POWER=0, INP_TYPE=0, DCI_UPDATE_B=0, TERM_EN=0, DCI_TYPE=0,
                 IBUF_DISABLE_MODE=0, TERM_DISABLE_MODE=0, OUTPUT_EN=3, PULLUP_EN=0)
    off = plain | dict(OUTPUT_EN=0, PULLUP_EN=1)
    # inputs: 1 compares with VREF, 2 is differential
    data = plain | dict(INP_TYPE=1, TERM_EN=1, DCI_TYPE=3)
    differential = data | dict(INP_TYPE=2)
    wide = dram.bus == 32
    for name, fields in (("ADDR0", plain), ("ADDR1", plain), ("DATA0", data),
                         ("DATA1", data if wide else off), ("DIFF0", differential),
                         ("DIFF1", differential if wide else off), ("CLOCK", plain)):
        steps.append(write(f"DDRIOB_{name}", **fields))
    for name, slew in (("ADDR", (3, 3)), ("DATA", (6, 31)), ("DIFF", (6, 31)), ("CLOCK", (6, 31))):
        steps.append(write(f"DDRIOB_DRIVE_SLEW_{name}", DRIVE_P=0x1C, DRIVE_N=0xC, SLEW_P=slew[0],
                           SLEW_N=slew[1], GTL=0, RTERM=0))
    external = dram.vref == "external"
    steps.append(write(
        "DDRIOB_DDR_CTRL", "half of the DRAM's supply: from the board, or made inside",
        VREF_INT_EN=int(not external),
        VREF_SEL=0 if external else {1.5: 4, 1.35: 2}[dram.volts],
        VREF_EXT_EN=(3 if wide else 1) if external else 0, VREF_PULLUP_EN=0, REFIO_EN=1,
        REFIO_TEST=0, REFIO_PULLUP_EN=0, DRST_B_PULLUP_EN=0, CKE_PULLUP_EN=0))
    steps += [
        write("DDRIOB_DCI_CTRL", RESET=1),
        write("DDRIOB_DCI_CTRL", RESET=0, VRN_OUT=1),
        write("DDRIOB_DCI_CTRL", RESET=1, ENABLE=1, VRP_TRI=0, VRN_TRI=0, VRP_OUT=0, VRN_OUT=1,
              NREF_OPT1=0, NREF_OPT2=0, NREF_OPT4=1, PREF_OPT1=0, PREF_OPT2=0, UPDATE_CONTROL=0,
              INIT_COMPLETE=0, TST_CLK=0, TST_HLN=0, TST_HLP=0, TST_RST=0, INT_DCI_EN=0),
    ]
    return steps


def dci_done() -> Step:
    return poll("DDRIOB_DCI_STATUS", "DONE", "the impedance is calibrated")


def terminate(dram: Dram) -> list[Step]:
    """Lets receivers and terminations rest while the controller does not read."""
    wide = int(dram.bus == 32)
    return [write(f"DDRIOB_{name}", IBUF_DISABLE_MODE=on, TERM_DISABLE_MODE=on)
            for name, on in (("DATA0", 1), ("DATA1", wide), ("DIFF0", 1), ("DIFF1", wide))]
