"""Builds the simulated boards: headers, Verilog, firmware, simulators. Steps whose inputs did not
change are skipped.

With --report it synthesises the SoC for the XC7Z020 instead and says what it takes and how fast it
may be (some 15 minutes), or one unit of it (seconds to minutes). With --board it writes all that a
real board needs, and with --ps7 only how its processing system is started.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path

from bitnet_host.errors import UserError
from bitnet_soc.board_files import TOOLCHAINS
from bitnet_soc.boards.board import Board
from bitnet_soc.load.programs import PROGRAMS
from bitnet_soc.parts import DSP_CLOCKS
from bitnet_soc.simulators import build, build_vector_unit
from bitnet_soc.steps import ROOT, BuildError, interrupt, run

__all__ = ["build", "build_bitstream", "build_vector_unit", "list_boards", "load_board", "main"]

_ADDRESS = "192.168.1.50"  # of every board

_TOOL_NAMES = {"vivado": "Vivado", "openxc7": "openXC7 (Yosys and nextpnr-xilinx)"}
_TOOL_COMMANDS = {"vivado": "vivado", "openxc7": "nextpnr-xilinx"}


def list_boards() -> None:
    from bitnet_soc import boards
    for name in boards.names():
        board = boards.load(name)
        print(f"{name:16}{board.title}, {board.part}, {board.dram.bytes >> 20} MB")


def _board(arguments: argparse.Namespace) -> None:
    from bitnet_soc import boards
    from bitnet_soc.board_files import default_dsp_clock, write_board, write_start
    name = arguments.board
    if name not in boards.names():
        needs = next(f"--{option} needs" for option in ("load", "build", "ps7", "board")
                     if getattr(arguments, option))
        raise BuildError(f"{'there is no board ' + name if name else needs + ' --board'}; "
                         f"the boards are {', '.join(boards.names())}")
    board = boards.load(name)
    if arguments.ps7 is not None:
        write_start(board, arguments.ps7)
        return
    folder = (arguments.output or ROOT / "build" / name).resolve()
    targets = arguments.target or [f"udp://{_ADDRESS}"]
    if arguments.load:
        from bitnet_soc.load.answer import check_target
        for target in targets:
            check_target(target)
        if not arguments.build:  # what was built is loaded, not what might be
            load_board(board, folder, arguments, targets)
            return
    clock = _clock(arguments.sys_clk_freq)
    write_board(board, folder, arguments.dsp_clock or default_dsp_clock(board), clock,
                arguments.toolchain)
    work = folder / "gateware"
    if arguments.report:
        from bitnet_soc.report import print_report
        from bitnet_soc.synthesis import synthesise_board
        print_report(*synthesise_board(folder, board))
        return
    if arguments.build:
        build_bitstream(work, arguments.toolchain)
        print(f"{work / 'bitnet.bit'} is the bitstream for {board.title}")
        if arguments.load:
            load_board(board, folder, arguments, targets)
        return
    print(f"{folder} has all that {board.title} needs but the bitstream: run `sh build_bitnet.sh` "
          f"in its folder gateware where {_TOOL_NAMES[arguments.toolchain]} is installed, here or "
          f"on another machine, or add --build")


def _clock(text: str) -> int:
    """In Hz. Raises BuildError."""
    try:
        clock = float(text)
    except ValueError:
        clock = 0
    if not 50e6 <= clock <= 150e6:
        raise BuildError(f"--sys-clk-freq {text}: the system clock can be 50e6 to 150e6 Hz")
    return int(clock)


def build_bitstream(work: Path, toolchain: str) -> None:
    """Runs the tool on what was written to ``work``. Raises BuildError."""
    tool = _TOOL_COMMANDS[toolchain]
    if shutil.which(tool) is None:
        raise BuildError(f"{tool} was not found, so there is no bitstream; everything it needs is "
                         f"in {work}: install {_TOOL_NAMES[toolchain]}, or copy that folder to "
                         "where it is and run `sh build_bitnet.sh` there")
    print(f"building the bitstream, which takes {_TOOL_NAMES[toolchain]} some time ...", flush=True)
    run(["sh", "build_bitnet.sh"], work, work / "build.log")


def load_board(board: Board, folder: Path, arguments: argparse.Namespace,
               targets: list[str]) -> None:
    """Loads the bitstream in ``folder`` over JTAG, and asks the board whether it runs. Raises
    BuildError."""
    from bitnet_host.model.open import open_model
    from bitnet_soc.load.answer import ask
    from bitnet_soc.load.programs import find_program, load, write_script
    bitstream, jtag = folder / "gateware/bitnet.bit", folder / "jtag"
    if not bitstream.exists():
        raise BuildError(f"there is no bitstream {bitstream}: add --build, or copy the bitnet.bit "
                         "there that was built elsewhere")
    program = find_program(arguments.program)
    write_script(board, jtag)
    shutil.copy(bitstream, jtag / "bitnet.bit")
    print(f"loading {board.title} with {program} ...", flush=True)
    load(program, board, jtag, arguments.cable, lambda step: print(f"  {step} ...", flush=True))
    model = open_model()  # any will do for asking
    for target in targets:
        print(f"  asking {target} ...", flush=True)
        info = ask(target, model)
        print(f"{target} answers: {info['clock_hz'] / 1e6:g} MHz, self-test passed; now run "
              f"`bitnet-host chat --target {target}`")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", "--output-dir", type=Path, metavar="DIR",
                        help="folder to build into (default: build, and build/B for a board)")
    parser.add_argument("--report", nargs="?", const="soc", metavar="UNIT",
                        help="synthesise for the XC7Z020 and print resources and an estimate of "
                             "slack: of the whole, of one unit such as network, ps, vector or "
                             "products.array, or, with --board, of that board's design")
    parser.add_argument("--dsp-clock", choices=DSP_CLOCKS,
                        help="clock of the TVU's DSP slices, in system clocks: 2x for devices of "
                             "speed grade -2 and better, 1x for -1, whose prompts take longer "
                             "(default: what fits the board, else 2x)")
    parser.add_argument("--vector-unit", action="store_true",
                        help="only the simulator of the vector unit, for its tests")
    parser.add_argument("--with-ps", action="store_true",
                        help="also the simulated board whose UART and Ethernet are those of a "
                             "processing system, into the folder ps")
    parser.add_argument("--list-boards", action="store_true", help="name the boards")
    parser.add_argument("--board", metavar="B",
                        help="one of --list-boards: write everything that it needs; no vendor "
                             "tool is needed for that")
    parser.add_argument("--build", action="store_true",
                        help="with --board: make the bitstream as well, which needs --toolchain")
    parser.add_argument("--load", action="store_true",
                        help="with --board: load the bitstream over JTAG, start the board, and ask "
                             "whether it runs")
    parser.add_argument("--program", choices=PROGRAMS,
                        help="what loads (default: the first of them that is installed); "
                             "openFPGALoader needs a board that waits, from its SD card")
    parser.add_argument("--cable", metavar="NAME",
                        help="another JTAG cable than the board file has: a file of OpenOCD's, or "
                             "openFPGALoader's name")
    parser.add_argument("--target", action="append", metavar="TARGET",
                        help="where the loaded board is asked, udp://HOST or serial:PORT; may be "
                             f"given more than once (default: udp://{_ADDRESS})")
    parser.add_argument("--toolchain", choices=TOOLCHAINS, default="vivado",
                        help="what makes the bitstream (default: vivado)")
    parser.add_argument("--sys-clk-freq", default="125e6", metavar="HZ",
                        help="system clock of a board (default: 125e6)")
    parser.add_argument("--ps7", type=Path, metavar="FILE",
                        help="write how the processing system of --board is started: as a list "
                             "(.json), for OpenOCD (.cfg), for xsdb (.tcl), or in C (.h)")
    arguments = parser.parse_args()
    output = (arguments.output or ROOT / "build").resolve()
    dsp_clock = arguments.dsp_clock or "2x"
    signal.signal(signal.SIGINT, interrupt)
    try:
        if arguments.list_boards:
            list_boards()
        elif arguments.board or arguments.ps7 or arguments.build or arguments.load:
            _board(arguments)
        elif arguments.report:
            from bitnet_soc.report import print_report
            from bitnet_soc.synthesis import synthesise
            print_report(*synthesise(output, arguments.report, dsp_clock))
        elif arguments.vector_unit:
            build_vector_unit(output, dsp_clock)
        else:
            build(output, dsp_clock, arguments.with_ps)
    except (BuildError, UserError) as error:
        print(f"build: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"build: cannot write {error.filename or output}: {error.strerror}; make room or "
              "choose another --output-dir", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("build: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
