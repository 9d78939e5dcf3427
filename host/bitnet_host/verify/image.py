"""Holds an image against the checkpoint that it was made of.

The image is read as the golden model reads it, the checkpoint as its reader gives it; the two share
no code of packing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.checkpoint import Checkpoint, Linear, Rows
from bitnet_host.model.convert import sketch_rows
from bitnet_host.model.header import ACTIVATIONS, KINDS, float_bits
from bitnet_host.model.image import Image
from bitnet_host.model.padding import fill_up
from bitnet_host.model.rope import rope_table
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
        "intermediate_size": (header.inner_elements, config.intermediate),
        "heads": (header.heads, config.heads), "key and value heads": (header.kv_heads,
                                                                       config.kv_heads),
        "head_dim": (header.head_elements, config.head_dim),
        "vocabulary": (image.vocab, config.vocab),
        "activation": (header.activation, ACTIVATIONS[config.activation]),
        "sub-norms": (header.sub_norms, int(config.sub_norms)),
        "QK-norms": (header.qk_norms, int(config.qk_norms)),
        "untied head": (header.untied, int(not config.tied)),
        "weights to a scale": (header.group, config.group),
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
    table = rope_table(replace(checkpoint.config, context=header.context))
    wrong = []
    if not np.array_equal(model.floats("ROPE", table.size).reshape(table.shape), table):
        wrong.append("another RoPE")
    if not np.array_equal(model.floats("FINAL_NORM", header.hidden), checkpoint.final_norm):
        wrong.append("another last norm")
    return ", ".join(wrong)


def _layer(model: ReferenceModel, checkpoint: Checkpoint, layer: int) -> str:
    wrong = []
    for key, own in checkpoint.layers[layer].items():
        value = fill_up(key, own, checkpoint.config)
        if not isinstance(value, Linear):
            if not np.array_equal(model.floats(key.upper(), value.size, layer), value):
                wrong.append(f"{key} differs")
            continue
        if value.scales is not None:
            groups = model.floats(f"{key.upper()}_SCALES", value.scales.size, layer)
            if not np.array_equal(groups.reshape(value.scales.T.shape), value.scales.T):
                wrong.append(f"scales of {key} differ")
        for kind in ("DOWN", "DOWN_ROWS") if key == "down" else (key.upper(),):
            if not _has(model.image, kind):
                continue
            name = "down by rows" if kind == "DOWN_ROWS" else key
            different = int((model.matrix(KINDS.index(kind), layer) != value.weights).sum())
            if different:
                wrong.append(f"{different:,} weights of {name} differ")
            stored = model.image.tensor(kind, layer).scale
            if np.float32(stored) != np.float32(value.scale):
                wrong.append(f"the scale of {name} is {stored:g} instead of {value.scale:g}")
    return ", ".join(wrong)


def _has(image: Image, kind: str) -> bool:
    return any(KINDS[tensor.kind] == kind for tensor in image.tensors)


def _embedding(model: ReferenceModel, checkpoint: Checkpoint, progress: Progress) -> str:
    wrong = _rows(model, checkpoint.embedding, "EMBEDDING", checkpoint.head is None, progress)
    if checkpoint.head is not None:
        wrong = ", ".join(filter(None, (wrong, _rows(model, checkpoint.head, "HEAD", True,
                                                     progress))))
    return wrong


def _rows(model: ReferenceModel, matrix: Rows, kind: str, sketched: bool,
          progress: Progress) -> str:
    """Rows in int8 are rounded: to half a step of the row's scale, which is 1/127 of its largest
    magnitude."""
    rows, worst = matrix.shape[0], 0.0
    scales = model.floats(f"{kind}_SCALE", rows)
    for start in range(0, rows, _PIECE):
        part = np.asarray(matrix[start:min(start + _PIECE, rows)], np.float32)
        codes, factors = model.rows(kind)[start:start + len(part)], scales[start:][:len(part)]
        steps = np.abs(codes * factors[:, None].astype(np.float64) - part) / factors[:, None]
        wanted = np.maximum(np.abs(part).max(axis=1), 1e-8) / 127
        if not np.allclose(factors, wanted, rtol=1e-6, atol=0):
            return f"rows of {kind.lower()} from {start} on have other scales"
        worst = max(worst, float(steps.max(initial=0)))
        if sketched and not _sketched(model, start, *sketch_rows(codes, factors)):
            return f"the sketch of the head is another one from row {start} on"
        progress("embedding", start + len(part), rows)
    return "" if worst < 0.5001 else f"a row is {worst:.1f} steps of its scale off"


def _sketched(model: ReferenceModel, start: int, signs: NDArray[np.int8],
              magnitudes: NDArray[np.float32]) -> bool:
    end = start + len(signs)
    return (np.array_equal(signs, model.matrix(KINDS.index("SKETCH"), 0)[start:end])
            and np.array_equal(magnitudes, model.floats("SKETCH_SCALE", end)[start:]))
