"""Small random checkpoints of every family as the families' own folders are: names of tensors, keys
of config.json, forms of storage. For tests, and for people who add a family.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from bitnet_host.files import replacing
from bitnet_host.model.checkpoint import F32, Checkpoint, Linear
from bitnet_host.model.families import FAMILIES
from bitnet_host.model.sources.synthetic import synthetic_checkpoint

__all__ = ["FORMS", "small_checkpoint", "write_folder"]

#: How each family's safetensors are stored: packed weights, masters (F32, BF16), or floats of three
#: values.
FORMS: dict[str, tuple[str, ...]] = {
    "2b4t": ("packed", "BF16"),
    "1bitllm-large": ("F32",), "1bitllm-xl": ("F32",), "1bitllm-3b": ("F32",),
    "llama3-8b": ("packed",), "falcon3-1b": ("packed",),
    "falcon-e-1b": ("packed", "BF16", "values BF16"),
    "bonsai-1.7b": ("values F16",), "bitcpm-1b": ("values BF16",),
}
_SIZES = {"hidden": 256, "intermediate": 384, "layers": 2, "vocab": 96, "context": 64}
#: Heads, KV heads and head_dim: what sets a family apart is kept.
_HEADS = {"2b4t": (4, 1, 64), "1bitllm-large": (4, 4, 48), "1bitllm-xl": (8, 8, 32),
          "1bitllm-3b": (4, 4, 36), "llama3-8b": (8, 2, 32), "falcon3-1b": (2, 1, 256),
          "falcon-e-1b": (16, 2, 32), "bonsai-1.7b": (8, 4, 64), "bitcpm-1b": (16, 2, 32)}
_PROJECTIONS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
                "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
                "down": "mlp.down_proj"}
_NORMS = {"input_norm": "input_layernorm", "post_norm": "post_attention_layernorm",
          "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
          "attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm"}
_OLD_NORMS = {"attn_sub_norm": "self_attn.inner_attn_ln", "ffn_sub_norm": "mlp.ffn_layernorm"}


def small_checkpoint(family: str, form: str, seed: int = 1) -> Checkpoint:
    """A random checkpoint of one of FORMS, with numbers that the form can hold."""
    heads, kv_heads, head_dim = _HEADS[family]
    sizes: dict[str, Any] = dict(_SIZES)
    if family.startswith("1bitllm"):
        sizes |= {"hidden": heads * head_dim // 32 * 32, "intermediate": 340}
    if family == "1bitllm-3b":
        sizes |= {"hidden": 144 // 32 * 32 + 32, "intermediate": 340}
    config = replace(FAMILIES[family].config, **sizes, heads=heads, kv_heads=kv_heads,
                     head_dim=head_dim, trained_context=64, stop_tokens=(1,))
    if config.rope_scaling:
        config = replace(config, rope_scaling=config.rope_scaling
                         | {"original_max_position_embeddings": 16})
    if family.startswith("bitcpm"):
        factors = np.linspace(1, 3, head_dim // 2).tolist()
        config = replace(config, rope_scaling={
            "rope_type": "longrope", "short_factor": factors, "long_factor": factors,
            "original_max_position_embeddings": 64})
    made = synthetic_checkpoint(config, 0.6, seed)
    layers = [{key: value if key.endswith("norm") else _storable(value, form)
               for key, value in layer.items()} for layer in made.layers]
    return replace(made, layers=layers)


def _bf16(values: F32) -> F32:
    """Cut to what bfloat16 can hold."""
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def _storable(linear: Linear, form: str) -> Linear:
    """With a scale that the form gives back: for masters, weights whose mean is that scale."""
    if form in ("F32", "BF16"):
        mean = np.float32(np.abs(_values(linear, form)).mean(dtype=np.float64))
        return replace(linear, scale=float(mean))
    return linear


def _values(linear: Linear, form: str) -> F32:
    if form in ("F32", "BF16"):  # masters
        rng = np.random.default_rng(linear.weights.size)
        noise = rng.uniform(-0.05, 0.05, linear.weights.shape)
        masters = (linear.weights * 0.25 + noise).astype(np.float32)
        return _bf16(masters) if form == "BF16" else masters
    values = linear.weights.astype(np.float32)
    if linear.scales is None:
        return values * np.float32(linear.scale)
    return values * np.repeat(linear.scales, 128, axis=1)[:, :values.shape[1]]


def write_folder(folder: Path, checkpoint: Checkpoint, family: str, form: str) -> None:
    """Writes the checkpoint as the family's own are, in one of its FORMS, into a folder that is
    there."""
    tensors: dict[str, NDArray[Any]] = {"model.embed_tokens.weight": checkpoint.embedding[:],
                                      "model.norm.weight": checkpoint.final_norm}
    if checkpoint.head is not None:
        tensors["lm_head.weight"] = checkpoint.head[:]
    names = _NORMS | (_OLD_NORMS if family.startswith("1bitllm") else {})
    for index, layer in enumerate(checkpoint.layers):
        prefix = f"model.layers.{index}."
        for key, value in layer.items():
            if key.endswith("norm"):
                tensors[f"{prefix}{names[key]}.weight"] = value
            elif form == "packed":
                tensors |= _packed(f"{prefix}{_PROJECTIONS[key]}", value, family == "2b4t")
            else:
                tensors[f"{prefix}{_PROJECTIONS[key]}.weight"] = _values(value, form)
        if family.startswith("1bitllm"):
            tensors[f"{prefix}self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    short = form.split()[-1]
    stored = {name: _stored(values, short if "proj" in name else "F32")
              for name, values in tensors.items()}
    specs = {name: safetensors.TensorSpec(dtype=kind, shape=raw.shape, data_ptr=raw.ctypes.data,
                                          data_len=raw.nbytes)
             for name, (kind, raw) in stored.items()}
    with replacing(folder / "model.safetensors") as file:
        file.write(safetensors.serialize(specs, {"format": "pt"}))
    with replacing(folder / "config.json") as file:
        file.write(json.dumps(_config(checkpoint, family, form), indent=1).encode())


def _stored(values: NDArray[Any], kind: str) -> tuple[str, NDArray[Any]]:
    """The library's name of a type, and what is written."""
    raw = np.ascontiguousarray(values)
    if raw.dtype == np.uint8:
        return "uint8", raw
    if kind == "BF16":
        return "bfloat16", (raw.view(np.uint32) >> 16).astype("<u2")
    dtype = "float16" if kind == "F16" else "float32"
    return dtype, raw.astype(dtype)


def _packed(name: str, linear: Linear, multiplies: bool) -> dict[str, NDArray[Any]]:
    quarters = (linear.weights + 1).astype(np.uint8).reshape(4, -1, linear.weights.shape[1])
    packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
    scale = np.float32(linear.scale) if multiplies else np.float32(1) / np.float32(linear.scale)
    return {f"{name}.weight": packed, f"{name}.weight_scale": np.array([scale], np.float32)}


def _config(checkpoint: Checkpoint, family: str, form: str) -> dict[str, Any]:
    c = checkpoint.config
    config: dict[str, Any] = {
        "hidden_size": c.hidden, "intermediate_size": c.intermediate,
        "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "vocab_size": c.vocab,
        "max_position_embeddings": c.context, "rms_norm_eps": c.eps, "rope_theta": c.rope_theta,
        "tie_word_embeddings": c.tied, "eos_token_id": 1, "bos_token_id": 0,
        "rope_scaling": c.rope_scaling, "hidden_act": c.activation, "torch_dtype": "bfloat16",
        "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "use_cache": True}
    if c.head_dim * c.heads != c.hidden or family.startswith("bonsai"):
        config["head_dim"] = c.head_dim
    if family == "2b4t":
        return config | {
            "architectures": ["BitNetForCausalLM"], "model_type": "bitnet",
            "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear",
                                    "quantization_mode": "offline" if form == "packed"
                                    else "online"}}
    if family.startswith("1bitllm"):
        return config | {"architectures": ["BitnetForCausalLM"], "model_type": "llama",
                         "weight_bits": 1, "input_bits": 8, "pad_token_id": 2}
    if family.startswith("bonsai"):
        return config | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
                         "use_sliding_window": False, "max_window_layers": 28,
                         "sliding_window": None}
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    if not form.startswith("values"):
        config |= {"is_bitnet_config": True, "quantization_config": {
            "modules_to_not_convert": ["lm_head"] if family.startswith("falcon") else None,
            "quant_method": "bitnet"}}
    return config
