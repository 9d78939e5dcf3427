"""GGUF files, written by llama.cpp's own writer, give the model that the safetensors give."""

from __future__ import annotations

import dataclasses

import gguf
import numpy as np
import pytest
from bitnet_host.errors import BadArgument, BadModel
from bitnet_host.model.convert import convert
from bitnet_host.model.open import open_model, open_source
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.gguf import GgufFile
from bitnet_host.model.sources.gguf_blocks import FloatRows, read_linear
from bitnet_host.model.sources.gguf_layout import agreement
from bitnet_host.model.sources.gguf_model import open_gguf
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from gguf_files import pack_q2, write_gguf

SHAPE = "hidden=256,intermediate=256,layers=2,heads=4,kv_heads=2,head_dim=64,vocab=96,context=64"


def _halves(checkpoint):
    """The checkpoint with scales and embedding that float16 can hold, all layers in memory."""
    layers = [{key: dataclasses.replace(value, scale=float(np.float16(value.scale)))
               if hasattr(value, "scale") else value for key, value in layer.items()}
              for layer in checkpoint.layers]
    embedding = checkpoint.embedding[:].astype(np.float16).astype(np.float32)
    return dataclasses.replace(checkpoint, layers=layers, embedding=embedding)


@pytest.fixture(scope="module")
def small():
    checkpoint = _halves(synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1))
    config = dataclasses.replace(checkpoint.config, stop_tokens=(1,))
    return dataclasses.replace(checkpoint, config=config)


@pytest.mark.parametrize("kind, options", [
    ("I2_S", {}), ("I2_S", {"embedding": "F16"}), ("I2_S", {"architecture": "bitnet-25"}),
    ("I2_S", {"tied": False}), ("TQ1_0", {}), ("TQ2_0", {"embedding": "F16"}), ("Q2_0/64", {}),
    ("Q2_0/128", {}), ("F32", {}),
    ("Q2_0/128", {"fields": {"general.alignment": 256}}),
    ("I2_S", {"fields": {"general.alignment": 64, "bitnet-b1.58.hidden_activation": "relu2"}}),
])
def test_a_file_is_the_model_that_it_was_made_of(tmp_path, small, kind, options):
    path = write_gguf(tmp_path / "model.gguf", small, kind, **options)
    image = convert(open_gguf(path))
    np.testing.assert_array_equal(image.ddr, convert(small).ddr)


@pytest.mark.parametrize("layout", ["64", "rows"])
def test_other_layouts_are_read_when_asked_for(tmp_path, small, layout):
    path = write_gguf(tmp_path / "model.gguf", small, f"I2_S/{layout}")
    wrong, right = convert(open_gguf(path)), convert(open_gguf(path, layout))
    np.testing.assert_array_equal(right.ddr, convert(small).ddr)
    assert not np.array_equal(wrong.ddr, right.ddr)  # random weights: nothing could tell


@pytest.mark.parametrize("embedding", ["BF16", "Q8_0", "Q4_0"])
def test_embeddings_of_other_kinds_are_what_llama_cpp_makes_of_them(tmp_path, small, embedding):
    path = write_gguf(tmp_path / "model.gguf", small, embedding=embedding)
    kind = gguf.GGMLQuantizationType[embedding]
    expected = gguf.quants.dequantize(gguf.quants.quantize(small.embedding, kind), kind)
    rows = open_gguf(path).embedding
    np.testing.assert_array_equal(rows[:], expected)
    np.testing.assert_array_equal(rows[7:9], expected[7:9])
    assert rows[5:5].shape == (0, 256)


@pytest.mark.parametrize("written", ["64", "rows"])
def test_a_trained_model_in_another_layout_is_noticed(tmp_path, written):
    """The bundled model, whose gates and columns say where its rows end."""
    trained = open_checkpoint(BUNDLED)
    path = write_gguf(tmp_path / "model.gguf", trained, f"I2_S/{written}")
    with pytest.raises(BadModel, match=f"in the layout {written} .*--layout {written}"):
        open_gguf(path)
    assert open_gguf(path, "128").config == open_gguf(path, written).config  # who insists gets it
    with pytest.raises(BadArgument, match="128, 64, rows"):
        open_gguf(path, "32")
    right = write_gguf(tmp_path / "right.gguf", trained)
    for layer in open_gguf(right).layers.stored:
        assert agreement(layer, "128") > 0.39 and agreement(layer, written) < 0.19
    codes = open_gguf(right).layers[3]["down"].weights
    np.testing.assert_array_equal(codes, trained.layers[3]["down"].weights)


def test_paths_to_a_file(tmp_path, small, monkeypatch):
    """As a path, in a folder of its own, and kept as an image if it is large."""
    (tmp_path / "in").mkdir()
    path = write_gguf(tmp_path / "in" / "model.gguf", small)
    expected = convert(small).ddr
    for source in (path, path.parent):
        np.testing.assert_array_equal(convert(open_source(source)).ddr, expected)
    np.testing.assert_array_equal(open_model(path).ddr, expected)
    monkeypatch.setattr("bitnet_host.model.open._SMALL", 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.testing.assert_array_equal(open_model(path).ddr, expected)
    assert len(list((tmp_path / "cache").rglob("*.bitnet"))) == 1
    write_gguf(path.parent / "other.gguf", small)
    with pytest.raises(BadArgument, match="2 GGUF files"):
        open_source(path.parent)
    with pytest.raises(BadArgument, match="neither a folder"):
        open_source(tmp_path / "cache" / next((tmp_path / "cache").rglob("*.bitnet")))


@pytest.mark.parametrize("fields, words", [
    ({"general.architecture": "gemma3"}, "architecture 'gemma3'"),
    ({"bitnet-b1.58.hidden_activation": "silu"}, "only relu2"),
    ({"bitnet-b1.58.rope.scaling.type": "yarn"}, "original_context_length is None"),
    ({"bitnet-b1.58.rope.scaling.type": "longrope"}, "RoPE of type 'longrope'"),
    ({"bitnet-b1.58.rope.scaling.attn_factor": 1.5}, "where RoPE is not scaled"),
    ({"bitnet-b1.58.logit_scale": 2.0}, "logit_scale is '2.0'"),
    ({"bitnet-b1.58.block_count": None}, "block_count is None"),
    ({"bitnet-b1.58.block_count": 3}, r"blk.2.attn_q.weight is missing"),
    ({"bitnet-b1.58.block_count": 1}, "has no place"),
    ({"bitnet-b1.58.attention.head_count_kv": 4}, "has shape"),
    ({"bitnet-b1.58.attention.value_length": 32}, "value_length is 32"),
    ({"bitnet-b1.58.rope.freq_base": "many"}, "it cannot be"),
    ({"bitnet-b1.58.attention.layer_norm_rms_epsilon": 1.0}, "must be between"),
    ({"tokenizer.ggml.model": "bert"}, "of the kind 'bert'"),
    ({"tokenizer.ggml.model": "llama"}, "has no scores of its 96 tokens"),
    ({"tokenizer.ggml.pre": "tekken"}, "'tekken'"),
    ({"tokenizer.ggml.bos_token_id": 96}, "bos_token_id is 96"),
    ({"tokenizer.ggml.merges": None}, "no list of merges"),
    ({"tokenizer.ggml.merges": ["a b c"]}, "no list of merges"),
    ({"tokenizer.ggml.tokens": [f"t{i}" for i in range(97)]}, "97 tokens, its model knows 96"),
    ({"tokenizer.ggml.token_type": [1] * 95}, "types of 95"),
    ({"tokenizer.ggml.token_type": None}, "which of its tokens are control"),
])
def test_what_cannot_be_right_is_refused(tmp_path, small, fields, words):
    path = write_gguf(tmp_path / "model.gguf", small, fields=fields)
    with pytest.raises(BadModel, match=words):
        open_gguf(path)


def test_matrices_that_are_none_are_refused(tmp_path, small):
    def refused(words, change, kind="I2_S"):
        layers = [dict(layer) for layer in small.layers]
        change(layers[1])
        path = write_gguf(tmp_path / "model.gguf",
                          dataclasses.replace(small, layers=layers), kind)
        with pytest.raises(BadModel, match=words):
            convert(open_gguf(path))

    def changed(**values):
        return lambda layer: layer.update(up=dataclasses.replace(layer["up"], **values))

    weights = small.layers[1]["up"].weights
    refused("zero everywhere", changed(weights=np.zeros_like(weights)))
    refused("zero everywhere", changed(scale=0.0))
    refused("infinity or NaN", changed(scale=float("nan")))
    three = weights.copy()
    three[5, 7] = 2
    for kind in ("I2_S", "Q2_0/64"):
        refused("code that is no weight", changed(weights=three), kind)
    refused("2 different magnitudes", changed(weights=three), "F32")
    scales = np.ones((len(weights), 2), np.float32)
    scales[7, 1] = 2
    refused("several scales, where those of the first layer", changed(scales=scales), "Q2_0/128")
    refused("infinity or NaN", changed(scale=float("nan")), "F32")
    hole = weights.copy()
    hole[100:103] = -1
    for kind in ("I2_S", "TQ2_0", "F32"):
        refused("3 rows in which every weight is -1", changed(weights=hole), kind)
    other = small.embedding + np.float32(1)
    path = write_gguf(tmp_path / "model.gguf", small, tensors={"output.weight": other})
    assert open_gguf(path).config.tied is False


@pytest.mark.parametrize("fields", [
    {"attention.key_length": 64, "attention.value_length": 64, "rope.dimension_count": None},
    {"attention.key_length": None, "rope.dimension_count": 64},
])
def test_heads_that_are_no_share_of_the_hidden_size(tmp_path, fields):
    shape = ("hidden=256,intermediate=256,layers=1,heads=2,kv_heads=1,head_dim=64,vocab=96,"
             "context=64")
    config = dataclasses.replace(parse_shape(shape), stop_tokens=(1,))
    checkpoint = synthetic_checkpoint(config, 0.6, 1)
    path = write_gguf(tmp_path / "model.gguf", checkpoint, fields={
        f"bitnet-b1.58.{name}": value for name, value in fields.items()})
    np.testing.assert_array_equal(convert(open_gguf(path)).ddr, convert(checkpoint).ddr)


def test_rows_that_no_block_fits_are_refused(tmp_path, small):
    tensor = GgufFile(write_gguf(tmp_path / "model.gguf", small)).tensors["token_embd.weight"]
    with pytest.raises(BadModel, match="rows of 250, which are no whole blocks of Q8_0"):
        FloatRows(dataclasses.replace(tensor, kind=8, shape=(96, 250)))
    with pytest.raises(BadModel, match="packed as I8, which this tool does not read"):
        FloatRows(dataclasses.replace(tensor, kind=24))[:]


def test_shapes_that_no_block_fits_are_refused(tmp_path):
    """By whoever reads the matrix, not by the search for its layout."""
    for sizes in ("hidden=100,intermediate=300", "hidden=3,intermediate=3"):
        config = parse_shape(f"{sizes},layers=1,heads=1,kv_heads=1,head_dim=4,vocab=8,context=32")
        checkpoint = synthetic_checkpoint(config, 0.6, 1)
        path = write_gguf(tmp_path / "model.gguf", checkpoint)
        with pytest.raises(BadModel, match="no whole blocks of I2_S"):
            list(open_gguf(path).layers)


def test_groups_of_different_scales_are_refused(tmp_path, small):
    weights, scales = small.layers[0]["v"].weights, np.full((128, 4), 0.5)
    path = write_gguf(tmp_path / "model.gguf", small)
    stored = GgufFile(path).tensors["blk.0.attn_v.weight"]
    assert stored.shape == (128, 256)

    def linear(scales):
        raw = tmp_path / "raw"
        raw.write_bytes(pack_q2(weights, scales, 64).tobytes())
        size = raw.stat().st_size
        return read_linear(dataclasses.replace(stored, file=raw, kind=42, offset=0, room=size),
                           "128")

    assert linear(scales).scale == 0.5
    zero = scales.copy()
    zero[3, 2] = 0
    codes = linear(zero).weights
    assert not codes[3, 128:192].any() and np.array_equal(codes[4:], weights[4:])
    turned = scales.copy()
    turned[9, 1] = -0.5
    np.testing.assert_array_equal(linear(turned).weights[9, 64:128], -weights[9, 64:128])
    two = scales.copy()
    two[100, 0] = 0.25
    with pytest.raises(BadModel, match=r"scales for 64 weights each; .* neighbours differ"):
        linear(two)
    two[100, 1] = 0.25  # as where both were one group
    grouped = linear(two)
    np.testing.assert_array_equal(grouped.weights, weights)
    expected = np.full((128, 2), 0.5)
    expected[100, 0] = 0.25
    np.testing.assert_array_equal(grouped.scales, expected)
    weights[100, :64] = 0  # what is empty may have any
    two[100, 0] = 7
    np.testing.assert_array_equal(linear(two).scales, expected)


def test_scales_of_256_weights_are_those_of_two_groups(tmp_path, small):
    """TQ2_0 has blocks of 256; each row of this matrix is one, with a scale of its own."""
    weights, rng = small.layers[0]["v"].weights, np.random.default_rng(4)
    scales = rng.choice([0.25, 0.5, 1.0], (128, 1)).astype(np.float32)
    raw = gguf.quants.quantize(weights * scales, gguf.GGMLQuantizationType.TQ2_0)
    path = tmp_path / "raw"
    path.write_bytes(raw.tobytes())
    stored = GgufFile(write_gguf(tmp_path / "model.gguf", small)).tensors["blk.0.attn_v.weight"]
    found = read_linear(dataclasses.replace(stored, file=path, kind=35, offset=0,
                                            room=raw.nbytes), "128")
    np.testing.assert_array_equal(found.weights, weights)
    np.testing.assert_array_equal(found.scales, np.repeat(scales, 2, axis=1))


def test_types_that_depend_on_the_writer_are_refused(tmp_path, small):
    path = write_gguf(tmp_path / "model.gguf", small)
    tensor = GgufFile(path).tensors["blk.0.attn_v.weight"]
    for kind, words in ((38, "packed as TL1: how"), (39, "packed as TL2"), (37, "type 37"),
                        (135, "type 135"), (2, "different magnitudes|needs")):
        with pytest.raises(BadModel, match=words):
            read_linear(dataclasses.replace(tensor, kind=kind), "128")
    with pytest.raises(BadModel, match="neither blocks of 64 or of 128"):
        read_linear(dataclasses.replace(tensor, kind=42), "128")
