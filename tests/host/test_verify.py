"""``bitnet-host verify``: an image that was changed anywhere is found out."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from bitnet_host.apps import verify as verify_command
from bitnet_host.apps.verify import verify
from bitnet_host.errors import BadArgument
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.convert import convert, convert_file, shorten
from bitnet_host.model.header import KINDS, SHAPES
from bitnet_host.model.image import write_image
from bitnet_host.model.open import open_source
from bitnet_host.model.sources import gguf_blocks, gguf_model
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.verify.gguf import compare_gguf
from bitnet_host.verify.image import compare
from families import FORMS, small, write_family, write_gguf_of
from gguf_files import write_gguf
from models import Shape, write_checkpoint


def _verify(*arguments):
    done = subprocess.run([sys.executable, "-m", "bitnet_host", "verify", "--no-operators",
                           *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("v") / "model", Shape(64, 96, 2, 2, 1, 100,
                                                                          context=64))


@pytest.mark.parametrize("weights, context, cache", [("base3", 64, 0), ("2bit", 32, 128)])
def test_what_was_converted_holds(tmp_path, folder, weights, context, cache):
    image = tmp_path / "m.bitnet"
    convert_file(shorten(open_source(folder), context), image, weights, cache_tokens=cache)
    done = _verify(image, folder)
    assert done.returncode == 0 and "holds what" in done.stdout, done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_masters_bundled_and_gguf(tmp_path):
    """All forms of storage; of the bundled model also down_proj by rows."""
    masters = write_checkpoint(tmp_path / "masters", Shape(64, 96, 2, 2, 1, 64, masters="BF16"))
    file = write_gguf(tmp_path / "m.gguf", synthetic_checkpoint(parse_shape(
        "hidden=64,intermediate=128,layers=1,heads=2,kv_heads=1,head_dim=32,vocab=64,context=64"),
        0.6, 1), "F32")
    for source in (masters, file, BUNDLED):
        image = tmp_path / "m.bitnet"
        convert_file(open_source(source), image)
        done = _verify(image, source)
        assert done.returncode == 0, done.stdout
    other = _verify(image, masters)
    assert other.returncode == 1 and "dimensions: layers 4 instead of 2" in other.stdout
    assert "convert it again" in other.stdout


def _found(image, source):
    return [f"{finding.name}: {finding.wrong}" for finding in compare(image, source)
            if finding.wrong]


@pytest.fixture(scope="module")
def whole():
    source = open_source(BUNDLED)
    image = convert(source)
    assert _found(image, source) == []
    return image, source


@pytest.mark.parametrize("kind", ["Q", "K", "V", "O", "GATE", "UP", "DOWN", "DOWN_ROWS", "SKETCH",
                                  "SKETCH_SCALE", "EMBEDDING", "EMBEDDING_SCALE", "ROPE",
                                  "INPUT_NORM", "ATTN_SUB_NORM", "POST_NORM", "FFN_SUB_NORM",
                                  "FINAL_NORM"])
def test_a_byte_of_any_tensor_is_found(whole, kind):
    image, source = whole
    layer = 2 if kind in ("K", "UP", "DOWN_ROWS", "POST_NORM") else 0
    tensor = image.tensor(kind, layer)
    ddr = image.ddr.copy()
    place = tensor.offset + 8  # of the first words in every striping
    # another code of five weights, a larger float, an int8 code two further
    ddr[place + (3 if "NORM" in kind or "SCALE" in kind or kind == "ROPE" else 0)] ^= 2
    found = _found(dataclasses.replace(image, ddr=ddr), source)
    assert len(found) == 1, found
    assert found[0].startswith(f"layer {layer}: " if kind in (
        "Q", "K", "V", "O", "GATE", "UP", "DOWN", "DOWN_ROWS") or (
        kind.endswith("NORM") and kind != "FINAL_NORM") else
        "RoPE" if kind in ("ROPE", "FINAL_NORM") else "embedding and head: "), found


@pytest.fixture(scope="module", params=["bonsai-1.7b", "llama3-8b", "1bitllm-3b"])
def other(request, tmp_path_factory):
    """Families with tensors that the bundled model has not."""
    form = FORMS[request.param][0]
    path = write_family(tmp_path_factory.mktemp("other") / "model", small(request.param, form),
                        request.param, form)
    source = open_source(path)
    image = convert(source)
    assert _found(image, source) == []
    return image, source


def test_a_byte_of_any_tensor_of_another_family_is_found(other):
    image, source = other
    kinds = {KINDS[tensor.kind] for tensor in image.tensors}
    assert kinds & {"HEAD", "Q_NORM", "GATE_SCALES", "DOWN_ROWS"}
    for kind in sorted(kinds):
        tensor, ddr, storage = image.tensor(kind, 0), image.ddr.copy(), SHAPES[kind][2]
        # of two bits the lower one, which no code has in common with another of its meaning
        ddr[tensor.offset + 8 + (3 if storage in ("float", "groups") else 0)] ^= (
            1 if storage == "ternary" else 2)
        found = _found(dataclasses.replace(image, ddr=ddr), source)
        assert len(found) == 1, (kind, found)
    for field in ("untied", "qk_norms", "sub_norms", "group", "activation"):
        header = dataclasses.replace(image.header, **{field: 7})
        assert "instead of" in _found(dataclasses.replace(image, header=header), source)[0]


def test_scales_text_and_stops_are_found(whole):
    image, source = whole
    tensors = [dataclasses.replace(tensor) for tensor in image.tensors]
    next(t for t in tensors if t.layer == 3).scale *= np.float32(1.000001)
    assert "the scale of" in _found(dataclasses.replace(image, tensors=tensors), source)[0]
    for key in ("tokenizer", "chat_template", "special", "defaults"):
        meta = image.meta | {key: {"other": 1}}
        assert _found(dataclasses.replace(image, meta=meta), source) == [
            f"tokenizer and template: another {key.replace('_', ' ')}"]
    header = dataclasses.replace(image.header, stop0=77)
    assert "stop tokens" in _found(dataclasses.replace(image, header=header), source)[0]
    theta = dataclasses.replace(source, config=dataclasses.replace(source.config,
                                                                   rope_theta=10000.0))
    assert _found(image, theta) == ["RoPE and the last norm: another RoPE"]


def test_a_changed_checkpoint_is_found_by_the_command(tmp_path, folder):
    image = tmp_path / "m.bitnet"
    write_image(convert(open_source(folder)), image)
    other = write_checkpoint(tmp_path / "other", Shape(64, 96, 2, 2, 1, 100, context=64, seed=9))
    done = _verify(image, other)
    assert done.returncode == 1 and "layer 1: " in done.stdout
    assert "weights of q differ" in done.stdout
    (other / "config.json").write_text(json.dumps({}))
    assert _verify(image, other).returncode == 2
    assert _verify(tmp_path / "none", folder).returncode == 2


@pytest.mark.parametrize("family, form", [
    *((family, form) for family, forms in FORMS.items() for form in forms
      if form == "I2_S" or form.startswith("Q2_0")),
    *(("falcon3-1b", form) for form in ("TQ1_0", "TQ2_0", "F16", "I2_S/64", "I2_S/rows"))])
def test_gguf_files_are_unpacked_once_more(tmp_path, monkeypatch, family, form):
    """By code of its own: a reader that is wrong in a way that conversion and comparison share."""
    layout = form.partition("/")[2] if form.startswith("I2_S") else ""
    path = write_gguf_of(tmp_path, family, form)
    image = convert(open_source(path, layout))
    model = ReferenceModel(image)
    assert [finding.wrong for finding in compare_gguf(model, path, layout)] == ["", ""]
    if image.header.group or form.startswith("TQ") or form == "I2_S/rows":
        swapped = {"I2_S/rows": "_four_rows"}.get(form, "_half")
        real = getattr(gguf_blocks, swapped)
        wrong = {"_half": lambda data: 2 * real(data),
                 "_four_rows": lambda data, columns: real(data, columns)[::-1]}[swapped]
        monkeypatch.setattr(gguf_blocks, swapped, wrong)
        monkeypatch.setitem(gguf_blocks.LAYOUTS, "rows", (4, wrong))
    elif family != "2b4t":
        monkeypatch.setattr(gguf_model, "_as_turned", lambda rows, head_dim: np.arange(rows))
    else:
        monkeypatch.setitem(gguf_blocks.LAYOUTS, "128",
                            (128, lambda data, _: gguf_blocks._planes(data, 16)))
    source = open_source(path, layout)
    image = convert(source)
    assert _found(image, source) == []
    found = [finding.wrong for finding in compare_gguf(ReferenceModel(image), path, layout)]
    assert all("values of q are not those of model.gguf" in text for text in found)


def test_the_command_unpacks_gguf_files_once_more(tmp_path, monkeypatch, capsys):
    path, image = write_gguf_of(tmp_path, "falcon-e-1b", "I2_S"), tmp_path / "m.bitnet"
    monkeypatch.setattr(gguf_model, "_as_turned", lambda rows, head_dim: np.arange(rows))
    write_image(convert(open_source(path)), image)
    with pytest.raises(typer.Exit):
        verify(image, path, operators=False)
    assert "values of q are not those of model.gguf" in capsys.readouterr().out


def test_without_transformers_it_says_so(tmp_path, folder, monkeypatch, capsys):
    monkeypatch.setattr(verify_command, "find_spec", lambda name: None)
    image = tmp_path / "m.bitnet"
    write_image(convert(open_source(folder)), image)
    verify(image, folder)
    assert "operators were not compared: PyTorch or transformers is missing: pip install " in (
        capsys.readouterr().out)
    with pytest.raises(BadArgument, match="operators cannot be compared: PyTorch or"):
        verify(image, folder, operators=True)
