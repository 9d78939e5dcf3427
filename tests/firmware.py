"""Builds the firmware with a changed header, for boards that differ in one point."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bitnet_host.run.link.simulator import build_folder
from bitnet_soc.parts import rom_init
from conftest import ROOT

__all__ = ["boot_file", "other_firmware"]


def boot_file(binary: Path, folder: Path, source: Path) -> Path:
    """A build folder whose simulated board starts ``binary``; ``source``: that of the board."""
    (folder / "sim").mkdir(exist_ok=True)
    for name in ("soc_sim", "soc_sram.init"):
        shutil.copy(source / "sim" / name, folder / "sim")
    rom_init(binary, folder / "sim/soc_rom.init")
    return folder


def other_firmware(folder: Path, *edits: tuple[str, str, str], ps: bool = False) -> Path:
    """A build folder whose firmware was compiled with edited generated headers: which, what, and by
    what it is replaced. ``ps``: of the board with a processing system."""
    source = build_folder() / "ps" if ps else build_folder()
    shutil.copytree(source / "generated", folder / "generated")
    for header, old, new in edits:
        text = (folder / "generated" / header).read_text()
        assert old in text
        (folder / "generated" / header).write_text(text.replace(old, new))
    subprocess.run(["make", "-C", ROOT / "firmware", f"BUILD={folder}",
                    f"OUTSIDE={'ps' if ps else 'fabric'}"], check=True, capture_output=True)
    return boot_file(folder / "firmware/firmware.bin", folder, source)
