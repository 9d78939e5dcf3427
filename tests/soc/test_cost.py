"""Small shapes on the simulated board take what the cost model predicts, to 3 %."""

from __future__ import annotations

import pytest
from bitnet_host.bench.measure import BenchOptions, bench_model, measure_model
from bitnet_host.model.cost import decode_cycles, prefill_cycles

_SMALL = "vocab=2048,context=512"
_SILU = "activation=silu,sub_norms=0"


@pytest.mark.parametrize("shape,context", [
    ("bundled", 64), ("tiny", 200),
    (f"hidden=512,intermediate=1376,layers=3,heads=8,kv_heads=2,head_dim=64,{_SMALL}", 100),
    (f"hidden=512,intermediate=2304,layers=2,heads=8,kv_heads=1,head_dim=64,{_SMALL},{_SILU}", 128),
    (f"hidden=512,intermediate=1536,layers=2,heads=8,kv_heads=4,head_dim=128,{_SMALL},{_SILU},"
     "group=128,qk_norms=1", 200),
])
def test_decode(shape, context):
    options = BenchOptions(shape=shape, context=context, tokens=8 if shape == "bundled" else 2)
    image, _ = bench_model(options)
    ours, measured = decode_cycles(image.header, context), measure_model(options)["cycles"]
    assert ours == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("shape,tokens,cached", [
    ("bundled", 64, 0), ("tiny", 16, 100),
    (f"hidden=640,intermediate=1728,layers=2,heads=5,kv_heads=5,head_dim=128,{_SMALL}", 24, 0),
    (f"hidden=512,intermediate=2304,layers=2,heads=8,kv_heads=1,head_dim=64,{_SMALL},{_SILU}", 24,
     0),
    (f"hidden=512,intermediate=1536,layers=2,heads=8,kv_heads=4,head_dim=128,{_SMALL},{_SILU},"
     "group=128,qk_norms=1", 16, 100),
])
def test_prefill(shape, tokens, cached):
    options = BenchOptions(shape=shape, prefill=tokens, cached=cached)
    image, _ = bench_model(options)
    ours = prefill_cycles(image.header, tokens, cached, True)
    assert ours == pytest.approx(measure_model(options)["cycles"], rel=0.03)
