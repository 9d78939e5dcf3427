"""Stream interfaces under random back-pressure: DMA readers, store unit, lanes with collector,
checksum."""

from __future__ import annotations

import numpy as np
import pytest
import tvu.dsp
from amaranth.hdl import ClockDomain, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.sim import Simulator
from tvu.checksum import Checksum
from tvu.collect import Collector
from tvu.config import TVUConfig
from tvu.decoder import OPCODES, Decoder
from tvu.products import DotProducts
from tvu.reader import StreamReader
from tvu.store import StoreKind, StoreUnit
from xtvu import isa, semantics
from xtvu.layout import pack_ternary, physical_address

_SMALL = TVUConfig(port_fifo_depth=32)


def _simulate(unit, *benches, dsp_clock=0):
    """``dsp_clock``: of the unit's product array, if it has one."""
    top = Module()
    top.submodules.unit = unit
    for name in ("axi", *(("dot", "fast", "fill") if dsp_clock else ())):
        top.domains += ClockDomain(name, reset_less=True)
    sim = Simulator(top)
    sim.add_clock(1e-6, phase=0.5e-6)
    sim.add_clock(1e-6, phase=0.5e-6, domain="axi", if_exists=True)
    if dsp_clock:
        for name in ("dot", "fill"):
            sim.add_clock(1e-6, phase=0.5e-6, domain=name)
        sim.add_clock(1e-6 / dsp_clock, phase=0.5e-6, domain="fast")
    for bench in benches:
        sim.add_testbench(bench, background=bench is not benches[0])
    sim.run()


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
        while True:
            ready = rng.random() < chance
            ctx.set(unit.word.ready, int(ready))
            if ready and ctx.get(unit.word.valid):
                payload = ctx.get(unit.word.payload)
                got.append([payload >> 64 * p & (1 << 64) - 1 for p in range(4)])
            await ctx.tick()

    async def pick_memory(ctx):
        while True:
            group = ctx.get(unit.pick_address)
            await ctx.tick()
            row = codes[8 * group:8 * group + 8]
            ctx.set(unit.pick_data, int.from_bytes(row.astype(np.int8).tobytes(), "little"))

    async def entry_sink(ctx):
        while True:
            ready = rng.random() < chance
            ctx.set(unit.entry.ready, int(ready))
            if ready and ctx.get(unit.entry.valid):
                entry = ctx.get(unit.entry.payload)
                entries.append((entry.row, entry.code, entry.end))
            await ctx.tick()

    _simulate(unit, feed, *(port_bench(i) for i in range(4)), sink, pick_memory, entry_sink)


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

    _simulate(unit, bench)


@pytest.mark.parametrize("chance", [1.0, 0.3])
@pytest.mark.parametrize("kind", [StoreKind.FLOAT, StoreKind.CODES, StoreKind.COLUMN])
def test_store_unit_writes_every_byte(kind, chance):
    rng = np.random.default_rng(4)
    unit = StoreUnit()
    address = 0x8000 + (45 if kind is StoreKind.COLUMN else 32)
    rows = [(rng.integers(0, 2**32, 8, np.uint32).tolist(), mask)
            for mask in (255, 255, 255, 0b11111)]
    want = {}
    for number, (values, mask) in enumerate(rows):
        for lane in range(8):
            if mask >> lane & 1:
                place = 8 * number + lane
                if kind is StoreKind.FLOAT:
                    for byte in range(4):
                        want[physical_address(address + 4 * place + byte)] = (values[lane] >> 8
                                * byte & 255)
                else:
                    step = 512 if kind is StoreKind.COLUMN else 1
                    want[physical_address(address + step * place)] = values[lane] & 255
    memory = {}

    async def feed(ctx):
        ctx.set(unit.address, address)
        ctx.set(unit.kind, kind)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        for values, mask in rows:
            while rng.random() > chance:
                await ctx.tick()
            ctx.set(unit.row.payload, {"values": values, "mask": mask})
            ctx.set(unit.row.valid, 1)
            await ctx.tick().until(unit.row.ready)
            ctx.set(unit.row.valid, 0)
        for _ in range(2000):
            if ctx.get(unit.idle):
                break
            await ctx.tick()
        assert ctx.get(unit.idle) and memory == want

    async def ddr(ctx):
        addresses, data, answers = [], [], 0
        port = unit.port
        while True:
            ready = [rng.random() < chance for _ in range(3)]
            ctx.set(port.awready, int(ready[0]))
            ctx.set(port.wready, int(ready[1]))
            ctx.set(port.bvalid, int(answers > 0 and ready[2]))
            if ready[0] and ctx.get(port.awvalid):
                addresses.append(ctx.get(port.awaddr))
            if ready[1] and ctx.get(port.wvalid):
                data.append((ctx.get(port.wdata), ctx.get(port.wstrb)))
            if answers and ready[2] and ctx.get(port.bready):
                answers -= 1
            while addresses and data:
                where, (value, strobe) = addresses.pop(0), data.pop(0)
                for byte in range(8):
                    if strobe >> byte & 1:
                        memory[where + byte] = value >> 8 * byte & 255
                answers += 1
            await ctx.tick()

    _simulate(unit, feed, ddr)


def _slice(m, name, domain, *, x, use_x, subtract, c, z, neighbour, p, cascade):
    """A DSP slice that Amaranth can simulate; test_dsp.py has the one that becomes hardware."""
    term, summand, minus, choice = Signal(48), Signal(48), Signal(), Signal(3)
    m.d[domain] += [term.eq(Mux(use_x, x, 0)), summand.eq(c), minus.eq(subtract), choice.eq(z)]
    start = Mux(choice == tvu.dsp.Z_C, summand, Mux(choice == tvu.dsp.Z_NEIGHBOUR, neighbour, 0))
    m.d[domain] += p.eq(Mux(minus, start - term, start + term))
    m.d.comb += cascade.eq(p)


class _LanesAndCollector(wiring.Component):
    """The dot path from stream words to collected rows."""

    def __init__(self, dsp_clock):
        self.lanes, self.collector = DotProducts(_slice, dsp_clock=dsp_clock), Collector()
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.lanes, m.submodules.collector = self.lanes, self.collector
        wiring.connect(m, self.lanes.result, self.collector.result)
        return m


@pytest.mark.parametrize("mode,vectors,chance,words,rows,sleep,share", [
    ("base3", 1, 0.4, 2,
     11, 0, None), ("2bit", 2, 1.0, 2, 11, 0, None), ("int8", 4, 0.3, 2, 11, 0, None),
    ("int8", 1, 1.0, 1, 61, 120, None),  # more rows than all queues hold, while nobody takes any
    # picked rows
    ("base3", 1, 0.5, 2,
     61, 0, 0.4), ("2bit", 8, 1.0, 1, 61, 120, 0.8), ("base3", 1, 1.0, 1, 16, 0, 0.0),
])
@pytest.mark.parametrize("dsp_clock", [2, 1])
def test_lanes_under_back_pressure(mode, vectors, chance, words, rows, sleep, share, dsp_clock):
    rng = np.random.default_rng(8)
    unit = _LanesAndCollector(dsp_clock)
    lanes, collector = unit.lanes, unit.collector
    per_word = {"base3": 160, "2bit": 128, "int8": 32}[mode]
    columns = words * per_word
    codes = rng.integers(-127, 128, (vectors, columns))
    if mode == "int8":
        matrix = rng.integers(-128, 128, (rows, columns))
        packed = matrix.astype(np.int8).view(np.uint8)
    else:
        matrix = rng.integers(-1, 2, (rows, columns))
        packed = pack_ternary(matrix.astype(np.int8), mode)
    places = np.arange(rows) if share is None else np.flatnonzero(rng.random(rows) < share)
    stream = packed.reshape(rows, words, 32)[places].reshape(-1, 32)
    want = np.zeros((vectors, rows), np.int64)
    want[:, places] = (codes @ matrix.T)[:, places]
    got, lasts = np.zeros((vectors, 64), np.int64), []

    async def feed(ctx):
        layout = per_word
        for v in range(vectors):
            padded = np.zeros(-(-columns // layout) * layout, np.int64)
            padded[:columns] = codes[v]
            for row, group in enumerate(padded.reshape(-1, 8)):
                place = row % (layout // 8)
                ctx.set(lanes.write.enable, 1)
                ctx.set(lanes.write.vector, v)
                ctx.set(lanes.write.bytes, int(mode == "int8"))
                ctx.set(lanes.write.address, row // (layout // 8))
                ctx.set(lanes.write.digit, place // 4)
                ctx.set(lanes.write.quarter, place % 4)
                ctx.set(lanes.write.codes, sum(int(c & 255) << 8 * i for i, c in enumerate(group)))
                await ctx.tick()
        ctx.set(lanes.write.enable, 0)
        ctx.set(lanes.words, words)
        ctx.set(lanes.mode, isa.MODES[mode])
        ctx.set(collector.last_vector, vectors - 1)
        ctx.set(lanes.last_vector, vectors - 1)
        ctx.set(lanes.rows, rows)
        ctx.set(lanes.picked, int(share is not None))
        ctx.set(lanes.start, 1)
        await ctx.tick()
        ctx.set(lanes.start, 0)
        for word in stream:
            while rng.random() > chance:
                await ctx.tick()
            ctx.set(lanes.word.payload, int.from_bytes(word.tobytes(), "little"))
            ctx.set(lanes.word.valid, 1)
            await ctx.tick().until(lanes.word.ready)
            ctx.set(lanes.word.valid, 0)
        for _ in range(400):
            await ctx.tick()
        assert not ctx.get(lanes.hungry)
        assert sum(lasts) == lasts[-1] == 1
        np.testing.assert_array_equal(got[:, :rows], want)

    async def entries(ctx):
        for place in [*places.tolist(), None] if share is not None else []:
            ctx.set(lanes.entry.payload, {"end": 1} if place is None else {"row": place})
            while rng.random() > chance:
                await ctx.tick()
            ctx.set(lanes.entry.valid, 1)
            await ctx.tick().until(lanes.entry.ready)
            ctx.set(lanes.entry.valid, 0)

    async def sink(ctx):
        for _ in range(sleep):
            await ctx.tick()
        while True:
            ready = rng.random() < chance
            ctx.set(collector.row.ready, int(ready))
            if ready and ctx.get(collector.row.valid):
                row = ctx.get(collector.row.payload)
                for lane in range(8):
                    if row.mask >> lane & 1:
                        got[row.vector, 8 * row.group + lane] = row.sums[lane]
                lasts.append(row.last)
            await ctx.tick()

    _simulate(unit, feed, sink, entries, dsp_clock=dsp_clock)


def test_checksum_with_gaps():
    rng = np.random.default_rng(9)
    unit = Checksum()
    data = rng.integers(0, 256, 32 * 21).astype(np.uint8)

    async def bench(ctx):
        ctx.set(unit.words, 21)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        for word in data.reshape(-1, 32):
            while rng.random() > 0.5:
                await ctx.tick()
            ctx.set(unit.word.payload, int.from_bytes(word.tobytes(), "little"))
            ctx.set(unit.word.valid, 1)
            await ctx.tick().until(unit.word.ready)
            ctx.set(unit.word.valid, 0)
        for _ in range(20):
            if ctx.get(unit.done):
                break
            await ctx.tick()
        assert ctx.get(unit.done) and ctx.get(unit.value) == semantics.checksum(data)

    _simulate(unit, bench)


def test_decoder_over_all_function_ids():
    unit = Decoder()

    async def bench(ctx):
        for function_id in range(1024):
            ctx.set(unit.function_id, function_id)
            await ctx.delay(1e-9)
            ins = isa.by_function_id(function_id)
            assert ctx.get(unit.defined) == (ins is not None)
            assert ctx.get(unit.group) == function_id & 7
            if ins is not None:
                assert ctx.get(unit.opcode) == OPCODES[ins.name]

    sim = Simulator(unit)
    sim.add_testbench(bench)
    sim.run()
