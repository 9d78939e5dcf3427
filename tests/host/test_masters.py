"""Checkpoints that keep the floats of training, rounded as transformers rounds them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bitnet_host.errors import BadModel
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.tensors import TensorFolder
from models import Shape, bf16, save, write_checkpoint
from safetensors import safe_open

SHAPE = Shape(64, 96, 2, 2, 1, 64, masters="F32", seed=3)
GATE = "model.layers.1.mlp.gate_proj.weight"


def _rounded(weights):
    """By exact fractions, one weight at a time."""
    from fractions import Fraction
    mean = sum(Fraction(abs(float(w))) for w in weights.flat) / weights.size
    scale = np.float32(1) / max(np.float32(float(mean)), np.float32(1e-5))
    products = [np.float32(w) * scale for w in weights.flat]
    codes = [0 if abs(p) <= 0.5 else 1 if p > 0 else -1 for p in products]
    return np.array(codes).reshape(weights.shape), np.float32(1) / scale


def _changed(folder, **tensors):
    path = folder / "model.safetensors"
    with safe_open(path, "numpy") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}
    save(kept | {name.replace("__", "."): value for name, value in tensors.items()}, path)
    return folder


@pytest.mark.parametrize("kind", ["F32", "BF16"])
def test_masters_are_rounded_by_their_mean(tmp_path, kind):
    folder = write_checkpoint(tmp_path, Shape(64, 96, 2, 2, 1, 64, masters=kind, seed=3))
    stored = TensorFolder(folder).take(GATE, (96, 64))
    assert stored.kind == kind
    codes, factor = _rounded(stored[:])
    linear = open_checkpoint(folder).layers[1]["gate"]
    np.testing.assert_array_equal(linear.weights, codes)
    assert np.float32(linear.scale) == factor and linear.weights.dtype == np.int8
    assert 0.2 < (codes == 0).mean() < 0.45


def test_the_mean_is_of_the_whole_matrix(tmp_path):
    """More rows than are in memory at once, the later ones much larger."""
    weights = np.full((1500, 64), 0.001, np.float32)
    weights[1024:] = 1
    folder = write_checkpoint(tmp_path, Shape(64, 1500 // 4 * 4, 1, 2, 1, 64, masters="F32"))
    _changed(folder, **{"model__layers__0__mlp__gate_proj__weight": weights})
    codes = open_checkpoint(folder).layers[0]["gate"].weights
    assert not codes[:1024].any() and (codes[1024:] == 1).all()


def test_ties_go_to_zero_and_what_is_tiny_counts_as_the_least_mean(tmp_path):
    folder = write_checkpoint(tmp_path, SHAPE)
    weights = np.ones((96, 64), np.float32)
    weights[:, ::2] = 1 / 3  # the mean is 2 / 3, and a third of it times 1.5 a half
    weights[:, ::4] *= -1
    _changed(folder, **{GATE.replace(".", "__"): weights})
    codes = open_checkpoint(folder).layers[1]["gate"].weights
    assert (codes[:, 1::2] == 1).all() and set(codes[:, ::2].flat) <= {0}
    tiny = np.full((96, 64), 2e-6, np.float32)
    tiny[0, 0] = 8e-6
    _changed(folder, **{GATE.replace(".", "__"): tiny})
    linear = open_checkpoint(folder).layers[1]["gate"]
    assert linear.weights.sum() == linear.weights[0, 0] == 1
    assert np.float32(linear.scale) == pytest.approx(1e-5, rel=1e-6)


def test_masters_and_what_they_are_packed_to_are_one_model(tmp_path):
    """A checkpoint converts to the same words whether it is rounded here or was when it was
    packed."""
    masters = open_checkpoint(write_checkpoint(tmp_path / "a", SHAPE))
    packed_folder = write_checkpoint(tmp_path / "b", Shape(**{**vars(SHAPE), "masters": ""}))
    tensors = {}
    from models import _pack
    names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
             "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
             "down": "mlp.down_proj"}
    with safe_open(tmp_path / "a/model.safetensors", "numpy") as file:
        for name in file.keys():
            if "proj" not in name:
                tensors[name.replace(".", "__")] = file.get_tensor(name)
    for index, layer in enumerate(masters.layers):
        for key, name in names.items():
            place = f"model.layers.{index}.{name}.weight".replace(".", "__")
            tensors[place] = _pack(layer[key].weights)
            tensors[f"{place}_scale"] = np.array([layer[key].scale], np.float32)
    packed = convert(open_checkpoint(_changed(packed_folder, **tensors)))
    image = convert(masters)
    np.testing.assert_array_equal(image.ddr, packed.ddr)
    ours, theirs = ReferenceModel(image), ReferenceModel(packed)
    np.testing.assert_array_equal(ours.forward(5), theirs.forward(5))


def _config(folder, **changes):
    raw = json.loads((folder / "config.json").read_text())
    raw["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


@pytest.mark.parametrize("changes, words", [
    ({"linear_class": "bitlinear"}, "only the linear_class autobitlinear"),
    ({"quantization_mode": "offline"}, "weight_scale is missing|has shape"),
    ({"quantization_mode": "later"}, "offline and online"),
])
def test_what_transformers_would_read_otherwise_is_refused(tmp_path, changes, words):
    folder = _config(write_checkpoint(tmp_path, SHAPE), **changes)
    with pytest.raises(BadModel, match=words):
        open_checkpoint(folder)


def test_packed_weights_are_no_masters(tmp_path):
    folder = write_checkpoint(tmp_path, Shape(64, 96, 2, 2, 1, 64, seed=3))
    with pytest.raises(BadModel, match=r"has no place|has shape"):
        open_checkpoint(_config(folder, quantization_mode="online"))
    folder = write_checkpoint(tmp_path / "bytes", SHAPE)
    _changed(folder, **{GATE.replace(".", "__"): np.zeros((96, 64), np.uint8)})
    with pytest.raises(BadModel, match="is packed, but"):
        list(open_checkpoint(folder).layers)


@pytest.mark.parametrize("value, words", [(np.inf, "infinity or NaN"), (np.nan, "infinity or NaN"),
                                          (0, "zero everywhere")])
def test_masters_without_sense_are_refused(tmp_path, value, words):
    folder = write_checkpoint(tmp_path, SHAPE)
    weights = np.zeros((96, 64), np.float32)
    weights[90, 5] = value
    _changed(folder, **{GATE.replace(".", "__"): weights})
    with pytest.raises(BadModel, match=words):
        list(open_checkpoint(folder).layers)


def test_what_a_download_left_out_is_refused(tmp_path):
    """Bytes of zero are four weights of -1."""
    folder = write_checkpoint(tmp_path, Shape(64, 96, 2, 2, 1, 64, seed=3))
    with safe_open(folder / "model.safetensors", "numpy") as file:
        packed = file.get_tensor(GATE)
    packed[7] = 0
    _changed(folder, **{GATE.replace(".", "__"): packed})
    with pytest.raises(BadModel, match="4 rows in which every weight is -1"):
        list(open_checkpoint(folder).layers)


def test_bf16_helper_cuts():
    assert bf16(np.array([1.00390625 + 2**-9], np.float32))[0] == 1
