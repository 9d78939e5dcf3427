"""Reads a Hugging Face BitNet checkpoint (packed safetensors) into plain NumPy.

Packed byte [r, c] holds W[i * (out / 4) + r, c] + 1 in bits 2i and 2i + 1; the linear class ``autobitlinear`` multiplies
by weight_scale, ``bitlinear`` (the default) divides (transformers 5.23, integrations/bitnet.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from bitnet_host.errors import UserError
from bitnet_host.model.image import MAX_STOPS

__all__ = ["Checkpoint", "Linear", "ModelConfig", "open_checkpoint", "unpack_hf"]

F32 = NDArray[np.float32]
_PROJECTIONS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}
_NORMS = {
    "input_norm": "input_layernorm", "attn_sub_norm": "self_attn.attn_sub_norm",
    "post_norm": "post_attention_layernorm", "ffn_sub_norm": "mlp.ffn_sub_norm",
}


@dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters, as config.json names them."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope_theta: float
    eps: float
    stop_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Linear:
    """A ternary matrix, int8 [out, in], and the float32 factor of its products."""

    weights: NDArray[np.int8]
    scale: float


@dataclass
class Checkpoint:
    """A model in memory: ``layers`` maps the names of _PROJECTIONS and _NORMS to Linear and float32 vectors."""

    config: ModelConfig
    embedding: F32
    final_norm: F32
    layers: list[dict[str, Any]]
    tokenizer: dict[str, Any] | None = None
    chat_template: str | None = None
    special: dict[str, Any] | None = None


def unpack_hf(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """uint8 [out / 4, in] to int8 [out, in]."""
    return np.concatenate([(packed >> 2 * i & 3).astype(np.int8) - 1 for i in range(4)])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path} is not valid JSON: download the checkpoint again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object: download the checkpoint again")
    return value


def _load_tensors(folder: Path) -> dict[str, NDArray[Any]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no .safetensors file: give the folder of a Hugging Face checkpoint")
    tensors: dict[str, NDArray[Any]] = {}
    for file in files:
        try:
            items = safetensors.deserialize(file.read_bytes())
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{file} is truncated or damaged ({error}): download it again") from None
        for name, item in items:
            raw = np.frombuffer(item["data"], np.uint8)
            kind = item["dtype"]
            if kind == "BF16":
                values: NDArray[Any] = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
            elif kind in ("F32", "F16"):
                values = raw.view("<f4" if kind == "F32" else "<f2").astype(np.float32)
            elif kind == "U8":
                values = raw
            else:
                raise UserError(f"{file}: tensor {name} has type {kind}; this tool reads BF16, F16, F32 and packed U8")
            tensors[name] = values.reshape(item["shape"])
    return tensors


def _config(raw: dict[str, Any], path: Path) -> ModelConfig:
    if raw.get("model_type") != "bitnet":
        raise UserError(f"{path} describes a {raw.get('model_type', 'nameless')} model: only BitNet b1.58 checkpoints "
                        "(model_type bitnet) run on this machine")
    if raw.get("hidden_act", "relu2") != "relu2":
        raise UserError(f"{path}: activation {raw['hidden_act']} is not supported, only relu2 (squared ReLU)")
    if not raw.get("tie_word_embeddings", True):
        raise UserError(f"{path}: untied output heads are not supported")

    def number(name: str, kind: type = int, default: Any = None) -> Any:
        value = raw.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int) or not 0 < value < 2**31:
            raise UserError(f"{path}: {name} is {value!r}; it must be a positive number")
        return kind(value)

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    rope = raw.get("rope_parameters")
    theta = rope.get("rope_theta") if isinstance(rope, dict) else None
    return ModelConfig(
        hidden, number("intermediate_size"), number("num_hidden_layers"), heads, number("num_key_value_heads"),
        number("head_dim", default=hidden // heads), number("vocab_size"), number("max_position_embeddings"),
        number("rope_theta", float, theta or 500000.0), number("rms_norm_eps", float))


def _stop_tokens(folder: Path, raw: dict[str, Any], vocab: int) -> tuple[int, ...]:
    """End-of-text ids of generation_config.json, or else of config.json. Raises UserError for ids that cannot be."""
    settings = _read_json(folder / "generation_config.json") if (folder / "generation_config.json").exists() else {}
    value = settings.get("eos_token_id", raw.get("eos_token_id"))
    stops = value if isinstance(value, list) else [] if value is None else [value]
    if len(stops) > MAX_STOPS or not all(isinstance(token, int) and 0 <= token < vocab for token in stops):
        raise UserError(f"{folder}: eos_token_id is {value!r}; it must be at most {MAX_STOPS} token ids below {vocab}")
    return tuple(stops)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint folder. Raises UserError for anything that is not a packed BitNet checkpoint."""
    raw = _read_json(folder / "config.json")
    config = _config(raw, folder / "config.json")
    quantization = raw.get("quantization_config") or {}
    if not isinstance(quantization, dict):
        raise UserError(f"{folder / 'config.json'}: quantization_config is {quantization!r}; it must be an object")
    if quantization.get("quantization_mode", "offline") != "offline":
        raise UserError(f"{folder} holds unpacked training weights: give the packed checkpoint (quantization_mode offline)")
    divides = quantization.get("linear_class", "bitlinear") == "bitlinear"
    tensors = _load_tensors(folder)

    def take(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        if name not in tensors:
            raise UserError(f"{folder}: tensor {name} is missing: the checkpoint is incomplete")
        if tensors[name].shape != shape:
            raise UserError(f"{folder}: tensor {name} has shape {tensors[name].shape}, config.json says {shape}")
        return tensors[name]

    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes = {"q": (queries, config.hidden), "k": (keys, config.hidden), "v": (keys, config.hidden), "o": (config.hidden, queries),
              "gate": (config.intermediate, config.hidden), "up": (config.intermediate, config.hidden),
              "down": (config.hidden, config.intermediate)}
    norms = {"input_norm": config.hidden, "attn_sub_norm": queries, "post_norm": config.hidden,
             "ffn_sub_norm": config.intermediate}
    layers: list[dict[str, Any]] = []
    for index in range(config.layers):
        layer: dict[str, Any] = {}
        prefix = f"model.layers.{index}."
        for name, place in _PROJECTIONS.items():
            out, columns = shapes[name]
            packed = take(f"{prefix}{place}.weight", (out // 4, columns))
            if packed.dtype != np.uint8:
                raise UserError(f"{folder}: {place} is not packed ternary: give the packed checkpoint")
            scale = float(take(f"{prefix}{place}.weight_scale", (1,))[0])
            layer[name] = Linear(unpack_hf(packed), float(np.float32(1) / np.float32(scale)) if divides else scale)
        for name, place in _NORMS.items():
            layer[name] = take(f"{prefix}{place}.weight", (norms[name],)).astype(np.float32)
        layers.append(layer)

    tokenizer = _read_json(folder / "tokenizer.json") if (folder / "tokenizer.json").exists() else None
    settings = _read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    template = settings.get("chat_template")
    if (folder / "chat_template.jinja").exists():
        template = (folder / "chat_template.jinja").read_text()
    special = {"bos_token": settings.get("bos_token"), "eos_token": settings.get("eos_token"),
               "bos_token_id": raw.get("bos_token_id")}
    return Checkpoint(
        replace(config, stop_tokens=_stop_tokens(folder, raw, config.vocab)),
        take("model.embed_tokens.weight", (config.vocab, config.hidden)).astype(np.float32),
        take("model.norm.weight", (config.hidden,)).astype(np.float32), layers, tokenizer, template, special)
