"""The start of the processing system: held against eight public register tables, field by field,
and against mistakes in a board file.

The tables (ps7_tables) hold what the vendor's tool computed for these boards, as it stands in
U-Boot at 6073c36b, board/*/zynq/*/ps7_init_gpl.c, for production silicon.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from bitnet_soc import boards
from bitnet_soc.boards.board import Clocks
from bitnet_soc.ps7 import clocks, ddr
from bitnet_soc.ps7.compare import Difference, differences
from bitnet_soc.ps7.registers import REGISTERS
from bitnet_soc.ps7.sequence import start
from bitnet_soc.ps7.steps import PHASES, Write, as_json, write
from ps7_boards import REFERENCES

_TABLES = Path(__file__).parent / "ps7_tables"


def _ours_alone(*registers: str) -> Callable[[Difference], bool]:
    return lambda d: not d.theirs and d.register.startswith(registers)


#: Why a field may differ, and when that holds. Nothing else may.
_REASONS: dict[str, Callable[[Difference], bool]] = {
    "reserved on production silicon; the newer tool writes other values":
        lambda d: d.register.startswith("DDRIOB_DRIVE_SLEW") and d.ours + d.theirs in (
            (0x1C, 0x68), (0xC, 0)),
    "reserved on production silicon; the older tool sets it with an internal reference":
        lambda d: (d.register, d.field, d.theirs) == ("DDRIOB_DDR_CTRL", "REFIO_TEST", (3,)),
    "another pair of divisors with the same product":
        lambda d: d.field.startswith("DIVISOR"),  # test_the_divisors looks at the product
    "CKE rises after 500 us as the standard has it; the newer tool waits 200 longer, and so do we":
        lambda d: (d.register, d.field, d.ours, d.theirs) == (
            "DRAM_BURST8_RDWR", "PRE_CKE_X1024", (365,), (261,)),
    "on-die termination of writes is its value after reset too; the older tool leaves it":
        lambda d: (d.register, d.theirs) == ("DRAM_ODT_REG", ()) and (d.field, d.ours) in (
            ("RANK0_RD_ODT", (0,)), ("RANK0_WR_ODT", (1,))),
    "counters of ECC, which is off, are cleared by the older tool":
        lambda d: d.register == "CHE_ECC_CONTROL" and (d.ours, d.theirs) == ((0,), (1, 0)),
    "a pin that was released stays driven; the tool turns it into an input again with the next one":
        lambda d: d.register.startswith(("GPIO_DIRM_", "GPIO_OEN_")) and all(
            mine & other == other for mine, other in zip(d.ours, d.theirs, strict=True)),
    "U-Boot's own driver sets the UART up": _ours_alone("UART0_", "UART1_"),
    "U-Boot moves the on-chip memory by itself": _ours_alone("OCM_CFG"),
    "the tool leaves the memory ports as they come out of reset": _ours_alone("AFI"),
}


def _table(name: str) -> dict[str, list[list[str | int]]]:
    found: dict[str, list[list[str | int]]] = json.loads((_TABLES / f"{name}.json").read_text())
    return found


def _found(name: str) -> list[Difference]:
    return differences(as_json(start(REFERENCES[name])), _table(name))


@pytest.mark.parametrize("name", REFERENCES)
def test_every_difference_has_a_reason(name: str) -> None:
    for difference in _found(name):
        assert any(holds(difference) for holds in _REASONS.values()), difference


def test_every_reason_is_needed() -> None:
    found = [difference for name in REFERENCES for difference in _found(name)]
    for reason, holds in _REASONS.items():
        assert any(map(holds, found)), reason


@pytest.mark.parametrize("name", REFERENCES)
def test_the_divisors_have_the_same_product(name: str) -> None:
    def products(rows: dict[str, list[list[str | int]]]) -> dict[str, int]:
        found = {}
        for kind, *numbers in rows["clock_init"]:
            address, _, value = ([int(str(n), 16) for n in numbers] + [0])[:3]
            divisors = (value >> 8 & 63, value >> 20 & 63)
            if kind == "maskwrite" and divisors[0]:
                found[f"{address:x}"] = divisors[0] * max(1, divisors[1])
        return found

    ours, theirs = products(as_json(start(REFERENCES[name]))), products(_table(name))
    enables = ("f800012c", "f8000008", "f8000004")
    assert ({a: p for a, p in ours.items() if a not in enables}
            == {a: p for a, p in theirs.items() if a not in enables})


@pytest.mark.parametrize("name", boards.names())
def test_our_boards_differ_in_nothing_but_clocks(name: str) -> None:
    """What is set up is what the tables of the same board say, but for the clocks that we want."""
    reference = {"zturn_7020": "zturn"}.get(name, name)
    if reference not in REFERENCES:
        assert name in ("ax7020", "navigator_7020")  # nobody published a table of them
        return
    ours = as_json(start(replace(boards.load(name), clocks=REFERENCES[reference].clocks)))
    assert ours == as_json(start(REFERENCES[reference]))


def test_order() -> None:
    """The DRAM starts last in its phase; the fabric's reset is released when all is set."""
    for name in boards.names():
        rows = as_json(start(boards.load(name)))
        assert tuple(rows) == PHASES
        ddr = rows["ddr_init"]
        assert ddr[0][1] == "0xF8006000" and int(str(ddr[0][3]), 16) & 1 == 0
        assert [row[1] for row in ddr[-3:]] == ["0xF8000B74", "0xF8006000", "0xF8006054"]
        assert int(str(ddr[-2][3]), 16) & 1
        post = [row[1] for row in rows["post_config"]]
        assert post.index("0xF8000900") < post.index("0xF8008000") < post.index("0xF8000240")
        delay = rows["post_config"].index(["delay", "0xF8F00200", 1])
        assert post.index("0xF8000900") < delay < post.index("0xF8008000")


def test_the_fabric_gets_125_mhz() -> None:
    for name in boards.names():
        board = boards.load(name)
        [row] = [row for row in as_json(start(board))["clock_init"] if row[1] == "0xF8000170"]
        value = int(str(row[3]), 16)
        rate = Fraction(board.clocks.crystal * board.clocks.pll("io"))
        assert value >> 4 & 3 == 0  # of the IO PLL
        assert abs(rate / (value >> 8 & 63) / (value >> 20 & 63) - 125_000_000) < 10_000


def test_the_clock_of_the_calibration() -> None:
    for rate in (Fraction(32 * 33_333_333, 1_000_000), Fraction(1050), Fraction(1200)):
        one, two = clocks.dci_divisors(rate)
        assert 1 <= one <= 63 and 1 <= two <= 63
        assert Fraction("10.0") < rate / one / two <= Fraction("10.16")


def test_registers_do_not_overlap() -> None:
    for register in REGISTERS.values():
        taken = 0
        for field in register.fields:
            assert not taken & field.mask and field.mask < 1 << 32, (register.name, field.name)
            taken |= field.mask


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="64 does not fit field DIVISOR"):
        write("ARM_CLK_CTRL", DIVISOR=64)


def test_pins_of_a_board_as_its_vendor_configures_them() -> None:
    """AX7020: what ALINX' projects say of single pins (ps_config.tcl), as register words of
    UG585."""
    words = _words("ax7020", "mio_init")
    for pin, word in ((0, 0x1600), (1, 0x1602), (2, 0x602), (8, 0x600), (16, 0x3902),
                      (22, 0x1903), (28, 0x1204), (29, 0x1205), (40, 0x1280),
                      (46, 0x1200), (47, 0x1201), (48, 0x12E0), (49, 0x12E1), (52, 0x1280)):
        assert words[f"0xF80007{4 * pin:02X}"] == word, pin
    assert words["0xF8000830"] == 47 << 16 | 55  # write protect comes from the fabric
    assert words["0xF8000B6C"] == 0x260 and words["0xF8000B00"] == 1


def test_two_functions_on_a_pin_are_refused() -> None:
    board = boards.load("microzed")
    mio = replace(board.mio, functions=board.mio.functions | {"i2c0": "48-49"})
    with pytest.raises(ValueError, match="MIO 48 has two functions"):
        start(replace(board, mio=mio))


def test_a_clock_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1000\.0 MHz cannot be divided to 700 MHz"):
        start(replace(boards.load("microzed"), clocks=Clocks(fclk=(700,))))


def test_a_clock_without_a_rate_is_refused() -> None:
    """ZC702 has a CAN controller, whose rate has no default."""
    with pytest.raises(ValueError, match="a clock of 0 MHz cannot be made"):
        start(replace(boards.load("zc702"), clocks=Clocks()))


def test_a_pll_that_cannot_multiply_is_refused() -> None:
    with pytest.raises(ValueError, match="the IO PLL cannot multiply with 67"):
        start(replace(boards.load("microzed"), clocks=Clocks(io_pll=67)))


def _words(name: str, phase: str) -> dict[str, int]:
    """Address to the value that is written there last."""
    rows = as_json(start(boards.load(name)))[phase]
    return {str(row[1]): int(str(row[-1]), 16) for row in rows if row[0] != "delay"}


def test_memory_ports_and_on_chip_memory() -> None:
    """64 bits, eight commands at a time, no hints from the fabric; all of the OCM at the top as
    U-Boot's arch_cpu_init has it."""
    words = _words("zybo_z7_20", "post_config")
    for i in range(4):
        assert words[f"0xF800{8 + i:X}000"] == 0 and words[f"0xF800{8 + i:X}014"] == 0xF00
        assert words[f"0xF800{8 + i:X}004"] == words[f"0xF800{8 + i:X}018"] == 0x77
    assert words["0xF8000910"] == 0x1F
    assert words["0xF8000900"] == 0xF and words["0xF8000240"] == 0


@pytest.mark.parametrize("mhz, code", [(400, 2), (533, 4), (600, 5), (666, 5), (800, 6)])
def test_the_write_recovery_in_the_mode_register(mhz: int, code: int) -> None:
    """15 ns in cycles, rounded up to what MR0 knows: JESD79-3, table of MR0."""
    [row] = [row for row in ddr.controller(boards.load("zc702").dram, Fraction(mhz))
             if isinstance(row, Write) and row.register.name == "DRAM_EMR_MR_REG"]
    assert dict(row.values)["MR"] >> 9 == code


def test_activates_are_four_cycles_apart_at_least() -> None:
    dram = replace(boards.load("zc702").dram, t_rrd=4)
    [row] = [row for row in ddr.controller(dram, Fraction(533))
             if isinstance(row, Write) and row.register.name == "DRAM_PARAM_REG3"]
    assert dict(row.values)["T_RRD"] == 4


def test_the_comparison_sees_what_only_the_other_list_has() -> None:
    ours = as_json(start(boards.load("zc702")))
    for row, said in (
            (["write", "0xF8000004", "0x0000767B"], "SLCR_LOCK.LOCK_KEY"),
            (["maskwrite", "0xF8000910", "0x80000000", "0x80000000"], "OCM_CFG.bits 0x80000000"),
            (["maskwrite", "0xF8000B78", "0x1", "0x1"], "0xf8000b78.mask 0x1: not written here"),
            (["maskwrite", "0xF8000008", "0x0000FFFF", "0x0000DF0D"], "SLCR_UNLOCK.UNLOCK_KEY"),
            (["poll", "0xF8000B74", "0x00002000"], "DDRIOB_DCI_STATUS.waits for DONE")):
        theirs = {phase: [*rows, row] if phase == "ddr_init" else rows
                  for phase, rows in ours.items()}
        [difference] = differences(ours, theirs)
        assert said in str(difference)
    with pytest.raises(ValueError, match="unknown step poke"):
        differences(ours, {"ddr_init": [["poke", "0xF8000004", "0x1"]]})


def test_pins_that_are_left_as_they_come_up() -> None:
    board = boards.load("microzed")
    rows = as_json(start(replace(board, mio=replace(board.mio, unset="9-13"))))["mio_init"]
    addresses = {row[1] for row in rows}
    assert not addresses & {f"0xF80007{4 * pin:02X}" for pin in range(9, 14)}
    assert {"0xF8000720", "0xF8000738"} <= addresses


@pytest.mark.parametrize("changes, said", [
    ({"functions": {"ethernet0": "16-27"}}, "no MIO pin can be ethernet0: there are qspi, enet0"),
    ({"functions": {"i2c0": "53-54"}}, "there is no MIO 54"),
    ({"banks": ("LVCMOS33", "1.8V")}, "a bank of MIO is 1.8V: it can be LVCMOS18, "),
])
def test_pins_that_no_chip_has_are_refused(changes: dict[str, object], said: str) -> None:
    board = boards.load("microzed")
    with pytest.raises(ValueError, match=said):
        start(replace(board, mio=replace(board.mio, **changes)))


@pytest.mark.parametrize("changes, said", [
    ({"vref": "ext"}, "vref of the DRAM is 'ext': it can be 'external' or 'internal'"),
    ({"bus": 64}, "bus of the DRAM is 64: it can be 16 or 32"),
    ({"volts": 1.8}, "volts of the DRAM is 1.8"), ({"width": 4}, "width of the DRAM is 4"),
])
def test_a_dram_that_no_controller_knows_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(boards.load("microzed").dram, **changes)


def test_a_dram_that_is_too_slow_is_refused() -> None:
    with pytest.raises(ValueError, match="tWR would be 3 cycles"):
        ddr.controller(boards.load("microzed").dram, Fraction(200))
