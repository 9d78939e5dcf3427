"""Small random checkpoints of every family as the families' own files are: names of tensors, keys
of config.json, forms of storage. Written without the readers' code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bitnet_host.model.checkpoint import Checkpoint
from bitnet_host.model.families import FAMILIES
from bitnet_host.model.sources.synthetic import synthetic_checkpoint
from gguf_files import write_gguf
from models import bf16, save

__all__ = ["FORMS", "small", "write_family"]

#: How each family is stored: packed weights, masters (F32, BF16), floats of three values, GGUF.
FORMS: dict[str, tuple[str, ...]] = {
    "2b4t": ("packed", "BF16", "I2_S"),
    "1bitllm-large": ("F32",), "1bitllm-xl": ("F32",), "1bitllm-3b": ("F32",),
    "llama3-8b": ("packed",),
    "falcon3-1b": ("packed", "I2_S"),
    "falcon-e-1b": ("packed", "BF16", "values BF16", "I2_S"),
    "bonsai-1.7b": ("Q2_0/64", "Q2_0/128", "values F16"),
    "bitcpm-1b": ("values BF16",),
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


def small(family: str, form: str) -> Checkpoint:
    """A random checkpoint of the family, with numbers that the form can hold."""
    heads, kv_heads, head_dim = _HEADS[family]
    sizes = dict(_SIZES)
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
    if "I2_S" in form or "Q2_0" in form:
        config = replace(config, rope_theta=float(np.float32(config.rope_theta)),
                         eps=float(np.float32(config.eps)))
    made = synthetic_checkpoint(config, 0.6, len(family))
    layers = [{key: value if key.endswith("norm") else _storable(value, form)
               for key, value in layer.items()} for layer in made.layers]
    return replace(made, layers=layers)


def _storable(linear: Any, form: str) -> Any:
    """With a scale that the form gives back: for masters, weights whose mean is that scale."""
    if form in ("F32", "BF16"):
        mean = np.float32(np.abs(_values(linear, form)).mean(dtype=np.float64))
        return replace(linear, scale=float(mean))
    return linear


def _values(linear: Any, form: str) -> np.ndarray:
    if form in ("F32", "BF16"):  # masters
        rng = np.random.default_rng(linear.weights.size)
        noise = rng.uniform(-0.05, 0.05, linear.weights.shape)
        masters = (linear.weights * 0.25 + noise).astype(np.float32)
        return bf16(masters) if form == "BF16" else masters
    values = linear.weights.astype(np.float32)
    if linear.scales is None:
        return values * np.float32(linear.scale)
    return values * np.repeat(linear.scales, 128, axis=1)[:, :values.shape[1]]


def write_family(folder: Path, checkpoint: Checkpoint, family: str, form: str, *,
                 outlier: tuple[str, int, int] | None = None) -> Path:
    """Writes the checkpoint as the family's own are, in one of its FORMS; returns the folder or
    file. ``outlier``: a weight, by name, row and column, that is made another value."""
    if form == "I2_S" or form.startswith("Q2_0"):
        return _write_gguf(folder, checkpoint, family, form)
    tensors: dict[str, np.ndarray] = {"model.embed_tokens.weight": checkpoint.embedding,
                                      "model.norm.weight": checkpoint.final_norm}
    if checkpoint.head is not None:
        tensors["lm_head.weight"] = checkpoint.head
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
    if outlier:
        name, row, column = outlier
        tensors[f"model.{name}.weight"][row, column] = 0.75
    folder.mkdir(parents=True, exist_ok=True)
    short = form.split()[-1]
    stored = {name: values.astype(np.float16) if short == "F16" and "proj" in name else values
              for name, values in tensors.items()}
    save(stored, folder / "model.safetensors",
         frozenset(name for name in tensors if short == "BF16" and "proj" in name))
    (folder / "config.json").write_text(json.dumps(_config(checkpoint, family, form)))
    return folder


def _packed(name: str, linear: Any, multiplies: bool) -> dict[str, np.ndarray]:
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


def _write_gguf(folder: Path, checkpoint: Checkpoint, family: str, form: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
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


