"""Builds the firmware with a changed header, for boards that differ in one point."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bitnet_host.run.link.simulator import build_folder
from conftest import ROOT

__all__ = ["boot_file", "other_firmware"]


def boot_file(binary: Path, folder: Path) -> Path:
    """A build folder whose simulated board starts ``binary``."""
    (folder / "sim").mkdir(exist_ok=True)
    for name in ("soc_sim", "soc_sram.init"):
        shutil.copy(build_folder() / "sim" / name, folder / "sim")
    sys.path.insert(0, str(ROOT / "soc"))
    try:
        from build import rom_init
    finally:
        sys.path.pop(0)
    rom_init(binary, folder / "sim/soc_rom.init")
    return folder


def other_firmware(folder: Path, header: str, old: str, new: str) -> Path:
    """A build folder whose firmware was compiled with an edited generated header."""
    shutil.copytree(build_folder() / "generated", folder / "generated")
    text = (folder / "generated" / header).read_text()
    assert old in text
    (folder / "generated" / header).write_text(text.replace(old, new))
    subprocess.run(["make", "-C", ROOT / "firmware", f"BUILD={folder}"], check=True,
                   capture_output=True)
    return boot_file(folder / "firmware/firmware.bin", folder)
