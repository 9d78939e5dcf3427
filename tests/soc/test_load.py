"""Loading a board: the scripts in OpenOCD itself (on its dummy adapter) and in Tcl as xsdb runs it,
against a memory that plays the chip; a stand-in for the programs that plays what they say when
something is wrong; and the question whether the board answers, to simulated ones."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bitnet_host.model.open import open_model
from bitnet_host.run.link.simulator import Simulator
from bitnet_soc import boards
from bitnet_soc.load import answer, route
from bitnet_soc.load.programs import PROGRAMS, write_script
from bitnet_soc.ps7.sequence import start
from bitnet_soc.ps7.steps import PHASES, Poll, Write
from bitnet_soc.steps import BuildError
from conftest import BUILD, ROOT

from firmware import boot_file, other_firmware

_BOARD = boards.load("zybo_z7_20")
_EVENTS, _RESETS, _SHIFTERS = 0xF800_700C, 0xF800_0240, 0xF800_0900
#: A chip: what is polled is ready, the fabric says that it is configured once it was loaded.
_CHIP = """
set memory [dict create F8000530 CODE]
set trace 1
proc look {address} {
    global memory
    set address [format %08X $address]
    if {$address in {POLLED}} { return READY }
    if {[dict exists $memory $address]} { return [dict get $memory $address] }
    return 0xA5A5A5A1
}
proc put {address value} {
    global memory
    set address [format %08X $address]
    if {$address eq "F800700C"} {
        # events go where a one is written
        dict set memory $address [expr {[look 0x$address] & ~$value}]
    } else {
        dict set memory $address $value
    }
    puts "write $address [format %08X $value]"
}
proc configure {file} {
    global memory
    puts "fabric $file"
    if {LOADS} { dict set memory F800700C [expr {[look 0xF800700C] | 4}] }
}
"""
_OPENOCD = """
proc read_memory {address width count} {
    if {$width != 32 || $count != 1} { error "read_memory $width $count" }
    return [look $address]
}
proc mww {address value} { put $address $value }
proc sleep {milliseconds} { puts "sleep $milliseconds" }
proc init {} { puts "init" }
proc targets {name} { puts "targets $name" }
proc halt {} { puts "halt" }
proc wait_halt {milliseconds} { puts "wait_halt" }
proc arm {what args} {
    puts "$what $args"
    return 0x1005
}
proc pld {verb args} {
    if {$verb ne "load"} { return }
    if {[lindex $args 0] ne "NAMED"} { error "no such device" }
    configure [lindex $args 1]
}
"""
_XSDB = """
proc mrd {force how address} {
    if {"$force $how" ne "-force -value"} { error "mrd $force $how" }
    return [look $address]
}
proc mwr {force address value} {
    if {$force ne "-force"} { error "mwr $force" }
    put $address $value
}
proc connect {} { puts "connect" }
proc targets {args} { puts "targets $args" }
proc stop {} { error "already stopped" }
proc fpga {how file} {
    if {$how ne "-file"} { error "fpga $how" }
    configure $file
}
"""


def _chip(program: str, *, code="0x13727093", ready="0xffffffff", loads="1",
          named="zynq_pl.pld") -> str:
    polled = " ".join(sorted({f"{step.register.address:08X}" for steps in start(_BOARD).values()
                              for step in steps if isinstance(step, Poll)}))
    text = _CHIP + (_OPENOCD if program == "openocd" else _XSDB)
    for name, value in (("CODE", code), ("POLLED", polled), ("READY", ready), ("LOADS", loads),
                        ("NAMED", named)):
        text = text.replace(name, value)
    return text


def _run(folder: Path, program: str, **chip) -> subprocess.CompletedProcess[str]:
    write_script(_BOARD, folder)
    text = _chip(program, **chip)
    if program == "openocd":
        (folder / "chip.cfg").write_text(text)
        command = ["openocd", "-c", "adapter driver dummy", "-f", "load.cfg", "-f", "chip.cfg",
                   "-c", "bitnet_run"]
    else:
        (folder / "run.tcl").write_text(f"{text}\nsource load.tcl\n")
        command = ["tclsh", "run.tcl"]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=60)


def _said(output: str) -> list[str]:
    return [line for line in output.splitlines()
            if line.startswith(("bitnet:", "write", "fabric", "sleep"))
            and not line.startswith("bitnet: failed")]


def _start_writes() -> list[int]:
    return [step.register.address for phase in PHASES if phase != "post_config"
            for step in start(_BOARD)[phase] if isinstance(step, Write)]


@pytest.mark.parametrize(("program", "named"), [("openocd", "zynq_pl.pld"), ("openocd", "0"),
                                                ("xsdb", "")])
def test_the_order_of_things(tmp_path, program, named):
    """A running design is reset first, with its clock and its way to memory still on; then the
    processing system, the bitstream, and what connects the two."""
    done = _run(tmp_path, program, named=named)
    assert done.returncode == 0, done.stdout
    said = _said(done.stdout)
    if program == "openocd":
        assert "mrc 15 0 1 0 0" in done.stdout and "mcr 15 0 1 0 0 0\n" in done.stdout
        assert done.stdout.index("halt") < done.stdout.index("bitnet: connected")
        assert "targets zynq.cpu0" in done.stdout
        drained = said.index("sleep 10")
        assert said[drained - 1] == f"write {_RESETS:08X} 0000000F"
    steps = [line for line in said if line.startswith(("bitnet:", "fabric"))]
    assert steps == ["bitnet: connected", "bitnet: starting", "bitnet: loading",
                     "fabric bitnet.bit", "bitnet: done"]
    quiesced = [line for line in said[1:said.index("bitnet: starting")] if "write" in line]
    assert quiesced == ["write F8000008 0000DF0D", f"write {_RESETS:08X} 0000000F",
                        f"write {_SHIFTERS:08X} 0000000A", "write F8000004 0000767B",
                        # the fabric is erased
                        "write F8007000 E5A5A5A1", "write F8007000 A5A5A5A1",
                        "write F8007000 E5A5A5A1", f"write {_EVENTS:08X} 00000004"]
    begun, loading = said.index("bitnet: starting"), said.index("bitnet: loading")
    assert [int(line.split()[1], 16) for line in said[begun:loading]
            if "write" in line] == _start_writes()
    last = [line for line in said[said.index("fabric bitnet.bit"):] if "write" in line]
    assert last[-2] == f"write {_RESETS:08X} 00000000" and len(last) > 10


@pytest.mark.parametrize("program", ["openocd", "xsdb"])
def test_what_the_scripts_find(tmp_path, program):
    """Another chip is left as it is; a fabric that is not configured is not connected."""
    done = _run(tmp_path / "a", program, code="0x13722093")
    assert done.returncode and "bitnet: failed part 13722093" in done.stdout
    assert _said(done.stdout) == ["bitnet: connected"]
    done = _run(tmp_path / "b", program, loads="0")
    assert done.returncode and "bitnet: failed bitstream" in done.stdout
    assert _said(done.stdout)[-1] == "fabric bitnet.bit"
    done = _run(tmp_path / "c", program, ready="0")
    assert done.returncode and "ps7: not within 1000 ms: the ARM PLL is locked" in done.stdout
    assert "bitnet: loading" not in done.stdout


def test_a_board_file_that_is_wrong(tmp_path):
    board = replace(_BOARD, clocks=replace(_BOARD.clocks, fclk=(700.0,)))
    with pytest.raises(BuildError, match=r"zybo_z7_20.py: 1000.0 MHz cannot be divided to 700"):
        write_script(board, tmp_path / "jtag")
    assert not list(tmp_path.iterdir())


def test_openocd_reads_the_cable_of_every_board(tmp_path):
    """Its own files are found, and its commands are known; there is no cable here."""
    for name in boards.names():
        board = boards.load(name)
        write_script(board, tmp_path / name)
        done = subprocess.run(["openocd", "-f", "cable.cfg", "-f", "load.cfg", "-c", "bitnet_run"],
                              cwd=tmp_path / name, capture_output=True, text=True, timeout=60)
        assert done.returncode and "bitnet:" not in done.stdout
        assert "unable to open ftdi device" in done.stderr, done.stderr


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A board's folder with a bitstream."""
    folder = tmp_path_factory.mktemp("board")
    done = _build(folder, "--load")
    assert done.returncode == 2 and "there is no bitstream" in done.stderr, done.stderr
    assert "add --build" in done.stderr and not list(folder.iterdir())
    (folder / "gateware").mkdir()
    (folder / "gateware/bitnet.bit").write_bytes(b"a bitstream")
    return folder


def _build(folder, *arguments, **environment):
    return subprocess.run([sys.executable, ROOT / "soc/build.py", "--board", _BOARD.name,
                           "--output-dir", folder, *arguments],
                          capture_output=True, text=True, env=os.environ | environment)


def _stand_in(folder: Path, program: str, script: str) -> str:
    """A PATH on which only the stand-in is, of the programs that load."""
    folder.mkdir(exist_ok=True)
    for name in ("sh", "cat", "sleep"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(shutil.which(name))
    tool = folder / program
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return str(folder)


def _says(*lines: str, status: int = 1) -> str:
    return "cat <<'END'\n" + "\n".join(lines) + f"\nEND\nexit {status}"


_UP_TO = ("Info : clock speed 1000 kHz", "bitnet: connected")


@pytest.mark.parametrize(("program", "script", "sentence"), [
    ("openocd", _says("Error: unable to open ftdi device with description '*', serial '*'"),
     "openocd finds no JTAG cable: plug it in, close other programs that use it"),
    ("openocd", _says("Error: libusb_open() failed with LIBUSB_ERROR_ACCESS"),
     "openocd may not open the JTAG cable: give yourself the right"),
    ("openocd", _says("Error: JTAG scan chain interrogation failed: all ones"),
     "the JTAG cable is there, but no chip answers: is the board switched on"),
    ("openocd", _says(*_UP_TO, "load.cfg:31: Error: bitnet: failed part 13722093"),
     "the chip at the cable is no xc7z020 (its code is 13722093): is it Digilent Zybo Z7-20"),
    ("openocd", _says(*_UP_TO, "bitnet: starting",
                      "ps7_init.cfg:9: Error: ps7: not within 1000 ms: the DRAM runs"),
     "it waited in vain until the DRAM runs; does the board file fit this board"),
    ("openocd", _says(*_UP_TO, "bitnet: starting",
                      "Error: ps7: not within 1000 ms: the IO PLL is locked"),
     "it waited in vain until the IO PLL is locked; does the board file have the crystal"),
    ("openocd", _says(*_UP_TO, "bitnet: starting", "bitnet: loading",
                      "Error: bitnet: failed bitstream"),
     "the fabric did not take the bitstream: is it for this board, and whole?"),
    ("openocd", _says(*_UP_TO, "bitnet: starting", "bitnet: loading", "Error: JTAG-DP STICKY"),
     "openocd lost the board while it was loading the fabric (Error: JTAG-DP STICKY): check"),
    ("openocd", _says(*_UP_TO, "Invalid ACK (7) in DAP response"),
     "openocd lost the board while it was connecting: check the cable"),
    ("openocd", _says(*_UP_TO, status=0), "openocd lost the board while it was connecting"),
    ("openocd", _says("", status=0), "openocd did not reach the board: is the cable plugged in"),
    ("openocd", _says("Error: timed out while waiting for target halted"),
     "did not reach the board (Error: timed out while waiting for target halted): is the cable"),
    ("openocd", _says(*_UP_TO, 'Error: invalid command name "read_memory"'),
     "this OpenOCD is too old: version 0.12"),
    ("xsdb", _says("no targets found with \"name =~ *A9*#0\""), "but no chip answers"),
    ("openFPGALoader", _says("unable to open ftdi device: -3 (device not found)"),
     "openFPGALoader finds no JTAG cable"),
    ("openFPGALoader", _says("JTAG init failed with: no match"), "but no chip answers"),
])
def test_each_failure_has_its_sentence(folder, tmp_path, program, script, sentence):
    done = _build(folder, "--load", PATH=_stand_in(tmp_path / "bin", program, script))
    assert done.returncode == 2 and sentence in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
    assert f"all that {program} said is in {folder / 'jtag/load.log'}" in done.stderr
    assert (folder / "jtag/load.log").read_text().splitlines()[:1] == script.splitlines()[1:2]


def test_no_program_at_all(folder, tmp_path):
    path = _stand_in(tmp_path / "bin", "other", "")
    done = _build(folder, "--load", PATH=path)
    assert done.returncode == 2
    assert "neither of openocd, xsdb, openFPGALoader was found" in done.stderr
    assert "apt-get install openocd" in done.stderr
    done = _build(folder, "--load", "--program", "xsdb", PATH=path)
    assert done.returncode == 2 and "xsdb was found" in done.stderr


def test_a_program_that_hangs(folder, tmp_path, monkeypatch):
    from bitnet_soc.load import programs
    monkeypatch.setattr(programs, "_TIMEOUT", 1)
    monkeypatch.setenv("PATH", _stand_in(tmp_path / "bin", "openocd", "sleep 60"))
    with pytest.raises(BuildError, match="openocd did not end within 1 seconds: switch the board"):
        programs.load("openocd", _BOARD, folder / "jtag", None, lambda _: None)


def test_a_load_that_is_interrupted(folder, tmp_path):
    """The program ends with it, and lets the cable go."""
    path = _stand_in(tmp_path / "bin", "openocd", 'echo $$ > pid; sleep 60 & wait')
    process = subprocess.Popen(
        [sys.executable, ROOT / "soc/build.py", "--board", _BOARD.name, "--output-dir", folder,
         "--load"], env=os.environ | {"PATH": path}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
    note = folder / "jtag/pid"
    end = time.monotonic() + 60
    while not note.exists() or not note.read_text().strip():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "interrupted" in said
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end + 60:
            os.killpg(int(note.read_text()), 0)


@pytest.mark.parametrize("target", ["reference", "sim", "192.168.1.50", "udp://", "serial:"])
def test_targets_that_are_no_boards(folder, target):
    """Before anything is loaded."""
    done = _build(folder, "--load", "--target", target, PATH="/nowhere")
    assert done.returncode == 2
    assert f"--target {target}: write udp://HOST or serial:PORT" in done.stderr


def test_a_bitstream_is_not_swept_away(folder, tmp_path):
    """By writing the files once more; nor does what Vivado leaves beside them disturb."""
    work = tmp_path / "gateware"
    work.mkdir()
    for file in ("tvu.v", "network.v", "vector-unit.stamp", "network-side.stamp"):
        shutil.copy(BUILD / "sim" / file, work)
    (work / "bitnet.bit").write_bytes(b"an hour's work")
    (work / "bitnet.cache").mkdir()
    (work / "bitnet_old.v").write_text("")
    done = _build(tmp_path, "--dsp-clock", os.environ.get("DSP_CLOCK", "2x"))
    assert done.returncode == 0, done.stderr
    assert (work / "bitnet.bit").read_bytes() == b"an hour's work"
    assert (work / "bitnet.v").exists() and not (work / "bitnet_old.v").exists()


def test_what_the_programs_are_called_with(folder, tmp_path):
    """They see the bitstream, and the cable that was named."""
    wanted = {"openocd": "-f cable.cfg -f load.cfg -c bitnet_run", "xsdb": "load.tcl",
              "openFPGALoader": "--fpga-part xc7z020clg400 bitnet.bit"}
    assert set(wanted) == set(PROGRAMS)
    for program, arguments in wanted.items():
        path = _stand_in(tmp_path / program, program, 'echo "$*"; cat bitnet.bit; exit 1')
        _build(folder, "--load", PATH=path)
        assert (folder / "jtag/load.log").read_text() == f"{arguments}\na bitstream"
    path = _stand_in(tmp_path / "openocd", "openocd", 'echo "$*"; exit 1')
    _build(folder, "--load", "--cable", "interface/ftdi/digilent-hs2.cfg", PATH=path)
    assert ((folder / "jtag/load.log").read_text()
            == "-f interface/ftdi/digilent-hs2.cfg -f load.cfg -c bitnet_run\n")


_GOOD = _says(*_UP_TO, "bitnet: starting", "bitnet: loading", "bitnet: done", status=0)


def test_a_board_that_is_loaded_is_asked(folder, tmp_path):
    """Here a simulated one; it names the next command."""
    simulator = Simulator()
    try:
        target = f"udp://127.0.0.1:{simulator.ports['udp']}"
        done = _build(folder, "--load", "--target", target,
                      PATH=_stand_in(tmp_path / "bin", "openocd", _GOOD))
    finally:
        simulator.close()
    assert done.returncode == 0, done.stderr
    assert "  starting the processing system ...\n  loading the fabric ...\n" in done.stdout
    assert done.stdout.endswith(f"{target} answers: 125 MHz, self-test passed; now run "
                                f"`bitnet-host chat --target {target}`\n")


@pytest.fixture(scope="module")
def image():
    return open_model()


_ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
wlan0 00000000 0101A8C0 0003 0 0 600 00000000 0 0 0
wlan0 0000A8C0 00000000 0001 0 0 600 0000FFFF 0 0 0
eth0 0001A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0
eth1 0002A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0
eth2 0003A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0
eth3 0004A8C0 00000000 0000 0 0 100 00FFFFFF 0 0 0
"""


@pytest.mark.parametrize("host,said", [
    ("192.168.1.50", None), ("192.168.2.50", "network port eth1, by which 192.168.2.50 would be"),
    ("192.168.3.50", "network port eth2, by which"), ("10.0.0.1", "has no network port in the"),
    ("192.168.4.50", None), ("no.such.name.invalid", None), ("127.0.0.1", None)])
def test_why_a_host_is_silent(tmp_path, host, said):
    """The narrowest route that is up counts; a port has a link, none, or is switched off."""
    if sys.byteorder != "little":
        pytest.fail("the table is that of a little-endian machine")
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(_ROUTES)
    for port, carrier in (("eth0", "1\n"), ("eth1", "0\n"), ("wlan0", "1\n"), ("eth3", "0\n")):
        (tmp_path / "sys/class/net" / port).mkdir(parents=True)
        (tmp_path / "sys/class/net" / port / "carrier").write_text(carrier)
    found = route.why_silent(host, tmp_path)
    assert found is None if said is None else said in found


def test_without_routes(tmp_path):
    """On a system that has no such table nothing is known."""
    assert route.why_silent("192.168.1.50", tmp_path) is None


def test_nobody_answers(image, monkeypatch):
    monkeypatch.setattr(answer, "why_silent", lambda host: f"no way to {host}")
    with pytest.raises(BuildError, match=r"udp://127.0.0.1:9: no way to 127.0.0.1$"):
        answer.ask("udp://127.0.0.1:9", image, 0)
    monkeypatch.undo()
    with pytest.raises(BuildError, match=r"nobody answers at udp://127.0.0.1:9, to which this"):
        answer.ask("udp://127.0.0.1:9", image, 0)
    with pytest.raises(BuildError, match=r"nobody answers at serial:/dev/nothing: is it the port"):
        answer.ask("serial:/dev/nothing", image, 0)


def _refused(image, build, seconds=0):
    simulator = Simulator(build=build)
    try:
        with pytest.raises(BuildError) as caught:
            answer.ask(f"udp://127.0.0.1:{simulator.ports['udp']}", image, seconds)
        return str(caught.value)
    finally:
        simulator.close()


def test_a_fabric_without_firmware(image, tmp_path):
    (tmp_path / "loop.bin").write_bytes(bytes.fromhex("6f000000"))
    said = _refused(image, boot_file(tmp_path / "loop.bin", tmp_path, BUILD))
    assert "the fabric at udp://127.0.0.1" in said and "its firmware is silent" in said


def test_another_firmware(image, tmp_path):
    """Which is not waited for to become this one."""
    begun = time.monotonic()
    said = _refused(image, other_firmware(tmp_path, ("tvu.h", "#define TVU_ISA_HASH 0x",
                                                     "#define TVU_ISA_HASH 7 + 0x")), 300)
    assert time.monotonic() - begun < 200
    assert "firmware of another version" in said


def test_a_vector_unit_that_gets_nothing(image, tmp_path):
    """As when a memory port is stuck: here what it should compute is another thing."""
    said = _refused(image, other_firmware(tmp_path, (
        "selftest.h", "selftest_expected[] = {", "selftest_expected[] = {1 + ")))
    assert "fails its self-test (1): a memory port may be stuck since a bitstream" in said
    assert "switch the board off and on" in said
