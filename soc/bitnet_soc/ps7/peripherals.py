"""UART, Ethernet reset, memory ports and level shifters: what is set up behind the DRAM, and after
the bitstream was loaded."""

from __future__ import annotations

from fractions import Fraction

from ..boards.board import MIO, Board
from .clocks import divisors
from .steps import Delay, Step, overwrite, write

__all__ = ["BAUD", "configure", "connect", "resets"]

BAUD = 115_200  # until the firmware sets its own


def _baud(clock: Fraction) -> tuple[int, int]:
    """Divisor and samples per bit, the nearest to BAUD with the fewest samples."""
    pairs = [(round(clock / BAUD / samples), samples) for samples in range(5, 257)]
    return min(pairs, key=lambda pair: (abs(clock / pair[0] / pair[1] - BAUD), pair[1]))


def _uart(board: Board) -> list[Step]:
    source = Fraction(board.clocks.crystal * board.clocks.pll("io"), 1_000_000)
    one, _ = divisors(source, board.clocks.uart, (63, 1))
    steps: list[Step] = []
    for i in range(2):
        if f"uart{i}" not in board.mio.functions:
            continue
        divisor, samples = _baud(source * 1_000_000 / one)
        steps += [
            write(f"UART{i}_BAUDDIV", "samples of a bit, less one", BDIV=samples - 1),
            write(f"UART{i}_BAUDGEN", f"{BAUD} baud", CD=divisor),
            write(f"UART{i}_CR", "receiver and transmitter on, FIFOs empty", RXRES=1, TXRES=1,
                  RXEN=1, RXDIS=0, TXEN=1, TXDIS=0, RSTTO=0, STTBRK=0, STPBRK=0),
            write(f"UART{i}_MR", "8 bits, no parity, one stop bit", CLKS=0, CHRL=0, PAR=4,
                  NBSTOP=0, CHMODE=0)]
    return steps


def resets(mio: MIO) -> list[Step]:
    """A low pulse of a millisecond at each of ``mio.resets``; pins that were released stay so."""
    steps: list[Step] = []
    driven = [0, 0]
    for pin in mio.resets:
        bank, bit = divmod(pin, 32)
        driven[bank] |= 1 << bit
        register = f"GPIO_MASK_DATA_{bank}_{'MSW' if bit > 15 else 'LSW'}"
        field = write(register, DATA=0).register["MASK"]
        others = (field.mask >> field.low) & ~(1 << bit % 16)  # a one: left alone
        high, low = (write(register, MASK=others, DATA=level << bit % 16) for level in (1, 0))
        steps += [
            write(f"GPIO_DIRM_{bank}", f"MIO {pin} resets a device", DIRECTION=driven[bank]),
            high,
            write(f"GPIO_OEN_{bank}", OP_ENABLE=driven[bank]),
            low,
            Delay(1),
            high,
        ]
    return steps


def configure(board: Board) -> list[Step]:
    steps = _uart(board)
    if "qspi" in board.mio.functions:
        steps.append(write("XQSPIPS_CR", "drives HOLD high", HOLDB_DR=1))
    return [
        *steps,
        write("XDCFG_CTRL", "the longer timer for the fabric's power", PCFG_POR_CNT_4K=0),
        *resets(board.mio),
    ]


def connect() -> list[Step]:
    """After the bitstream: level shifters both ways, memory ports 64 bits wide with eight commands
    in flight, all of the on-chip memory at the top, and last the fabric's clocks run free of
    reset."""
    steps: list[Step] = [
        write("LVL_SHFTR_EN", "both directions", USER_LVL_OUT_EN_1=1, USER_LVL_INP_EN_1=1,
              USER_LVL_OUT_EN_0=1, USER_LVL_INP_EN_0=1),
        write("OCM_CFG", "all four blocks at FFFC_0000", RAM_HI=15, SWAP=1),
    ]
    # the fabric's PLL locks: a port without a clock would never answer
    steps.append(Delay(1))
    for i in range(4):
        common = dict(N32_BIT_EN=0, FABRIC_QOS_EN=0, FABRIC_OUT_CMD_EN=0, QOS_HEAD_OF_CMD_Q_EN=0)
        steps += [
            write(f"AFI{i}_RDCHAN_CTRL", "64 bits", **common),
            write(f"AFI{i}_RDCHAN_ISSUINGCAP", "eight commands", RD_ISSUE_CAP0=7, RD_ISSUE_CAP1=7),
            write(f"AFI{i}_WRCHAN_CTRL", "64 bits", **common, WR_DATA_THRESHOLD=15),
            write(f"AFI{i}_WRCHAN_ISSUINGCAP", "eight commands", WR_ISSUE_CAP0=7,
                  WR_ISSUE_CAP1=7),
        ]
    return [*steps, overwrite("FPGA_RST_CTRL", FPGA0_OUT_RST=0, FPGA1_OUT_RST=0, FPGA2_OUT_RST=0,
                              FPGA3_OUT_RST=0, reserved=0)]
