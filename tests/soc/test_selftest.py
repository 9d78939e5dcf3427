"""`bitnet-host selftest` on simulated boards: well ones, and ones with a line, a port or a clock
that is wrong (soc/bitnet_soc/sim/ddr_faults.hpp)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from bitnet_host.bench.measure import PRESETS, stream_share
from bitnet_host.errors import BadArgument, BoardError, LinkError
from bitnet_host.model.convert import convert
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.client import Link
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import MailboxTransport, over_serial, over_udp
from bitnet_host.run.link.wires import UDPWire
from bitnet_host.run.protocol import ERRORS, STREAM_FIELDS
from bitnet_host.selftest import cells, lines, outside, speed
from bitnet_host.selftest.diagnosed import Diagnosed
from bitnet_host.selftest.expected import streams
from bitnet_host.selftest.report import examine
from conftest import BUILD


@pytest.fixture
def board():
    simulator = Simulator()
    transport = over_udp("127.0.0.1", simulator.ports["udp"])
    yield Diagnosed(transport, simulator)
    transport.close()
    simulator.close()


@pytest.fixture
def ps_board():
    simulator = Simulator(build=BUILD / "ps")
    end = simulator.stats()["cycles"] + 20_000_000
    link = None
    while link is None:  # hosts wait by their own clock, and simulations may be slow
        try:
            link = Link(UDPWire("127.0.0.1", simulator.ports["udp"]))
        except LinkError:
            assert simulator.stats()["cycles"] < end
    yield Diagnosed(MailboxTransport(link), simulator)
    link.close()
    simulator.close()


def _run(*arguments):
    return subprocess.run([sys.executable, "-m", "bitnet_host", "selftest", *arguments],
                          capture_output=True, text=True, timeout=300)


def test_a_board_that_is_well(tmp_path):
    """From the command line; and the memory that it measures is the one that the simulator has."""
    done = _run("--json", "--memory", str(tmp_path / "memory.txt"))
    assert done.returncode == 0, done.stdout + done.stderr
    found, known = json.loads(done.stdout), speed.expected()
    assert found["wrong"] == [] and found["info"]["selftest"] == 0
    for name, rate in found["bytes_per_cycle"].items():
        assert rate == pytest.approx(known["streams"]["ug585"][name], rel=0.005), name
    assert set(found["details"]) == {"vector unit", "around the SoC", "clock", "memory ports",
                                     "memory lines", "memory of the CPU", "memory speed"}
    assert found["tokens_per_second"] == pytest.approx(
        known["clock_hz"] / speed.cycles_per_token(found["bytes_per_cycle"]["four ports"]))
    assert stream_share(str(tmp_path / "memory.txt")) == pytest.approx(stream_share("ug585"),
                                                                       abs=0.003)


def test_another_memory_is_described(tmp_path):
    """A file made of what was measured gives the same streams as the memory that was measured."""
    strange = tmp_path / "strange.txt"
    strange.write_text("base conservative\nread_ns 500\nburst_overhead 3\nrow_miss 30\n")
    rates = streams(str(strange))
    described = tmp_path / "described.txt"
    described.write_text(speed.preset_file(rates, 125_000_000))
    again = streams(str(described))
    for name in ("four ports", "bursts of 8 beats", "1 burst under way",
                 "another DRAM row each time", "HP0, 1 burst under way"):
        assert again[name] == pytest.approx(rates[name], rel=0.03), name


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_expected_is_what_the_models_give(preset):
    known = speed.expected()["streams"][preset]
    assert streams(preset) == pytest.approx(known, rel=0.005)


def test_memory_keeps_what_it_held(board):
    """Also the model that it had: nobody has to upload it again."""
    rng = np.random.default_rng(1)
    base = lines.BASES[0]
    places = [MODEL_BASE, base - 4096, *range(base, base + 0x8000, 4096), base ^ 1 << 29,
              base ^ 1 << 20, lines.BASES[2]]
    held = [rng.integers(0, 2**32, 1024, np.uint32) for _ in places]
    for place, words in zip(places, held, strict=True):
        board.transport.write_ddr(place, words)
    assert lines.check_lines(board) == cells.check_cpu(board) == ([], [])
    for place, words in zip(places, held, strict=True):
        np.testing.assert_array_equal(board.transport.read_ddr(place, 1024), words)


def _dram(*faults):
    """Faults of the DRAM's own 32 data lines, or of its address: of all ways."""
    return [f"{way} {fault}" for way in range(7) for fault in faults]


_LINES = [
    (["2 stuck 17 1"], ["HP2 reading: data bit 17 is stuck at 1"]),
    (["0 stuck 63 0", "0 stuck 2 0"],
     ["HP0 reading: data bit 2 is stuck at 0, data bit 63 is stuck at 0"]),
    (["5 stuck 40 1"], ["HP1 writing: data bit 40 is stuck at 1"]),
    (["6 stuck 9 0"], ["the CPU's way: data bit 9 is stuck at 0, data bit 41 is stuck at 0"]),
    (_dram("stuck 20 1", "stuck 52 1"),
     ["all ways, so in the DRAM, its lines or its training: data bit 20 is stuck at 1, data bit 52 "
      "is stuck at 1"]),
    (_dram(*(f"stuck {bit} 0" for bit in (*range(16, 24), *range(48, 56)))),
     ["all ways, so in the DRAM, its lines or its training: 16 of 64 data bits are wrong"]),
    (["1 swap 14 20"], ["HP1 reading: address lines A14 and A20 are swapped"]),
    (["2 swap 4 6"], ["HP2 reading: address lines A4 and A6 are swapped"]),
    (["6 swap 12 27"], ["the CPU's way: address lines A12 and A27 are swapped"]),
    (["5 swap 10 11"], ["HP1 writing: address lines A10 and A11 are swapped"]),
    (["3 low 25"], ["HP3 reading: address line A25 is without effect"]),
    (["5 low 14", "5 low 25"],
     ["HP1 writing: address line A14 is without effect, address line A25 is without effect"]),
    # a pin of the DRAM carries a bit of the row, and one of the column
    (_dram("low 14", "low 25"),
     ["all ways, so in the DRAM, its lines or its training: address line A14 is without effect, "
      "address line A25 is without effect"]),
    (["2 narrow"], ["HP2 reading: the upper 32 bits are missing: is the port in 32-bit mode?"]),
    (["5 narrow"], ["HP1 writing: the upper 32 bits are missing: is the port in 32-bit mode?"]),
]


#: Like others, at another port: `make fuzz`.
_MORE = [
    (["4 stuck 63 0"], ["HP0 writing: data bit 63 is stuck at 0"]),
    (["0 swap 21 23"], ["HP0 reading: address lines A21 and A23 are swapped"]),
    (["4 swap 15 28"], ["HP0 writing: address lines A15 and A28 are swapped"]),
    (["1 low 21"], ["HP1 reading: address line A21 is without effect"]),
    (["4 narrow"], ["HP0 writing: the upper 32 bits are missing: is the port in 32-bit mode?"]),
]


@pytest.mark.parametrize("faults,said",
                         [*_LINES, *(_MORE if os.environ.get("BITNET_LINES") else [])],
                         ids=lambda value: ",".join(value)[:30])
def test_a_wrong_line_is_found(board, faults, said):
    for fault in faults:
        board.simulator.control(f"fault {fault}")
    wrong, details = lines.check_lines(board)
    assert wrong == said, details


def test_a_port_with_one_command_is_found(board):
    board.simulator.control("fault 1 commands 1")
    wrong, details = speed.findings(speed.measure(board), board.info["clock_hz"])
    assert len(wrong) == 1 and wrong[0].startswith("HP1 alone brings")
    assert "HP0 and HP1" in details[0]


def test_what_the_cpu_reads_wrong(board):
    assert cells.check_cpu(board) == ([], [])
    board.simulator.control("fault 6 stuck 12 1")
    wrong, _ = cells.check_cpu(board)
    assert len(wrong) == 1 and wrong[0].endswith("in bits 12")
    board.simulator.control("fault none")
    board.simulator.control("fault 2 stuck 12 1")
    assert cells.check_cpu(board)[0] == [
        "the memory ports read something else than the CPU wrote"]


def test_a_port_that_answers_with_errors(board):
    """It is named, and everything that can be measured without it still is."""
    board.simulator.control("fail 4")
    report = examine(board, "sim")
    assert report.wrong[0].startswith("memory ports: HP2 does not read: the vector unit reported")
    assert any(sentence.startswith("memory lines: the vector unit") for sentence in report.wrong)
    assert not any("HP0" in sentence for sentence in report.wrong) and report.rates == {}
    assert len(report.details) == 7 and "clock:" in report.text()


def test_a_board_whose_vector_unit_fails():
    """A port that was wrong from the beginning: the firmware refuses all but diagnosis, and that
    says why; exit code 1."""
    simulator = Simulator()
    try:
        simulator.control("fault 1 stuck 8 1")
        simulator.control("reset")
        done = _run("--target", f"udp://127.0.0.1:{simulator.ports['udp']}")
    finally:
        simulator.close()
    assert done.returncode == 1 and "\nWRONG: vector unit: it fails step " in done.stdout
    assert ("\nWRONG: memory lines: HP1 reading: data bit 8 is stuck at 1\n" in done.stdout
            and "Traceback" not in done.stderr)


_STREAM = {"address": MODEL_BASE, "rows": 16, "words_each": 16, "stride": 1, "mask": 15, "apart": 0,
           "bursts": 0}
_END = 1 << 30


def _refused(board, command, payload):
    with pytest.raises(BoardError) as caught:
        board.ask(command, payload, "nothing")
    return caught.value.code == ERRORS["ARGUMENT"][0]


def test_commands_that_make_no_sense(board):
    """Refused in a word, before anything is touched: sizes, alignment, both ends of memory, sums
    that wrap."""
    for change in ({"rows": 0}, {"rows": 4096}, {"words_each": 0}, {"words_each": 17},
                   {"rows": 1, "words_each": 3}, {"stride": 4096}, {"mask": 0}, {"mask": 16},
                   {"apart": 2}, {"bursts": 64}, {"address": MODEL_BASE + 32}, {"address": 512},
                   {"address": _END - 8192}, {"rows": 4095, "stride": 2049},
                   {"apart": 1, "address": 1 << 26}, {"apart": 1, "address": (1 << 26) - 8192}):
        fields = _STREAM | change
        assert _refused(board, "STREAM", [fields[name] for name in STREAM_FIELDS]), change
    for address, words in ((MODEL_BASE, 0), (MODEL_BASE, 65), (MODEL_BASE + 8, 1), (512, 1),
                           (_END - 32, 2), (2**32 - 32, 1)):
        assert _refused(board, "READ", [address, words])
        assert _refused(board, "STORE", [MODEL_BASE, address, words])
        assert _refused(board, "STORE", [address, MODEL_BASE, words])
    for address, words in ((MODEL_BASE, 0), (MODEL_BASE, 1 << 30), (MODEL_BASE + 2, 1), (4096, 1),
                           (_END - 4, 2)):
        assert _refused(board, "MEMORY", [address, words, 0])
    assert board.stream(**_STREAM | {"address": _END - 8704}) > 0
    assert len(board.port_bytes(_END - 32, 1)) == 32


def test_a_loaded_model_is_not_touched(board):
    shape = "hidden=64,intermediate=96,layers=1,heads=4,kv_heads=2,head_dim=32,vocab=64,context=64"
    BoardTarget(convert(synthetic_checkpoint(parse_shape(shape), 0.6, 1)), board.transport,
                board.simulator).prepare(lambda *_: None)
    at = MODEL_BASE
    for command, payload in (("STREAM", list(_STREAM.values())), ("READ", [at, 1]),
                             ("STORE", [at, at, 1]), ("MEMORY", [at, 1, 0])):
        assert _refused(board, command, payload)


def test_every_cell(board):
    """A cell that no line test looks at, in a little memory."""
    board.info["memory_bytes"] = MODEL_BASE + (1 << 20)
    assert cells.check_whole(board) == ([], [])
    board.simulator.control(f"fault 0 cell {MODEL_BASE + 0xA1235}")
    assert cells.check_whole(board)[0] == [
        f"memory from 0x{MODEL_BASE + 0xA0000:x} on does not hold a pattern"]
    board.simulator.control("fault 0 stuck 1 0")
    wrong, _ = cells.check_whole(board)
    assert len(wrong) == 9 and wrong[-1] == "and more"


@pytest.mark.parametrize("fault,said", [
    ("1 low 20", ["HP1 reading: address line A20 is without effect"]),
    ("6 stuck 3 1", ["the CPU's way or the DRAM: data bit 3 is stuck at 1, data bit 35 is stuck at "
                     "1"])])
def test_over_uart(fault, said):
    """There the CPU writes uploads, and one way of writing cannot be told from the DRAM."""
    simulator = Simulator()
    try:
        transport = over_serial(f"socket://127.0.0.1:{simulator.ports['tcp']}")
        found = Diagnosed(transport, simulator)
        assert outside.check_outside(found)[0] == []
        simulator.control(f"fault {fault}")
        wrong, details = lines.check_lines(found)
        assert wrong == said and "HP1 writing was not tried" in details
        with pytest.raises(BadArgument, match="takes days over UART"):
            examine(found, "serial", whole=True)
        transport.close()
    finally:
        simulator.close()


def test_a_processing_system(ps_board):
    wrong, details = outside.check_outside(ps_board)
    assert wrong == [] and details[0] == "Ethernet PHY 001cc915, 1000 Mbit/s"
    assert details[1].startswith("the processing system's bus runs at 111.1")
    assert lines.check_lines(ps_board) == ([], [])


@pytest.mark.parametrize("commands,said", [
    (["register f8009000 1"], "HP1 is in 32-bit mode to read"),
    (["register f800a004 0"], "HP2 has 1 of 8 commands under way to read"),
    (["register f8008014 f01"], "HP0 is in 32-bit mode to write"),
    (["register f8009018 3"], "HP1 has 4 of 8 commands under way to write"),
    # the ARM PLL at 36 times the crystal instead of 40
    (["register f8000008 df0d", "register f8000100 24008"],
     r"the clocks of fabric and processing system do not fit: (99\.9|100\.0)\d MHz"),
])
def test_a_processing_system_that_was_started_otherwise(ps_board, commands, said):
    for command in commands:
        ps_board.simulator.control(command)
    wrong, _ = outside.check_outside(ps_board)
    assert len(wrong) == 1 and re.match(said, wrong[0]), wrong


def test_no_link(ps_board):
    """Over its UART, as the network is gone."""
    ps_board.transport.close()
    ps_board.simulator.control("link 0")
    transport = over_serial(f"socket://127.0.0.1:{ps_board.simulator.ports['tcp']}",
                            take_over=True)
    found = Diagnosed(transport, ps_board.simulator)
    details = outside.check_outside(found)[1]
    while details[0] != "Ethernet PHY 001cc915, no link":
        details = outside.check_outside(found)[1]
    transport.close()


class _Clock:
    """A board with so many cycles in a second, whose answers take ``late`` seconds each way."""

    def __init__(self, hz, late):
        self.info, self._hz, self._late = {"clock_hz": 125_000_000}, hz, late
        self.now = 0.0

    def outside(self):
        self.now += self._late
        cycles = round(2**32 - 1000 + self.now * self._hz)
        self.now += self._late
        return {"now": cycles & 0xFFFFFFFF}

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize("hz,late,wrong", [
    (125.01e6, 0, False), (125.3e6, 0, True), (124.7e6, 0, True), (100e6, 0.05, True),
    (50e6, 0, True), (125.3e6, 0.05, False), (1e6, 0, False)])
def test_the_boards_clock_against_ours(monkeypatch, hz, late, wrong):
    board = _Clock(hz, late)
    monkeypatch.setattr(outside.time, "sleep", board.sleep)
    monkeypatch.setattr(outside.time, "monotonic", lambda: board.now)
    said, details = outside.check_clock(board)
    assert bool(said) == wrong and len(details) == 1
    assert ("simulation" in details[0]) == (hz < 2e6)


@pytest.mark.parametrize("arguments,said", [
    (["--target", "reference"], "the golden model is no board"),
    (["--target", "usb"], "target usb is unknown"),
])
def test_what_is_refused(arguments, said):
    done = _run(*arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
