"""The DRAM controller (DDRC) and its PHY: timing from the data sheet, start values of the training
from the board's wires.

What depends on neither is the same in all public tables of DDR3 boards (24 of them in U-Boot at
6073c36b). The formulas follow UG585, chapter "DDR Memory Controller", and the standard JESD79-3,
and were found by decoding those tables; tests/soc/test_ps7.py computes eight of them again.
"""

from __future__ import annotations

import math
from fractions import Fraction

from ..boards.board import Dram
from .mio import dci_done
from .steps import Step, poll, write

__all__ = ["controller"]

_BURST = 8  # words
#: tWR in cycles: its code in the mode register MR0 (JESD79-3, table of MR0).
_RECOVERY = {5: 1, 6: 2, 7: 3, 8: 4, 9: 5, 10: 5, 11: 6, 12: 6, 13: 7, 14: 7, 15: 0, 16: 0}


class _Rate:
    """Times as cycles of the DRAM's clock, or units of so many."""

    def __init__(self, mhz: Fraction) -> None:
        self._mhz = mhz

    def up(self, ns: float, unit: int = 1) -> int:
        return math.ceil(_exact(ns) * self._mhz / 1000 / unit)

    def down(self, ns: float, unit: int = 1) -> int:
        return math.floor(_exact(ns) * self._mhz / 1000 / unit)


def _exact(decimal: float) -> Fraction:
    """What stands in the data sheet, not the binary number next to it."""
    return Fraction(str(decimal))


def controller(dram: Dram, mhz: Fraction) -> list[Step]:
    """The steps, for a DRAM clock of ``mhz``: first the controller is held in reset, last it
    trains."""
    width = int(dram.bus == 16)
    start = dict(POWERDOWN_EN=0, DATA_BUS_WIDTH=width, BURST8_REFRESH=0, RDWR_IDLE_GAP=1,
                 DIS_RD_BYPASS=0, DIS_ACT_BYPASS=0, DIS_AUTO_REFRESH=0)
    return [
        write("DDRC_CTRL", "held in reset", SOFT_RSTB=0, **start),
        *_timing(dram, _Rate(mhz)),
        *_addresses(dram),
        *_control(dram, _Rate(mhz)),
        *_phy(dram, mhz),
        *_ports(),
        *_start_up(_Rate(mhz)),
        dci_done(),
        write("DDRC_CTRL", "starts the DRAM and trains", SOFT_RSTB=1, **start),
        poll("MODE_STS_REG", "OPERATING_MODE", "the DRAM runs"),
    ]


def _timing(dram: Dram, rate: _Rate) -> list[Step]:
    t_wr, t_wtr = rate.up(15), max(4, rate.up(7.5))
    if t_wr not in _RECOVERY:
        raise ValueError(f"tWR would be {t_wr} cycles, which DDR3 does not know: look at the "
                         "DRAM's clock")
    half = _BURST // 2
    # JESD79-3: a row may be open for nine intervals of refresh
    t_ras_max = rate.down(9000 * dram.t_refi, 1024)
    code = _RECOVERY[t_wr] << 9 | 1 << 8 | (dram.cl - 4 & 7) << 4 | (dram.cl > 11) << 2
    zeros = dict(MR_WR=0, MR_ADDR=0, MR_DATA=0, MR_WR_BUSY=0, MR_TYPE=0, MR_RDATA_VALID=0)
    return [
        write("TWO_RANK_CFG", f"a refresh every {dram.t_refi} us",
              T_RFC_NOM_X32=rate.down(1000 * dram.t_refi, 32), ACTIVE_RANKS=1, ADDRMAP_CS_BIT0=0),
        write("HPR_REG", MIN_NON_CRITICAL_X32=15, MAX_STARVE_X32=15, XACT_RUN_LENGTH=15),
        write("LPR_REG", MIN_NON_CRITICAL_X32=1, MAX_STARVE_X32=2, XACT_RUN_LENGTH=8),
        write("WR_REG", MIN_NON_CRITICAL_X32=1, XACT_RUN_LENGTH=8, MAX_STARVE_X32=2),
        write("DRAM_PARAM_REG0", f"tRC {dram.t_rc} ns, tRFC {dram.t_rfc} ns",
              T_RC=rate.up(dram.t_rc), T_RFC_MIN=rate.up(dram.t_rfc), POST_SELFREF_GAP_X32=16),
        write("DRAM_PARAM_REG1",
              f"CWL + BL/2 + tWR; tFAW {dram.t_faw} ns; nine tREFI; tRAS {dram.t_ras} ns",
              WR2PRE=dram.cwl + half + t_wr, POWERDOWN_TO_X32=6, T_FAW=rate.up(dram.t_faw),
              T_RAS_MAX=t_ras_max, T_RAS_MIN=rate.up(dram.t_ras), T_CKE=4),
        write("DRAM_PARAM_REG2",
              "CWL - 1; CL + BL/2 - CWL + 2; CWL + tWTR + BL/2; tXP and tRTP: 7.5 ns, at least 4",
              WRITE_LATENCY=dram.cwl - 1, RD2WR=dram.cl + half - dram.cwl + 2,
              WR2RD=dram.cwl + t_wtr + half, T_XP=rate.up(7.5), PAD_PD=0,
              RD2PRE=max(4, rate.up(7.5)), T_RCD=dram.t_rcd),
        write("DRAM_PARAM_REG3", f"tRRD {dram.t_rrd} ns, at least 4", T_CCD=4,
              T_RRD=max(4, rate.up(dram.t_rrd)), REFRESH_MARGIN=2, T_RP=dram.t_rp,
              REFRESH_TO_X32=8, MOBILE=0, EN_DFI_DRAM_CLK_DISABLE=0, READ_LATENCY=dram.cl,
              MODE_DDR1_DDR2=1, DIS_PAD_PD=0),
        write("DRAM_PARAM_REG4", EN_2T_TIMING_MODE=0, PREFER_WRITE=0, **zeros),
        write("DRAM_INIT_PARAM", FINAL_WAIT_X32=7, PRE_OCD_X32=0, T_MRD=4),
        write("DRAM_EMR_REG", "MR2: CWL", EMR2=dram.cwl - 5 << 3, EMR3=0),
        write("DRAM_EMR_MR_REG", "MR0: CL, tWR, DLL reset; MR1: RTT_NOM of 60 ohms", MR=code,
              EMR=4),
        write("DRAM_BURST8_RDWR", "CKE rises after 500 us, and the tool's 200", BURST_RDWR=half,
              PRE_CKE_X1024=rate.up(700_000, 1024), POST_CKE_X1024=1, BURSTCHOP=0),
        write("DRAM_DISABLE_DQ", FORCE_LOW_PRI_N=0, DIS_DQ=0),
    ]


def _addresses(dram: Dram) -> list[Step]:
    """Column, bank, row, from the lowest address bit up: a stream goes through all banks before it
    opens another row of one. 15 stands for a bit that the DRAM does not have."""
    narrow = dram.bus == 16
    row = 5 if narrow else 6

    def has(bit: int) -> int:
        return row if bit < dram.rows else 15

    return [
        write("DRAM_ADDR_MAP_BANK", BANK_B0=row + 1, BANK_B1=row + 1, BANK_B2=row + 1, COL_B5=0,
              COL_B6=0),
        write("DRAM_ADDR_MAP_COL", COL_B2=0, COL_B3=0, COL_B4=0, COL_B7=0,
              COL_B8=15 if narrow else 0, COL_B9=15, COL_B10=15, COL_B11=15),
        write("DRAM_ADDR_MAP_ROW", ROW_B0=row, ROW_B1=row, ROW_B2_11=row, ROW_B12=has(12),
              ROW_B13=has(13), ROW_B14=has(14), ROW_B15=has(15)),
    ]


def _control(dram: Dram, rate: _Rate) -> list[Step]:
    self_refresh = max(5, rate.up(10))
    return [
        write("DRAM_ODT_REG", RANK0_RD_ODT=0, RANK0_WR_ODT=1, RD_LOCAL_ODT=0, WR_LOCAL_ODT=3,
              IDLE_LOCAL_ODT=3),
        write("PHY_CMD_TIMEOUT_RDDATA_CPT", RD_CMD_TO_DATA=0, WR_CMD_TO_DATA=0,
              RDC_WE_TO_RE_DELAY=8, RDC_FIFO_RST_DISABLE=0, USE_FIXED_RE=1,
              RDC_FIFO_RST_ERR_CNT_CLR=0, DIS_PHY_CTRL_RSTN=0, CLK_STALL_LEVEL=0,
              GATELVL_NUM_OF_DQ0=7, WRLVL_NUM_OF_DQ0=7),
        write("DLL_CALIB", DIS_DLL_CALIB=0),
        write("ODT_DELAY_HOLD", RD_ODT_DELAY=3, WR_ODT_DELAY=0, RD_ODT_HOLD=0,
              WR_ODT_HOLD=_BURST // 2 + 1),
        write("CTRL_REG1", "rows stay open; all 32 entries of the read queue are of one priority",
              PAGECLOSE=0, LPR_NUM_ENTRIES=31, AUTO_PRE_EN=0, REFRESH_UPDATE_LEVEL=0, DIS_WC=0,
              DIS_COLLISION_PAGE_OPT=0, SELFREF_EN=0),
        write("CTRL_REG2", GO2CRITICAL_HYSTERESIS=0, GO2CRITICAL_EN=1),
        write("CTRL_REG3", WRLVL_WW=dram.cl + 58, RDLVL_RR=dram.cl + 58, DFI_T_WLMRD=40),
        write("CTRL_REG4", CTRLUPD_INTERVAL_MIN_X1024=16, CTRLUPD_INTERVAL_MAX_X1024=22),
        write("CTRL_REG5", "tCKSRE and tCKSRX: 10 ns, at least 5", DFI_T_CTRL_DELAY=1,
              DFI_T_DRAM_CLK_DISABLE=1, DFI_T_DRAM_CLK_ENABLE=1, T_CKSRE=self_refresh,
              T_CKSRX=self_refresh, T_CKESR=4),
        write("CTRL_REG6", T_CKPDE=2, T_CKPDX=2, T_CKDPDE=2, T_CKDPDX=2, T_CKCSX=3),
        write("CHE_T_ZQ", DIS_AUTO_ZQ=0, DDR3=1, T_MOD=0x200, T_ZQ_LONG_NOP=0x200,
              T_ZQ_SHORT_NOP=0x40),
        write("CHE_T_ZQ_SHORT_INTERVAL", "every 100 ms; reset lasts 200 us",
              T_ZQ_SHORT_INTERVAL_X1024=rate.down(100_000_000, 1024),
              DRAM_RSTN_X1024=rate.up(200_000, 1024)),
        write("DEEP_PWRDWN_REG", "500 us, or as long as it can", EN=0,
              TO_X1024=min(255, rate.up(500_000, 1024))),
        write("REG_2C", "trains write levelling, the gate of DQS, and the data eye",
              WRLVL_MAX_X1024=0xFFF, RDLVL_MAX_X1024=0xFFF, TWRLVL_MAX_ERROR=0,
              TRDLVL_MAX_ERROR=0, WR_LEVEL_EN=1, RD_DQS_GATE_LEVEL=1, RD_DATA_EYE_TRAIN=1),
        write("REG_2D", SKIP_OCD=1),
        write("DFI_TIMING", "CL - 1", T_RDDATA_EN=dram.cl - 1, T_CTRLUP_MIN=3, T_CTRLUP_MAX=64),
        write("CHE_ECC_CONTROL", CLEAR_UNCORRECTABLE=0, CLEAR_CORRECTABLE=0),
        write("CHE_CORR_ECC_LOG", VALID=0, ECC_CORRECTED_BIT_NUM=0),
        write("CHE_UNCORR_ECC_LOG", VALID=0),
        write("CHE_ECC_STATS", NUM_UNCORR_ERR=0, NUM_CORR_ERR=0),
        write("ECC_SCRUB", ECC_MODE=0, DIS_SCRUB=1),
    ]


def _phy(dram: Dram, mhz: Fraction) -> list[Step]:
    """A ratio of 256 is a cycle of the DRAM's clock. Start values: a byte's write strobe has to
    leave as much later as the clock arrives later than it; a read comes after two board delays, at
    512 to the cycle, and 96."""
    slices = range(4)
    used = [int(i < dram.bus // 8) for i in slices]
    lag = [math.trunc(_exact(ns) * mhz * 256 / 1000) for ns in dram.clock_lag]
    gate = [math.floor(_exact(ns) * mhz * 512 / 1000) + 96 for ns in dram.delay]
    steps: list[Step] = [write("PHY_RCVR_ENABLE", DIF_ON=0, DIF_OFF=0)]
    steps += [write(f"PHY_CONFIG{i}", DATA_SLICE_IN_USE=used[i], RDLVL_INC_MODE=0,
                    GATELVL_INC_MODE=0, WRLVL_INC_MODE=0, BIST_SHIFT_DQ=0, BIST_ERR_CLR=0,
                    DQ_OFFSET=64) for i in slices]
    steps += [write(f"PHY_INIT_RATIO{i}", WRLVL=max(0, lag[i]), GATELVL=gate[i]) for i in slices]
    for name, ratios in (("PHY_RD_DQS_CFG", [53] * 4), ("PHY_WR_DQS_CFG", [128 + d for d in lag])):
        steps += [write(f"{name}{i}", SLAVE_RATIO=ratios[i], SLAVE_FORCE=0, SLAVE_DELAY=0)
                  for i in slices]
    steps += [write(f"PHY_WE_CFG{i}", SLAVE_RATIO=gate[i] + 85, IN_FORCE=0, IN_DELAY=0)
              for i in slices]
    steps += [write(f"WR_DATA_SLV{i}", "a quarter of a cycle behind the strobe",
                    SLAVE_RATIO=192 + lag[i], SLAVE_FORCE=0, SLAVE_DELAY=0) for i in slices]
    return [
        *steps,
        write("REG_64", BL2=0, AT_SPD_ATPG=0, BIST_ENABLE=0, BIST_FORCE_ERR=0, BIST_MODE=0,
              INVERT_CLKOUT=1, SEL_LOGIC=0, CTRL_SLAVE_RATIO=256, CTRL_SLAVE_FORCE=0,
              CTRL_SLAVE_DELAY=0, LPDDR=0, CMD_LATENCY=0),
        write("REG_65", "CWL - 4, CL - 3", WR_RL_DELAY=max(1, dram.cwl - 4),
              RD_RL_DELAY=max(1, dram.cl - 3), DLL_LOCK_DIFF=15, USE_WR_LEVEL=1,
              USE_RD_DQS_GATE_LEVEL=1, USE_RD_DATA_EYE_LEVEL=1, DIS_CALIB_RST=0,
              CTRL_SLAVE_DELAY=0),
    ]


def _ports() -> list[Step]:
    """All four of the controller's ports alike."""
    alike = dict(PRI=0x3FF, DISABLE_AGING=0, DISABLE_URGENT=0, DIS_PAGE_MATCH=0)
    return [
        write("PAGE_MASK", ADDR_MASK=0),
        *(write(f"AXI_PRIORITY_WR_PORT{i}", **alike) for i in range(4)),
        *(write(f"AXI_PRIORITY_RD_PORT{i}", **alike, SET_HPR=0) for i in range(4)),
    ]


def _start_up(rate: _Rate) -> list[Step]:
    return [
        write("LPDDR_CTRL0", LPDDR2=0, DERATE_ENABLE=0, MR4_MARGIN=0),
        write("LPDDR_CTRL1", MR4_READ_INTERVAL=0),
        write("LPDDR_CTRL2", MIN_STABLE_CLOCK_X1=5,
              IDLE_AFTER_RESET_X32=rate.up(1_050, 32), T_MRW=5),
        write("LPDDR_CTRL3", MAX_AUTO_INIT_X1024=rate.up(322_500, 1024),
              DEV_ZQINIT_X32=rate.up(1_050, 32)),
    ]
