"""Damaged checkpoints of all families are read or refused with one sentence."""

from __future__ import annotations

import json
import resource
import struct

import numpy as np
import pytest
from bitnet_host.errors import UserError
from bitnet_host.model.convert import convert
from bitnet_host.model.open import open_source
from families import FORMS, small, write_family

MUTATIONS = 2000
_VALUES = [None, True, False, 0, 1, -1, 2, 3, 7, 8, 16, 31, 33, 64, 2**31, 1e-5, 0.5, -1.0, 1e30,
           float("nan"), "", "silu", "llama", "qwen3", "bitnet", "yarn", [], [1], ["x"], {},
           {"rope_type": "yarn"}, {"type": "linear", "factor": 2.0}, {"rope_type": ["yarn"]},
           {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": "x"},
           *({"rope_type": "longrope", "short_factor": [1.0] * half, "long_factor": [2.0] * half,
              "original_max_position_embeddings": original}
             for half, original in ((16, 1), (32, 0.5), (128, 8), (18, 1e11))),
           {"quant_method": "bitnet", "quantization_mode": "online"}, [["full_attention"]]]
_KEYS = ["rope_scaling", "rope_parameters", "quantization_config", "layer_types", "architectures",
         "tie_word_embeddings", "head_dim", "use_sliding_window", "weight_bits", "eos_token_id",
         "original_max_position_embeddings", "model_type", "max_position_embeddings"]


def _read(path):
    """Whether it was refused, which takes one sentence."""
    try:
        convert(open_source(path))
    except UserError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 600, str(error)[:900]
        return True
    return False


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = []
    for family, forms in FORMS.items():
        path = tmp_path_factory.mktemp(family) / "model"
        write_family(path, small(family, forms[0]), family, forms[0])
        if (path / "config.json").exists():
            made.append(path)
    return made


def test_damaged_configurations(folders):
    rng, refused = np.random.default_rng(1), 0
    for number in range(MUTATIONS // 2):
        path = folders[number % len(folders)]
        good = (path / "config.json").read_text()
        config = json.loads(good)
        for _ in range(int(rng.integers(1, 3))):
            key = str(rng.choice([*config, *_KEYS]))
            if rng.random() < 0.2:
                config.pop(key, None)
            else:
                config[key] = _VALUES[int(rng.integers(len(_VALUES)))]
        (path / "config.json").write_text(json.dumps(config))
        refused += _read(path)
        (path / "config.json").write_text(good)
    assert MUTATIONS // 4 < refused < MUTATIONS // 2


def test_damaged_tensors(folders):
    """Names, types, shapes and places in the head of a safetensors file, its end, and its data."""
    rng, refused = np.random.default_rng(2), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(MUTATIONS // 2):
        file = folders[number % len(folders)] / "model.safetensors"
        good = file.read_bytes()
        size = struct.unpack_from("<Q", good)[0]
        bad = bytearray(good)
        match int(rng.integers(5)):
            case 0:
                bad[int(rng.integers(8, 8 + size))] = int(rng.integers(256))
            case 1:
                del bad[int(rng.integers(0, len(bad))):]
            case 2:
                head = json.loads(good[8:8 + size])
                names = sorted(head)
                one, other = (names[int(i)] for i in rng.integers(0, len(names), 2))
                head[one], head[other] = head[other], head[one]
                raw = json.dumps(head).encode()
                bad = bytearray(struct.pack("<Q", len(raw)) + raw + good[8 + size:])
            case 3:
                struct.pack_into("<Q", bad, 0, int(rng.choice([0, 1, size - 1, size + 8, 2**40])))
            case _:
                at = int(rng.integers(8 + size, len(bad) - 64))
                bad[at:at + 64] = rng.bytes(64)
        file.write_bytes(bad)
        refused += _read(file.parent)
        file.write_bytes(good)
    assert MUTATIONS // 8 < refused < MUTATIONS // 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 300_000
