"""Holds an image against the checkpoint that it was made of.

The image is read as the golden model reads it, the checkpoint as its reader gives it; the two share
no code of packing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import WORD_BYTES
from xtvu.layout import row_words, unpack_ternary, unstripe

from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.checkpoint import Checkpoint, Linear
from bitnet_host.model.convert import rope_table, sketch_rows
from bitnet_host.model.header import KINDS, WEIGHT_MODES, down_chunks, float_bits
from bitnet_host.model.image import Image
from bitnet_host.reporting import Progress, quiet

__all__ = ["Finding", "compare"]

_PIECE = 4096  # rows of the embedding at once


@dataclass(frozen=True)
class Finding:
    """What was compared, and what is wrong with it, or nothing."""

    name: str
    wrong: str = ""


def compare(image: Image, checkpoint: Checkpoint, progress: Progress = quiet) -> Iterator[Finding]:
    """A finding for the dimensions, for the text, for each layer's matrices and norms, and for the
    embedding with its head. Stops after dimensions that differ. Raises BadModel for a checkpoint
    that cannot be read."""
    wrong = _dimensions(image, checkpoint)
    yield Finding("dimensions", wrong)
    if wrong:
        return
    yield Finding("tokenizer and template", _text(image, checkpoint))
    model = ReferenceModel(image)
    yield Finding("RoPE and the last norm", _vectors(model, checkpoint))
    for layer in range(checkpoint.config.layers):
        yield Finding(f"layer {layer}", _layer(model, checkpoint, layer))
        progress("layers", layer + 1, checkpoint.config.layers)
    yield Finding("embedding and head", _embedding(model, checkpoint, progress))


def _dimensions(image: Image, checkpoint: Checkpoint) -> str:
    config, header = checkpoint.config, image.header
    pairs = {
        "layers": (header.layers, config.layers), "hidden_size": (header.hidden, config.hidden),
        "intermediate_size": (header.intermediate, config.intermediate),
        "heads": (header.heads, config.heads), "key and value heads": (header.kv_heads,
                                                                       config.kv_heads),
        "head_dim": (header.head_dim, config.head_dim), "vocabulary": (image.vocab, config.vocab),
        "eps": (header.eps_bits, float_bits(config.eps)),
        "stop tokens": (_stops(image), set(config.stop_tokens))}
    different = [f"{name} {ours} instead of {theirs}" for name, (ours, theirs) in pairs.items()
                 if ours != theirs]
    if header.context > config.context:
        different.append(f"a context of {header.context} where the checkpoint was made for "
                         f"{config.context}")
    return ", ".join(different)


def _stops(image: Image) -> set[int]:
    stops = [getattr(image.header, f"stop{place}") for place in range(image.header.stop_count)]
    return set(stops)


def _text(image: Image, checkpoint: Checkpoint) -> str:
    theirs = {"tokenizer": checkpoint.tokenizer, "chat_template": checkpoint.chat_template,
              "special": checkpoint.special, "defaults": checkpoint.defaults}
    return ", ".join(f"another {name.replace('_', ' ')}" for name, value in theirs.items()
                     if image.meta.get(name) != value)


def _vectors(model: ReferenceModel, checkpoint: Checkpoint) -> str:
    header = model.header
    table = rope_table(checkpoint.config)[:header.context]
    wrong = []
    if not np.array_equal(model.floats("ROPE", table.size).reshape(table.shape), table):
        wrong.append("another RoPE")
    if not np.array_equal(model.floats("FINAL_NORM", header.hidden), checkpoint.final_norm):
        wrong.append("another last norm")
    return ", ".join(wrong)


def _layer(model: ReferenceModel, checkpoint: Checkpoint, layer: int) -> str:
    wrong = []
    for key, value in checkpoint.layers[layer].items():
        if not isinstance(value, Linear):
            if not np.array_equal(model.floats(key.upper(), value.size, layer), value):
                wrong.append(f"{key} differs")
            continue
        ours = model.matrix(KINDS.index(key.upper()), layer)
        if key == "down" and _has(model.image, "DOWN_ROWS"):
            different = int((_down_rows(model.image, layer) != value.weights).sum())
            if different:
                wrong.append(f"{different:,} weights of down by rows differ")
        different = int((ours != value.weights).sum())
        if different:
            wrong.append(f"{different:,} weights of {key} differ")
        stored = model.image.tensor(key.upper(), layer).scale
        if np.float32(stored) != np.float32(value.scale):
            wrong.append(f"the scale of {key} is {stored:g} instead of {value.scale:g}")
    return ", ".join(wrong)


def _has(image: Image, kind: str) -> bool:
    return any(KINDS[tensor.kind] == kind for tensor in image.tensors)


def _down_rows(image: Image, layer: int) -> NDArray[np.int8]:
    """int8 [hidden, intermediate], from the chunks that it is stored in."""
    header = image.header
    mode = next(name for name, code in WEIGHT_MODES.items() if code == header.weight_mode)
    data, start, chunks = unstripe(image.data(image.tensor("DOWN_ROWS", layer))), 0, []
    for columns in down_chunks(header.intermediate, mode):
        size = header.hidden * row_words(columns, mode) * WORD_BYTES
        part = data[start:start + size].reshape(header.hidden, -1)
        chunks.append(unpack_ternary(part, columns, mode))
        start += size
    return np.concatenate(chunks, axis=1)


def _embedding(model: ReferenceModel, checkpoint: Checkpoint, progress: Progress) -> str:
    """Rows in int8 are rounded: to half a step of the row's scale, which is 1/127 of its largest
    magnitude."""
    rows, worst = checkpoint.config.vocab, 0.0
    sketch, sketch_scales = (model.matrix(KINDS.index("SKETCH"), 0),
                             model.floats("SKETCH_SCALE", rows))
    scales = model.floats("EMBEDDING_SCALE", rows)
    for start in range(0, rows, _PIECE):
        part = np.asarray(checkpoint.embedding[start:min(start + _PIECE, rows)], np.float32)
        codes, factors = model.embedding(start, start + len(part)), scales[start:][:len(part)]
        steps = np.abs(codes * factors[:, None].astype(np.float64) - part) / factors[:, None]
        wanted = np.maximum(np.abs(part).max(axis=1), 1e-8) / 127
        if not np.allclose(factors, wanted, rtol=1e-6, atol=0):
            return f"rows from {start} on have other scales"
        worst = max(worst, float(steps.max(initial=0)))
        signs, magnitudes = sketch_rows(codes, factors)
        if (not np.array_equal(signs, sketch[start:start + len(part)])
                or not np.array_equal(magnitudes, sketch_scales[start:][:len(part)])):
            return f"the sketch of the head is another one from row {start} on"
        progress("embedding", start + len(part), rows)
    return "" if worst < 0.5001 else f"a row is {worst:.1f} steps of its scale off"
