"""What a GGUF file's fields say of its model.

Names and keys are those of microsoft/BitNet (utils/convert-hf-to-gguf-bitnet.py) and llama.cpp
(gguf-py, constants.py). None of them says what the activation is: it follows from the architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitnet_host.errors import BadModel
from bitnet_host.model.checkpoint import ModelConfig
from bitnet_host.model.rope import check_scaling
from bitnet_host.model.sources.gguf import GgufFile

__all__ = ["Architecture", "architecture_of", "model_config"]


@dataclass(frozen=True)
class Architecture:
    """``norms``: tensors that not every model has, by their names in a Layer; ``permuted``: the
    halves of each head of q and k are interleaved."""

    activation: str
    norms: dict[str, str] = field(default_factory=dict)
    permuted: bool = False


_SUB_NORMS = {"attn_sub_norm": "attn_sub_norm", "ffn_sub_norm": "ffn_sub_norm"}
_ARCHITECTURES = {
    "bitnet-b1.58": Architecture("relu2", _SUB_NORMS),
    "bitnet-25": Architecture("relu2", _SUB_NORMS),
    "llama": Architecture("silu", permuted=True),
    "qwen3": Architecture("silu", {"q_norm": "attn_q_norm", "k_norm": "attn_k_norm"}),
}
#: Keys of an architecture that are read below, or change nothing.
_READ = {"vocab_size", "context_length", "embedding_length", "block_count", "feed_forward_length",
         "rope.dimension_count", "attention.head_count", "attention.head_count_kv",
         "attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length",
         "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "hidden_activation",
         "rope.scaling.original_context_length", "rope.scaling.attn_factor",
         "rope.scaling.finetuned"}
_MOST = 2**24


def architecture_of(file: GgufFile) -> Architecture:
    """Raises BadModel for one that this tool does not know."""
    name = file.get("general.architecture", str)
    if name not in _ARCHITECTURES:
        raise BadModel(f"{file.path} describes a model of the architecture {name!r}: this tool "
                       f"knows {', '.join(_ARCHITECTURES)}")
    return _ARCHITECTURES[name]


class _Fields:
    """What a file says of its architecture."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self.name = file.get("general.architecture", str)
        prefix = f"{self.name}."
        for key in file.fields:
            if key.startswith(prefix) and key.removeprefix(prefix) not in _READ:
                raise BadModel(f"{file.path}: {key} is {str(file.fields[key])[:60]!r}, which this "
                               f"tool does not know and cannot compute with: it would give other "
                               f"words than the model's")

    def get(self, name: str, *kinds: type) -> Any:
        return self._file.get(f"{self.name}.{name}", *kinds)

    def number(self, name: str, default: int | None = None) -> int:
        value = self.get(name, int)
        value = default if value is None else value
        if value is None or not 0 < value < _MOST:
            raise BadModel(f"{self._file.path}: {self.name}.{name} is {value!r}; it must be a "
                           f"positive whole number")
        return int(value)

    def real(self, name: str, default: float, least: float, most: float) -> float:
        value = self.get(name, float, int)
        value = default if value is None else value
        if not least < value < most:
            raise BadModel(f"{self._file.path}: {self.name}.{name} is {value!r}; it must be "
                           f"between {least:g} and {most:g}")
        return float(np.float32(value))


def _scaling(file: GgufFile, fields: _Fields, head_dim: int) -> dict[str, Any] | None:
    """The scaling of RoPE, by the names of transformers. A tensor of divisors is read elsewhere."""
    kind, factor = fields.get("rope.scaling.type", str), fields.real("rope.scaling.factor", 1, 0,
                                                                      1e9)
    multiplier = fields.real("rope.scaling.attn_factor", 1, 0, 1e9)
    if kind in (None, "none", "linear") and factor == 1:
        if multiplier != 1:
            raise BadModel(f"{file.path}: {fields.name}.rope.scaling.attn_factor is {multiplier:g} "
                           f"where RoPE is not scaled, which this tool cannot compute with")
        return None
    scaling: dict[str, Any] = {"rope_type": kind or "linear", "factor": factor}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = fields.number(
            "rope.scaling.original_context_length")
    elif kind not in (None, "linear") or multiplier != 1:
        raise BadModel(f"{file.path}: RoPE of type {kind!r} is not supported, only the default "
                       f"one, linear and yarn")
    if kind == "yarn" and multiplier != 1:
        raise BadModel(f"{file.path}: {fields.name}.rope.scaling.attn_factor is {multiplier:g}, "
                       f"which this tool cannot compute with")
    problem = check_scaling(scaling, head_dim)
    if problem:
        raise BadModel(f"{file.path}: RoPE cannot be computed: {problem}")
    return scaling


def model_config(file: GgufFile) -> ModelConfig:
    """The hyper-parameters, of a head that is taken for tied and of matrices with one scale. Raises
    BadModel."""
    architecture, fields = architecture_of(file), _Fields(file)
    if fields.get("hidden_activation", str) not in (None, architecture.activation):
        raise BadModel(f"{file.path}: activation {fields.get('hidden_activation', str)!r} is not "
                       f"supported in a model of this kind, only {architecture.activation}")
    heads, hidden = fields.number("attention.head_count"), fields.number("embedding_length")
    head_dim = fields.number("attention.key_length",
                             fields.number("rope.dimension_count", max(1, hidden // heads)))
    for name in ("attention.value_length", "rope.dimension_count"):
        if fields.number(name, head_dim) != head_dim:
            raise BadModel(f"{file.path}: {fields.name}.{name} is {fields.number(name)}, not the "
                           f"{head_dim} of a head: this machine has one size for both")
    if head_dim % 2:
        raise BadModel(f"{file.path}: heads have {head_dim} elements, which RoPE cannot turn in "
                       f"pairs")
    tokens = file.get("tokenizer.ggml.tokens", list)
    vocab = fields.number("vocab_size", len(tokens) if tokens else None)
    context = fields.number("context_length")
    return ModelConfig(
        hidden, fields.number("feed_forward_length"), fields.number("block_count"), heads,
        fields.number("attention.head_count_kv", heads), head_dim, vocab, context,
        fields.real("rope.freq_base", 10000, 1, 1e12),
        fields.real("attention.layer_norm_rms_epsilon", 1e-5, 1e-30, 0.1),
        activation=architecture.activation, sub_norms="attn_sub_norm" in architecture.norms,
        qk_norms="q_norm" in architecture.norms,
        rope_scaling=_scaling(file, fields, head_dim), trained_context=context)
