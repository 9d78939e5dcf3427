"""Configurations of RoPE that published models and transformers know, for comparisons."""

from __future__ import annotations

from typing import Any

__all__ = ["ROPES", "ROPE_BASE"]

ROPE_BASE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-5}
_YARN = {"rope_type": "yarn", "factor": 4.0}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_SHORT, _LONG = [1.0 + 0.1 * i for i in range(16)], [2.0 + 0.2 * i for i in range(16)]
_LONGROPE = {"rope_type": "longrope", "short_factor": _SHORT, "long_factor": _LONG}
_ORIGINAL = "original_max_position_embeddings"
#: What each changes in ROPE_BASE.
ROPES: dict[str, dict[str, Any]] = {
    "none": {}, "a base": {"rope_theta": 5e5},
    "linear, by its old name": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3": {"rope_theta": 5e5, "rope_scaling": _LLAMA3 | {_ORIGINAL: 8192}},
    "llama3, the original twice": {"rope_theta": 5e5, _ORIGINAL: 2048,
                                   "rope_scaling": _LLAMA3 | {_ORIGINAL: 8192}},
    "yarn": {"rope_theta": 1e6, "rope_scaling": _YARN | {_ORIGINAL: 8192}},
    "yarn without an original": {"rope_theta": 1e6, "rope_scaling": _YARN},
    "yarn, the original outside": {"rope_scaling": _YARN, _ORIGINAL: 8192},
    "yarn with all it has": {"rope_scaling": _YARN | {
        _ORIGINAL: 8192, "mscale": 0.7, "mscale_all_dim": 1.0, "truncate": False,
        "beta_fast": 16}},
    "yarn with a factor of its own": {"rope_scaling": _YARN | {
        _ORIGINAL: 8192, "attention_factor": 1.25}},
    "longrope within its original": {"rope_scaling": _LONGROPE},
    "longrope, one kind of factors": {"rope_scaling": _LONGROPE | {
        "long_factor": _SHORT, _ORIGINAL: 4096}},
    "two objects": {"rope_scaling": {"rope_type": "linear", "factor": 2.0},
                    "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}},
    "the new object": {"rope_parameters": _YARN | {_ORIGINAL: 8192, "rope_theta": 2e5}},
}
