"""RoPE: the table of cosines and sines, with the scalings of the published families.

Formulas as transformers 5.23 has them (modeling_rope_utils.py), in float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitnet_host.errors import BadModel, shown
from bitnet_host.model.checkpoint import ModelConfig
from bitnet_host.model.padding import fill_up_heads

__all__ = ["SCALINGS", "check_scaling", "inverse_frequencies", "one_kind_of_rope", "rope_table"]

F32 = NDArray[np.float32]

#: Kinds of scaling, and what each needs to be told; what is in brackets has a default.
SCALINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "[original_max_position_embeddings]", "[attention_factor]", "[beta_fast]",
             "[beta_slow]", "[mscale]", "[mscale_all_dim]", "[truncate]"),
    "longrope": ("short_factor", "long_factor", "[factor]", "[attention_factor]",
                 "[original_max_position_embeddings]"),
}


def check_scaling(scaling: dict[str, Any], head_dim: int) -> str:
    """What is wrong with the parameters of a scaling, or nothing."""
    kind = scaling.get("rope_type")
    if not isinstance(kind, str) or kind not in SCALINGS:
        return f"its rope_type is {shown(kind)}; this tool knows {', '.join(SCALINGS)}"
    names = {name.strip("[]") for name in SCALINGS[kind]} | {"rope_type"}
    unknown = sorted(set(scaling) - names)
    if unknown:
        return f"{unknown[0]} is no parameter of the scaling {kind}"
    for name in SCALINGS[kind]:
        plain = name.strip("[]")
        value = scaling.get(plain)
        if value is None:
            if plain == name:
                return f"the scaling {kind} lacks {plain}"
        elif plain in ("short_factor", "long_factor"):
            if (not isinstance(value, list) or len(value) != head_dim // 2
                    or not all(_positive(item) for item in value)):
                return f"{plain} must be a list of {head_dim // 2} positive numbers"
        elif plain == "truncate":
            if not isinstance(value, bool):
                return f"truncate must be true or false, not {shown(value)}"
        elif not _positive(value):
            return f"{plain} is {shown(value)}; it must be a positive number"
        elif plain == "original_max_position_embeddings" and value < 2:
            return f"{plain} is {shown(value)}; it must be at least 2"
    if kind == "llama3" and scaling["high_freq_factor"] <= scaling["low_freq_factor"]:
        return "high_freq_factor must be larger than low_freq_factor"
    return ""


def _positive(value: Any) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and 1e-9 < value < 1e12)


def inverse_frequencies(config: ModelConfig) -> tuple[F32, float]:
    """float32 [head_dim / 2], and what cosines and sines are multiplied with. Raises BadModel for
    parameters that ``check_scaling`` objects to."""
    scaling = config.rope_scaling or {"rope_type": "default"}
    problem = check_scaling(scaling, config.head_dim)
    if problem:
        raise BadModel(f"RoPE cannot be computed: {problem}")
    kind, dim, base = scaling["rope_type"], config.head_dim, np.float32(config.rope_theta)
    powers = np.power(base, np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    plain = (np.float32(1) / powers).astype(np.float32)
    if kind == "linear":
        return (plain / np.float32(scaling["factor"])).astype(np.float32), 1.0
    if kind == "llama3":
        return _llama3(plain, scaling), 1.0
    if kind == "yarn":
        return _yarn(plain, config, scaling)
    if kind == "longrope":
        return _longrope(powers, config, scaling)
    return plain, 1.0


def _llama3(plain: F32, scaling: dict[str, Any]) -> F32:
    """Long waves are stretched, short ones kept, those between mixed."""
    factor, low, high, original = (float(scaling[name]) for name in SCALINGS["llama3"])
    wavelength = 2 * math.pi / plain.astype(np.float32)
    smooth = ((np.float32(original) / wavelength - np.float32(low)) / np.float32(high - low))
    scaled = plain / np.float32(factor)
    mixed = (1 - smooth) * scaled + smooth * plain
    out = np.where(wavelength > original / low, scaled,
                   np.where(wavelength < original / high, plain, mixed))
    return out.astype(np.float32)


def _yarn(plain: F32, config: ModelConfig, scaling: dict[str, Any]) -> tuple[F32, float]:
    """Peng et al., arXiv 2309.00071."""
    factor, dim = float(scaling["factor"]), config.head_dim
    original = float(scaling.get("original_max_position_embeddings")
                     or max(2, config.trained_context))

    def attention(scale: float, mscale: float = 1) -> float:
        return 1.0 if scale <= 1 else 0.1 * mscale * math.log(scale) + 1.0

    multiplier = scaling.get("attention_factor")
    if multiplier is None:
        both = scaling.get("mscale"), scaling.get("mscale_all_dim")
        multiplier = (attention(factor, both[0]) / attention(factor, both[1])
                      if both[0] and both[1] else attention(factor))

    def dimension(rotations: float) -> float:
        return (dim * math.log(original / (rotations * 2 * math.pi))
                / (2 * math.log(config.rope_theta)))

    low, high = (dimension(float(scaling.get("beta_fast") or 32)),
                 dimension(float(scaling.get("beta_slow") or 1)))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high += 0.001 if low == high else 0
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low))
                   / np.float32(high - low), 0, 1).astype(np.float32)
    kept = 1 - ramp
    return ((plain / np.float32(factor)) * (1 - kept) + plain * kept).astype(np.float32), multiplier


def _longrope(powers: F32, config: ModelConfig, scaling: dict[str, Any]) -> tuple[F32, float]:
    """Ding et al., arXiv 2402.13753. The factors are those of a conversation within what the model
    was trained for first, unless the context is longer."""
    original = float(scaling.get("original_max_position_embeddings")
                     or max(2, config.trained_context))
    factor = float(scaling.get("factor") or config.trained_context / original)
    multiplier = scaling.get("attention_factor")
    if multiplier is None:
        multiplier = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    chosen = scaling["long_factor" if config.context > original else "short_factor"]
    return (1 / (np.asarray(chosen, np.float32) * powers)).astype(np.float32), multiplier


def one_kind_of_rope(config: ModelConfig) -> int:
    """Tokens up to which all positions have the same frequencies: the config's context, unless
    longrope has others beyond what the model was trained for first. A table has one kind, chosen by
    its context, where transformers goes over to the other factors during a conversation."""
    scaling = config.rope_scaling or {}
    if (scaling.get("rope_type") != "longrope"
            or scaling["short_factor"] == scaling["long_factor"]):
        return config.context
    original = scaling.get("original_max_position_embeddings") or config.trained_context
    return min(config.context, int(original) or config.context)


def rope_table(config: ModelConfig) -> F32:
    """float32 [context, 2 * padded head_dim]: the cosines for all dimensions, then the sines,
    negated for the first half; zeros where a head is padded.

    Angles as transformers computes them: float32 position times float32 inverse frequency.
    """
    inverse, multiplier = inverse_frequencies(config)
    angles = np.arange(config.context, dtype=np.float32)[:, None] * inverse[None, :]
    cos, sin = np.cos(angles.astype(np.float64)), np.sin(angles.astype(np.float64))
    rows = (np.concatenate([cos, cos, -sin, sin], axis=1) * multiplier).astype(np.float32)
    return fill_up_heads(rows, config.head_dim, 1)
