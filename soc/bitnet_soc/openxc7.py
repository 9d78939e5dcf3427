"""Scripts for openXC7 (Yosys, nextpnr-xilinx, Project X-Ray). LiteX's own insist on an installation
on the machine where they are written.

Which program takes what is from LiteX's litex/build/xilinx/yosys_nextpnr.py. The environment says
where the databases are, as in openXC7's documentation: CHIPDB, a folder of nextpnr's chip
databases, and PRJXRAY_DB_DIR, that of Project X-Ray.
"""

from __future__ import annotations

import re

__all__ = ["constraints", "scripts"]


def constraints(xdc: str, clock_hz: float) -> str:
    """What nextpnr-xilinx understands of the vendor's constraints: pins. It has no exceptions; the
    clock that it aims at is given on its command line."""
    kept = [line for line in xdc.splitlines() if line.startswith("set_property ")]
    return "\n".join([f"# nextpnr aims at {clock_hz / 1e6:g} MHz everywhere", *kept, ""])


def scripts(name: str, part: str, clock_hz: float, sources: list[tuple[str, bool]]
            ) -> dict[str, str]:
    """File names and contents. ``part``: as the vendor writes it; ``sources``: Verilog, and whether
    it is SystemVerilog with assertions."""
    package = re.sub(r"-\d$", "", part)
    reads = [f"read_verilog {'-sv -noassert ' if system else ''}{source}"
             for source, system in sources]
    yosys = [*reads, "delete t:$print",
             f"synth_xilinx -flatten -abc9 -arch xc7 -top {name}", f"write_json {name}.json"]
    shell = [
        "set -e",
        ': "${CHIPDB:?set CHIPDB to the folder of nextpnr-xilinx chip databases}"',
        ': "${PRJXRAY_DB_DIR:?set PRJXRAY_DB_DIR to the database of Project X-Ray}"',
        f"yosys {name}.ys",
        f'nextpnr-xilinx --chipdb "$CHIPDB/{package}.bin" --xdc {name}.xdc --json {name}.json '
        f"--freq {clock_hz / 1e6:g} --write {name}_routed.json --fasm {name}.fasm",
        f'fasm2frames --part {part} --db-root "$PRJXRAY_DB_DIR/zynq7" {name}.fasm '
        f"> {name}.frames",
        f'xc7frames2bit --part_file "$PRJXRAY_DB_DIR/zynq7/{part}/part.yaml" --part_name {part} '
        f"--frm_file {name}.frames --output_file {name}.bit",
    ]
    return {f"{name}.ys": "\n".join([*yosys, ""]),
            f"build_{name}.sh": "\n".join([*shell, ""])}
