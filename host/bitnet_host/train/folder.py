"""The checkpoint folder that a run writes, and the one that it may begin with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.files import read_json, read_regular, replacing
from bitnet_host.model.checkpoint import Checkpoint, LazyLayers, Linear, ModelConfig, matrix_shapes
from bitnet_host.model.sources.hf import NORMS, PROJECTIONS, open_checkpoint
from bitnet_host.model.sources.hf_config import architecture_of
from bitnet_host.train.network import Parameters, ternary
from bitnet_host.train.tokens import BOS, EOS, EOT, SPECIAL, TEMPLATE

__all__ = ["Form", "form_of", "new_form", "parameters_of", "write_model"]

_PACKED = 4  # weights to a byte
_LIMIT = 64 << 20  # bytes of a small file
#: What is copied of the folder that a run begins with.
_TEXT = re.compile(r"tokenizer.*|.*token.*\.json|vocab\.json|merges\.txt|generation_config\.json|"
                   r"chat_template\.jinja")


@dataclass(frozen=True)
class Form:
    """``files``: contents of all but the weights, by name; ``stored``: masters, packed or values,
    how the weights are; ``multiplies``: whether a packed matrix's scale is what products are
    multiplied with, or divided by; ``norms``: places of a layer's norms."""

    files: dict[str, bytes]
    stored: str
    multiplies: bool
    norms: dict[str, str]


def new_form(config: ModelConfig, tokenizer: dict[str, Any], packed: bool) -> Form:
    """Of a new model of 2B-4T's architecture, as transformers knows it."""
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    raw = {
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2",
        "hidden_size": config.hidden, "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
        "vocab_size": config.vocab, "max_position_embeddings": config.context,
        "rms_norm_eps": config.eps, "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied, "bos_token_id": ids[BOS], "eos_token_id": ids[EOS],
        "torch_dtype": "float32", "use_cache": True,
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear",
                                "quantization_mode": "offline" if packed else "online"}}
    text = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS,
            "pad_token": SPECIAL[3], "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": False, "model_max_length": config.context,
            "model_input_names": ["input_ids", "attention_mask"]}
    answers = {"bos_token_id": ids[BOS], "eos_token_id": [ids[EOS], ids[EOT]],
               "pad_token_id": ids[SPECIAL[3]], "do_sample": True, "temperature": 0.6,
               "top_p": 0.9}
    files = {"config.json": raw, "tokenizer.json": tokenizer, "tokenizer_config.json": text,
             "generation_config.json": answers}
    return Form({name: _json(value) for name, value in files.items()},
                "packed" if packed else "masters", True,
                NORMS | architecture_of(raw, Path("config.json")).norms)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def form_of(folder: Path) -> tuple[Checkpoint, Form]:
    """Of a folder to begin with: what is written has its form. Raises BadFile, BadArgument."""
    if not folder.is_dir():
        raise BadArgument(f"--from takes the folder of a checkpoint, and {folder} is none")
    checkpoint = open_checkpoint(folder)
    raw = read_json(folder / "config.json")
    quantised = raw.get("quantization_config") or {}
    files = {path.name: read_regular(path, _LIMIT) for path in checkpoint.files
             if _TEXT.fullmatch(path.name)}
    kept = {key: value for key, value in raw.items() if key not in ("dtype", "auto_map")}
    files["config.json"] = _json(kept | {"torch_dtype": "float32",
                                         "tie_word_embeddings": checkpoint.config.tied})
    return checkpoint, Form(files, checkpoint.stored,
                            quantised.get("linear_class") == "autobitlinear",
                            NORMS | architecture_of(raw, folder).norms)


def parameters_of(checkpoint: Checkpoint) -> Parameters:
    """Masters to go on from: those of the files or, where weights are stored rounded, floats that
    round to them."""
    made = {"embedding": _tensor(checkpoint.embedding[0:checkpoint.config.vocab]),
            "final_norm": _tensor(checkpoint.final_norm)}
    if checkpoint.head is not None:
        made["head"] = _tensor(checkpoint.head[0:checkpoint.config.vocab])
    for index in range(checkpoint.config.layers):
        layers = checkpoint.layers
        masters = layers.masters(index) if isinstance(layers, LazyLayers) else None
        for name, value in (masters or layers[index]).items():
            made[f"{index}.{name}"] = (_that_rounds_to(value, checkpoint.config.group)
                                       if isinstance(value, Linear) else _tensor(value))
    return made


def _tensor(values: Any) -> Any:
    return torch.from_numpy(np.array(values, np.float32))


def _that_rounds_to(linear: Any, group: int) -> Any:
    """The mean magnitude is to be the scale again, and zeros have none."""
    weights = _tensor(linear.weights)
    if not group:
        share = weights.abs().mean().clamp(min=1e-5)
        return weights * (linear.scale / share)
    padded = torch.nn.functional.pad(weights, (0, -weights.shape[1] % group))
    groups = padded.unflatten(1, (-1, group))
    share = groups.abs().mean(dim=2, keepdim=True).clamp(min=1e-5)
    scaled = groups * (_tensor(linear.scales)[:, :, None] / share)
    return scaled.flatten(1)[:, :weights.shape[1]]


def write_model(folder: Path, form: Form, parameters: Parameters, config: ModelConfig) -> None:
    """All files but the model card; the weights come last, without which it is no checkpoint, and
    then it is read once. Raises BadFile."""
    tensors = {"model.embed_tokens.weight": parameters["embedding"],
               "model.norm.weight": parameters["final_norm"]}
    if not config.tied:
        tensors["lm_head.weight"] = parameters["head"]
    matrices = matrix_shapes(config)
    for layer in range(config.layers):
        for name, place in (PROJECTIONS | form.norms).items():
            if f"{layer}.{name}" not in parameters:
                continue
            value, full = parameters[f"{layer}.{name}"], f"model.layers.{layer}.{place}.weight"
            tensors |= _stored(full, value, form, config.group) if name in matrices else {
                full: value}
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    for name, content in form.files.items():
        _write(folder / name, content)
    _write(folder / "model.safetensors", safetensors.torch.save(ready, {"format": "pt"}))
    open_checkpoint(folder)


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def _stored(name: str, master: Any, form: Form, group: int) -> dict[str, Any]:
    if form.stored == "masters":
        return {name: master}
    codes, scale = ternary(master.detach(), group)
    if form.stored == "values":
        factor = (scale if not group
                  else scale.squeeze(2).repeat_interleave(group, 1)[:, :codes.shape[1]])
        return {name: codes * factor}
    if len(codes) % _PACKED:
        raise BadFile(f"{name} has {len(codes)} rows, of which no four fit a byte: leave out "
                      f"--packed")
    quarters = (codes + 1).to(torch.uint8).unflatten(0, (_PACKED, -1))
    packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
    return {name: packed, f"{name}_scale": (scale if form.multiplies else 1 / scale).reshape(1)}
