"""Reads a Hugging Face folder of a ternary model (safetensors: packed, masters, or floats of three
values)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_host.errors import BadModel
from bitnet_host.files import read_json
from bitnet_host.model.checkpoint import (
    F32,
    Checkpoint,
    Layer,
    LazyLayers,
    Linear,
    ModelConfig,
    matrix_shapes,
    norm_sizes,
)
from bitnet_host.model.sources.hf_config import (
    Architecture,
    architecture_of,
    model_config,
    stated_storage,
)
from bitnet_host.model.sources.hf_text import (
    chat_template,
    content,
    stop_tokens,
    token_ids,
    tokenizer_of_folder,
)
from bitnet_host.model.sources.matrices import (
    Storage,
    from_masters,
    from_packed,
    from_values,
    group_of_values,
)
from bitnet_host.model.sources.tensors import StoredTensor, TensorFolder

__all__ = ["NORMS", "PROJECTIONS", "open_checkpoint"]

#: Where a layer's matrices and norms are; other norms are in Architecture.norms.
PROJECTIONS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}
_STORED = {Storage.MASTERS: "masters", Storage.VALUES: "values"}
NORMS = {"input_norm": "input_layernorm", "post_norm": "post_attention_layernorm"}


class _Layers(LazyLayers):
    def __init__(self, tensors: TensorFolder, config: ModelConfig, architecture: Architecture,
                 storage: Storage) -> None:
        super().__init__(config.layers)
        self._tensors, self._storage, self._group = tensors, storage, config.group
        self._shapes, self._norms = matrix_shapes(config), norm_sizes(config)
        self._norm_places = NORMS | architecture.norms
        for index in range(config.layers):  # missing or misshapen tensors show now
            list(self._stored(index))

    def _stored(self, index: int) -> Iterator[tuple[str, Any]]:
        prefix = f"model.layers.{index}."
        for name, place in PROJECTIONS.items():
            out, columns = self._shapes[name]
            if self._storage in (Storage.MASTERS, Storage.VALUES):
                yield name, (self._tensors.take(f"{prefix}{place}.weight", (out, columns)),)
                continue
            if out % 4:
                raise BadModel(f"{self._tensors.folder}: {place} has {out} rows, which four to a "
                               f"byte do not fit")
            yield name, (self._tensors.take(f"{prefix}{place}.weight", (out // 4, columns)),
                         self._tensors.take(f"{prefix}{place}.weight_scale", (1,)))
        for name, size in self._norms.items():
            place = self._norm_places[name]
            yield name, self._tensors.take(f"{prefix}{place}.weight", (size,))

    def read(self, index: int) -> Layer:
        return {name: self._linear(*value) if isinstance(value, tuple) else value.floats()
                for name, value in self._stored(index)}

    def masters(self, index: int) -> dict[str, F32] | None:
        if self._storage is not Storage.MASTERS:
            return None
        return {name: (value[0] if isinstance(value, tuple) else value).floats()
                for name, value in self._stored(index)}

    def _linear(self, stored: StoredTensor, *scale: StoredTensor) -> Linear:
        if scale:
            return from_packed(stored, scale[0], self._storage)
        if self._storage is Storage.VALUES:
            return from_values(stored, self._group)
        return from_masters(stored)


def _storage(stated: Storage | None, tensors: TensorFolder, config: ModelConfig,
             folder: Path) -> tuple[Storage, int]:
    """How the matrices are stored, by config.json and by what the first of them is, and how many
    weights share a scale. Raises BadModel."""
    name = f"model.layers.0.{PROJECTIONS['q']}.weight"
    if stated is Storage.MASTERS or stated is Storage.MULTIPLIES or not tensors.has(name):
        return stated or Storage.VALUES, 0
    first = tensors.find(name)
    if stated is Storage.DIVIDES and first.kind == "U8":
        return stated, 0
    if first.kind == "U8":
        raise BadModel(f"{folder / 'config.json'} has no quantization_config, though {name} is "
                       f"packed, and does not say how: get the whole checkpoint again")
    if first.shape != matrix_shapes(config)["q"]:
        return stated or Storage.VALUES, 0  # who takes it says so
    group = group_of_values(first)
    if group is not None:
        return Storage.VALUES, group
    if stated is None:
        raise BadModel(f"{folder / 'config.json'} has no quantization_config, and weights of "
                       f"{name} have more than three values: this is no ternary model, or the "
                       f"masters of one whose config.json does not say so")
    return Storage.MASTERS, 0


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens a checkpoint folder; layers are read when they are asked for. Raises BadModel for
    anything that is no ternary checkpoint or that this machine would compute otherwise
    than transformers does, but for activations, which it always rounds."""
    raw = read_json(folder / "config.json")
    config = model_config(raw, folder / "config.json")
    architecture = architecture_of(raw, folder / "config.json")
    stated = stated_storage(raw, folder / "config.json")
    tensors = TensorFolder(folder)
    storage, group = _storage(stated, tensors, config, folder)
    config = replace(config, group=group)
    embedding = tensors.take("model.embed_tokens.weight", (config.vocab, config.hidden))
    head = _head(raw, tensors, embedding, config, folder)
    config = replace(config, tied=head is None)
    final_norm = tensors.take("model.norm.weight", (config.hidden,)).floats()
    layers = _Layers(tensors, config, architecture, storage)
    for layer in range(config.layers):
        tensors.pass_over(f"model.layers.{layer}.self_attn.rotary_emb.inv_freq")
    tensors.refuse_others()

    def optional(name: str) -> dict[str, Any] | None:
        return read_json(folder / name) if (folder / name).exists() else None

    settings = optional("tokenizer_config.json") or {}
    tokenizer = optional("tokenizer.json") or tokenizer_of_folder(folder, settings, config.vocab)
    generation = optional("generation_config.json") or {}
    special = {"bos_token": content(settings.get("bos_token")),
               "eos_token": content(settings.get("eos_token")),
               "bos_token_id": next(iter(token_ids(raw.get("bos_token_id"),
                                                   folder / "config.json", config.vocab)), None)}
    stops = stop_tokens(folder, raw, generation, settings, tokenizer, config.vocab)
    files = tuple(path for path in sorted(folder.iterdir()) if path.is_file())
    return Checkpoint(replace(config, stop_tokens=stops), embedding, final_norm, layers, tokenizer,
                      chat_template(folder, settings), special, generation, files, head,
                      _STORED.get(storage, "packed"))


def _head(raw: dict[str, Any], tensors: TensorFolder, embedding: Any, config: ModelConfig,
          folder: Path) -> StoredTensor | None:
    """The output head, or nothing if it is the embedding. One that the file has counts, whatever
    tie_word_embeddings says, as for transformers. Raises BadModel if there should be one."""
    if not tensors.has("lm_head.weight"):
        if raw.get("tie_word_embeddings", False):
            return None
        raise BadModel(f"{folder}: tie_word_embeddings is "
                       f"{raw.get('tie_word_embeddings', 'absent, which means false')} but "
                       f"there is "
                       "no lm_head.weight: the checkpoint is incomplete")
    head = tensors.take("lm_head.weight", (config.vocab, config.hidden))
    same = all(np.array_equal(head[start:start + 4096], embedding[start:start + 4096])
               for start in range(0, config.vocab, 4096))
    return None if same else head
