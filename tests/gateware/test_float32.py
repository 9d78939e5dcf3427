"""The float32 pipelines against semantics.py, and semantics.py against NumPy's own float32."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator
from tvu.float32 import FloatAdd, FloatMultiply, FloatToInt8, IntToFloat
from tvu.lookup import Lookups
from tvu.scalar import ScalarFunction, ScalarUnit
from xtvu import semantics


def _corner_floats(rng, count):
    special = np.array([0,
                        0x80000000, 1,
                        0x007FFFFF, 0x00800000, 0x80800000, 0x3F800000, 0xBF800000, 0x7F7FFFFF,
                        0x3F000000, 0x3FC00000,
                        0x40200000, 0x42FE0000, 0x43000000, 0x00800001, 0x33800000], np.uint32)
    wild = rng.integers(0, 2**32, count, np.uint32)
    wild = wild[(wild >> 23 & 255) != 255]
    near = (rng.standard_normal(count) * 10.0 ** rng.integers(-3, 3,
            count)).astype(np.float32).view(np.uint32)
    return np.concatenate([special, wild, near]).view(np.float32)


def _pairs(rng, count):
    base = _corner_floats(rng, count)
    a, b = rng.choice(base, count), rng.choice(base, count)
    # sums that cancel and quotients near one exercise the rounding
    close = (a.view(np.uint32) ^ rng.integers(0, 16, count, np.uint32)).view(np.float32)
    return np.concatenate([a, a, base]), np.concatenate([b, -close, np.flip(base)])


def _run(unit, columns, latency):
    out = []

    async def bench(ctx):
        length = len(columns[0][1])
        for i in range(length + latency):
            for port, data in columns:
                ctx.set(getattr(unit, port), int(data[min(i, length - 1)]))
            if i >= latency:
                out.append(ctx.get(unit.r))
            await ctx.tick()

    sim = Simulator(unit)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return np.array(out, np.int64)


def _bits(x):
    return np.asarray(x, np.float32).view(np.uint32).astype(np.int64)


@pytest.mark.parametrize("unit,function",
                         [(FloatMultiply, semantics.multiply), (FloatAdd, semantics.add)])
def test_binary_units(unit, function):
    a, b = _pairs(np.random.default_rng(1), 1500)
    got = _run(unit(), [("a", a.view(np.uint32)), ("b", b.view(np.uint32))], unit.LATENCY)
    np.testing.assert_array_equal(got, _bits(function(a, b)))


def test_int_to_float():
    rng = np.random.default_rng(2)
    x = np.concatenate([[0,
                         1, -1, 2**27 - 1,
                         -2**27, 2**24 + 1, 2**24 + 3], rng.integers(-2**27, 2**27, 600),
                        rng.integers(-2**25, 2**25, 600)]).astype(np.int32)
    got = _run(IntToFloat(), [("a", x.view(np.uint32) & 0xFFFFFFF)], IntToFloat.LATENCY)
    np.testing.assert_array_equal(got, _bits(x.astype(np.float32)))


def test_float_to_int8():
    x = np.concatenate([np.arange(-300, 300) / 2,
                        _corner_floats(np.random.default_rng(3), 500)]).astype(np.float32)
    got = _run(FloatToInt8(), [("a", x.view(np.uint32))], FloatToInt8.LATENCY)
    want = np.clip(np.rint(semantics.flush(x)), -127, 127).astype(np.int8).view(np.uint8)
    np.testing.assert_array_equal(got, want)


def _looked_up(x, sigmoid):
    """What the four units say of x, which comes to all lanes: every second cycle, as a row's upper
    lanes take the other one."""
    unit, out = Lookups(), []
    whole = len(x)
    x = np.concatenate([x, np.zeros(-whole % 4, np.float32)])

    async def bench(ctx):
        ctx.set(unit.sigmoid, sigmoid)
        length = len(x)
        ends = length // 4 * 2 + Lookups.LATENCY
        for cycle in range(ends + 1):
            row = x[cycle // 2 * 4:][:4].view(np.uint32) if cycle < length // 2 else [0] * 4
            ctx.set(unit.valid, cycle % 2 == 0)
            for lane in range(8):
                # the upper lanes have the lower ones' numbers in reverse
                ctx.set(unit.a[lane], int(row[lane if lane < 4 else 7 - lane]))
            if cycle >= Lookups.LATENCY and (cycle - Lookups.LATENCY) % 2 == 0 \
                    and len(out) < length:
                lanes = [ctx.get(unit.r[lane]) for lane in range(8)]
                assert lanes[:4] == lanes[:3:-1]
                out.extend(lanes[:4])
            await ctx.tick()

    sim = Simulator(unit)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return np.array(out[:whole], np.int64)


def test_exp2():
    rng = np.random.default_rng(4)
    x = np.concatenate([-rng.random(800) * 140, rng.random(200) * 130, _corner_floats(rng, 300),
                        -np.arange(130)]).astype(np.float32)
    np.testing.assert_array_equal(_looked_up(x, 0), _bits(semantics.exp2(x)))


def test_sigmoid():
    rng = np.random.default_rng(7)
    edges = np.concatenate([[0, 4, 16, 32, 64, 1e30], np.arange(0, 16, 0.25)])
    x = np.concatenate([edges, -edges, np.nextafter(np.float32(edges), np.float32(0)),
                        rng.uniform(-18, 18, 1500), rng.standard_normal(1000) * 3,
                        _corner_floats(rng, 300)]).astype(np.float32)
    np.testing.assert_array_equal(_looked_up(x, 1), semantics.sigmoid(x))


def test_sigmoid_accuracy():
    x = np.linspace(-20, 20, 1000001).astype(np.float32)
    true = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert np.max(np.abs(semantics.sigmoid(x) / 2**23 - true)) < 8e-7
    assert semantics.sigmoid(np.float32([-16, 0, 16])).tolist() == [0, 1 << 22, 1 << 23]


def test_exp2_accuracy():
    x = np.linspace(-126, 0, 100001).astype(np.float32)
    true = 2.0 ** x.astype(np.float64)
    assert np.max(np.abs(semantics.exp2(x) - true) / true) < 2e-5


def test_semantics_equal_numpy_on_normal_numbers():
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal(20000).astype(np.float32) for _ in range(2))
    for ours, numpys in ((semantics.multiply, np.multiply), (semantics.add, np.add),
                         (semantics.divide, np.divide)):
        np.testing.assert_array_equal(ours(a, b), numpys(a, b))
    assert abs(float(semantics.reduce_sum(a)) - float(a.astype(np.float64).sum())) < 1e-2


@pytest.mark.parametrize("function", list(ScalarFunction))
def test_scalar_unit(function):
    rng = np.random.default_rng(6)
    a, b = _pairs(rng, 60)
    want = {
        ScalarFunction.ADD: lambda: semantics.add(a, b),
        ScalarFunction.MULTIPLY: lambda: semantics.multiply(a, b),
        ScalarFunction.DIVIDE: lambda: semantics.divide(a, b),
        ScalarFunction.SQRT: lambda: semantics.sqrt(a),
        ScalarFunction.MAXIMUM: lambda: np.where(semantics.float_key(a) >= semantics.float_key(b),
                                                 a, b),
    }[function]()
    unit = ScalarUnit()
    got = []

    async def bench(ctx):
        for x, y in zip(a.view(np.uint32), b.view(np.uint32), strict=True):
            ctx.set(unit.a, int(x))
            ctx.set(unit.b, int(y))
            ctx.set(unit.function, function)
            ctx.set(unit.start, 1)
            await ctx.tick()
            ctx.set(unit.start, 0)
            for _ in range(64):
                if ctx.get(unit.done):
                    break
                await ctx.tick()
            else:
                raise AssertionError("the scalar unit never answered")
            got.append(ctx.get(unit.r))
            await ctx.tick()

    sim = Simulator(unit)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    np.testing.assert_array_equal(np.array(got, np.int64), _bits(want))
