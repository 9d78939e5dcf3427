"""Random BitNet checkpoints for tests, written as Hugging Face folders without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["RECORDED", "SHAPES", "Shape", "bf16", "save", "write_checkpoint"]


@dataclass(frozen=True)
class Shape:
    """A model's shape; ``linear_class`` is autobitlinear (multiplies by weight_scale) or bitlinear
    (divides), ``masters`` the type of training weights (F32, BF16), or nothing for packed ones."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int = 64
    linear_class: str = "autobitlinear"
    theta: float = 500000.0
    seed: int = 0
    masters: str = ""


_DIMENSIONS = [
    (32, 64, 1, 1, 1), (64, 96, 2, 2, 1), (64, 160, 1, 2, 2), (96, 128, 2, 3, 1),
    (96, 264, 1, 3, 3), (128, 320, 2, 4, 1),
    (128, 344, 1, 4, 2), (128, 200, 1, 2, 1), (160, 416, 1, 5, 5), (192, 512, 2, 6, 2),
    (192, 488, 1, 3, 1), (256, 512, 1, 8, 2),
    (256, 688, 1, 4, 1), (320, 800, 1, 5, 5), (320, 640, 1, 10, 5), (384, 1024, 1, 12, 3),
    (384, 520, 1, 6, 2), (512, 1376, 1, 4, 1),
    (512, 640, 1, 16, 4), (640, 1728, 1, 20, 5), (768, 1024, 1, 6, 3), (128, 128, 3, 4, 4),
]
#: Shapes that the golden model is compared with transformers on.
SHAPES = [
    Shape(h, i, layers, heads, kv, 64 + 8 * n, linear_class=("autobitlinear", "bitlinear")[n % 2],
          theta=(10000.0, 500000.0)[n % 3 == 0], seed=n)
    for n, (h, i, layers, heads, kv) in enumerate(_DIMENSIONS)]
SHAPES += [Shape(96, 200, 2, 3, 1, 72, seed=100, masters="F32"),
           Shape(256, 688, 1, 4, 2, 80, seed=101, masters="BF16")]

#: Those whose runs are also recorded in tests/fixtures: both linear classes, both bases of RoPE,
#: one to four query heads a KV head.
RECORDED = [SHAPES[i] for i in (1, 4, 5, 6, 9)]


def _pack(weights: np.ndarray) -> np.ndarray:
    """int8 [out, in] to the packed uint8 [out / 4, in] of transformers."""
    quarters = (weights + 1).astype(np.uint8).reshape(4, weights.shape[0] // 4, weights.shape[1])
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


_KINDS = {"<f4": "F32", "<f2": "F16", "|u1": "U8"}


def bf16(values: np.ndarray) -> np.ndarray:
    """float32, cut to what bfloat16 can hold."""
    return (values.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def save(tensors: dict[str, np.ndarray], path: Path, as_bf16: frozenset[str] = frozenset()) -> None:
    """Writes a safetensors file; those of ``as_bf16``, float32, as BF16."""
    table: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        raw = (values.view(np.uint32) >> 16).astype("<u2") if name in as_bf16 else values
        kind = "BF16" if name in as_bf16 else _KINDS[values.dtype.str]
        end = len(data) + raw.nbytes
        table[name] = {"dtype": kind, "shape": values.shape, "data_offsets": [len(data), end]}
        data += np.ascontiguousarray(raw).tobytes()
    head = json.dumps(table).encode()
    head = head.ljust(-(-len(head) // 8) * 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


def write_checkpoint(folder: Path, shape: Shape) -> Path:
    """Writes a random checkpoint with the statistics of a trained one; returns the folder."""
    rng = np.random.default_rng(1000 + shape.seed)
    head_dim = shape.hidden // shape.heads
    keys = shape.kv_heads * head_dim
    sizes = {"self_attn.q_proj": (shape.hidden, shape.hidden),
             "self_attn.k_proj": (keys, shape.hidden),
             "self_attn.v_proj": (keys, shape.hidden),
             "self_attn.o_proj": (shape.hidden, shape.hidden),
             "mlp.gate_proj": (shape.intermediate, shape.hidden),
             "mlp.up_proj": (shape.intermediate, shape.hidden),
             "mlp.down_proj": (shape.hidden, shape.intermediate)}
    norms = {"input_layernorm": shape.hidden, "self_attn.attn_sub_norm": shape.hidden,
             "post_attention_layernorm": shape.hidden,
             "mlp.ffn_sub_norm": shape.intermediate}
    tensors = {"model.embed_tokens.weight": rng.standard_normal((shape.vocab,
            shape.hidden)).astype(np.float32),
               "model.norm.weight": (1
                                     + 0.2 * rng.standard_normal(shape.hidden)).astype(np.float32)}
    for layer in range(shape.layers):
        for name, (rows, columns) in sizes.items():
            key = f"model.layers.{layer}.{name}.weight"
            if shape.masters:
                weights = (rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)
                tensors[key] = bf16(weights) if shape.masters == "BF16" else weights
                continue
            weights = rng.choice(np.array([-1, 0, 1], np.int8), (rows, columns),
                                 p=[0.32, 0.36, 0.32])
            scale = np.float32(1.2 / np.sqrt(columns) * rng.uniform(0.7, 1.4))
            if shape.linear_class == "bitlinear":
                scale = np.float32(1) / scale
            tensors[key] = _pack(weights)
            tensors[f"{key}_scale"] = np.array([scale], np.float32)
        for name, size in norms.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = (1
                    + 0.2 * rng.standard_normal(size)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save(tensors, folder / "model.safetensors",
         frozenset(name for name in tensors
                   if shape.masters == "BF16" and "proj" in name))
    quantization = {"quant_method": "bitnet", "linear_class": shape.linear_class,
                    "quantization_mode": "online" if shape.masters else "offline"}
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": shape.theta, "tie_word_embeddings": True, "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32", "quantization_config": quantization}))
    return folder
