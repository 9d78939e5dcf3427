"""What selftest concludes from what it measures; the measuring is tried in tests/soc."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from bitnet_host.bench.performance import SHARES
from bitnet_host.errors import BadArgument
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.run.protocol import INFO_FIELDS
from bitnet_host.selftest import lines, speed, ways
from bitnet_host.selftest.report import Report

WAYS = (ways.BUS, ways.UPLOAD)
ALL = [(writer, reader) for writer in WAYS for reader in ways.READERS]


@pytest.mark.parametrize("pairs,where", [
    (ALL, "all ways, so in the DRAM"),
    ([pair for pair in ALL if "HP2 reading" in pair], "HP2 reading:"),
    ([pair for pair in ALL if ways.UPLOAD in pair], "HP1 writing:"),
    ([pair for pair in ALL if ways.BUS in pair], "the CPU's way:"),
    # wrong both ways, which cancels out
    ([pair for pair in ALL if pair.count(ways.BUS) == 1], "the CPU's way:"),
    ([(ways.BUS, "HP0 reading")], "HP0 reading or the CPU's way:"),
    ([(ways.BUS, "HP0 reading"), (ways.UPLOAD, "HP1 reading")], "several ways:"),
])
def test_where_a_fault_lies(pairs, where):
    said = lines.conclude([lines.Fault(*pair, "something") for pair in pairs], WAYS)
    assert len(said) == 1 and said[0].startswith(where) and said[0].endswith("something")


def test_different_faults_are_told_apart():
    assert lines.conclude([], WAYS) == []
    both = lines.conclude([lines.Fault(writer, reader, what) for writer in WAYS
                           for reader, what in (("HP0 reading", "one"), ("HP3 reading", "two"))],
                          WAYS)
    assert both == ["HP0 reading: one", "HP3 reading: two"]


@pytest.mark.parametrize("change,said", [
    (lambda x: x | np.uint64(1 << 40), "data bit 40 is stuck at 1"),
    (lambda x: x & ~np.uint64(1 << 63), "data bit 63 is stuck at 0"),
    (lambda x: x & np.uint64(0xFFFFFFFF), "the upper 32 bits are missing"),
    (lambda x: x & ~np.uint64(5), "data bit 0 is stuck at 0, data bit 2 is stuck at 0"),
    (lambda x: x ^ np.uint64(8) * (np.arange(x.size, dtype=np.uint64) % np.uint64(3) == 0),
     "data bit 3 is unreliable"),
    (lambda x: ~x, "64 of 64 data bits are wrong"),
])
def test_wrong_data_bits(change, said):
    words = lines._walking(0).reshape(-1, 4, 8)[:, 0].copy().view("<u8")[:, 0]
    what, wrong = lines._wrong_bits(change(words), words)
    assert what.startswith(said) and (wrong <= 8) == ("data bit " in said)


def test_walking_bits_reach_every_bit_of_every_port():
    """Each bit is alone once, or with the lowest of its byte: the vector unit copies no 0x80."""
    alone = {1 << bit | (1 << bit - 7 if bit % 8 == 7 else 0) for bit in range(64)}
    for turn in range(3):
        words = lines._walking(turn).reshape(-1, 4, 8).view("<u8")[:, :, 0]
        for port in range(4):
            assert set(words[:64, port].tolist()) == alone
            zeros = (~words[64:, port]).tolist()
            assert all(any(word >> bit & 1 and word < 1 << bit + 1 for word in zeros)
                       for bit in range(64))
        assert not (lines._walking(turn) == 0x80).any()
    assert not (lines._walking(0) == lines._walking(1)).all(axis=1).any()


def test_addresses_can_be_flipped_without_leaving_memory():
    """And of two lines that are swapped, one of the addresses is where it was."""
    for size in (1 << 29, 1 << 30):
        bits = range(5, size.bit_length() - 1)
        for base in lines.BASES:
            assert all(MODEL_BASE <= base ^ 1 << bit < size for bit in bits)
        for a in bits:
            for b in bits:
                assert any(base >> a & 1 == base >> b & 1 for base in lines.BASES)


def test_tokens_per_second_follow_the_measured_points():
    points = speed.expected()["decode"]
    assert len(points) == len(SHARES) and points == sorted(points)
    assert [cycles for _, cycles in points] == sorted((c for _, c in points), reverse=True)
    for rate, cycles in points:
        assert speed.cycles_per_token(rate) == pytest.approx(cycles)
    for (low, slow), (high, fast) in pairwise(points):
        assert fast < speed.cycles_per_token((low + high) / 2) < slow
    assert speed.cycles_per_token(points[0][0] / 2) == pytest.approx(2 * points[0][1])
    assert speed.cycles_per_token(99) == points[-1][1]


def test_a_slow_port_is_named_and_others_are_not():
    clock = speed.expected()["clock_hz"]
    rates = dict(speed.expected()["streams"]["conservative"])
    assert speed.findings(rates, clock) == ([], [])
    said, details = speed.findings(rates | {"HP1": 2.0, "four ports": 8.0}, clock)
    assert len(said) == 1 and said[0].startswith("HP1 alone brings 250 MB/s")
    assert details == ["slower than the pessimistic model: four ports"]
    # nobody has measured the pessimistic model
    said, details = speed.findings({name: 0.8 * rate for name, rate in rates.items()}, clock)
    assert said == [] and "HP0" in details[0]
    said, details = speed.findings(rates | {"HP1": 2.0}, 100_000_000)
    assert said == [] and details[0].startswith("not judged")


def test_a_memory_of_another_clock_is_not_described():
    with pytest.raises(BadArgument, match="needs a board at 125 MHz"):
        speed.preset_file(dict(speed.expected()["streams"]["ug585"]), 100_000_000)


def test_expected_rates_are_of_all_streams():
    known = speed.expected()
    for preset, rates in known["streams"].items():
        assert list(rates) == [stream.name for stream in speed.STREAMS], preset
    assert known["streams"]["ug585"]["four ports"] == pytest.approx(
        0.92 * 4266.64e6 / known["clock_hz"], rel=0.005)


def test_report():
    info = dict.fromkeys(INFO_FIELDS, 0) | {"clock_hz": 125_000_000, "memory_bytes": 1 << 30}
    report = Report("udp://board", info)
    report.add("memory lines", [], [])
    assert "nothing is wrong" in report.text() and report.tokens_per_second is None
    report.add("clock", ["it stands"], ["0 MHz"])
    report.rates = dict(speed.expected()["streams"]["ug585"])
    text = report.text()
    assert "memory lines: well" in text and "WRONG: clock: it stands" in text
    assert "nothing is wrong" not in text and "an estimated 10." in text
    assert json.loads(json.dumps(report.as_dict()))["wrong"] == ["clock: it stands"]
