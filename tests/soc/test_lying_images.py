"""Image headers that lie, with right checksums: the board refuses them or says the right words, and
the next good image works.

`make fuzz` runs many more (BITNET_HEADERS).
"""

from __future__ import annotations

import os
import secrets
import struct
from dataclasses import fields

import numpy as np
import pytest
from bitnet_host.errors import UserError
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.header import KINDS, MODEL_BASE, DdrHeader, Tensor
from bitnet_host.model.image import Image
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import over_udp
from bitnet_host.run.sampling import Sampling

HEADERS = int(os.environ.get("BITNET_HEADERS", 300))
SEED = int(os.environ.get("BITNET_SEED") or secrets.randbits(31))
PROMPT = [3, 17, 90]
_NAN = 0x7FC00000
_VALUES = [0, 1, 2, 3, 7, 8, 31, 32, 63, 64, 65, 100, 128, 512, 4095, 4096, 16383, 16384, 1 << 20,
           (1 << 20) + 8, 1 << 24, 0x7FFFFFFF,
           1 << 31, 0xFFFFFF00, 0xFFFFFFFF, _NAN, 0x7F800000, 0xFF800000]


def _quiet(*_):
    pass


_SMALL = "hidden=64,intermediate=96,layers=2,heads=4,kv_heads=2,vocab=128,context=64"
_SHAPES = {"2B-4T": f"{_SMALL},head_dim=32",
           "SiLU, untied, filled up": f"{_SMALL},head_dim=20,activation=silu,sub_norms=0,tied=0",
           "QK-norms, groups": f"{_SMALL},head_dim=32,activation=silu,sub_norms=0,qk_norms=1,"
                               "group=128"}


@pytest.fixture(scope="module", params=_SHAPES)
def image(request):
    return convert(synthetic_checkpoint(parse_shape(_SHAPES[request.param]), 0.6, 1))


@pytest.fixture(scope="module")
def board(image):
    simulator = Simulator()
    board = BoardTarget(image, over_udp("127.0.0.1", simulator.ports["udp"]), simulator)
    board.prepare(_quiet)
    yield board
    board.close()


def _words_of(target, tokens=2):
    target.reset()
    return target.generate(PROMPT, tokens, Sampling(), _quiet, _quiet).token_ids


def _sum_words(data: bytes) -> int:
    """The header's checksum, as docs/image-format.md states it."""
    total = 0
    for word in np.frombuffer(data, "<u4").tolist():
        total = ((total << 1 | total >> 31) + word) % 2**32
    return total


def _header_words(image, header, tensors) -> np.ndarray:
    """Header and table with a right checksum, as they lie in DDR."""
    table = b"".join(t.pack() for t in tensors)
    unsigned = struct.pack(f"<{len(fields(DdrHeader)) - 1}I",
                           *(w & 0xFFFFFFFF for w in header.words()[:-1]))
    raw = unsigned + struct.pack("<I", _sum_words(unsigned + table)) + table
    raw += bytes(-len(raw) % 4)
    return np.frombuffer(raw, "<u4")


def _upload(board, words):
    board.board.ask("UNLOAD")  # a loaded model is protected
    board.transport.write_ddr(MODEL_BASE, words)


def _try(board, image, header, tensors) -> str | None:
    """None if the board refuses the header, else its id is taken and its words are compared with
    the golden model's."""
    _upload(board, _header_words(image, header, tensors))
    board._send("LOAD")
    try:
        while board._event("PROGRESS", "LOADED", timeout=20)[0] != "LOADED":
            pass
    except UserError as error:
        assert any(said in str(error)
                   for said in ("damaged", "does not fit", "limit", "error bits")), str(error)
        return str(error)
    # which the board does not read
    sizes = {(t.kind, t.layer): (t.rows, t.columns) for t in image.tensors}
    for tensor in tensors:
        tensor.rows, tensor.columns = sizes[tensor.kind, tensor.layer]
    reference = ReferenceTarget(Image(header, tensors, image.ddr, image.meta))
    reference.prepare(_quiet)
    board.image = reference.image
    try:
        said = _words_of(board)
    except UserError as error:
        assert any(said in str(error)
                   for said in ("error bits", "outside", "between 0 and")), str(error)
        return str(error)
    finally:
        board.image = image
    assert said == _words_of(reference), [(f.name, getattr(header, f.name))
                                          for f in fields(DdrHeader)]
    return None


def _copy(image):
    header = DdrHeader(*image.header.words())
    return header, [Tensor(*vars(t).values()) for t in image.tensors]


_SEEN = {
    "k_base 0": dict(k_base=0), "v_base 0xffffff00": dict(v_base=0xFFFFFF00),
    "no tensors": dict(tensors=0), "layers": dict(layers=64),
    "vocab": dict(vocab=1 << 31), "head_dim": dict(head_dim=64), "hidden": dict(hidden=512),
    "intermediate": dict(intermediate=8),
    "weight_mode": dict(weight_mode=2), "logits_base": dict(logits_base=0),
    "rank_levels": dict(rank_levels=1), "eps": dict(eps_bits=_NAN),
    "residual_base": dict(residual_base=0x100000), "one layer less": dict(layers=1),
    "kv_heads": dict(kv_heads=0), "heads": dict(heads=0),
    "inverse": dict(inverse_hidden_bits=0x3F800000), "bytes": dict(ddr_bytes=512),
    "total": dict(total_bytes=1 << 30), "no cache": dict(cache_tokens=0),
    "half a page": dict(cache_tokens=64), "a cache too large": dict(cache_tokens=1 << 17),
    "history_base": dict(history_base=0x200000),
    "stops": dict(stop_count=5), "score scale": dict(score_scale_bits=0x7F800000),
    "context": dict(context=65),
}


@pytest.mark.parametrize("case", _SEEN)
def test_lies_that_were_believed(board, image, case):
    header, tensors = _copy(image)
    for name, value in _SEEN[case].items():
        setattr(header, name, value)
    assert _try(board, image, header, tensors)


@pytest.mark.parametrize("case",
                         ["missing", "twice",
                          "offset beyond memory",
                          "offset misaligned", "in the header", "words", "NaN scale",
                                  "layer", "kind", "some DOWN_ROWS"])
def test_a_table_that_lies(board, image, case):
    header, tensors = _copy(image)
    place = next(i for i, t in enumerate(tensors) if KINDS[t.kind] == "UP")
    if case == "missing":
        del tensors[place]
        header.tensors -= 1
    elif case == "some DOWN_ROWS":
        place = next((i for i, t in enumerate(tensors) if KINDS[t.kind] == "DOWN_ROWS"), None)
        assert place is not None, "this model has none"
        del tensors[place]
        header.tensors -= 1
    else:
        name, value = {"twice": ("layer", 1), "offset beyond memory": ("offset", 0xFFFFFE00),
                       "in the header": ("offset", 0),
                       "offset misaligned": ("offset", tensors[place].offset + 32),
                       "words": ("words", tensors[place].words - 1),
                       "NaN scale": ("scale", float("nan")), "layer": ("layer", 2),
                       "kind": ("kind", 99)}[case]
        setattr(tensors[place], name, value)
    assert _try(board, image, header, tensors)


def test_a_wrong_header_checksum_is_refused(board, image):
    words = _header_words(image, *_copy(image)).copy()
    words[8] ^= 0  # as it is, it is right
    _upload(board, words)
    board.board.load(_quiet)
    for place in (len(fields(DdrHeader)) - 1, len(words) - 1):
        words[place] ^= 1
        _upload(board, words)
        with pytest.raises(UserError, match="image on the board is damaged"):
            board.board.load(_quiet)
        words[place] ^= 1


def test_down_has_one_scale(board, image):
    """That of DOWN counts in prompts, too, whose passes take DOWN_ROWS; where groups have scales
    there is none."""
    header, tensors = _copy(image)
    for tensor in tensors:
        if KINDS[tensor.kind] == "DOWN_ROWS":
            tensor.scale = 3.0
    assert bool(_try(board, image, header, tensors)) == bool(header.group)


def test_where_groups_have_scales_a_matrix_has_none(board, image):
    header, tensors = _copy(image)
    place = next(i for i, t in enumerate(tensors) if KINDS[t.kind] == "UP")
    tensors[place].scale = 2.0
    refused = _try(board, image, header, tensors)
    assert bool(refused) == bool(header.group)


def test_words_in_another_packing(board, image):
    """Bytes that no packing gives are zeros for board and golden model alike."""
    header, tensors = _copy(image)
    header.weight_mode ^= 1
    _try(board, image, header, tensors)


def test_random_lies(board, image):
    """One to three fields of header and table each; then the good image."""
    print(f"BITNET_SEED={SEED}")
    rng = np.random.default_rng(SEED)
    names = [f.name for f in fields(DdrHeader)][:-1]
    believed = 0
    for number in range(HEADERS // len(_SHAPES)):
        header, tensors = _copy(image)
        for _ in range(int(rng.integers(1, 4))):
            value = (int(rng.choice(_VALUES)) if rng.random() < 0.7
                     else int(rng.integers(0, 1 << 32)))
            if rng.random() < 0.7:
                name = str(rng.choice(names))
                near = (getattr(header, name) + int(rng.choice([-512, -32, -8, -1, 1, 8, 32, 512]))
                        & 0xFFFFFFFF)
                setattr(header, name, near if rng.random() < 0.3 else value)
            else:
                tensor = tensors[int(rng.integers(len(tensors)))]
                name = str(rng.choice(["kind", "layer", "offset", "words", "rows", "columns",
                                       "checksum", "scale"]))
                setattr(tensor, name,
                        float(np.uint32(value).view(np.float32)) if name == "scale" else value)
        believed += _try(board, image, header, tensors) is None
        if number % 250 == 0 or number == HEADERS // len(_SHAPES) - 1:
            _upload(board, _header_words(image, *_copy(image)))
            board.board.load(_quiet)
            reference = ReferenceTarget(image)
            reference.prepare(_quiet)
            assert _words_of(board, 4) == _words_of(reference, 4)
    print(f"{believed} of {number + 1} headers were no lies that matter")
