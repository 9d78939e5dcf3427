"""Runs the program that reaches the board over JTAG, and says in a sentence what went wrong."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..boards.board import Board
from ..ps7 import emit
from ..ps7.sequence import start
from ..steps import BuildError
from . import script
from .script import DONE, LOADING, STARTING

__all__ = ["PROGRAMS", "find_program", "load", "write_script"]

#: In the order in which they are looked for.
PROGRAMS = ("openocd", "xsdb", "openFPGALoader")
_PACKAGES = "apt-get install openocd"
_TIMEOUT = 300  # seconds; a bitstream of 4 MB takes 30 at 1 MHz
_TOLD = {STARTING: "starting the processing system", LOADING: "loading the fabric"}
#: What the programs say of a cable that is not there, may not be used, or sees nothing.
_NO_ACCESS = r"LIBUSB_ERROR_ACCESS|[Pp]ermission denied|usb_open\(\) failed"
_NO_CABLE = (r"no device found|unable to open ftdi|unable to find|device not found"
             r"|No JTAG device was found|JTAG cable not found")
_NO_CHIP = (r"scan chain interrogation failed|Invalid ACK|IR capture error|all ones|all zeroes"
            r"|No JTAG TAPs|fail to read data|no match|Cannot find JTAG device|no targets found")


def write_script(board: Board, folder: Path) -> None:
    """Writes to ``folder`` what OpenOCD and xsdb need beside the bitstream. Raises BuildError."""
    try:
        steps = start(board)
    except ValueError as error:
        raise BuildError(f"soc/bitnet_soc/boards/{board.name}.py: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("cable.cfg", board.jtag), ("load.cfg", script.openocd()),
                       ("load.tcl", script.xsdb()),
                       ("ps7_init.cfg", emit.openocd(steps, board.title)),
                       ("ps7_init.tcl", emit.xsdb(steps, board.title))):
        (folder / name).write_text(text)


def find_program(wanted: str | None) -> str:
    """The name of a program that is installed. Raises BuildError."""
    for name in (wanted,) if wanted else PROGRAMS:
        if shutil.which(name):
            return name
    raise BuildError(f"{wanted or 'neither of ' + ', '.join(PROGRAMS)} was found, so the board "
                     f"cannot be reached over JTAG: {_PACKAGES}, or start it from an SD card "
                     "(docs/board.md)")


def _command(program: str, board: Board, cable: str | None) -> list[str | Path]:
    if program == "openocd":
        return [program, "-f", cable or "cable.cfg", "-f", "load.cfg", "-c", "bitnet_run"]
    if program == "xsdb":
        return [program, "load.tcl"]
    part = re.sub(r"-\d\w*$", "", board.part)
    return [program, *(["-c", cable] if cable else []), "--fpga-part", part, "bitnet.bit"]


def _explain(program: str, board: Board, output: str, reached: str) -> str:
    """The sentence for a program that failed after it had said ``reached``."""
    if found := re.search(r"bitnet: failed part ([0-9A-F]{8})", output):
        return (f"the chip at the cable is no xc7z020 (its code is {found[1]}): is it "
                f"{board.title} that is connected?")
    if found := re.search(r"ps7: not within \d+ ms: (.*)", output):
        what = found[1].strip()
        hint = ("does the board file fit this board, and is it powered by more than USB?"
                if "DRAM" in what or "impedance" in what else
                "does the board file have the crystal of this board?")
        return f"the processing system did not start: it waited in vain until {what}; {hint}"
    if "bitnet: failed bitstream" in output:
        return ("the fabric did not take the bitstream: is it for this board, and whole? Build it "
                "again, or copy it again")
    if re.search(_NO_ACCESS, output):
        return (f"{program} may not open the JTAG cable: give yourself the right (a udev rule for "
                "its USB vendor and product), or run this as root")
    if not reached and re.search(_NO_CHIP, output):
        return ("the JTAG cable is there, but no chip answers: is the board switched on, and the "
                "cable on its JTAG connector?")
    if not reached and re.search(_NO_CABLE, output):
        return (f"{program} finds no JTAG cable: plug it in, close other programs that use it, and "
                f"name another one with --cable")
    if 'invalid command name "read_memory"' in output:
        return "this OpenOCD is too old: version 0.12 or newer is needed"
    errors = [line.strip() for line in output.splitlines() if re.search(r"(?i)error|fail", line)]
    last = f" ({errors[-1]})" if errors else ""
    if not reached:
        return (f"{program} did not reach the board{last}: is the cable plugged in and the board "
                "on? --cable names another cable")
    return (f"{program} lost the board while it was {_TOLD.get(reached, 'connecting')}{last}: "
            "check the cable, switch the board off and on, and try again")


def _kill(process: subprocess.Popen[str]) -> None:
    """With whatever it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _lines(command: list[str | Path], folder: Path,
           tell: Callable[[str], None]) -> tuple[int | None, str, str]:
    """Exit status, None for a program that took too long; all that it said; and the last step of
    the script that it said."""
    process = subprocess.Popen([str(part) for part in command], cwd=folder, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, errors="replace", start_new_session=True)
    assert process.stdout is not None
    output, reached, late = [], "", threading.Event()

    def give_up() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(_TIMEOUT, give_up)
    timer.start()
    try:
        for line in process.stdout:
            output.append(line)
            if (step := re.match(r"bitnet: (\w+)$", line)) and step[1] != "failed":
                reached = step[1]
                if reached in _TOLD:
                    tell(_TOLD[reached])
        status = process.wait()
        return None if late.is_set() else status, "".join(output), reached
    finally:
        timer.cancel()
        _kill(process)
        process.wait()


def load(program: str, board: Board, folder: Path, cable: str | None,
         tell: Callable[[str], None]) -> None:
    """Loads what is in ``folder``: a bitstream, and what write_script put there. ``cable``: a file
    of OpenOCD's, or openFPGALoader's name of one. ``tell`` gets a phrase per step. Raises
    BuildError."""
    status, output, reached = _lines(_command(program, board, cable), folder, tell)
    (folder / "load.log").write_text(output)
    done = reached == DONE or program == "openFPGALoader"
    if status or not done:
        if status is None:
            why = (f"{program} did not end within {_TIMEOUT} seconds: switch the board off and on, "
                   "and try again")
        else:
            why = _explain(program, board, output, reached)
        raise BuildError(f"{why} (all that {program} said is in {folder / 'load.log'})")
