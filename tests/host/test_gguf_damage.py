"""Damaged GGUF files are read or refused with one sentence."""

from __future__ import annotations

import resource
import struct

import numpy as np
import pytest
from bitnet_host.errors import BadModel, UserError
from bitnet_host.model.convert import convert
from bitnet_host.model.open import open_source
from bitnet_host.model.sources.gguf import GgufFile
from bitnet_host.model.sources.gguf_model import open_gguf
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from families import small, write_family
from gguf_files import write_gguf

SHAPE = "hidden=64,intermediate=128,layers=1,heads=2,kv_heads=1,head_dim=32,vocab=64,context=32"
MUTATIONS = 2000


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "model.gguf"
    checkpoint = synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1)
    return write_gguf(path, checkpoint, merges=("t 1", "t 2")).read_bytes()


@pytest.fixture(scope="module")
def files(good, tmp_path_factory):
    """One of each architecture, in each form of weights that its own files have."""
    made = [good]
    for family, form in (("falcon3-1b", "I2_S"), ("falcon-e-1b", "I2_S"),
                         ("bonsai-1.7b", "Q2_0/64"), ("bonsai-1.7b", "Q2_0/128")):
        folder = tmp_path_factory.mktemp(family)
        made.append(write_family(folder, small(family, form), family, form).read_bytes())
    return made


def _head(raw):
    """Bytes before the tensors' data."""
    return raw.index(b"blk.0.ffn_down.weight") + 300


def _mutated(raw, rng):
    """One or more things wrong: bytes, a run of them, a number that is too large, a missing or
    doubled part, the end."""
    out, head = bytearray(raw), _head(raw)
    for _ in range(rng.integers(1, 3)):
        place = int(rng.integers(4, max(5, min(head, len(out)))))
        match rng.integers(6):
            case 0:
                out[place:place + 1] = rng.bytes(1)
            case 1:
                out[place:place + 8] = rng.bytes(8)
            case 2:
                value = [0, 2**31, 2**32 - 1, 2**62, 2**64 - 1][rng.integers(5)]
                out[place:place + 8] = struct.pack("<Q", value)
            case 3:
                del out[place:place + int(rng.integers(1, 40))]
            case 4:
                out[place:place] = out[place:place + int(rng.integers(1, 40))]
            case _:
                del out[int(rng.integers(0, len(out))):]
    return bytes(out)


def test_damaged_files_are_read_or_refused(tmp_path, files):
    rng, path = np.random.default_rng(1), tmp_path / "model.gguf"
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number in range(MUTATIONS):
        path.write_bytes(_mutated(files[number % len(files)], rng))
        try:
            convert(open_source(path))
        except UserError as error:
            refused += 1
            assert str(error) and "\n" not in str(error) and len(str(error)) < 600, error
    assert MUTATIONS // 2 < refused < MUTATIONS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 300_000


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_says_so(tmp_path, good, share):
    path = tmp_path / "model.gguf"
    path.write_bytes(good[:int(share * len(good))])
    with pytest.raises(UserError, match=r"truncated|shorter than|is no GGUF file|neither a folder"):
        convert(open_source(path))


def _with(raw, before, after):
    assert raw.count(before) == 1
    return raw.replace(before, after)


@pytest.mark.parametrize("change, words", [
    (lambda raw: raw[:4] + struct.pack("<I", 1) + raw[8:], "GGUF version 1"),
    (lambda raw: raw[:4] + struct.pack(">I", 3) + raw[8:], "another order of bytes"),
    (lambda raw: raw[:8] + struct.pack("<Q", 2**40) + raw[16:], "shorter than"),
    (lambda raw: raw[:8] + struct.pack("<Q", 0) + raw[16:], "no tensor"),
    (lambda raw: raw[:16] + struct.pack("<Q", 2**60) + raw[24:], "shorter than"),
    (lambda raw: _with(raw, b"general.file_type", b"general.file_typ\xff"), "not UTF-8"),
    (lambda raw: _with(raw, b"blk.0.ffn_up.weight", b"blk.0.ffn_ap.weight"), "ffn_up.* missing"),
    (lambda raw: _with(raw, b"blk.0.attn_k.weight", b"blk.0.attn_q.weight"), "two tensors"),
    (lambda raw: _with(raw, b"tokenizer.ggml.eos_token_id", b"tokenizer.ggml.bos_token_id"),
     "twice"),
])
def test_what_is_wrong_is_named(tmp_path, good, change, words):
    path = tmp_path / "model.gguf"
    path.write_bytes(change(good))
    with pytest.raises(BadModel, match=words):
        open_gguf(path)


@pytest.mark.parametrize("change, words", [
    (lambda place, other: place + 1, "has no place for it"),
    (lambda place, other: other, "at one place"), (lambda place, other: 2**40, "has no place"),
])
def test_tensors_lie_apart(tmp_path, good, change, words):
    raw = bytearray(good)

    def place(name):
        """Where the offset of a tensor stands: behind its dimensions and its type."""
        at = raw.index(name) + len(name)
        return at + 4 + 8 * struct.unpack_from("<I", raw, at)[0] + 4

    mine, other = place(b"blk.0.ffn_up.weight"), place(b"blk.0.ffn_gate.weight")
    offsets = (struct.unpack_from("<Q", raw, at)[0] for at in (mine, other))
    struct.pack_into("<Q", raw, mine, change(*offsets))
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    with pytest.raises(BadModel, match=words):
        open_gguf(path)


def test_an_array_that_fits_the_file_but_no_model_is_refused(tmp_path):
    name = struct.pack("<Q", 1) + b"a"
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + name + struct.pack("<IIQ", 9, 0, 5_000_000)
    path = tmp_path / "long.gguf"
    path.write_bytes(head + bytes(5_000_100))
    with pytest.raises(BadModel, match="announces 5000000 entries"):
        open_gguf(path)


def test_every_kind_of_field_is_read(tmp_path):
    """Also those that no model has: arrays of all kinds, 64 bits, none, one in a file of version
    2."""
    scalars = {0: ("<B", 200), 1: ("<b", -3), 2: ("<H", 60000), 3: ("<h", -7),
               4: ("<I", 2**32 - 1), 5: ("<i", -9), 6: ("<f", 0.5), 7: ("<?", True),
               10: ("<Q", 2**63), 11: ("<q", -2**62), 12: ("<d", 1e300)}

    def text(word):
        return struct.pack("<Q", len(word.encode())) + word.encode()

    body, count = b"", 0
    for kind, (code, value) in scalars.items():
        body += text(f"s{kind}") + struct.pack("<I", kind) + struct.pack(code, value)
        body += text(f"a{kind}") + struct.pack("<IIQ", 9, kind, 3) + 3 * struct.pack(code, value)
        body += text(f"e{kind}") + struct.pack("<IIQ", 9, kind, 0)
        count += 3
    body += text("word") + struct.pack("<I", 8) + text("ü")
    body += text("words") + struct.pack("<IIQ", 9, 8, 2) + text("") + text("b")
    tensor = text("t") + struct.pack("<IQQIQ", 2, 3, 5, 0, 0)
    raw = b"GGUF" + struct.pack("<IQQ", 2, 1, count + 2) + body + tensor
    path = tmp_path / "fields.gguf"
    path.write_bytes(raw + bytes(-len(raw) % 32) + np.arange(15, dtype="<f4").tobytes())
    file = GgufFile(path)
    for kind, (_, value) in scalars.items():
        assert file.fields[f"s{kind}"] == value and type(file.fields[f"s{kind}"]) is type(value)
        assert file.fields[f"a{kind}"] == [value] * 3 and file.fields[f"e{kind}"] == []
    assert file.fields["word"] == "ü" and file.fields["words"] == ["", "b"]
    assert file.tensors["t"].shape == (5, 3)
    assert file.tensors["t"].raw(4, 8).view("<f4").tolist() == [1, 2]
    with pytest.raises(BadModel, match="needs 64 bytes of 60"):
        file.tensors["t"].raw(4, 60)
