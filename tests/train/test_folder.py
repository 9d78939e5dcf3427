"""Fine-tuning: a folder of any family is gone on from, and comes back in its own form."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.random_folders import FORMS, small_checkpoint, write_folder
from bitnet_host.train.folder import form_of, parameters_of, write_model
from bitnet_host.train.network import Network, Rounded
from bitnet_host.verify.forward import load, record
from bitnet_host.verify.operators import compare_records

CASES = [(family, form) for family, forms in FORMS.items() for form in forms]
TOKENS = [3, 17, 40, 5, 6]


@pytest.fixture
def folder(tmp_path, request):
    family, form = request.param
    path = tmp_path / "model"
    path.mkdir()
    write_folder(path, small_checkpoint(family, form), family, form)
    return path


@torch.no_grad()
@pytest.mark.parametrize("folder", CASES, indirect=True, ids=" ".join)
def test_the_network_of_each_family_is_transformers(folder):
    """Logits of the whole model, before anything is learnt."""
    checkpoint, _ = form_of(folder)
    parameters = parameters_of(checkpoint)
    rounded = Rounded.of(parameters, checkpoint.config, True)
    ours = Network(checkpoint.config).logits(parameters, rounded, torch.tensor([TOKENS]))
    theirs = load(folder, checkpoint.stored)(torch.tensor([TOKENS])).logits
    # a code that lies half-way may round to the other side, and moves what follows
    assert float((ours - theirs).abs().mean() / theirs.abs().max()) < 2e-3
    assert float((ours[0, 0] - theirs[0, 0]).abs().max() / theirs.abs().max()) < 2e-2


@pytest.mark.parametrize("folder", CASES, indirect=True, ids=" ".join)
def test_what_is_written_is_what_was_read(folder, tmp_path):
    """Without a step between: the same weights, scales but for a last bit, and a folder that
    transformers runs."""
    checkpoint, form = form_of(folder)
    write_into = tmp_path / "out"
    write_into.mkdir()
    write_model(write_into, form, parameters_of(checkpoint), checkpoint.config)
    again = open_checkpoint(write_into)
    assert again.stored == checkpoint.stored
    for before, after in zip(checkpoint.layers, again.layers, strict=True):
        for name, value in before.items():
            if name.endswith("norm"):
                assert np.array_equal(value, after[name])
                continue
            assert np.array_equal(value.weights, after[name].weights), name
            assert np.isclose(value.scale, after[name].scale, rtol=1e-6)
            if value.scales is not None:
                used = value.scales > 0
                assert np.allclose(value.scales[used], after[name].scales[used], rtol=1e-6)
    assert np.array_equal(checkpoint.embedding[0:96], again.embedding[0:96])
    records = record(load(write_into, again.stored), TOKENS)
    problems, _ = compare_records(ReferenceModel(convert(again)), records)
    assert not problems


@pytest.mark.parametrize("folder", [("2b4t", "BF16"), ("bonsai-1.7b", "values F16"),
                                    ("falcon-e-1b", "packed"), ("1bitllm-3b", "F32")],
                         indirect=True, ids=" ".join)
def test_steps_change_weights_and_lower_the_loss(folder):
    """All of a family's parameters learn, through its own functions."""
    from bitnet_host.train.optimiser import Optimiser

    checkpoint, _ = form_of(folder)
    config, parameters = checkpoint.config, parameters_of(checkpoint)
    before = {name: value.clone() for name, value in parameters.items()}
    network, losses = Network(config), []
    for value in parameters.values():
        value.requires_grad_()
    optimiser = Optimiser(parameters, config)
    rows = torch.tensor([[3, 17, 40, 5, 6, 9, 11, 3, 17, 40, 5, 6, 9]] * 2)
    for step in range(15):
        rounded = Rounded.of(parameters, config, True)
        loss = network.loss(parameters, rounded, rows)
        loss.backward()
        rounded.pass_on(parameters)
        optimiser.step(step + 1, 0.1)
        losses.append(float(loss.detach()))
    assert min(losses[-5:]) < losses[0] - 1
    assert all(not torch.equal(before[name], parameters[name].detach()) for name in before)


def test_a_config_that_does_not_say_what_its_files_hold(tmp_path):
    """An untied head that is the embedding, a type of the weights: what is written loads."""
    path, out = tmp_path / "model", tmp_path / "out"
    path.mkdir()
    out.mkdir()
    made = small_checkpoint("llama3-8b", "packed")
    write_folder(path, replace(made, head=made.embedding), "llama3-8b", "packed")
    raw = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(raw | {
        "tie_word_embeddings": False, "dtype": "bfloat16", "auto_map": {"AutoModel": "a.B"}}))
    checkpoint, form = form_of(path)
    write_model(out, form, parameters_of(checkpoint), checkpoint.config)
    written = json.loads((out / "config.json").read_text())
    assert written["tie_word_embeddings"] is True and written["torch_dtype"] == "float32"
    assert not {"dtype", "auto_map"} & set(written)
    assert load(out, "packed") is not None


def test_files_of_the_tokenizer_come_along(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    write_folder(path, small_checkpoint("2b4t", "BF16"), "2b4t", "BF16")
    tokenizer = {"added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (path / "added_tokens.json").write_text("{}")
    (path / "README.md").write_text("of another model")
    _, form = form_of(path)
    assert set(form.files) == {"config.json", "tokenizer.json", "chat_template.jinja",
                               "added_tokens.json"}
