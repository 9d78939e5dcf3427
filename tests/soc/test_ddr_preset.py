"""What the memory model charges: presets, and files that describe memory as it was measured."""

from __future__ import annotations

import subprocess

import pytest
from ddr_driver import compile_driver

_MAIN = r"""
#include "ddr.hpp"
// driver PRESET PORTS BEATS CYCLES CPU_EVERY: so many ports ask for bursts without pause, and the
// CPU reads a cache line every so often. Prints beats, cycles to the first beat, the most bursts
// that a port took before it answered, the cycles of the CPU's accesses, and beats by port.
static uint32_t araddr[4];
static uint8_t arlen[4], arvalid[4], arready[4], rresp[4], rlast[4], rvalid[4], rready[4];
static uint64_t rdata[4];
int main(int, char **argv) {
    int ports = atoi(argv[2]), length = atoi(argv[3]), every = atoi(argv[5]);
    Ddr ddr(64 << 20, "", load_preset(argv[1]), 125e6);
    for (int i = 0; i < 4; i++) {
        ddr.attach(i, AxiReadPins{araddr + i, arlen + i, arvalid + i, arready + i, rdata + i,
                                  rresp + i, rlast + i, rvalid + i, rready + i});
        araddr[i] = 0x200000 + 128 * i;
        arlen[i] = length - 1;
        rready[i] = 1;
    }
    long beats = 0, first = 0, taken = 0, most = 0, cpu = 0, each[4] = {};
    for (long cycle = 0; cycle < atol(argv[4]); cycle++) {
        bool took[4], came[4];
        for (int i = 0; i < ports; i++) {
            arvalid[i] = 1;
            took[i] = arready[i];
            came[i] = rvalid[i];
        }
        ddr.sample();
        ddr.drive();
        for (int i = 0; i < ports; i++) {
            if (took[i]) araddr[i] = 0x200000 + (araddr[i] + 512) % (32 << 20);
            beats += came[i];
            each[i] += came[i];
            if (!first && came[i]) first = cycle;
        }
        taken += took[0];
        if (!first) most = taken;
        if (every && cycle % every == 0) cpu += ddr.access(0x3000000 + cycle * 64, 4, false);
    }
    printf("%ld %ld %ld %ld %ld %ld %ld %ld\n", beats, first, most, cpu, each[0], each[1], each[2],
           each[3]);
}
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return compile_driver(tmp_path_factory.mktemp("preset"), _MAIN)


@pytest.fixture
def run(driver, tmp_path):
    """Beats, cycles to the first one, bursts taken until then, cycles of the CPU's accesses; with
    ``by_port``, beats of each instead."""
    def run(preset, ports=4, beats=16, cycles=60_000, cpu_every=0, by_port=False):
        if "\n" in preset:
            (tmp_path / "memory.txt").write_text(preset)
            preset = tmp_path / "memory.txt"
        done = subprocess.run([driver, str(preset), str(ports), str(beats), str(cycles),
                               str(cpu_every)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        words = [int(word) for word in done.stdout.split()]
        return words[4:] if by_port else words[:4]
    return run


_PEAK = 533.33 / 125  # beats per cycle


@pytest.mark.parametrize("preset,latency", [("ug585", 169 * 0.125 + 3.4),
                                            ("conservative", 338 * 0.125 + 3.4)])
def test_presets(run, preset, latency):
    """Unloaded latency; eight bursts of 16 beats under way at a port."""
    _, first, most, _ = run(preset, ports=1, cycles=200)
    assert abs(first - latency) < 4 and most == 8


def test_a_file_names_what_differs(run):
    text = "# mine\nbase conservative\n\nread_ns 800  # far away\ncommands 3\n"
    whole, first, most, _ = run(text)
    assert most == 3 and abs(first - (800 * 0.125 + 3.4)) < 4
    assert whole < run("conservative")[0]
    assert run("base conservative\n\n") == run("conservative") != run("ug585")
    assert run("# nothing\n") == run("ug585")


@pytest.mark.parametrize("line,expected", [
    # of a burst's 16 beats, and of refresh
    ("burst_overhead 8\nrow_miss 0\nrefresh_ns 0\n", 16 / 24),
    ("burst_overhead 8\nrow_miss 0\nrefresh_ns 300\n", 16 / 24 * (1 - 300 / 7740)),
    ("burst_overhead 8\nrow_miss 0\nrefresh_ns 300\nrefresh_every_ns 3870\n",
     16 / 24 * (1 - 300 / 3870)),
])
def test_what_a_stream_is_charged(run, line, expected):
    assert abs(run(line)[0] / 60_000 / _PEAK - expected) < 0.01


def test_short_bursts_cost_as_much_as_long_ones(run):
    text = "burst_overhead 8\nrow_miss 0\nrefresh_ns 0\n"
    shares = [run(text, beats=beats)[0] / 60_000 / _PEAK for beats in (4, 8, 16)]
    assert shares == pytest.approx([4 / 12, 8 / 16, 16 / 24], abs=0.01)
    # DDR3 moves 32 bytes at least
    assert run("burst_overhead 0\nrow_miss 0\nrefresh_ns 0\n", beats=1)[0] / 60_000 < _PEAK / 3.9


def test_random_delays(run):
    """Bursts come late by what the file says, and a port that waits for each loses as much."""
    one = [run(f"commands 1\n{more}", ports=1)[0]
           for more in ("\n", "delay_least 40\ndelay_most 40\n", "delay_most 40\n")]
    cycles = [60_000 * 16 / beats for beats in one]
    assert cycles[1] - cycles[0] == pytest.approx(40, abs=1)
    assert cycles[2] - cycles[0] == pytest.approx(20, abs=2)


def test_the_pairs_of_ports_share_the_bus(run):
    """Two ports that the controller serves as one get its share, and no more."""
    text = "pair_share 0.3\nrow_miss 0\nrefresh_ns 0\n"
    assert run(text, ports=2)[0] / 60_000 / _PEAK == pytest.approx(0.3, abs=0.01)


def test_ports_get_the_same(run):
    beats = run("burst_overhead 30\n", by_port=True)
    assert max(beats) - min(beats) <= 0.02 * max(beats)


def test_the_cpu_waits_for_the_burst_that_is_under_way(run):
    """Which takes 516 clocks of the DRAM, 121 of the fabric, here: half of one on average."""
    cycles = run("burst_overhead 500\nrow_miss 0\nrefresh_ns 0\n", cpu_every=701)[3]
    assert 60_000 / 701 * (24.5 + 40) < cycles < 60_000 / 701 * (24.5 + 2 * 121)


def test_the_cpu_has_a_port_of_its_own(run):
    """Its line comes after the burst that is under way, however many wait at the others, and takes
    bus time from them: its own four clocks and two rows that are opened."""
    text = "row_miss {}\nrefresh_ns 0\nburst_overhead 2\n"
    taken = []
    for miss in (0, 12):
        alone, *_ = run(text.format(miss))
        beats, _, _, cycles = run(text.format(miss), cpu_every=100)
        unloaded = 169 * 0.125 + 3.4
        assert unloaded <= cycles / 600 < unloaded + 8
        taken.append((alone - beats) / 600 * 18 / 16)
    assert taken[0] == pytest.approx(4 + 2, abs=0.3) and 8 < taken[1] - taken[0] <= 2 * 12


@pytest.mark.parametrize("text,said", [
    ("burst 3\n", "line 1: nothing is called \"burst\""), ("row_miss\n", "line 1: row_miss has to"),
    ("row_miss twelve\n", "has to be a number from 0"), ("row_miss -1\n", "a number from 0 to"),
    ("row_miss nan\n", "a number from 0 to"), ("row_miss 3 4\n", "line 1 has to be a name and"),
    ("row_miss 3\nbase ug585\n", "line 2: base comes first"), ("base ddr4\n", "names a preset"),
    ("commands 0\n", "from 1 to 8"), ("delay_least 3\n", "delay_most is less"),
    ("", "no memory preset or file")])
def test_a_file_that_makes_no_sense(driver, tmp_path, text, said):
    (tmp_path / "memory.txt").write_text(text)
    done = subprocess.run([driver, tmp_path / "memory.txt", "4", "16", "10", "0"],
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
