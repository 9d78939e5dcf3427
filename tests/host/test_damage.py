"""Files that lie, with right checksums: one sentence or the right words, never a traceback and
never other words in silence."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import struct
import zlib
from dataclasses import fields, replace

import numpy as np
import pytest
from bitnet_host import BadArgument, BadFile, BadModel, Session, UserError, open_board
from bitnet_host.files import replacing
from bitnet_host.model.convert import convert, convert_file
from bitnet_host.model.header import KINDS, TENSOR_BYTES, DdrHeader, Tensor
from bitnet_host.model.image import check_image, read_image
from bitnet_host.model.open import open_model
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from models import Shape, write_checkpoint

SEED = int(os.environ.get("BITNET_SEED") or secrets.randbits(31))
MUTATIONS = int(os.environ.get("BITNET_MUTATIONS", 800))
_COUNT = len(fields(DdrHeader))
_HEAD = struct.Struct("<8sIIQIIII24x")  # of a file, as docs/image-format.md says


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small checkpoint with the bundled tokenizer cut to its vocabulary."""
    folder = write_checkpoint(tmp_path_factory.mktemp("model"), Shape(64, 96, 1, 2, 1, 104, seed=3))
    tokenizer = json.loads((BUNDLED / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"] = {t: i for t, i in tokenizer["model"]["vocab"].items() if i < 104}
    tokenizer["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copy(BUNDLED / "tokenizer_config.json", folder)
    return folder


def _words(image):
    """Ids of a greedy answer: what any change of arithmetic changes."""
    with open_board("reference", image) as target:
        return Session(target).chat([{"role": "user", "content": "Hi"}],
                                    max_tokens=6).reply.answer.token_ids


def _image_file(image, header, table, body, text):
    """An image file whose every checksum is right."""
    blank = bytearray(header)
    struct.pack_into("<I", blank, 8, 0)
    struct.pack_into("<I", blank, 4 * (_COUNT - 1), 0)
    header = bytearray(header)
    struct.pack_into("<I", header, 8, zlib.crc32(bytes(blank) + table + body))
    total = 0
    for word in np.frombuffer(bytes(header[:-4]) + table, "<u4").tolist():
        total = ((total << 1 | total >> 31) + word) % 2**32
    struct.pack_into("<I", header, 4 * (_COUNT - 1), total)
    ddr = (bytes(header) + table).ljust(image.header.header_bytes, b"\0") + body
    head = [b"BITNETFW", 5, len(text), len(ddr), zlib.crc32(text), zlib.crc32(ddr)]
    return _HEAD.pack(*head, zlib.crc32(_HEAD.pack(*head, 0, 0)), 0) + text + ddr


_LIES = [0, 1, 2, 3, 7, 8, 31, 32, 64, 97, 128, 511, 512, 4096, 16384, 1 << 20, 1 << 24,
         0x7FFFFFFF, 1 << 31, 0xFFFFFF00, 0xFFFFFFFF,
         0x7FC00000, 0x7F800000]


def _lie(rng, old):
    return int(rng.choice([*_LIES, old ^ 1 << int(rng.integers(32)), (old + 8) % 2**32]))


_SMALL = "layers=1,hidden=64,intermediate=96,heads=2,kv_heads=1,vocab=104,context=512"
_OTHERS = {"SiLU, untied": f"{_SMALL},activation=silu,sub_norms=0,tied=0,head_dim=32",
           "QK-norms, groups": f"{_SMALL},activation=silu,sub_norms=0,qk_norms=1,group=128,"
                               f"head_dim=32",
           "filled up": f"{_SMALL},activation=silu,head_dim=20"}


@pytest.mark.parametrize("shape", ["2B-4T", *_OTHERS])
def test_mutated_images(folder, tmp_path, shape):
    """Header fields, table fields, and the description; a lie in the first two is refused, whatever
    it is."""
    print(f"BITNET_SEED={SEED}")
    checkpoint = open_checkpoint(folder)
    if shape in _OTHERS:
        made = synthetic_checkpoint(parse_shape(_OTHERS[shape]), 0.6, 1)
        checkpoint = replace(made, tokenizer=checkpoint.tokenizer, special=checkpoint.special,
                             chat_template=checkpoint.chat_template)
    rng, image = np.random.default_rng(SEED), convert(checkpoint, name="small")
    right = _words(image)
    raw = image.ddr[:image.header.header_bytes].tobytes()
    header, table = raw[:4 * _COUNT], raw[4 * _COUNT:4 * _COUNT + len(image.tensors) * TENSOR_BYTES]
    body, text = image.ddr[image.header.header_bytes:].tobytes(), json.dumps(image.meta).encode()
    path = tmp_path / "lie.bitnet"
    path.write_bytes(_image_file(image, header, table, body, text))
    assert _words(read_image(path)) == right
    accepted = 0
    for number in range(MUTATIONS if shape not in _OTHERS else MUTATIONS // 2):
        parts = [bytearray(header), bytearray(table), bytearray(text)]
        what = int(rng.integers(3))
        if what < 2:
            # checksums and the id
            free = [2, _COUNT - 1] if what == 0 else [8 * i + 7 for i in range(len(image.tensors))]
            place = int(rng.choice([i for i in range(len(parts[what]) // 4) if i not in free]))
            old = struct.unpack_from("<I", parts[what], 4 * place)[0]
            new = _lie(rng, old)
            struct.pack_into("<I", parts[what], 4 * place, new)
            # a matrix's scale, which nothing else tells if its groups have none
            harmless = new == old or (what == 1 and place % 8 == 6 and not image.header.group)
        else:
            meta = json.loads(text)
            key = str(rng.choice(list(meta)))
            meta[key] = [None, 3,
                         "x", [], {},
                         [1, {"a": 2}], True, {"bos_token_id": "x"}][int(rng.integers(8))]
            parts[2], harmless = bytearray(json.dumps(meta).encode()), True
        path.write_bytes(_image_file(image, bytes(parts[0]), bytes(parts[1]), body,
                                     bytes(parts[2])))
        try:
            answer = _words(read_image(path))
        except UserError:
            continue
        accepted += 1
        assert harmless or answer == right, (f"mutation {number} of seed {SEED}: other words in "
                                             f"silence")
    assert accepted < MUTATIONS / 2


def test_a_matrix_whose_groups_have_scales_has_none():
    """The board multiplies by it, the golden model does not: nobody shall have to choose."""
    image = convert(synthetic_checkpoint(parse_shape(_OTHERS["QK-norms, groups"]), 0.6, 1))
    assert check_image(image) == ""
    image.tensor("UP", 0).scale = 2.0
    assert check_image(image) == "tensor UP of layer 0 has the scale 2.0"


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"[" * 100_000, b'"\xff"', b"null"])
def test_descriptions_that_are_none(folder, tmp_path, text):
    image = convert(open_checkpoint(folder))
    raw = image.ddr[:image.header.header_bytes].tobytes()
    table = raw[4 * _COUNT:4 * _COUNT + len(image.tensors) * TENSOR_BYTES]
    (tmp_path / "x").write_bytes(_image_file(image, raw[:4 * _COUNT], table,
                                             image.ddr[image.header.header_bytes:].tobytes(), text))
    with pytest.raises(BadModel):
        read_image(tmp_path / "x")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/", "FIFO"])
def test_what_is_no_file(tmp_path, path):
    if path == "FIFO":
        os.mkfifo(tmp_path / "fifo")
        path = tmp_path / "fifo"
    with pytest.raises(UserError, match=r"regular file|config\.json"):
        open_model(path)


def test_a_pipe_in_a_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(BadFile, match="not a regular file"):
        open_model(tmp_path)


# -- checkpoints -----------------------------------------------------------------------------------


def _copy(folder, tmp_path, **changes):
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    for name, value in changes.items():
        if value is KeyError:
            config.pop(name, None)
        else:
            config[name] = value
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def _packed(**changes):
    return ({"quant_method": "bitnet", "linear_class": "autobitlinear",
             "quantization_mode": "offline"} | changes)


@pytest.mark.parametrize("changes,saying", [
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
    ({"rope_scaling": {"type": "linear"}}, "linear lacks factor"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "yarn lacks factor"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": -1}}, "factor is -1"),
    ({"rope_parameters": {"rope_type": ["default"]}}, "rope_type"),
    ({"rope_parameters": {"rope_theta": 1e4, "factor": 8}}, "factor"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"attention_bias": True}, "attention_bias"), ({"sliding_window": 128}, "sliding_window"),
    ({"use_rms_norm": True}, "use_rms_norm"),
    ({"logit_scale": 0.5},
     "logit_scale"), ({"quantization_config": _packed(use_rms_norm=True)}, "use_rms_norm"),
    ({"quantization_config": _packed(linear_class="other")}, "linear_class"),
    ({"quantization_config": KeyError}, "quantization_config"),
    ({"quantization_config": _packed(quant_method="gptq")}, "quant_method"),
    ({"tie_word_embeddings": KeyError}, "no lm_head.weight"),
    ({"quantization_config": _packed(modules_to_not_convert=["q_proj"])},
     "modules_to_not_convert"), ({"rope_theta": "big"}, "rope_theta"),
    ({"rms_norm_eps": 0}, "rms_norm_eps"),
    ({"rms_norm_eps": 1e-50}, "rms_norm_eps"), ({"rms_norm_eps": 7.0}, "rms_norm_eps"),
    ({"hidden_size": True}, "hidden_size"),
    ({"eos_token_id": [1, 2, 3, 4, 5]}, "end-of-text"), ({"eos_token_id": 104}, "eos_token_id"),
    ({"num_key_value_heads": 3}, "has shape"),
])
def test_what_changes_arithmetic_is_refused(folder, tmp_path, changes, saying):
    with pytest.raises(BadModel, match=saying):
        open_checkpoint(_copy(folder, tmp_path, **changes))


def test_rope_parameters_come_before_rope_theta(folder, tmp_path):
    theta = open_checkpoint(_copy(folder, tmp_path,
                                  rope_parameters={"rope_theta": 777.0,
                                                   "rope_type": "default"})).config.rope_theta
    assert theta == 777.0
    assert (open_checkpoint(_copy(folder, tmp_path, rope_theta=KeyError)).config.rope_theta
            == 500000.0)


def _tensors(copy):
    from safetensors.numpy import load_file
    return load_file(copy / "model.safetensors")


def _save(copy, tensors, name="model.safetensors"):
    from safetensors.numpy import save_file
    save_file(tensors, copy / name)


_Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize("change,saying", [
    (lambda t: t
     | {"model.layers.0.self_attn.q_proj.bias": np.zeros(64, np.float32)}, "has no place"),
    (lambda t: t | {_Q: np.full_like(t[_Q], 0x55)}, "zero everywhere"),
    (lambda t: t | {_Q: t[_Q] | 3}, "no weight"),
    (lambda t: t | {_Q + "_scale": np.zeros(1, np.float32)}, "no scale"),
    (lambda t: t | {_Q + "_scale": np.full(1, np.nan, np.float32)}, "infinity or NaN"),
    (lambda t: t | {"model.norm.weight": np.full(64, np.inf, np.float32)}, "infinity or NaN"),
    (lambda t: t
     | {"model.embed_tokens.weight": np.full((104, 64), np.nan, np.float32)}, "infinity or NaN"),
    (lambda t: t | {_Q: t[_Q].astype(np.float32)}, "not packed"),
    (lambda t: t | {"model.norm.weight": np.zeros(64, np.int32)}, "type I32"),
    (lambda t: {name: value for name, value in t.items() if name != _Q}, "is missing"),
])
def test_tensors_that_cannot_be(folder, tmp_path, change, saying):
    copy = _copy(folder, tmp_path)
    _save(copy, change(_tensors(copy)))
    with pytest.raises(BadModel, match=saying):
        convert(open_checkpoint(copy))


def test_an_output_head_of_its_own(folder, tmp_path):
    copy = _copy(folder, tmp_path, tie_word_embeddings=False)
    tensors = _tensors(copy)
    _save(copy, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] * 2})
    checkpoint = open_checkpoint(copy)
    assert checkpoint.head is not None and not checkpoint.config.tied
    untied = convert(checkpoint)
    assert untied.header.untied and untied.header.tensors == 2 + convert(open_checkpoint(
        folder)).header.tensors
    _save(copy, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()})
    assert (convert(open_checkpoint(copy)).header.model_id
            == convert(open_checkpoint(folder)).header.model_id)


def test_files_beside_those_of_the_index(folder, tmp_path):
    copy = _copy(folder, tmp_path)
    _save(copy, {"other.weight": np.zeros(4, np.float32)}, "optimizer.safetensors")
    with pytest.raises(BadModel, match=r"optimizer\.safetensors beside"):
        open_checkpoint(copy)
    tensors = _tensors(copy)
    names = sorted(tensors)
    (copy / "model.safetensors").unlink()
    (copy / "optimizer.safetensors").unlink()
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in shards.items():
        _save(copy, {name: tensors[name] for name in part}, file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert (convert(open_checkpoint(copy)).header.model_id
            == convert(open_checkpoint(folder)).header.model_id)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_precision_is_read_as_what_it_is(folder, tmp_path, kind):
    """Written by hand, from the format's own description."""
    copy, tensors = _copy(folder, tmp_path), _tensors(folder)
    norm = np.array([1.0, -0.5, 3.25, 0.0078125] * 16, np.float32)
    table, blobs, offset = {}, [], 0
    for name, value in {**tensors, "model.norm.weight": norm}.items():
        blob, dtype = value.tobytes(), "U8" if value.dtype == np.uint8 else "F32"
        if name == "model.norm.weight":
            dtype, blob = (kind,
                           (value.astype(np.float16) if kind == "F16"
                            else (value.view(np.uint32) >> 16).astype("<u2")).tobytes())
        table[name] = {"dtype": dtype, "shape": list(value.shape),
                       "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    head = json.dumps(table).encode()
    (copy / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head
                                             + b"".join(blobs))
    np.testing.assert_array_equal(open_checkpoint(copy).final_norm, norm)


def test_a_vocabulary_that_is_no_multiple_of_eight(folder, tmp_path):
    """It is padded; what pads it is never said, with any head or sampling, and cannot be asked
    for."""
    copy = _copy(folder, tmp_path, vocab_size=101)
    tensors = _tensors(copy)
    _save(copy,
          tensors
          | {"model.embed_tokens.weight": tensors["model.embed_tokens.weight"][:101].copy()})
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {t: i for t, i in tokenizer["model"]["vocab"].items() if i < 101}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    image = convert(open_checkpoint(copy))
    assert (image.header.vocab, image.vocab) == (104, 101)
    from bitnet_host import Sampling
    with open_board("reference", image) as target:
        for sampling in (Sampling(), Sampling(full_head=True), Sampling(temperature=5.0, seed=1),
                         Sampling(5.0, seed=2, full_head=True)):
            target.reset()
            assert max(target.generate([5], 40, sampling).token_ids) < 101
        with pytest.raises(BadArgument, match="between 0 and 100"):
            target.generate([101], 1)


def test_stop_tokens_are_those_of_all_files(folder, tmp_path):
    copy = _copy(folder, tmp_path, eos_token_id=7)
    (copy / "generation_config.json").write_text('{"eos_token_id": [9, 7]}')
    settings = (json.loads((copy / "tokenizer_config.json").read_text())
                | {"eos_token": {"content": "<|eot_id|>"}})
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    assert open_checkpoint(copy).config.stop_tokens == (9, 7, 2)


@pytest.mark.parametrize("template,saying", [
    ("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
     "does not end"),
    ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ("{{ 'x' * 999999999999 }}", "repeats something"),
    ("{{ messages[9].content.foo.bar }}", "refuses|fails"), ("{% if %}", "not usable"),
    ("{{ raise_exception('no such role') }}", "no such role"),
    ("{{ ''.__class__.__mro__ }}", "refuses|fails"), ([1], "no text|neither text"),
])
def test_templates_that_fail(folder, tmp_path, template, saying):
    copy = _copy(folder, tmp_path)
    settings = (json.loads((copy / "tokenizer_config.json").read_text())
                | {"chat_template": template})
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadModel, match=saying):
        _words(convert(open_checkpoint(copy)))


def test_templates_as_transformers_has_them(folder, tmp_path):
    """A list of named templates, a file of its own before it, and what a template may call."""
    from bitnet_host import TextModel
    copy, user = _copy(folder, tmp_path), [{"role": "user", "content": "Hi"}]
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    named = [{"name": "tool", "template": "T"},
             {"name": "default", "template": "D{{ messages[0].content }}"}]
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))
    assert TextModel(convert(open_checkpoint(copy))).render(user) == "DHi"
    (copy / "chat_template.jinja").write_text(
        "{{ strftime_now('%Y')|length }}{% for i in [1, 2, 3] %}{% if i == 3 %}{% break %}{% endif "
        "%}{{ i }}{% endfor %}"
        "{% generation %}é{% endgeneration %}{{ {'a': '<ü>'}|tojson(indent=1) }}", encoding="utf-8")
    assert TextModel(convert(open_checkpoint(copy))).render(user) == '412é{\n "a": "<ü>"\n}'


def test_another_locale(folder, tmp_path):
    """Files are UTF-8, whatever the locale says."""
    import subprocess
    import sys
    copy = _copy(folder, tmp_path)
    (copy / "chat_template.jinja").write_text("é{{ messages[0].content }}", encoding="utf-8")
    code = ("import sys, locale; from bitnet_host import *; from pathlib import Path; assert "
            "locale.getpreferredencoding() != 'utf-8';"
            "print(ascii(TextModel(open_model(sys.argv[1])).render([{'role': 'user', 'content': "
            "'x'}])))")
    done = subprocess.run([sys.executable, "-X", "utf8=0", "-c", code, copy], capture_output=True,
                          text=True,
                          env=os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"})
    assert done.stdout == "'\\xe9x'\n", done.stderr


def test_mutated_configurations(folder, tmp_path):
    """Every value of config.json becomes something else: refused, or the same words, but for what
    rightly changes them."""
    rng, right = np.random.default_rng(SEED), _words(convert(open_checkpoint(folder)))
    config = json.loads((folder / "config.json").read_text())
    values = [None, 0, -1, 1, 3, 1 << 40, 0.5, float("inf"), "x", [], {}, [1], {"a": 1}, True,
              False, "\ud800"]
    for name in [*config, "head_dim", "rope_parameters", "num_experts", "layer_types"]:
        for value in values:
            try:
                words = _words(convert(open_checkpoint(_copy(folder, tmp_path, **{name: value}))))
            except UserError:
                continue
            assert words == right or name in ("rms_norm_eps", "rope_theta",
                                              "max_position_embeddings", "eos_token_id"), (name,
                                                      value)
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"):
        data = (folder / file).read_bytes()
        for _ in range(40):
            copy, damaged = _copy(folder, tmp_path), bytearray(data)
            for _ in range(int(rng.integers(1, 4))):
                damaged[int(rng.integers(len(data) if file.endswith("json")
                                         else 400))] = int(rng.integers(256))
            (copy / file).write_bytes(damaged)
            try:
                _words(convert(open_checkpoint(copy)))
            except UserError:
                pass


# -- writing ---------------------------------------------------------------------------------------


def test_only_regular_files_that_are_no_input_are_written(folder, tmp_path):
    copy = _copy(folder, tmp_path)
    checkpoint, before = open_checkpoint(copy), (copy / "model.safetensors").read_bytes()
    (tmp_path / "link").symlink_to(copy / "model.safetensors")
    for path in (copy / "model.safetensors", tmp_path / "link", tmp_path, "/dev/null"):
        with pytest.raises(BadArgument):
            convert_file(checkpoint, type(tmp_path)(path))
    assert ((copy / "model.safetensors").read_bytes() == before and os.path.exists("/dev/null")
            and not os.path.isfile("/dev/null"))
    (tmp_path / "target").write_text("old")
    (tmp_path / "good").symlink_to(tmp_path / "target")
    convert_file(checkpoint, tmp_path / "good")
    assert (tmp_path / "good").is_symlink() and read_image(tmp_path / "target").header.hidden == 64


def test_nothing_is_left_of_a_killed_or_failed_conversion(folder, tmp_path):
    import signal
    import subprocess
    import sys
    code = ("import sys, os, signal; from pathlib import Path; from bitnet_host.model.convert "
            "import convert_file;"
            "from bitnet_host.model.sources.hf import open_checkpoint;"
            "convert_file(open_checkpoint(Path(sys.argv[1])), Path(sys.argv[2]), progress=lambda "
            "*_: os.kill(os.getpid(), 9))")
    (tmp_path / "out").mkdir()
    done = subprocess.run([sys.executable, "-c", code, folder, tmp_path / "out" / "x.bitnet"])
    assert done.returncode == -signal.SIGKILL and not list((tmp_path / "out").iterdir())
    with pytest.raises(BadFile, match=r"File too large|No space"):
        with replacing(tmp_path / "out" / "x", 1 << 62):
            pytest.fail("there is no such disk")
    with pytest.raises(ValueError), replacing(tmp_path / "out" / "x"):
        raise ValueError
    assert not list((tmp_path / "out").iterdir())


def test_conversion_in_pieces_is_conversion(tmp_path, monkeypatch):
    """Larger than one piece of the embedding; and without files that have no name."""
    folder = write_checkpoint(tmp_path / "model", Shape(32, 64, 1, 1, 1, 9001, seed=1))
    whole = convert(open_checkpoint(folder), name="model")
    monkeypatch.delattr(os, "O_TMPFILE")
    convert_file(open_checkpoint(folder), tmp_path / "x.bitnet", name="model")
    image = read_image(tmp_path / "x.bitnet")
    assert (image.header == whole.header and image.tensors == whole.tensors
            and np.array_equal(image.ddr, whole.ddr))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "x.bitnet"]
    assert isinstance(image.tensors[0], Tensor) and KINDS[image.tensors[0].kind] == "EMBEDDING"


def test_a_large_checkpoint_is_converted_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("bitnet_host.model.open._SMALL", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy, calls = _copy(folder, tmp_path), []
    first = open_model(copy, progress=lambda *what: calls.append(what))
    assert calls
    calls.clear()
    assert (open_model(copy, progress=lambda *what: calls.append(what)).header == first.header
            and not calls)
    assert open_model(copy, context=32).header.context == 32
    _save(copy, _tensors(copy) | {"model.norm.weight": np.ones(64, np.float32)})
    assert open_model(copy).header.model_id != first.header.model_id


@pytest.mark.parametrize("template,saying", [
    ("{{ 'a'.ljust(300000000) }}", "pads something"), ("{{ '%300000000d' % 1 }}", "formats with %"),
    ("{% set ns = namespace(x='a' * 1000000) %}{% for i in range(9) %}{% set ns.x = ns.x + ns.x "
     "%}{% endfor %}{{ ns.x }}",
     "repeats something"), ("{{ ('a' * 1000000).replace('a', 'b' * 100) }}", "repeats something"),
])
def test_templates_without_bounds(folder, tmp_path, template, saying):
    copy = _copy(folder, tmp_path)
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(BadModel, match=saying):
        _words(convert(open_checkpoint(copy)))


def test_a_tokenizer_whose_library_panics(folder, tmp_path):
    """That is no Exception: something that begins every text and stands nowhere."""
    copy = _copy(folder, tmp_path)
    tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["post_processor"]["special_tokens"] = {}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BadModel, match="tokenizer is not usable: no entry found"):
        _words(convert(open_checkpoint(copy)))


def test_a_tokenizer_that_pads_begins_texts_as_ever(folder, tmp_path):
    from bitnet_host import TextModel
    copy = _copy(folder, tmp_path)
    tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["padding"] = {"strategy": {"Fixed": 8}, "direction": "Left", "pad_id": 5,
                            "pad_to_multiple_of": None, "pad_type_id": 0, "pad_token": "x"}
    tokenizer["truncation"] = {"max_length": 1, "stride": 0, "direction": "Right",
                               "strategy": "LongestFirst"}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    # without BOS, which is then put first
    padded, plain = (TextModel(convert(open_checkpoint(path)), "{{ messages[0].content }}")
                     .encode_chat([{"role": "user", "content": "Hi"}]) for path in (copy, folder))
    assert padded == plain and plain[1][0] == 0


def test_a_template_nested_deeper_than_python_goes(folder, tmp_path):
    copy = _copy(folder, tmp_path)
    (copy / "chat_template.jinja").write_text("{% for a in [1] %}" * 25 + "x" + "{% endfor %}" * 25)
    with pytest.raises(BadModel, match="not usable"):
        _words(convert(open_checkpoint(copy)))


def test_templates_see_that_there_are_no_tools(folder, tmp_path):
    from bitnet_host import TextModel
    copy = _copy(folder, tmp_path)
    (copy / "chat_template.jinja").write_text("{% if tools is not none or documents is not none "
                                              "%}T{% endif %}.")
    assert (TextModel(convert(open_checkpoint(copy))).render([{"role": "user", "content": "x"}])
            == ".")


def test_every_file_of_a_checkpoint_is_an_input(folder, tmp_path):
    copy = _copy(folder, tmp_path)
    before = (copy / "tokenizer.json").read_bytes()
    with pytest.raises(BadArgument, match="which is being read"):
        convert_file(open_checkpoint(copy), copy / "tokenizer.json")
    assert (copy / "tokenizer.json").read_bytes() == before


def test_names_and_modes_of_what_is_written(tmp_path):
    from pathlib import Path
    for name in ("x" * 300, "a\0b"):
        with pytest.raises((BadArgument, BadFile)), replacing(tmp_path / name):
            pytest.fail("no such name")
    (tmp_path / "mine").write_text("old")
    os.chmod(tmp_path / "mine", 0o600)
    with replacing(tmp_path / "mine") as file:
        file.write(b"new")
    assert ((tmp_path / "mine").stat().st_mode & 0o777 == 0o600
            and Path(tmp_path / "mine").read_text() == "new")


@pytest.mark.parametrize("file,change", [
    ("tokenizer.json",
     {"added_tokens": 5}),
    ("tokenizer_config.json", {"chat_template": [{"name": [], "template": "x"}]}),
    ("config.json", {"rms_norm_eps": 1e-50}),
    ("tokenizer.json",
     {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}, "added_tokens": []}),
])
def test_more_that_lies(folder, tmp_path, file, change):
    copy = _copy(folder, tmp_path)
    value = json.loads((copy / file).read_text()) | change
    (copy / file).write_text(json.dumps(value))
    try:
        _words(convert(open_checkpoint(copy)))
    except UserError:
        pass
