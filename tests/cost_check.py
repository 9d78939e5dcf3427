"""How far the cost model (host/bitnet_host/model/cost.py) is off, operator by operator, on small
shapes: python tests/cost_check.py. Its coefficients come from a table like this one.
"""

from __future__ import annotations

from bitnet_host.bench.measure import BenchOptions, bench_model, measure_model
from bitnet_host.model.cost import pass_cycles
from bitnet_host.model.rows import tokens_per_pass

_BASE = "vocab=2048,context=512"
_SILU = "activation=silu,sub_norms=0"
_GROUPS = f"{_SILU},group=128,qk_norms=1"
#: Shape and context.
SHAPES = [
    ("bundled", 64), ("tiny", 64), ("tiny", 200),
    (f"hidden=512,intermediate=1376,layers=3,heads=8,kv_heads=2,head_dim=64,{_BASE}", 100),
    (f"hidden=640,intermediate=1728,layers=2,heads=5,kv_heads=5,head_dim=128,{_BASE}", 300),
    ("hidden=768,intermediate=2048,layers=2,heads=12,kv_heads=4,head_dim=64,vocab=20000,"
     "context=512", 400),
    (f"hidden=512,intermediate=2304,layers=2,heads=8,kv_heads=1,head_dim=64,{_BASE},{_SILU},tied=0",
     128),
    (f"hidden=256,intermediate=1024,layers=3,heads=16,kv_heads=2,head_dim=32,{_BASE},{_SILU}", 60),
    (f"hidden=1024,intermediate=3072,layers=1,heads=8,kv_heads=2,head_dim=128,{_BASE},{_SILU}",
     450),
    (f"hidden=512,intermediate=1376,layers=2,heads=8,kv_heads=8,head_dim=64,{_BASE},"
     "activation=silu", 200),
    (f"hidden=512,intermediate=1536,layers=2,heads=8,kv_heads=4,head_dim=128,{_BASE},{_GROUPS}",
     200),
    (f"hidden=1024,intermediate=3072,layers=1,heads=8,kv_heads=4,head_dim=128,{_BASE},{_GROUPS}",
     64),
]
_PROMPT = 24


def _line(name: str, ours: dict[str, float], result: dict) -> None:
    total = result["cycles"]
    operators = {operator: 100 * (ours[operator] - values["cycles"]) / total
                 for operator, values in result["operators"].items()}
    worst = sorted(operators.items(), key=lambda item: -abs(item[1]))[:4]
    print(f"{name:<60} {total:>9,} {100 * (sum(ours.values()) / total - 1):+6.2f} %  "
          + ", ".join(f"{operator} {share:+.2f}" for operator, share in worst), flush=True)


def main() -> None:
    for shape, context in SHAPES:
        options = BenchOptions(shape=shape, context=context, tokens=8)
        header = bench_model(options)[0].header
        _line(f"{shape[:45]}, decode at {context}", pass_cycles(header, [context - 1], True, True),
              measure_model(options))
    for shape, _ in SHAPES:
        options = BenchOptions(shape=shape, prefill=_PROMPT)
        header, at, ours = bench_model(options)[0].header, 0, dict[str, float]()
        while at < _PROMPT:
            count = min(_PROMPT - at, tokens_per_pass(vars(header), True, at))
            part = pass_cycles(header, range(at, at + count), True, at + count == _PROMPT)
            ours = {name: ours.get(name, 0.0) + value / _PROMPT for name, value in part.items()}
            at += count
        _line(f"{shape[:45]}, prompt of {_PROMPT}", ours, measure_model(options))


if __name__ == "__main__":
    main()
