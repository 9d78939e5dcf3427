"""Small random checkpoints of every family in each form that they are stored in, GGUF files too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bitnet_host.model.checkpoint import Checkpoint
from bitnet_host.model.sources import random_folders
from bitnet_host.model.sources.synthetic import synthetic_checkpoint
from gguf_files import write_gguf

__all__ = ["FORMS", "small", "write_family", "write_gguf_of"]

_GGUF = {"2b4t": ("I2_S",), "falcon3-1b": ("I2_S",), "falcon-e-1b": ("I2_S",),
         "bonsai-1.7b": ("Q2_0/64", "Q2_0/128")}
FORMS: dict[str, tuple[str, ...]] = {family: forms + _GGUF.get(family, ())
                                     for family, forms in random_folders.FORMS.items()}


def small(family: str, form: str) -> Checkpoint:
    """A random checkpoint of the family, with numbers that the form can hold."""
    made = random_folders.small_checkpoint(family, form, len(family))
    if form not in _GGUF.get(family, ()):
        return made
    config = replace(made.config, rope_theta=float(np.float32(made.config.rope_theta)),
                     eps=float(np.float32(made.config.eps)))
    return replace(made, config=config)


def write_family(folder: Path, checkpoint: Checkpoint, family: str, form: str) -> Path:
    """Writes the checkpoint as the family's own are; returns the folder or file."""
    folder.mkdir(parents=True, exist_ok=True)
    if form in _GGUF.get(family, ()):
        return _write_gguf(folder, checkpoint, family, form)
    random_folders.write_folder(folder, checkpoint, family, form)
    return folder


def write_gguf_of(folder: Path, family: str, form: str) -> Path:
    """A file of a family in any form that tests/gguf_files.py writes."""
    checkpoint = small(family, _GGUF[family][0])
    if form.startswith("TQ"):  # blocks of 256 weights
        config = replace(checkpoint.config, intermediate=512)
        checkpoint = synthetic_checkpoint(config, 0.6, 1)
    return _write_gguf(folder, checkpoint, family, form)


def _write_gguf(folder: Path, checkpoint: Checkpoint, family: str, form: str) -> Path:
    architecture = ("bitnet-b1.58" if family == "2b4t"
                    else "qwen3" if family.startswith("bonsai") else "llama")
    fields: dict[str, Any] = {f"{architecture}.attention.key_length": checkpoint.config.head_dim,
                              "tokenizer.ggml.pre": {"qwen3": "qwen2"}.get(architecture,
                                                                         "llama3")}
    scaling = checkpoint.config.rope_scaling
    if scaling:
        fields |= {f"{architecture}.rope.scaling.type": scaling["rope_type"],
                   f"{architecture}.rope.scaling.factor": float(scaling["factor"]),
                   f"{architecture}.rope.scaling.original_context_length":
                       scaling["original_max_position_embeddings"]}
    return write_gguf(folder / "model.gguf", checkpoint, form, architecture=architecture,
                      fields=fields)


