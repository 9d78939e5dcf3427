"""The loading as Tcl, for OpenOCD and for the vendor's xsdb. It says how far it got in lines that
begin with "bitnet: ", and ends with an error "bitnet: failed CAUSE" where it finds one."""

from __future__ import annotations

from ..ps7.registers import REGISTERS
from ..ps7.steps import overwrite

__all__ = ["CONFIGURED", "CONNECTED", "DONE", "FABRIC_EVENTS", "LOADING", "STARTING", "openocd",
           "xsdb"]

#: Lines that are said, in this order.
CONNECTED, STARTING, LOADING, DONE = "connected", "starting", "loading", "done"

#: Which chip it is, as JTAG says it, too; without the revision, of an XC7Z020 (UG585, PSS_IDCODE).
_PSS_IDCODE, _XC7Z020, _WITHOUT_REVISION = 0xF800_0530, 0x0372_7093, 0x0FFF_FFFF
#: Events of the configuration interface, and the one that says that the fabric is configured
#: (UG585, XDCFG_INT_STS).
FABRIC_EVENTS, CONFIGURED = 0xF800_700C, 4
#: Its control register, and the bit whose low pulse erases the fabric (XDCFG_CTRL, PCFG_PROG_B).
_CONTROL, _PROGRAM = 0xF800_7000, 0x4000_0000
_ERASE_MS = 20
_DRAIN_MS = 10  # a reset ends what the masters have under way in some microseconds


def _write(name: str, **fields: int) -> str:
    return f"    ps7_write 0x{REGISTERS[name].address:08X} 0x{overwrite(name, **fields).value:08X}"


_SHARED = f"""\
# A design that runs is reset while its clock goes on, so that its masters end what they have begun:
# a memory port that waits for one for ever answers nobody until the power is off.
proc bitnet_quiesce {{}} {{
{_write("SLCR_UNLOCK", UNLOCK_KEY=0xDF0D)}
    ps7_write 0x{REGISTERS["FPGA_RST_CTRL"].address:08X} 0xF
    ps7_wait {_DRAIN_MS}
    ps7_write 0x{REGISTERS["LVL_SHFTR_EN"].address:08X} 0xA
{_write("SLCR_LOCK", LOCK_KEY=0x767B)}
    # erased, so that nothing says any more that it is configured
    ps7_maskwrite 0x{_CONTROL:08X} 0x{_PROGRAM:08X} 0x{_PROGRAM:08X}
    ps7_maskwrite 0x{_CONTROL:08X} 0x{_PROGRAM:08X} 0x0
    ps7_wait {_ERASE_MS}
    ps7_maskwrite 0x{_CONTROL:08X} 0x{_PROGRAM:08X} 0x{_PROGRAM:08X}
    ps7_wait {_ERASE_MS}
    ps7_write 0x{FABRIC_EVENTS:08X} 0x{CONFIGURED:X}
}}

proc bitnet_load {{bit}} {{
    puts "bitnet: {CONNECTED}"
    set id [ps7_read 0x{_PSS_IDCODE:08X}]
    if {{($id & 0x{_WITHOUT_REVISION:08X}) != 0x{_XC7Z020:08X}}} {{
        error "bitnet: failed part [format %08X $id]"
    }}
    bitnet_quiesce
    puts "bitnet: {STARTING}"
    ps7_init
    puts "bitnet: {LOADING}"
    bitnet_fabric $bit
    if {{!([ps7_read 0x{FABRIC_EVENTS:08X}] & 0x{CONFIGURED:X})}} {{
        error "bitnet: failed bitstream"
    }}
    ps7_post_config
    puts "bitnet: {DONE}"
}}
"""

_OPENOCD = f"""\
# For OpenOCD 0.12 and newer: openocd -f CABLE.cfg -f load.cfg -c bitnet_run
if {{[catch {{find target/zynq_7000.cfg}} bitnet_chip]}} {{
    set bitnet_chip [find target/xlnx/zynq-7000.cfg]
}}
source $bitnet_chip
source ps7_init.cfg

# The core stays halted. What ran on it may have used the MMU; nothing here does.
proc bitnet_connect {{}} {{
    init
    targets [lindex [target names] 0]
    halt
    wait_halt 1000
    set control [arm mrc 15 0 1 0 0]
    arm mcr 15 0 1 0 0 [expr {{$control & ~0x1005}}]
}}

# Older versions number what they can load, newer ones name it.
proc bitnet_fabric {{bit}} {{
    if {{[catch {{pld load zynq_pl.pld $bit}}]}} {{ pld load 0 $bit }}
}}

{_SHARED}
proc bitnet_run {{}} {{
    bitnet_connect
    bitnet_load bitnet.bit
    shutdown
}}
"""

_XSDB = f"""\
# For xsdb: xsdb load.tcl
source ps7_init.tcl

proc bitnet_connect {{}} {{
    connect
    targets -set -nocase -filter {{name =~ "*A9*#0"}}
    catch {{stop}}
}}

proc bitnet_fabric {{bit}} {{ fpga -file $bit }}

{_SHARED}
bitnet_connect
bitnet_load bitnet.bit
exit
"""


def openocd() -> str:
    """A script beside ``ps7_init.cfg`` (ps7.emit) and the bitstream ``bitnet.bit``."""
    return _OPENOCD


def xsdb() -> str:
    """The same beside ``ps7_init.tcl``."""
    return _XSDB
