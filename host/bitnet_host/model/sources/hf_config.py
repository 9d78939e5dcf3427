"""What a Hugging Face config.json says of a model.

Nothing in it that changes arithmetic is passed over: what this tool does not know is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitnet_host.errors import BadModel, shown
from bitnet_host.model.checkpoint import ModelConfig
from bitnet_host.model.rope import check_scaling
from bitnet_host.model.sources.matrices import Storage

__all__ = ["Architecture", "architecture_of", "model_config", "stated_storage"]


@dataclass(frozen=True)
class Architecture:
    """``norms``: names of those that not every model has, by their names in a Layer; ``theta``,
    ``eps`` and ``context``: what transformers takes where config.json says nothing."""

    name: str
    activation: str
    theta: float
    eps: float
    context: int
    norms: dict[str, str] = field(default_factory=dict)


_BITNET = Architecture("bitnet", "relu2", 500000.0, 1e-5, 2048, {
    "attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm"})
#: The architecture of 1bitLLM says model_type llama; transformers would leave its norms out.
_OLD_BITNET = Architecture("BitnetForCausalLM", "silu", 10000.0, 1e-6, 2048, {
    "attn_sub_norm": "self_attn.inner_attn_ln", "ffn_sub_norm": "mlp.ffn_layernorm"})
_ARCHITECTURES = {
    "bitnet": _BITNET, "llama": Architecture("llama", "silu", 10000.0, 1e-6, 2048),
    "qwen3": Architecture("qwen3", "silu", 10000.0, 1e-6, 32768, {
        "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}),
}
#: Keys of config.json that are read below, and keys that change nothing in how an answer is
#: computed.
_READ = {
    "model_type", "hidden_act", "tie_word_embeddings", "num_attention_heads", "hidden_size",
    "intermediate_size", "num_hidden_layers",
    "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "rope_theta",
    "rope_parameters", "rope_scaling", "rms_norm_eps",
    "quantization_config", "eos_token_id", "bos_token_id",
}
_HARMLESS = {
    "architectures", "auto_map", "initializer_range", "torch_dtype", "dtype", "use_cache",
    "transformers_version", "pad_token_id",
    "_name_or_path", "attention_dropout", "pretraining_tp", "name_or_path", "unsloth_version",
    "id2label", "label2id", "return_dict",
    "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "is_encoder_decoder",
    "problem_type", "license",
    "is_bitnet_config", "pretraining_model_parallel", "dims_per_head", "layer_norm_eps",
    "max_window_layers",  # of a window that must be off
}
#: Keys that change arithmetic, with the values that leave it alone (beside null, false, zero and
#: empty ones).
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (1, 1.0), "rotary_pct": (1, 1.0), "mlp_bias": (), "attention_bias": (),
    "activation": ("swiglu",), "weight_bits": (1,), "input_bits": (8,),
}


def _refuse_unknown(raw: dict[str, Any], known: set[str], path: Path) -> None:
    for name, value in raw.items():
        neutral = (value is None or value is False or value in (0, "", [], {})
                   or value in _NEUTRAL.get(name, ()))
        if name not in known and not neutral:
            raise BadModel(f"{path}: {name} is {shown(value)}, which this tool does not know "
                           f"and cannot compute with: "
                           "it would give other words than the model's")


def architecture_of(raw: dict[str, Any], path: Path) -> Architecture:
    """Raises BadModel for one that this tool does not know."""
    kind, names = raw.get("model_type"), raw.get("architectures")
    if kind == "llama" and isinstance(names, list) and "BitnetForCausalLM" in names:
        return _OLD_BITNET
    if not isinstance(kind, str) or kind not in _ARCHITECTURES:
        name = (kind if isinstance(kind, str) and kind else shown(kind) if kind else "nameless")
        raise BadModel(f"{path} describes a {name[:60]} model: this tool knows ternary models of "
                       f"the kinds {', '.join(_ARCHITECTURES)}")
    return _ARCHITECTURES[kind]


def _rope(raw: dict[str, Any], architecture: Architecture, head_dim: int,
          path: Path) -> tuple[float, dict[str, Any] | None]:
    """Base and scaling of RoPE: all of rope_scaling or, without it, of rope_parameters, before a
    top-level rope_theta. A top-level original_max_position_embeddings comes before theirs. So has
    transformers 5.23 it (modeling_rope_utils.py, RotaryEmbeddingConfigMixin)."""
    for name in ("rope_scaling", "rope_parameters"):
        value = raw.get(name)
        if value is not None and not isinstance(value, dict):
            raise BadModel(f"{path}: {name} is {shown(value)}; it must be an object")
    stated = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    rope = {key: item for key, item in stated.items() if item is not None}
    theta = rope.pop("rope_theta", None)
    theta = next(v for v in (theta, raw.get("rope_theta"), architecture.theta) if v is not None)
    if isinstance(theta, bool) or not isinstance(theta, (int, float)) or not 1 < theta < 1e12:
        raise BadModel(f"{path}: rope_theta is {shown(theta)}; it must be a number above 1")
    kind = rope.pop("type", "default")
    rope.setdefault("rope_type", kind)
    if rope.get("partial_rotary_factor") in (1, 1.0):
        del rope["partial_rotary_factor"]
    original = raw.get("original_max_position_embeddings")
    if rope["rope_type"] in ("llama3", "yarn", "longrope") and original is not None:
        rope["original_max_position_embeddings"] = original
    problem = check_scaling(rope, head_dim)
    if problem:
        raise BadModel(f"{path}: RoPE cannot be computed: {problem}")
    return float(theta), None if rope == {"rope_type": "default"} else rope


def model_config(raw: dict[str, Any], path: Path) -> ModelConfig:
    """The hyper-parameters, of a head that is taken for tied and of matrices with one scale. Raises
    BadModel."""
    architecture = architecture_of(raw, path)
    if raw.get("hidden_act", architecture.activation) != architecture.activation:
        raise BadModel(f"{path}: activation {shown(raw['hidden_act'])} is not supported in a model "
                       f"of the kind {architecture.name}, only {architecture.activation}")
    known = _READ | _HARMLESS
    if architecture.name == "qwen3":
        known = known | {"sliding_window", "layer_types"}
        kinds = raw.get("layer_types")
        full = kinds is None or (isinstance(kinds, list)
                                 and all(kind == "full_attention" for kind in kinds))
        if raw.get("use_sliding_window") or not full:
            raise BadModel(f"{path}: attention within a sliding window is not supported")
    if raw.get("rope_scaling") or raw.get("rope_parameters"):
        known = known | {"original_max_position_embeddings"}
    _refuse_unknown(raw, known, path)

    def number(name: str, default: Any = None) -> int:
        value = raw.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**24:
            raise BadModel(f"{path}: {name} is {shown(value)}; it must be a positive whole number")
        return value

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    if hidden % heads and raw.get("head_dim") is None:
        raise BadModel(f"{path}: hidden_size {hidden} cannot be divided among {heads} heads")
    eps = raw.get("rms_norm_eps", architecture.eps)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 1e-30 < eps <= 0.1:
        raise BadModel(f"{path}: rms_norm_eps is {shown(eps)}; it must be a small positive number")
    # null means as many as heads
    keys = number("num_key_value_heads", heads if "num_key_value_heads" in raw else None)
    # transformers' own default for Qwen3 has nothing to do with the hidden size
    head_dim = number("head_dim", None if architecture.name == "qwen3" else hidden // heads)
    theta, scaling = _rope(raw, architecture, head_dim, path)
    context = number("max_position_embeddings", architecture.context)
    return ModelConfig(
        hidden, number("intermediate_size"), number("num_hidden_layers"), heads, keys, head_dim,
        number("vocab_size"), context, theta, float(eps), activation=architecture.activation,
        sub_norms="attn_sub_norm" in architecture.norms, qk_norms="q_norm" in architecture.norms,
        rope_scaling=scaling, trained_context=context)


def stated_storage(raw: dict[str, Any], path: Path) -> Storage | None:
    """How the matrices are stored, as far as config.json says it. Raises BadModel for a
    quantisation that this tool does not know."""
    architecture = architecture_of(raw, path)
    settings = raw.get("quantization_config")
    if settings is None and architecture is not _BITNET:
        return Storage.MASTERS if architecture is _OLD_BITNET else None
    if not isinstance(settings, dict):
        raise BadModel(f"{path}: quantization_config is {shown(settings)}; a BitNet checkpoint has "
                       f"an object there, without which transformers computes with unrounded "
                       f"weights")
    for name, values in (("quant_method", ("bitnet",)),
                         ("quantization_mode", ("offline", "online", None)),
                         ("linear_class", ("bitlinear", "autobitlinear", None))):
        value = settings.get(name)
        if value not in values:
            raise BadModel(f"{path}: {name} of quantization_config is {shown(value)}; this tool "
                           f"knows {' and '.join(filter(None, values))}")
    if settings.get("modules_to_not_convert") not in (None, [], ["lm_head"]):  # the head never is
        raise BadModel(f"{path}: modules_to_not_convert is "
                       f"{shown(settings['modules_to_not_convert'])}: this machine needs every "
                       f"matrix ternary")
    _refuse_unknown(settings, {"quant_method", "quantization_mode", "linear_class", "rms_norm_eps",
                               "modules_to_not_convert"}, path)
    multiplies = settings.get("linear_class") == "autobitlinear"
    if settings.get("quantization_mode") == "online":
        if not multiplies:
            raise BadModel(f"{path}: quantization_mode is online, which only the linear_class "
                           f"autobitlinear has: transformers would take the weights for packed")
        return Storage.MASTERS
    return Storage.MULTIPLIES if multiplies else Storage.DIVIDES
