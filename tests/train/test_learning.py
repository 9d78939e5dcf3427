"""A small language is learnt, and what is learnt is what the machine runs."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
import torch
from bitnet_host.errors import BadArgument
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.checkpoint import ModelConfig
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.synthetic import parse_shape
from bitnet_host.run.open import open_board
from bitnet_host.run.session import Session
from bitnet_host.train import network
from bitnet_host.train.job import Job, Settings
from bitnet_host.train.look import validate
from bitnet_host.train.network import Network, Rounded
from bitnet_host.train.run import Run, Stop
from bitnet_host.train.state import load_state
from bitnet_host.train.tokens import NOTHING
from bitnet_host.verify.forward import load, record
from bitnet_host.verify.operators import compare_records
from small_language import SHAPE, write_grammar
from tokenizers import Tokenizer

STEPS = 120
#: Nats per token: what chance leaves open of a line is some 0.65.
BOUND = 0.8


def settings(texts, shape=SHAPE, **changes):
    config = vars(parse_shape(shape)) if shape else {}
    return Settings(**{
        "texts": [str(texts)], "config": config, "start": "", "context": 64, "seconds": 0.0,
        "steps": STEPS, "batch": 16, "at_once": 16, "seed": 1, "scale": 1.0, "device": "cpu",
        "bfloat16": False, "compiled": False, "threads": 1, "packed": False,
        "compare": False, "command": ""} | changes)


def trained(folder, chosen):
    job = Job(folder, chosen)
    job.prepare()
    run = job.train("state", True, lambda record, said: None, Stop())
    job.finish(run, None)
    return run


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_grammar(tmp_path_factory.mktemp("texts") / "grammar.txt")


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """Lines of another seed."""
    path = write_grammar(tmp_path_factory.mktemp("unseen") / "other.txt", 60, seed=77)
    return path.read_text(encoding="utf-8").split("\n<|endoftext|>\n")


def golden_loss(folder, documents):
    """Of the converted image on the golden model, which shares no code with the trainer: mean
    nats per token of the documents' first 60 tokens."""
    checkpoint = open_checkpoint(folder)
    model = ReferenceModel(convert(checkpoint))
    tokenizer = Tokenizer.from_str(json.dumps(checkpoint.tokenizer))
    losses = []
    for document in documents:
        model.reset()
        ids = tokenizer.encode(document).ids[:60]
        for token, following in itertools.pairwise(ids):
            logits = model.forward(token).astype(np.float64)
            losses.append(logits.max() + np.log(np.exp(logits - logits.max()).sum())
                          - logits[following])
    return float(np.mean(losses))


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "model"
    return folder, trained(folder, settings(texts))


def test_it_is_learnt(whole, unseen):
    folder, run = whole
    assert golden_loss(folder, unseen) < BOUND
    assert run.state.history[-1].valid < BOUND
    assert run.state.history[-1].step == STEPS and len(run.state.history) == 20


def _no_straight_through(monkeypatch):
    real = Rounded.pass_on

    def zeros(self, parameters):
        real(self, parameters)
        for place in parameters:
            if place[0].isdigit() and not place.endswith("norm"):
                parameters[place].grad.zero_()
    monkeypatch.setattr(Rounded, "pass_on", zeros)


def _wrong_scale(monkeypatch):
    real = network._picture
    monkeypatch.setattr(network, "_picture",
                        lambda master, group: (real(master, group)[0],
                                               torch.ones_like(master[:, 0])))


def _another_threshold(monkeypatch):
    """The largest magnitude instead of the mean one: nearly all weights are zero."""
    monkeypatch.setattr(network, "ternary", lambda master, group: (
        (master / master.abs().max()).round(), master.abs().max()))


def _no_shift(monkeypatch):
    def loss(self, parameters, rounded, rows):
        logits = self.logits(parameters, rounded, rows[:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, :-1].flatten())
    monkeypatch.setattr(Network, "loss", loss)


def _later_tokens_are_seen(monkeypatch):
    real = Network.__init__

    def seeing(self, *args):
        real(self, *args)
        self._later.zero_()
    monkeypatch.setattr(Network, "__init__", seeing)


def _no_rate(monkeypatch):
    monkeypatch.setattr("bitnet_host.train.optimiser.rate", lambda progress: 0.0)


@pytest.mark.parametrize("fault", [_no_straight_through, _wrong_scale, _another_threshold,
                                   _no_shift, _later_tokens_are_seen, _no_rate])
def test_what_is_broken_misses_the_bound(texts, unseen, tmp_path, monkeypatch, fault):
    fault(monkeypatch)
    trained(tmp_path / "model", settings(texts))
    assert golden_loss(tmp_path / "model", unseen) > BOUND


@torch.no_grad()
def test_it_computes_what_transformers_does(whole):
    """Codes and sums of every matrix are the same numbers, and the logits nearly."""
    folder, run = whole
    model, tokens = load(folder, "masters"), [0, *range(280, 300)]
    records = record(model, tokens)
    net, parameters, rounded = run.network, run.parameters, run.rounded()
    fused = {"q_proj": ("qkv", 0), "k_proj": ("qkv", 1), "v_proj": ("qkv", 2), "o_proj": ("o", 0),
             "gate_proj": ("gate_up", 0), "up_proj": ("gate_up", 1), "down_proj": ("down", 0)}
    seen = 0
    for each in records:
        if each.kind != "linear":
            continue
        layer, name = each.name.split(".")[2], each.name.split(".")[-1]
        place, part = fused[name]
        x = torch.from_numpy(each.arrays["input"])
        codes, _ = net.codes(x)
        assert np.array_equal(codes.numpy(), each.arrays["codes"])
        sizes = [len(parameters[f"{layer}.{key}"])
                 for key in {"qkv": "qkv", "o": "o"}.get(place, "") or place.split("_")]
        weights = rounded.weights[f"{layer}.{place}"].split(sizes)[part]
        sums = torch.nn.functional.linear(codes.double(), weights.double())
        assert np.array_equal(sums.numpy(), each.arrays["sums"])
        out = net.product(rounded, f"{layer}.{place}", x).split(sizes, -1)[part]
        assert np.allclose(out.numpy(), each.arrays["output"], rtol=1e-5, atol=1e-6)
        seen += 1
    assert seen == 14
    ours = net.logits(parameters, rounded, torch.tensor([tokens]))
    theirs = model(torch.tensor([tokens])).logits
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-3
    problems, _ = compare_records(ReferenceModel(convert(open_checkpoint(folder))), records)
    assert not problems


def test_the_board_says_the_golden_model_s_words(whole):
    image = convert(open_checkpoint(whole[0]))
    said = []
    for target in ("reference", "sim"):
        with open_board(target, image) as board:
            said.append(Session(board).complete("Ada has 5 red", max_tokens=24).reply)
    assert said[0].answer.token_ids == said[1].answer.token_ids
    assert re.match(r" (\w+)s; each \w+ \1 \w+; \w+ has \d\.\n", said[0].text), said[0].text


@pytest.mark.parametrize("form", ["packed", "masters"])
def test_both_forms_are_the_same_model(texts, tmp_path, form, whole):
    """Packed weights have the scale that masters give when they are rounded."""
    trained(tmp_path / "model", settings(texts, packed=form == "packed"))
    (ours, theirs) = (convert(open_checkpoint(path)) for path in (tmp_path / "model", whole[0]))
    assert np.array_equal(ours.ddr[ours.header.header_bytes:], theirs.ddr[
        theirs.header.header_bytes:])
    assert load(tmp_path / "model", form) is not None


def test_blocks_of_attention_are_attention():
    """As PyTorch's own, for rows that fill no whole blocks, and gradients too."""
    net = Network(ModelConfig(64, 64, 1, 6, 2, 16, 64, 256, 1e4, 1e-5))
    for count in (1, 63, 64, 65, 200, 256):
        q, k, v = (torch.randn(2, heads, count, 16, requires_grad=True) for heads in (6, 2, 2))
        ours = net._mixed(q, k, v)
        theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True,
                                                                  enable_gqa=True)
        assert torch.allclose(ours, theirs, atol=1e-5)
        weight = torch.randn_like(ours)
        for one, other in zip(torch.autograd.grad((ours * weight).sum(), (q, k, v)),
                              torch.autograd.grad((theirs * weight).sum(), (q, k, v)),
                              strict=True):
            assert torch.allclose(one, other, atol=1e-4)
    long = Network(ModelConfig(64, 64, 1, 2, 2, 16, 64, 600, 1e4, 1e-5))
    q = torch.randn(1, 2, 600, 16)
    assert torch.allclose(long._mixed(q, q, q)[:, :, :200], long._mixed(
        *(q[:, :, :200],) * 3), atol=1e-5)


def test_a_loss_that_is_no_number(texts, tmp_path, monkeypatch):
    """It ends, and what is kept is from before."""
    real, count = Network.loss, itertools.count()
    monkeypatch.setattr(Network, "loss", lambda *args: real(*args) * (
        float("nan") if next(count) > 20 else 1))
    with pytest.raises(BadArgument, match=r"no number any more after [0-9]+ steps: try a smaller"):
        trained(tmp_path / "model", settings(texts))
    state = load_state(tmp_path / "model/training/state.safetensors")
    assert 0 < state.step < 21
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values())


def test_what_fills_a_row_up_does_not_count(whole):
    """The loss is that of the tokens which are there."""
    run = whole[1]
    row = torch.tensor([[0, 290, 280, 285, 300, 281, 262, 270, 275]])
    filled = torch.cat([row, torch.full((1, 7), NOTHING)], 1)
    found = [validate(run.network, run.parameters, run.rounded(), rows, 1)[0]
             for rows in (row, filled)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_it_says_something_as_it_goes(texts, tmp_path):
    """Four times in twenty looks, the last of which is the end; more of the language each time."""
    told = []
    job = Job(tmp_path / "model", settings(texts))
    job.prepare()
    job.train("state", True, lambda record, said: told.append((record.step, said)), Stop())
    assert [step for step, said in told if said] == [30, 60, 90] and len(told) == 20
    words = set(re.findall(r"\w+", texts.read_text()))
    known = [len(set(re.findall(r"\w+", said)) & words) / max(1, len(re.findall(r"\w+", said)))
             for _, said in told if said]
    assert known[-1] > 0.5 and known[-1] >= known[0]


def test_a_stop_keeps_the_step_that_it_came_in(texts, tmp_path, monkeypatch):
    """Which is none at which a run is saved by itself: those are every six."""
    stop, real = Stop(), Run._step

    def step(self):
        real(self)
        if self.state.step == 10:
            stop.ask()
    monkeypatch.setattr(Run, "_step", step)
    job = Job(tmp_path / "model", settings(texts))
    job.prepare()
    run = job.train("state", True, lambda record, said: None, stop)
    assert run.state.step == 10 and not run.done
    assert load_state(tmp_path / "model/training/state.safetensors").step == 10


def test_a_run_of_one_step_learns(texts, tmp_path):
    """Also the last step of a run has a rate."""
    run = trained(tmp_path / "model", settings(texts, steps=1))
    before = network.new_parameters(run.network.config, 1)
    assert all(not torch.equal(before[name], value.detach())
               for name, value in run.parameters.items())


def test_the_small_size_is_the_bundled_model_s():
    from bitnet_host.apps.train import SIZES
    from bitnet_host.model.sources.bundled import BUNDLED

    theirs = open_checkpoint(BUNDLED).config
    assert {name: getattr(theirs, name) for name in ModelConfig.__dataclass_fields__
            if name not in ("stop_tokens", "trained_context")} == {
        name: getattr(SIZES["small"], name) for name in ModelConfig.__dataclass_fields__
        if name not in ("stop_tokens", "trained_context")}
