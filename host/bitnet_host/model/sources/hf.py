"""Reads a Hugging Face BitNet checkpoint folder (safetensors, packed or masters).

Nothing in config.json that changes arithmetic is passed over: what this tool does not know is
refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_host.errors import BadModel
from bitnet_host.files import read_json, read_text
from bitnet_host.model.checkpoint import (
    Checkpoint,
    Layer,
    LazyLayers,
    Linear,
    ModelConfig,
    matrix_shapes,
    norm_sizes,
)
from bitnet_host.model.header import MAX_STOPS
from bitnet_host.model.sources.matrices import Storage, from_masters, from_packed
from bitnet_host.model.sources.tensors import StoredTensor, TensorFolder

__all__ = ["open_checkpoint"]

_PROJECTIONS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}
_NORMS = {
    "input_norm": "input_layernorm", "attn_sub_norm": "self_attn.attn_sub_norm",
    "post_norm": "post_attention_layernorm", "ffn_sub_norm": "mlp.ffn_sub_norm",
}
#: Keys of config.json that are read below, and keys that change nothing in how an answer is
#: computed.
_READ = {
    "model_type", "hidden_act", "tie_word_embeddings", "num_attention_heads", "hidden_size",
    "intermediate_size", "num_hidden_layers",
    "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "rope_theta",
    "rope_parameters", "rms_norm_eps",
    "quantization_config", "eos_token_id", "bos_token_id",
}
_HARMLESS = {
    "architectures", "auto_map", "initializer_range", "torch_dtype", "dtype", "use_cache",
    "transformers_version", "pad_token_id",
    "_name_or_path", "attention_dropout", "pretraining_tp", "name_or_path", "unsloth_version",
    "id2label", "label2id", "return_dict",
    "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "is_encoder_decoder",
    "problem_type", "license",
}
#: Keys that change arithmetic, with the values that leave it alone (beside null, false, zero and
#: empty ones).
_NEUTRAL: dict[str, tuple[Any, ...]] = {"partial_rotary_factor": (1, 1.0),
                                        "rope_type": ("default",), "mlp_bias": (),
                                        "attention_bias": ()}


def _refuse_unknown(raw: dict[str, Any], known: set[str], path: Path) -> None:
    for name, value in raw.items():
        neutral = (value is None or value is False or value in (0, "", [], {})
                   or value in _NEUTRAL.get(name, ()))
        if name not in known and not neutral:
            raise BadModel(f"{path}: {name} is {str(value)[:60]!r}, which this tool does not know "
                           f"and cannot compute with: "
                           "it would give other words than the model's")


def _theta(raw: dict[str, Any], path: Path) -> float:
    """The base of RoPE: rope_parameters, as transformers has it, before a top-level rope_theta."""
    rope = raw.get("rope_parameters")
    rope = {} if rope is None else rope
    if not isinstance(rope, dict):
        raise BadModel(f"{path}: rope_parameters is {rope!r}; it must be an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise BadModel(f"{path}: RoPE of type {kind!r} is not supported, only the default one "
                       f"without scaling")
    _refuse_unknown(rope, {"rope_type", "type", "rope_theta"}, path)
    value = next(v
                 for v in (rope.get("rope_theta"), raw.get("rope_theta"), 500000.0)
                 if v is not None)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 < value < 1e12:
        raise BadModel(f"{path}: rope_theta is {value!r}; it must be a number above 1")
    return float(value)


def _config(raw: dict[str, Any], path: Path) -> ModelConfig:
    if raw.get("model_type") != "bitnet":
        raise BadModel(f"{path} describes a {raw.get('model_type', 'nameless')} model: only BitNet "
                       f"b1.58 checkpoints "
                       "(model_type bitnet) run on this machine")
    if raw.get("hidden_act", "relu2") != "relu2":
        raise BadModel(f"{path}: activation {raw['hidden_act']!r} is not supported, only relu2 "
                       f"(squared ReLU)")
    _refuse_unknown(raw, _READ | _HARMLESS, path)

    def number(name: str, default: Any = None) -> int:
        value = raw.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**24:
            raise BadModel(f"{path}: {name} is {value!r}; it must be a positive whole number")
        return value

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    if hidden % heads and raw.get("head_dim") is None:
        raise BadModel(f"{path}: hidden_size {hidden} cannot be divided among {heads} heads")
    eps = raw.get("rms_norm_eps", 1e-5)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 1e-30 < eps <= 0.1:
        raise BadModel(f"{path}: rms_norm_eps is {eps!r}; it must be a small positive number")
    # null means as many as heads
    keys = number("num_key_value_heads", heads if "num_key_value_heads" in raw else None)
    return ModelConfig(
        hidden, number("intermediate_size"), number("num_hidden_layers"), heads, keys,
        number("head_dim", hidden // heads), number("vocab_size"),
        number("max_position_embeddings", 2048), _theta(raw, path), float(eps))


def _storage(raw: dict[str, Any], path: Path) -> Storage:
    """How the matrices are stored. Raises BadModel for a quantisation that this tool does not
    know."""
    settings = raw.get("quantization_config")
    if not isinstance(settings, dict):
        raise BadModel(f"{path}: quantization_config is {settings!r}; a BitNet checkpoint has an "
                       f"object there, without which transformers computes with unrounded weights")
    for name, values in (("quant_method", ("bitnet",)),
                         ("quantization_mode", ("offline", "online", None)),
                         ("linear_class", ("bitlinear", "autobitlinear", None))):
        value = settings.get(name)
        if value not in values:
            raise BadModel(f"{path}: {name} of quantization_config is {value!r}; this tool knows "
                           f"{' and '.join(filter(None, values))}")
    if settings.get("modules_to_not_convert") not in (None, [], ["lm_head"]):  # the head never is
        raise BadModel(f"{path}: modules_to_not_convert is {settings['modules_to_not_convert']!r}: "
                       f"this machine needs every matrix ternary")
    _refuse_unknown(settings, {"quant_method", "quantization_mode", "linear_class", "rms_norm_eps",
                               "modules_to_not_convert"}, path)
    multiplies = settings.get("linear_class") == "autobitlinear"
    if settings.get("quantization_mode") == "online":
        if not multiplies:
            raise BadModel(f"{path}: quantization_mode is online, which only the linear_class "
                           f"autobitlinear has: transformers would take the weights for packed")
        return Storage.MASTERS
    return Storage.MULTIPLIES if multiplies else Storage.DIVIDES


def _token_ids(value: Any, place: Path, vocab: int) -> list[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if (not all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < vocab
                for token in ids)):
        raise BadModel(f"{place}: eos_token_id is {value!r}; it must be token ids below {vocab}")
    return ids


def _stop_tokens(folder: Path, raw: dict[str, Any], settings: dict[str, Any], text: dict[str, Any],
                 tokenizer: dict[str, Any] | None,
                 vocab: int) -> tuple[int, ...]:
    """End-of-text ids: those of generation_config.json, of config.json, and of the tokenizer."""
    stops = _token_ids(settings.get("eos_token_id"), folder / "generation_config.json", vocab)
    stops += _token_ids(raw.get("eos_token_id"), folder / "config.json", vocab)
    word = _content(text.get("eos_token"))
    listed = (tokenizer or {}).get("added_tokens")
    for added in listed if isinstance(listed, list) else []:
        if isinstance(added, dict) and word is not None and added.get("content") == word:
            stops += _token_ids(added.get("id"), folder / "tokenizer.json", vocab)
    different = tuple(dict.fromkeys(stops))
    if len(different) > MAX_STOPS:
        raise BadModel(f"{folder} names {len(different)} end-of-text tokens; this machine knows "
                       f"{MAX_STOPS}")
    return different


def _content(token: Any) -> str | None:
    """A token of tokenizer_config.json, which is text or an object."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, or text in tokenizer_config.json, or there a list of
    named ones."""
    if (folder / "chat_template.jinja").exists():
        return read_text(folder / "chat_template.jinja")
    value = settings.get("chat_template")
    if isinstance(value, list):
        named = {str(item.get("name")): item.get("template")
                 for item in value if isinstance(item, dict)}
        value = named.get("default",
                          next(iter(named.values()), 0) if len(named) == 1 else 0 if value
                          else None)
    if value is not None and not isinstance(value, str):
        raise BadModel(f"{folder / 'tokenizer_config.json'}: chat_template is neither text nor a "
                       f"list with one named default")
    return value


class _Layers(LazyLayers):
    def __init__(self, tensors: TensorFolder, config: ModelConfig, storage: Storage) -> None:
        super().__init__(config.layers)
        self._tensors, self._storage = tensors, storage
        self._shapes, self._norms = matrix_shapes(config), norm_sizes(config)
        for index in range(config.layers):  # missing or misshapen tensors show now
            list(self._stored(index))

    def _stored(self, index: int) -> Iterator[tuple[str, Any]]:
        prefix = f"model.layers.{index}."
        for name, place in _PROJECTIONS.items():
            out, columns = self._shapes[name]
            if self._storage is Storage.MASTERS:
                yield name, (self._tensors.take(f"{prefix}{place}.weight", (out, columns)),)
                continue
            if out % 4:
                raise BadModel(f"{self._tensors.folder}: {place} has {out} rows, which four to a "
                               f"byte do not fit")
            yield name, (self._tensors.take(f"{prefix}{place}.weight", (out // 4, columns)),
                         self._tensors.take(f"{prefix}{place}.weight_scale", (1,)))
        for name, place in _NORMS.items():
            yield name, self._tensors.take(f"{prefix}{place}.weight", (self._norms[name],))

    def read(self, index: int) -> Layer:
        return {name: self._linear(*value) if isinstance(value, tuple) else value.floats()
                for name, value in self._stored(index)}

    def _linear(self, stored: StoredTensor, *scale: StoredTensor) -> Linear:
        return from_packed(stored, scale[0], self._storage) if scale else from_masters(stored)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens a checkpoint folder; layers are read when they are asked for. Raises BadModel for
    anything that is no BitNet checkpoint or that this machine would compute otherwise
    than transformers does."""
    raw = read_json(folder / "config.json")
    config = _config(raw, folder / "config.json")
    storage = _storage(raw, folder / "config.json")
    tensors = TensorFolder(folder)
    embedding = tensors.take("model.embed_tokens.weight", (config.vocab, config.hidden))
    if tensors.has("lm_head.weight") or not raw.get("tie_word_embeddings", False):
        _tied(raw, tensors, embedding, config, folder)
    final_norm = tensors.take("model.norm.weight", (config.hidden,)).floats()
    layers = _Layers(tensors, config, storage)
    tensors.refuse_others()

    def optional(name: str) -> dict[str, Any] | None:
        return read_json(folder / name) if (folder / name).exists() else None

    tokenizer, settings = optional("tokenizer.json"), optional("tokenizer_config.json") or {}
    generation = optional("generation_config.json") or {}
    special = {"bos_token": _content(settings.get("bos_token")),
               "eos_token": _content(settings.get("eos_token")),
               "bos_token_id": next(iter(_token_ids(raw.get("bos_token_id"),
                                                    folder / "config.json", config.vocab)), None)}
    stops = _stop_tokens(folder, raw, generation, settings, tokenizer, config.vocab)
    files = tuple(path for path in sorted(folder.iterdir()) if path.is_file())
    return Checkpoint(replace(config, stop_tokens=stops), embedding, final_norm, layers, tokenizer,
                      _template(folder, settings),
                      special, generation, files)


def _tied(raw: dict[str, Any], tensors: TensorFolder, embedding: Any, config: ModelConfig,
          folder: Path) -> None:
    """Takes an lm_head.weight that is the embedding; raises BadModel for one that is not, or if
    there should be one."""
    if not tensors.has("lm_head.weight"):
        raise BadModel(f"{folder}: tie_word_embeddings is "
                       f"{raw.get('tie_word_embeddings', 'absent, which means false')} but "
                       f"there is "
                       "no lm_head.weight: the checkpoint is incomplete")
    head = tensors.take("lm_head.weight", (config.vocab, config.hidden))
    if raw.get("tie_word_embeddings", False):
        return  # transformers takes the embedding in its place
    for start in range(0, config.vocab, 4096):
        if not np.array_equal(head[start:start + 4096], embedding[start:start + 4096]):
            raise BadModel(f"{folder}: the output head is another matrix than the embedding "
                           f"(tie_word_embeddings is not true); this "
                           "machine has one for both")
