"""What the converter puts into an image beside the checkpoint's own tensors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.convert import convert
from bitnet_host.model.header import KINDS, down_chunks
from bitnet_host.model.image import json_part
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from xtvu.layout import row_words, unpack_ternary, unstripe


@pytest.mark.parametrize("weights", ["base3", "2bit"])
@pytest.mark.parametrize("intermediate", [64, 2560, 2568, 5400])
def test_down_rows_is_down(weights, intermediate):
    """The chunks of DOWN_ROWS, read one by one, are the matrix that DOWN holds transposed."""
    shape = (f"hidden=64,intermediate={intermediate},layers=1,heads=2,kv_heads=1,head_dim=32,"
             "vocab=64,context=32")
    image = convert(synthetic_checkpoint(parse_shape(shape), 0.6, 1), weights)
    model = ReferenceModel(image)
    whole = model.matrix(KINDS.index("DOWN"), 0)
    data, start, chunks = unstripe(image.data(image.tensor("DOWN_ROWS"))), 0, []
    for columns in down_chunks(image.header):
        size = 64 * row_words(columns, weights) * 32
        chunks.append(unpack_ternary(data[start:start + size].reshape(64, -1), columns, weights))
        start += size
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1), whole)
    np.testing.assert_array_equal(model.matrix(KINDS.index("DOWN_ROWS"), 0), whole)


def test_down_rows_is_left_out_where_it_does_not_fit(monkeypatch):
    config = parse_shape("tiny,layers=1")
    roomy = convert(synthetic_checkpoint(config, 0.6, 1), cache_tokens=1)
    rows = roomy.tensor("DOWN_ROWS")
    monkeypatch.setattr("bitnet_host.model.plan.MEMORY_BYTES",
                        0x20_0000 + roomy.header.total_bytes - rows.words * 16)
    tight = convert(synthetic_checkpoint(config, 0.6, 1))
    with pytest.raises(KeyError):
        tight.tensor("DOWN_ROWS")
    assert (tight.header.total_bytes < roomy.header.total_bytes
            and tight.header.tensors == roomy.header.tensors - 1)


def test_the_ddr_part_begins_at_a_block():
    """A board that reads it from a card moves whole blocks."""
    for size in (0, 1, 63, 400, 446, 447, 448, 449, 511):
        text = json_part({"name": "x" * size})
        assert (64 + len(text)) % 512 == 0 and json.loads(text) == {"name": "x" * size}
        assert len(text) < size + 512 + 64
