"""The stream reader by itself, under random back-pressure."""

from __future__ import annotations

import numpy as np
import pytest
from simulation import accept, simulate
from tvu.config import TVUConfig
from tvu.reader import StreamReader
from xtvu.layout import physical_address

_SMALL = TVUConfig(port_fifo_depth=32)


@pytest.mark.parametrize("chance", [1.0, 0.5, 0.1])
def test_reader_delivers_words_in_order(chance):
    """Random ARREADY, RVALID and word.ready; each word is checked by its address, each burst by the
    AXI rules."""
    rng = np.random.default_rng(int(chance * 10))
    unit = StreamReader(_SMALL)
    descriptors = [(0x8000, 40, 1, 0), (0x8000 + 5, 3, 1, 0), (0x9000, 4, 3, 1),
                   (0xA00F, 18, 2, 2), (0xB000, 1, 1, 0)]
    expected = [start + 16 * stride * row + word for start, words, rows, stride in descriptors
                for row in range(rows) for word in range(words)]
    # then rows picked by codes, with empty groups at both ends and in between; and none at all
    codes = rng.integers(-128, 128, 8 * 9) * (rng.random(8 * 9) < 0.3)
    codes[:16] = codes[32:48] = codes[64:] = 0
    picked = [(0xC000, 9, 3), (0xD003, 2, 2), (0xE000, 9, 17)]
    descriptors += [(start, words, groups, "picked") for start, groups, words in picked]
    rows_wanted = []
    for start, groups, words in picked:
        rows = np.flatnonzero(codes[:8 * groups]).tolist()
        rows_wanted += [*((row, int(codes[row]), 0) for row in rows), (0, 0, 1)]
        expected += [start + words * row + word for row in rows for word in range(words)]
    got, entries = [], []

    async def feed(ctx):
        for address, words, rows, stride in descriptors:
            while rng.random() > chance:
                await ctx.tick()
            kind = {"picked": 1} if stride == "picked" else {"stride": stride}
            ctx.set(unit.descriptor.payload,
                    {"address": address, "words": words, "rows": rows, **kind})
            ctx.set(unit.descriptor.valid, 1)
            await ctx.tick().until(unit.descriptor.ready)
            ctx.set(unit.descriptor.valid, 0)
        for _ in range(20000):
            if len(got) == len(expected):
                break
            await ctx.tick()
        assert [g[0] for g in got] == expected
        assert all(g == [g[0]] * 4 for g in got), "ports out of step"
        for _ in range(40):
            await ctx.tick()
        assert not ctx.get(unit.active)
        assert [e if not e[2] else (0, 0, 1) for e in entries] == rows_wanted

    def port_bench(index):
        port = getattr(unit, f"port{index}")

        async def bench(ctx):
            beats, offered = [], None
            while True:
                ready = rng.random() < chance
                ctx.set(port.arready, int(ready))
                show = bool(beats) and rng.random() < chance
                ctx.set(port.rvalid, int(show))
                if show:
                    # the data is the word number that this address holds, which the reader must
                    # keep in order
                    ctx.set(port.rdata, beats[0])
                if ctx.get(port.arvalid):
                    request = (ctx.get(port.araddr), ctx.get(port.arlen))
                    assert offered in (None, request), "address changed while waiting"
                    offered = None if ready else request
                    if ready:
                        address, length = request[0], request[1] + 1
                        assert (address % 8 == 0 and address >> 12 == (address + 8 * length - 1)
                                >> 12)
                        word = address >> 9 << 4 | address >> 3 & 15
                        assert address >> 7 & 3 == index and (word & 15) + length <= 16
                        beats += [word + i for i in range(length)]
                else:
                    assert offered is None, "ARVALID fell"
                taken = show and ctx.get(port.rready)
                await ctx.tick()
                if taken:
                    beats.pop(0)
        return bench

    async def sink(ctx):
        def take(payload):
            got.append([payload >> 64 * p & (1 << 64) - 1 for p in range(4)])

        await accept(ctx, unit.word, take, rng, chance)

    async def pick_memory(ctx):
        while True:
            group = ctx.get(unit.pick_address)
            await ctx.tick()
            row = codes[8 * group:8 * group + 8]
            ctx.set(unit.pick_data, int.from_bytes(row.astype(np.int8).tobytes(), "little"))

    async def entry_sink(ctx):
        await accept(ctx, unit.entry,
                     lambda entry: entries.append((entry.row, entry.code, entry.end)), rng, chance)

    simulate(unit, feed, *(port_bench(i) for i in range(4)), sink, pick_memory, entry_sink)


@pytest.mark.parametrize("apart", [0, 1])
@pytest.mark.parametrize("address", [0x8000 // 32, (5 << 26) // 32 + 0x123])
def test_ports_apart(apart, address):
    """Each port's addresses: those of its piece, or with the port's number in bits 26 and 27."""
    unit = StreamReader(_SMALL)

    async def bench(ctx):
        ctx.set(unit.ports, {"mask": 15, "apart": apart, "bursts": 0})
        ctx.set(unit.descriptor.payload, {"address": address, "words": 1, "rows": 1})
        ctx.set(unit.descriptor.valid, 1)
        await ctx.tick()
        ctx.set(unit.descriptor.valid, 0)
        ports = [getattr(unit, f"port{i}") for i in range(4)]
        for _ in range(12):
            await ctx.tick()
        for number, port in enumerate(ports):
            at = physical_address(32 * address + 8 * number)
            assert ctx.get(port.arvalid)
            assert ctx.get(port.araddr) == at ^ (apart * number << 26)

    simulate(unit, bench)


@pytest.mark.parametrize("kind,ticket,counter", [("fence", 3, "completed"), ("picked", 1, "picks")])
def test_reader_waits_for_what_was_issued_before(kind, ticket, counter):
    unit = StreamReader(_SMALL)

    async def bench(ctx):
        ctx.set(unit.pick_data, 1)
        ctx.set(unit.descriptor.payload,
                {"address": 0x8000, "words": 2, "rows": 1, kind: 1, "ticket": ticket})
        ctx.set(unit.descriptor.valid, 1)
        await ctx.tick()
        ctx.set(unit.descriptor.valid, 0)
        for _ in range(30):
            assert not ctx.get(unit.port0.arvalid)
            await ctx.tick()
        ctx.set(getattr(unit, counter), ticket)
        for _ in range(8):
            await ctx.tick()
        assert ctx.get(unit.port0.arvalid)

    simulate(unit, bench)
