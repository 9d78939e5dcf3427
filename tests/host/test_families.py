"""Checkpoints of every family, with their structure and names, in each form that they are stored
in: what is read is what was written."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from bitnet_host.errors import BadModel
from bitnet_host.model.convert import convert, shorten, suit
from bitnet_host.model.families import FAMILIES
from bitnet_host.model.image import check_image, read_image
from bitnet_host.model.open import open_source
from bitnet_host.model.rope import inverse_frequencies
from bitnet_host.model.sources.gguf import GgufFile
from bitnet_host.model.sources.gguf_model import open_gguf
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.tensors import TensorFolder
from bitnet_host.verify.image import compare
from families import FORMS, small, write_family
from gguf_files import pack_q2, write_gguf


def _same(ours, theirs, exact=True):
    """Every weight, scale and norm of two checkpoints."""
    assert ours.config == theirs.config
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        assert a.keys() == b.keys()
        for key, value in b.items():
            if key.endswith("norm"):
                np.testing.assert_array_equal(a[key], value)
                continue
            np.testing.assert_array_equal(a[key].weights, value.weights)
            assert (a[key].scales is None) == (value.scales is None)
            if value.scales is None:
                assert a[key].scale == pytest.approx(value.scale, rel=1e-6 if exact else 8e-3)
            else:
                used = np.add.reduceat(np.abs(value.weights), np.arange(0, value.weights.shape[1],
                                                                        128), axis=1) > 0
                np.testing.assert_allclose(a[key].scales[used], value.scales[used],
                                           rtol=0 if exact else 8e-3)
    np.testing.assert_allclose(ours.embedding[:], theirs.embedding[:], rtol=0 if exact else 5e-3)
    assert (ours.head is None) == (theirs.head is None)
    if theirs.head is not None:
        np.testing.assert_allclose(ours.head[:], theirs.head[:], rtol=0 if exact else 5e-3)


@pytest.mark.parametrize("family,form", [(family, form) for family, forms in FORMS.items()
                                         for form in forms])
def test_what_is_read_is_what_was_written(tmp_path, family, form):
    checkpoint = small(family, form)
    path = write_family(tmp_path / "model", checkpoint, family, form)
    found = open_source(path)
    # float16 and bfloat16 keep less of a scale; masters are made to give weights, not scales
    _same(found, checkpoint, "16" not in form and not form.startswith("Q2"))
    image = convert(found)
    assert check_image(image) == ""
    wrong = [finding for finding in compare(image, found) if finding.wrong]
    assert not wrong


def _config(path, **changes):
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items()
                                                  if v is not ...}))
    return path


@pytest.mark.parametrize("family,form,changes,words", [
    ("llama3-8b", "packed", {"hidden_act": "relu2"}, "only silu"),
    ("llama3-8b", "packed", {"attention_bias": True}, "attention_bias"),
    ("llama3-8b", "packed", {"logits_scaling": 2.0}, "logits_scaling"),
    ("llama3-8b", "packed", {"quantization_config": ...}, "is packed"),
    ("llama3-8b", "packed", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
    ("llama3-8b", "packed", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks"),
    ("llama3-8b", "packed", {"rope_scaling": [1]}, "must be an object"),
    ("1bitllm-large", "F32", {"weight_bits": 2}, "weight_bits"),
    ("1bitllm-large", "F32", {"input_bits": 4}, "input_bits"),
    ("1bitllm-large", "F32", {"architectures": ["LlamaForCausalLM"]}, "no quantization_config"),
    ("bonsai-1.7b", "values F16", {"head_dim": ...}, "head_dim is None"),
    ("bonsai-1.7b", "values F16", {"use_sliding_window": True}, "sliding window"),
    ("bonsai-1.7b", "values F16", {"layer_types": ["sliding_attention"] * 2}, "sliding window"),
    ("bitcpm-1b", "values BF16", {"rope_scaling": {
        "rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "short_factor"),
    ("bitcpm-1b", "values BF16", {"rope_scaling": {
        "rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [1.0] * 16,
        "original_max_position_embeddings": 1}}, "must be at least 2"),
])
def test_what_would_be_another_model_is_refused(tmp_path, family, form, changes, words):
    path = _config(write_family(tmp_path / "model", small(family, form), family, form), **changes)
    with pytest.raises(BadModel, match=words):
        list(open_checkpoint(path).layers)


def test_a_head_that_the_file_has_counts(tmp_path):
    """Whatever config.json says of it, as for transformers; one that is the embedding is not kept
    twice."""
    path = write_family(tmp_path / "model", small("llama3-8b", "packed"), "llama3-8b", "packed")
    assert open_checkpoint(_config(path, tie_word_embeddings=True)).head is not None
    tied = dataclasses.replace(small("llama3-8b", "packed"))
    tied.head = tied.embedding.copy()
    path = write_family(tmp_path / "tied", tied, "llama3-8b", "packed")
    assert open_checkpoint(path).head is None and open_checkpoint(path).config.tied


def test_holes_where_zeros_are_weights(tmp_path):
    """Floats and blocks with scales of their own, of which a download lost a part."""
    checkpoint = small("bonsai-1.7b", "values F16")
    path = write_family(tmp_path / "a", checkpoint, "bonsai-1.7b", "values F16")
    stored = TensorFolder(path).find("model.layers.1.mlp.up_proj.weight")
    with (path / "model.safetensors").open("r+b") as file:
        file.seek(stored.offset + 2 * 100 * stored.shape[1])
        file.write(bytes(2 * 70 * stored.shape[1]))
    with pytest.raises(BadModel, match="70 neighbouring rows of nothing but zeros"):
        list(open_checkpoint(path).layers)
    blocks = write_family(tmp_path / "b", checkpoint, "bonsai-1.7b", "Q2_0/128")
    tensor = GgufFile(blocks).tensors["blk.1.ffn_up.weight"]
    with blocks.open("r+b") as file:
        file.seek(tensor.offset + 34 * 2 * 100)
        file.write(bytes(34 * 2 * 70))
    with pytest.raises(BadModel, match="70 neighbouring rows of nothing but zeros"):
        list(open_gguf(blocks).layers)


def test_ternary_embeddings_and_divisors_of_a_gguf_file(tmp_path):
    """As Bonsai has them, and Llama 3.1's files."""
    checkpoint = small("bonsai-1.7b", "Q2_0/128")
    rng = np.random.default_rng(3)
    codes = rng.integers(-1, 2, (96, 256))
    scales = rng.uniform(0.5, 2, (96, 2)).astype(np.float16).astype(np.float32)
    raw = pack_q2(codes, scales, 128)
    path = write_gguf(tmp_path / "a.gguf", checkpoint, "Q2_0/128", architecture="qwen3",
                      fields={"tokenizer.ggml.pre": "qwen2", "qwen3.attention.key_length": 64},
                      ternary_embedding=raw)
    rows = open_gguf(path).embedding
    np.testing.assert_array_equal(rows[:], codes * np.repeat(scales, 128, axis=1))
    np.testing.assert_array_equal(rows[5:7], (codes * np.repeat(scales, 128, axis=1))[5:7])
    llama, divisors = small("llama3-8b", "packed"), np.linspace(1, 8, 16).astype(np.float32)
    path = write_gguf(tmp_path / "b.gguf", llama, "F32", architecture="llama",
                      tensors={"rope_freqs.weight": divisors})
    found = open_gguf(path).config
    plain = inverse_frequencies(dataclasses.replace(found, rope_scaling=None))[0]
    ours, factor = inverse_frequencies(found)
    np.testing.assert_allclose(ours, plain / divisors, rtol=2e-7)
    assert factor == 1


def test_weights_that_are_not_ternary_throughout_are_refused(tmp_path):
    checkpoint = small("bonsai-1.7b", "values F16")
    layers = [dict(layer) for layer in checkpoint.layers]
    up = layers[1]["up"]
    values = up.scales.copy()
    values[3] *= 2
    layers[1]["up"] = dataclasses.replace(up, scales=values)
    path = write_family(tmp_path / "a", dataclasses.replace(checkpoint, layers=layers),
                        "bonsai-1.7b", "values F16")
    assert len(list(open_checkpoint(path).layers)) == 2
    with (path / "model.safetensors").open("r+b") as file:
        stored = TensorFolder(path).find("model.layers.1.mlp.up_proj.weight")
        file.seek(stored.offset + 2 * (3 * stored.shape[1] + 5))
        file.write(np.float16(0.75).tobytes())
    with pytest.raises(BadModel, match="not ternary throughout"):
        list(open_checkpoint(path).layers)


def test_permuted_heads_of_a_gguf_file(tmp_path):
    """Files of the architecture llama have them; those of qwen3 are read as they are in
    test_what_is_read_is_what_was_written."""
    checkpoint = small("falcon-e-1b", "packed")
    paths = [write_gguf(tmp_path / f"{name}.gguf", checkpoint, "F32", architecture=name,
                        fields={"tokenizer.ggml.pre": "falcon_e"})
             for name in ("llama",)]
    for key in ("q", "k", "v"):
        read = open_gguf(paths[0]).layers[0][key].weights
        np.testing.assert_array_equal(read, checkpoint.layers[0][key].weights)
    with pytest.raises(BadModel, match=r"attn_q_norm\.weight is missing"):
        open_gguf(write_gguf(tmp_path / "q.gguf", checkpoint, "F32", architecture="qwen3"))


def test_plan_says_what_convert_makes(tmp_path):
    """Of a model that was trained for a longer context than the machine has room for, and of one
    that it cannot run."""
    checkpoint = small("falcon-e-1b", "packed")
    path = write_family(tmp_path / "model", checkpoint, "falcon-e-1b", "packed")
    _config(path, max_position_embeddings=32768)
    assert _command("convert", path, "-o", tmp_path / "x.bitnet").returncode == 0
    context = read_image(tmp_path / "x.bitnet").header.context
    done = _command("plan", path, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["context"] == context < 16384
    done = _command("plan", "bonsai-1.7b,head_dim=48,context=512")
    assert done.returncode == 1 and "multiples of 32" in done.stdout


def test_longrope_has_one_kind_of_factors(tmp_path):
    """Where they differ, an image is for the length of the short ones unless a longer is asked
    for."""
    checkpoint = small("bitcpm-1b", "values BF16")
    path = write_family(tmp_path / "model", checkpoint, "bitcpm-1b", "values BF16")
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [4.0] * 16,
               "original_max_position_embeddings": 32}
    _config(path, rope_scaling=scaling)
    found = open_checkpoint(path)
    assert suit(found).config.context == 32
    short, long = (inverse_frequencies(shorten(found, context).config)[0] for context in (32, 33))
    np.testing.assert_allclose(short, 4 * long, rtol=1e-6)


def _command(*arguments):
    return subprocess.run([sys.executable, "-m", "bitnet_host", *map(str, arguments)], text=True,
                          capture_output=True, timeout=300)


def test_models_are_listed_with_what_fits():
    done = _command("models", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["shape"]: row for row in json.loads(done.stdout)}
    assert rows.keys() == FAMILIES.keys()
    assert rows["falcon-e-1b"]["fits"] and rows["falcon-e-1b"]["context"] > 8192
    assert rows["1bitllm-3b"]["context"] == 1024  # what bitnet-host plan advises
    assert not rows["falcon3-3b"]["fits"] and "MB too large" in rows["falcon3-3b"]["why"]
    assert "hidden_size 4096" in rows["llama3-8b"]["why"]
    assert rows["2b4t"]["model"] == "microsoft/bitnet-b1.58-2B-4T" and 9 < rows["2b4t"]["decode"]
    smaller = {row["shape"]: row for row in json.loads(
        _command("models", "--json", "--board", "zedboard").stdout)}
    assert not smaller["2b4t"]["fits"] and smaller["1bitllm-large"]["fits"]
    table = _command("models").stdout.splitlines()
    assert len(table) == len(rows) + 2 and "too large" in table[7]
    assert _command("models", "--board", "x").returncode == 2


def test_a_small_model_of_a_family_is_made_by_a_command(tmp_path):
    for family, form in (("falcon-e-1b", ""), ("bonsai-1.7b", "values F16")):
        folder = tmp_path / family
        done = _command("synthetic", "--family", family, "-o", folder,
                        *(["--form", form] if form else []))
        assert done.returncode == 0, done.stderr
        convert(open_checkpoint(folder))
        assert _command("convert", folder, "-o", tmp_path / "x.bitnet").returncode == 0
    again = _command("synthetic", "--family", family, "-o", folder)
    assert again.returncode == 2 and "cannot make" in again.stderr
    for bad in (("--family", "gpt2"), ("--family", "2b4t", "--form", "Q9"),
                ("--family", "2b4t", "--seed", "-1")):
        done = _command("synthetic", *bad, "-o", tmp_path / "y")
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "y").exists()
