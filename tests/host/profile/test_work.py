"""Operations of the steps of a pass, by hand."""

from __future__ import annotations

from bitnet_host.model.convert import convert
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.profile.work import work_of

SHAPE = "hidden=64,intermediate=96,layers=2,heads=4,kv_heads=2,head_dim=32,vocab=128,context=200"
HEADER = convert(synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1)).header


def _operations(contexts):
    return {name: work.operations for name, work in work_of(HEADER, contexts).items()}


def test_one_token():
    """It sees ten. Four query heads of 32 make 128, two of keys 64."""
    assert _operations([10]) == {
        "embed": 64, "input_norm": 7 * 64, "q_proj": 2 * 128 * 64, "k_proj": 2 * 64 * 64,
        "v_proj": 2 * 64 * 64, "rope": 3 * (128 + 64),
        # 128 products and sums with ten keys, the same with ten values, and the softmax
        "attention": 2 * 128 * 10 + 2 * 128 * 10 + 6 * 4 * 10, "attn_sub_norm": 7 * 128,
        "o_proj": 2 * 64 * 128, "post_norm": 7 * 64,
        "gate_proj": 2 * 96 * 64 + 2 * 96, "up_proj": 2 * 96 * 64 + 96, "ffn_sub_norm": 7 * 96,
        "down_proj": 2 * 64 * 96, "final_norm": 7 * 64, "head": 2 * 128 * 64, "sample": 128}


def test_a_prompt():
    """Three tokens see one, two and three; the head is for the last one."""
    one, three = _operations([1]), _operations([1, 2, 3])
    for name in one:
        if name in ("final_norm", "head", "sample"):
            assert three[name] == one[name]
        elif name == "attention":
            assert three[name] == 6 * one[name]
        else:
            assert three[name] == 3 * one[name], name


def test_shapes_and_kinds():
    work = work_of(HEADER, [10])
    assert [name for name, one in work.items() if one.linear] == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "head"]
    assert work["q_proj"].shape == "128 x 64" and work["down_proj"].shape == "64 x 96"
    assert work["attention"].shape == "4 x 32 x 10"
    assert work_of(HEADER, [1, 2, 3])["attention"].shape == "4 x 32 x 1...3"
    assert work["up_proj"].fused == "times the gate" and work["gate_proj"].fused == "relu squared"
    assert [name for name, one in work.items() if one.group == "mlp"] == [
        "post_norm", "gate_proj", "up_proj", "ffn_sub_norm", "down_proj"]
