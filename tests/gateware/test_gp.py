"""Several clients on one port of the processing system: each gets its own answers, in turn, and a
reset in the middle leaves the port in order."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import ClockDomain, DomainRenamer, Module, Signal
from amaranth.lib import wiring
from gp_slave import Slave
from ps.gp import Port
from simulation import simulate

_OCM = 0xFFFC_0000


class _Reset(wiring.Component):
    """A port whose clients' domain can be reset."""

    def __init__(self, clients: int) -> None:
        self.inner, self.reset = Port(clients), Signal()
        super().__init__(self.inner.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.clients = clients = ClockDomain(local=True)
        m.d.comb += clients.rst.eq(self.reset)  # none of its registers lie there
        m.d.sync += Signal().eq(0)  # the simulator's clock needs one
        m.submodules.inner = DomainRenamer({"sync": "clients"})(self.inner)
        for name in ("port", "clients"):
            ours, inner = getattr(self, name), getattr(self.inner, name)
            for a, b in zip(ours, inner, strict=True) if name == "clients" else ((ours, inner),):
                wiring.connect(m, wiring.flipped(a), b)
        return m


async def _request(ctx, client, address, length, write):
    ctx.set(client.request.payload, {"address": address, "length": length, "write": write})
    ctx.set(client.request.valid, 1)
    await ctx.tick().until(client.request.ready)
    ctx.set(client.request.valid, 0)


async def _answer(ctx, client):
    """The next answer, as it stands at the clock's edge."""
    answer = client.answer
    *_, data, last, error = await ctx.tick().sample(answer.data, answer.last, answer.error).until(
        answer.valid)
    return data, last, error


async def _write(ctx, client, address, words, strobe=0xF):
    await _request(ctx, client, address, len(words) - 1, 1)
    for word in words:
        ctx.set(client.beat.payload, {"data": word, "strobe": strobe})
        ctx.set(client.beat.valid, 1)
        await ctx.tick().until(client.beat.ready)
        ctx.set(client.beat.valid, 0)
    _, last, error = await _answer(ctx, client)
    assert last
    return error


async def _read(ctx, client, address, count):
    await _request(ctx, client, address, count - 1, 0)
    answers = [await _answer(ctx, client) for _ in range(count)]
    assert [last for _, last, _ in answers] == [0] * (count - 1) + [1]
    return [data for data, _, _ in answers], [error for _, _, error in answers]


@pytest.mark.parametrize("chance", [1.0, 0.4])
def test_clients_read_what_they_wrote(chance):
    dut, count = Port(3), 3
    rng = np.random.default_rng(5)
    slave, finished = Slave(rng, chance), []

    def bench(i):
        async def run(ctx):
            for turn in range(12):
                base = _OCM + 0x1000 * i + 64 * turn
                words = [int(word) for word in rng.integers(0, 1 << 32, rng.integers(1, 17))]
                assert await _write(ctx, dut.clients[i], base, words) == 0
                assert await _read(ctx, dut.clients[i], base, len(words)) == (words,
                                                                              [0] * len(words))
            finished.append(i)
            while len(finished) < count:
                await ctx.tick()
        return run

    async def serve(ctx):
        await slave.run(ctx, dut.port)

    simulate(dut, *map(bench, range(count)), serve)
    assert sorted(finished) == [0, 1, 2] and len(slave.log) == 72


def test_nobody_is_passed_over():
    """While others ask without end, each is served once in as many turns."""
    dut, slave = Port(3), Slave(np.random.default_rng(1), 1.0)

    async def all_ask(ctx):
        for client in dut.clients:
            ctx.set(client.request.valid, 1)
            ctx.set(client.beat.valid, 1)
        for i, client in enumerate(dut.clients):
            ctx.set(client.request.payload, {"address": _OCM + 4 * i, "length": 0, "write": i & 1})
        for _ in range(200):
            await ctx.tick()

    async def serve(ctx):
        await slave.run(ctx, dut.port)

    simulate(dut, all_ask, serve)
    order = [(address - _OCM) // 4 for _, address, _ in slave.log]
    assert len(order) > 20
    assert all(sorted(order[i:i + 3]) == [0, 1, 2] for i in range(len(order) - 2))


def test_errors_and_bytes():
    dut, slave = Port(1), Slave(np.random.default_rng(2))
    slave.failing = {_OCM + 8}
    [client] = dut.clients

    async def run(ctx):
        assert await _write(ctx, client, _OCM, [0x11223344]) == 0
        assert await _write(ctx, client, _OCM, [0xAABBCCDD], strobe=0b0101) == 0
        assert await _read(ctx, client, _OCM, 1) == ([0x11BB33DD], [0])
        assert await _write(ctx, client, _OCM + 4, [1, 2]) == 1
        assert await _read(ctx, client, _OCM + 4, 3) == ([1, 0xFFFFFFFF, 0xDEADBEEF], [0, 1, 0])

    async def serve(ctx):
        await slave.run(ctx, dut.port)

    simulate(dut, run, serve)


@pytest.mark.parametrize("write", [0, 1])
@pytest.mark.parametrize("cycle", range(0, 24, 3))
def test_a_reset_in_the_middle(write, cycle):
    """What was begun ends, by beats that write nothing; the next request is the next one's, and
    gets no answer that is not its own."""
    dut = _Reset(2)
    slave = Slave(np.random.default_rng(cycle), 0.5)
    slave.memory = {_OCM + 4 * i: 1000 + i for i in range(16)}
    one, other = dut.clients
    early = []

    async def watch(ctx):
        """No beat is taken from a client before its request is."""
        await ctx.tick().until(dut.reset)
        while True:
            _, _, taken, asked = await ctx.tick().sample(one.beat.ready, one.request.ready)
            if asked:
                return
            if taken:
                early.append(taken)

    async def run(ctx):
        await _request(ctx, one, _OCM, 15, write)
        ctx.set(one.beat.payload, {"data": 7, "strobe": 0xF})
        ctx.set(one.beat.valid, 1)
        for _ in range(cycle):
            await ctx.tick()
        ctx.set(dut.reset, 1)
        await ctx.tick()
        ctx.set(one.beat.valid, 0)
        ctx.set(dut.reset, 0)
        ctx.set(one.beat.payload, {"data": 5, "strobe": 0xF})
        ctx.set(one.beat.valid, 1)  # of a write that it has not asked for yet
        words, errors = await _read(ctx, other, _OCM + 60, 1)
        assert (words, errors) == ([slave.memory[_OCM + 60]], [0])
        assert await _write(ctx, one, _OCM + 64, [5]) == 0
        assert not early

    async def serve(ctx):
        await slave.run(ctx, dut.port)

    simulate(dut, run, watch, serve)
    kinds = [entry[:2] for entry in slave.log]
    assert kinds == [("write" if write else "read", _OCM), ("read", _OCM + 60),
                     ("write", _OCM + 64)]
    if write:
        written = slave.log[0][2]
        assert len(written) == 16 and written[-1] is None
        assert all(slave.memory[_OCM + 4 * i] == (7 if written[i] else 1000 + i)
                   for i in range(16))
