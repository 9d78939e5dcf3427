"""The simulator as people use it: from the command line, with other firmware, when it dies; and its
memory model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from bitnet_host.bench.measure import BenchOptions, check_model, measure_gemv, measure_model
from bitnet_host.errors import UserError
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.synthetic import GATE_ZEROS, parse_shape
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link import transport
from bitnet_host.run.link.client import Link
from bitnet_host.run.link.simulator import Simulator, build_folder
from bitnet_host.run.link.transport import over_udp
from bitnet_host.run.link.wires import UDPWire
from bitnet_host.run.protocol import PARTS, VERSION
from bitnet_soc import soc, steps
from conftest import ROOT

from firmware import other_firmware

DDR_BYTES_PER_SECOND = 4 * 2 * 533.33e6


def _chat(*arguments, build=None):
    env = os.environ | ({"BITNET_BUILD": str(build)} if build else {})
    return subprocess.run([sys.executable, "-m", "bitnet_host", "chat", "--prompt", "Hello!",
                           *arguments], capture_output=True, text=True,
                          timeout=300, env=env)


def test_chat_command_on_the_simulator():
    done = _chat("--max-tokens", "4", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    reference = json.loads(_chat("--max-tokens", "4", "--json", "--target",
                                 "reference").stdout.splitlines()[-1])
    assert result["token_ids"] == reference["token_ids"] and result["text"] == reference["text"]
    assert (result["clock_hz"] == soc.CLOCK_HZ and result["prefill_cycles"] > 0
            and result["decode_cycles_per_token"] > 0)
    assert (result["tokens_per_second"]
            == pytest.approx(soc.CLOCK_HZ / result["decode_cycles_per_token"]))
    assert result["operators"]["head"] > 4096  # 2048 rows of 2 words cannot take less
    assert done.stderr.count("\n") == 1  # quiet where there is no terminal: the statistics only
    logged = subprocess.run([sys.executable, "-m", "bitnet_host", "-v", "chat", "--prompt", "Hi",
                             "--max-tokens", "1"], text=True,
                            capture_output=True, timeout=300)
    assert (logged.returncode == 0 and "GENERATE" in logged.stderr and "STATS" in logged.stderr
            and logged.stdout.count("\n") == 1)


def _pauses(simulator: Simulator) -> int:
    status = Path(f"/proc/{simulator._process.pid}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def test_a_board_that_nobody_talks_to_costs_little_and_hears_at_once():
    simulator = Simulator()
    link = over_udp("127.0.0.1", simulator.ports["udp"])
    with closing(BoardTarget(convert(open_checkpoint(BUNDLED)), link, simulator)) as board:
        board.prepare(lambda *_: None)
        first = [choice.token for choice in board.stream([1, 2, 3], 4, reuse=True)]
        before, until = _pauses(simulator), time.monotonic() + 120
        while _pauses(simulator) < before + 300:
            assert time.monotonic() < until, "it is simulated at full speed"
            time.sleep(0.1)
        simulator.stats()
        before = _pauses(simulator)
        assert [choice.token for choice in board.stream([1, 2, 3], 4, reuse=True)] == first
        assert _pauses(simulator) - before < 30, "it rests while it works"


@pytest.mark.parametrize("preset,share", [("ug585", 0.92), ("conservative", 0.82)])
def test_a_stream_moves_what_the_preset_promises(preset, share):
    result = measure_gemv("2560x2560", "base3", preset)
    assert result["moving"] == 2560 * 16 and result["beats_used"] == 4 * result["moving"]
    # start-up included
    used = result["beats_used"] * 8 / (result["cycles"] / soc.CLOCK_HZ) / DDR_BYTES_PER_SECOND
    assert share - 0.005 < used < share + 0.005 and abs(result["share_of_peak"] - used) < 0.005


def test_synthetic_model_equals_the_golden_one():
    """A shape of its own: odd numbers of rows, one query head per KV head, one KV head more than
    are stored at once, a preloaded cache that ends within a chunk."""
    shape = ("hidden=160,intermediate=424,layers=2,heads=6,kv_heads=6,head_dim=32,vocab=1000,"
             "context=700")
    result = check_model(BenchOptions(shape=shape, context=600, tokens=3))
    assert result["identical_logits"] == 3 * 1000


def test_saved_work_changes_no_answer_and_counters_add_up():
    """Rows of up_proj and columns of down_proj that count for nothing: read or not, the cycles
    differ and the tokens do not."""
    checked = [measure_model(BenchOptions(shape="tiny", context=40, tokens=3, all_rows=full,
                                          all_columns=full, full_head=full))
               for full in (False, True)]
    for result in checked:
        for values in [*result["operators"].values(), result["total"]]:
            assert (values["cycles"] == sum(values[part] for part in PARTS)
                    and values["bytes"] == 32 * values["moving"])
        assert 0.98 < result["total"]["cycles"] / result["cycles"] <= 1
    saved, full = ({name: values["moving"] for name, values in result["operators"].items()}
                   for result in checked)
    words = 2  # of a row of 256 base-3 weights
    assert full["gate_up"] == 4 * 2 * 512 * words and full["down_proj"] == 4 * 512 * words
    # the synthetic gates are positive as often as they were made to be, within what 3 x 4 x 512
    # draws can miss
    assert abs((saved["gate_up"] - 4 * 512 * words) / (4 * 512 * words) - (1 - GATE_ZEROS)) < 0.05
    assert saved["down_proj"] < 0.5 * full["down_proj"] and saved["head"] < 0.4 * full["head"]
    assert saved["qkv"] == full["qkv"] and checked[0]["cycles"] < checked[1]["cycles"]
    assert checked[0]["tokens"] == checked[1]["tokens"]


@pytest.mark.parametrize("shape,cached", [("tiny", 190), ("bundled", 40)])
def test_a_prompt_behind_others_reads_their_keys_and_values(shape, cached):
    """Words of a token at position p: its keys, two scales of eight tokens a word, and values of
    32 tokens a word for each of 32 dimensions."""
    result = measure_model(BenchOptions(shape=shape, prefill=8, cached=cached))
    config = parse_shape(shape) if shape != "bundled" else open_checkpoint(BUNDLED).config
    assert config.head_dim == 32
    words = sum(tokens + 2 * -(-tokens // 8) + 32 * -(-tokens // 32)
                for tokens in range(cached + 1, cached + 9))
    assert result["operators"]["head"]["moving"] == 0 and result["tokens"] == []
    assert (8 * result["operators"]["attention"]["moving"]
            == pytest.approx(config.layers * config.kv_heads * words, abs=8))


@pytest.mark.parametrize("header,old,new", [
    ("protocol.h", f"#define PROTOCOL_VERSION 0x{VERSION:x}u", "#define PROTOCOL_VERSION 0x63u"),
    ("tvu.h", "#define TVU_ISA_HASH 0x", "#define TVU_ISA_HASH 0x1 + 0x"),
])
def test_firmware_of_another_version(tmp_path, header, old, new):
    done = _chat(build=other_firmware(tmp_path, (header, old, new)))
    assert (done.returncode == 2 and "firmware of another version" in done.stderr
            and "Traceback" not in done.stderr)


def test_failed_selftest_is_reported(tmp_path):
    done = _chat(build=other_firmware(tmp_path, ("selftest.h",
                                                 "selftest_expected[] = {\n    0x00000000,",
                                                 "selftest_expected[] = {\n    0x00000001,")))
    assert done.returncode == 2 and "failed self-test step 1" in done.stderr


def test_a_simulator_that_dies_is_one_sentence():
    image = convert(open_checkpoint(BUNDLED))
    simulator = Simulator()
    board = BoardTarget(image, transport.over_udp("127.0.0.1", simulator.ports["udp"]), simulator)
    simulator._process.kill()
    simulator._process.wait()
    with pytest.raises(UserError, match="the simulator stopped: exit code -9"):
        board.info()
    board.close()


def test_ddr_can_be_preloaded(tmp_path):
    words = np.random.default_rng(2).integers(0, 2**32, 1000, np.uint32)
    words.tofile(tmp_path / "ddr.bin")
    simulator = Simulator(preload=tmp_path / "ddr.bin")
    try:
        bus = Link(UDPWire("127.0.0.1", simulator.ports["udp"]))
        np.testing.assert_array_equal(bus.read(soc.DDR_BASE, 1000), words)
        bus.write(soc.DDR_BASE, np.zeros(4, np.uint32))
        assert bus.read(soc.DDR_BASE, 5).tolist() == [0, 0, 0, 0, words[4]]
    finally:
        simulator.close()
    # the file itself is not written
    np.testing.assert_array_equal(np.fromfile(tmp_path / "ddr.bin", np.uint32), words)


def test_host_and_soc_agree_on_addresses():
    assert (transport.MAILBOX_BASE, transport.DDR_BASE) == (soc.MAILBOX_BASE, soc.DDR_BASE)


@pytest.mark.parametrize("arguments,code",
                         [(["--help"], 0),
                          (["-h"], 0), (["--fast"], 2), (["--preset"], 2), (["--udp"], 2),
                                            (["--seed", "x"], 2)])
def test_options_of_the_simulator(arguments, code):
    done = subprocess.run([build_folder() / "sim/soc_sim", *arguments], capture_output=True,
                          text=True, timeout=20)
    assert done.returncode == code and "usage: soc_sim" in (done.stderr if code else done.stdout)


@pytest.mark.parametrize("text,said", [
    (None, "no.txt"), ("row_miss many\n", "row_miss has to be a number"), ("", "no memory preset")])
def test_a_memory_that_makes_no_sense(tmp_path, monkeypatch, text, said):
    """One sentence and exit code 2, wherever the file is named from."""
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "no.txt").write_text(text)
    done = subprocess.run([sys.executable, "-m", "bitnet_host", "bench", "--ddr", "no.txt"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_file_does_not_stand_for_a_preset(tmp_path, monkeypatch):
    """Whatever lies in the folder in which somebody works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ug585").write_text("row_miss many\n")
    assert measure_gemv("64x2560")["moving"] == 64 * 16


def test_a_build_folder_named_from_here(tmp_path, monkeypatch):
    """The simulator starts in another folder, so the name has to be made whole first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITNET_BUILD", "some/build")
    assert build_folder() == tmp_path / "some/build"


def test_an_interrupt_that_python_drops(tmp_path, monkeypatch):
    """As in a finaliser, where it only prints: the build still ends, after the step and without
    its stamp."""
    def action():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        (tmp_path / "made").touch()

    monkeypatch.setattr(steps, "_interrupted", False)
    before = signal.signal(signal.SIGINT, steps.interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            steps.Steps(tmp_path, 1).step("a step", "digest", action, tmp_path / "made")
    finally:
        signal.signal(signal.SIGINT, before)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_ctrl_c_in_the_build(tmp_path):
    """Into an empty folder, so that there is something to interrupt; one line, no traceback, and no
    stamp of a step half done."""
    process = subprocess.Popen([sys.executable, ROOT / "soc/build.py", "--output", tmp_path],
                               stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    while "[2/7]" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error == "build: interrupted; what was finished is kept\n"
    assert len(list(tmp_path.rglob("*.stamp"))) == 1
