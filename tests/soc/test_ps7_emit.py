"""The three forms of the start, run: OpenOCD itself on its dummy adapter, Tcl as xsdb runs it, and
compiled C. All write what the list says, in its order, and say what they waited for in vain."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bitnet_soc import boards
from bitnet_soc.ps7 import emit
from bitnet_soc.ps7.sequence import start
from bitnet_soc.ps7.steps import PHASES, Poll, Write, as_json

#: Memory that remembers, and in which whatever is waited for has happened.
_TCL_MEMORY = """
set memory [dict create]
proc look {address} {
    global memory
    if {$address in {POLLED}} { return READY }
    set address [format %08X $address]
    if {[dict exists $memory $address]} { return [dict get $memory $address] }
    return 0xA5A5A5A5
}
proc put {address value} {
    global memory
    set address [format %08X $address]
    dict set memory $address $value
    puts "write $address [format %08X $value]"
}
"""
_C_MEMORY = """
#include <stdio.h>
#include "table.h"
static struct { uint32_t address, value; } memory[4096];
static int used;
static uint32_t *word(uint32_t address)
{
    for (int i = 0; i < used; i++)
        if (memory[i].address == address)
            return &memory[i].value;
    memory[used].address = address;
    memory[used].value = 0xA5A5A5A5;
    return &memory[used++].value;
}
static void run(const struct ps7_step *steps, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct ps7_step *s = steps + i;
        if (s->kind == PS7_WRITE)
            *word(s->address) = s->value;
        else if (s->kind == PS7_MASKWRITE)
            *word(s->address) = (*word(s->address) & ~s->mask) | s->value;
        else
            continue;
        printf("write %08X %08X\\n", s->address, *word(s->address));
    }
}
#define RUN(phase) run(phase, sizeof phase / sizeof *phase)
int main(void)
{
"""
_NAMES = boards.names()


def _polled(name: str) -> str:
    return " ".join(sorted({f"0x{step.register.address:08X}" for steps in start(boards.load(name))
                            .values() for step in steps if isinstance(step, Poll)}))


def _memory(name: str, ready: str = "0xffffffff") -> str:
    return _TCL_MEMORY.replace("POLLED", _polled(name)).replace("READY", ready)


def _expected(name: str) -> list[str]:
    """What the list makes of a memory full of A5."""
    memory: dict[int, int] = {}
    written = []
    for phase in PHASES:
        for step in start(boards.load(name))[phase]:
            if isinstance(step, Write):
                address = step.register.address
                before = memory.get(address, 0xA5A5A5A5)
                memory[address] = before & ~step.mask | step.value
                written.append(f"write {address:08X} {memory[address]:08X}")
    return written


def _writes(output: str) -> list[str]:
    return re.findall(r"^write .*$", output, re.M)


def _openocd(folder: Path, name: str,
             ready: str = "0xffffffff") -> subprocess.CompletedProcess[str]:
    (folder / "ps7.tcl").write_text(emit.openocd(start(boards.load(name)), name))
    (folder / "run.tcl").write_text(
        "adapter driver dummy\n" + _memory(name, ready) + """
proc read_memory {address width count} { return [look $address] }
proc mww {address value} { put $address $value }
proc sleep {milliseconds} {}
source ps7.tcl
ps7_init
ps7_post_config
shutdown
""")
    return subprocess.run(["openocd", "-f", "run.tcl"], cwd=folder, capture_output=True, text=True,
                          timeout=60)


@pytest.mark.parametrize("name", _NAMES)
def test_openocd(name: str, tmp_path: Path) -> None:
    done = _openocd(tmp_path, name)
    assert _writes(done.stdout + done.stderr) == _expected(name), done.stderr[-2000:]


def test_openocd_says_what_it_waited_for(tmp_path: Path) -> None:
    done = _openocd(tmp_path, "microzed", ready="0")
    assert done.returncode != 0
    assert "ps7: not within 1000 ms: the ARM PLL is locked" in done.stderr
    assert f"write {0xF800_6000:08X}" not in done.stdout + done.stderr  # it did not go on


@pytest.mark.parametrize("name", _NAMES)
def test_xsdb(name: str, tmp_path: Path) -> None:
    (tmp_path / "ps7.tcl").write_text(emit.xsdb(start(boards.load(name)), name))
    (tmp_path / "run.tcl").write_text(_memory(name) + """
proc mrd {force how address} {
    if {"$force $how" ne "-force -value"} { error "mrd $force $how" }
    return [look $address]
}
proc mwr {force address value} {
    if {$force ne "-force"} { error "mwr $force" }
    put $address $value
}
source ps7.tcl
ps7_init
ps7_post_config
""")
    done = subprocess.run(["tclsh", "run.tcl"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert _writes(done.stdout) == _expected(name)


@pytest.mark.parametrize("name", _NAMES)
def test_c(name: str, tmp_path: Path) -> None:
    (tmp_path / "table.h").write_text(emit.c_table(start(boards.load(name)), name))
    (tmp_path / "run.c").write_text(
        _C_MEMORY + "".join(f"    RUN(ps7_{phase});\n" for phase in PHASES) + "    return 0;\n}\n")
    subprocess.run(["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "run.c", "-o", "run"],
                   cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "run"], capture_output=True, text=True, check=True)
    assert _writes(done.stdout) == _expected(name)


def test_c_has_the_polls(tmp_path: Path) -> None:
    table = emit.c_table(start(boards.load("microzed")), "MicroZed")
    assert re.findall(r"\{PS7_POLL, (\w+), (\w+), 1000\}, // (.*)", table) == [
        ("0xF800010C", "0x00000001", "the ARM PLL is locked"),
        ("0xF800010C", "0x00000002", "the DDR PLL is locked"),
        ("0xF800010C", "0x00000004", "the IO PLL is locked"),
        ("0xF8000B74", "0x00002000", "the impedance is calibrated"),
        ("0xF8006054", "0x00000007", "the DRAM runs")]
    assert table.count("PS7_DELAY, 0, 0, 1}") == 2  # the reset of the USB PHY, the fabric's PLL


def test_the_same_in_the_same_bytes() -> None:
    first, second = (emit.openocd(start(boards.load("zc702")), "ZC702") for _ in range(2))
    assert first == second


_BUILD = Path(__file__).parents[2] / "soc/build.py"


def _build(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, _BUILD, *arguments], capture_output=True, text=True)


def test_the_command_writes_all_forms(tmp_path: Path) -> None:
    board = boards.load("zturn_7020")
    for suffix, make in ((".cfg", emit.openocd), (".tcl", emit.xsdb), (".h", emit.c_table)):
        assert _build("--board", board.name, "--ps7", tmp_path / f"x{suffix}").returncode == 0
        assert (tmp_path / f"x{suffix}").read_text() == make(start(board), board.title)
    assert _build("--board", board.name, "--ps7", tmp_path / "x.json").returncode == 0
    assert json.loads((tmp_path / "x.json").read_text()) == as_json(start(board))


@pytest.mark.parametrize("arguments, said", [
    (["--board", "zybo"], "there is no board zybo; the boards are ax7020, microzed"),
    (["--ps7", "x.json"], "--ps7 needs --board; the boards are ax7020, microzed"),
    (["--board", "zc702", "--ps7", "x.txt"], "x.txt: the name has to end in .json, .cfg"),
    (["--board", "zc702", "--ps7", "nowhere/x.json"], "cannot write nowhere/x.json: No such"),
])
def test_the_command_refuses(arguments: list[str], said: str) -> None:
    done = _build(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    target.write_text("as it was")
    done = subprocess.run(f"ulimit -f 1; {sys.executable} {_BUILD} --board zc702 --ps7 {target}",
                          shell=True, executable="/bin/bash", capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert target.read_text() == "as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_the_boards_are_listed() -> None:
    done = _build("--list-boards")
    assert [line.split()[0] for line in done.stdout.splitlines()] == boards.names()
    assert "Avnet MicroZed 7020, xc7z020clg400-1, 1024 MB" in done.stdout


_CONFIG = """from dataclasses import replace
from bitnet_soc import boards
from bitnet_soc.boards.board import Clocks
real = boards.load
boards.load = lambda name: replace(real(name), clocks=Clocks(can=24, fclk=(700,)))
"""


@pytest.mark.parametrize("program", [
    f"import runpy; runpy.run_path({str(_BUILD)!r}, run_name='__main__')",
    "from bitnet_soc.ps7 import compare\ncompare.load = boards.load\nexit(compare.main())",
])
def test_a_board_file_that_is_wrong_is_named(program: str, tmp_path: Path) -> None:
    """Not the file that is written or compared with, and without a traceback."""
    (tmp_path / "x.json").write_text("{}")
    arguments = (["--board", "zc702", "--ps7", "y.json"] if "runpy" in program
                 else ["zc702", "x.json"])
    done = subprocess.run([sys.executable, "-c", _CONFIG + program, *arguments], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "zc702" in done.stderr and "1000.0 MHz cannot be divided to 700 MHz" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
