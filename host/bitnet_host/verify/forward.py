"""A checkpoint as transformers computes it, and records of what its operators do.

Needs PyTorch and transformers (the extra ``oracle``); nothing else of this package does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations import bitnet as hf_bitnet
from transformers.models.llama import modeling_llama as hf_llama

from bitnet_host.verify.operators import OperatorRecord

__all__ = ["load", "record"]

_OLD_NORMS = (("self_attn", "inner_attn_ln", "o_proj"), ("mlp", "ffn_layernorm", "down_proj"))


def load(folder: Path, stored: str, layers: int = 0) -> Any:
    """The model of a checkpoint folder in float32 throughout, or its first ``layers``.
    ``stored``: Checkpoint.stored.

    2B-4T's masters and packed weights are transformers' own matter. 1bitLLM's checkpoints are run
    as their modeling_bitnet.py has it: a Llama with two norms more, whose matrices are rounded as
    they run. Other masters, and floats of three values, get activations that are rounded before
    them."""
    transformers.logging.set_verbosity_error()  # of layers that are not asked for
    transformers.logging.disable_progress_bar()
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "BitnetForCausalLM" in (raw.get("architectures") or ()):
        return _old_bitnet(folder, raw, layers)
    config = AutoConfig.from_pretrained(folder)
    if layers:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    own = stored == "packed" or config.model_type == "bitnet"
    if not own and hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32,
                                                 attn_implementation="eager")
    if not own:
        for layer in model.model.layers:
            _replace_linears(layer, online=stored == "masters")
    return nn.Module.float(model).eval()  # transformers leaves norms and embedding as they are


def _replace_linears(layer: Any, online: bool) -> None:
    for part, names in ((layer.self_attn, ("q_proj", "k_proj", "v_proj", "o_proj")),
                        (layer.mlp, ("gate_proj", "up_proj", "down_proj"))):
        for name in names:
            old = getattr(part, name)
            new = hf_bitnet.AutoBitLinear(old.in_features, old.out_features, bias=False,
                                          online_quant=online)
            new.weight = nn.Parameter(old.weight.detach().float())
            setattr(part, name, new)


def _old_bitnet(folder: Path, raw: dict[str, Any], layers: int) -> Any:
    config = LlamaConfig(**{key: value for key, value in raw.items()
                            if key not in ("architectures", "model_type", "rope_scaling")})
    config.num_hidden_layers = layers or config.num_hidden_layers
    config._attn_implementation = "eager"
    model, tensors = LlamaForCausalLM(config), _tensors(folder)
    missing, _ = model.load_state_dict(tensors, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
    for index, layer in enumerate(model.model.layers):
        _replace_linears(layer, online=True)
        for place, name, before in _OLD_NORMS:
            weight = tensors[f"model.layers.{index}.{place}.{name}.weight"]
            norm = hf_llama.LlamaRMSNorm(weight.numel(), eps=config.rms_norm_eps)
            norm.weight = nn.Parameter(weight.float())
            setattr(getattr(layer, place), name, norm)
            getattr(getattr(layer, place), before).register_forward_pre_hook(
                lambda _, inputs, norm=norm: (norm(inputs[0]),))
    return model.float().eval()


def _tensors(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def _linear_record(module: Any, x: Any, y: Any) -> dict[str, Any]:
    """Codes and sums as the module's own functions make them."""
    if isinstance(module, hf_bitnet.AutoBitLinear):
        scale = 127 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
        codes = (hf_bitnet.ActQuant.apply(x) * scale).round()
        weight = module.weight
        if module.online_quant:
            weight = (hf_bitnet.WeightQuant.apply(weight) / weight.abs().mean()).round()
        weight = weight.sign()
    else:
        codes, _ = module.activation_quant(x)
        weight = hf_bitnet.unpack_weights(module.weight, dtype=torch.float32)
    sums = nn.functional.linear(codes.double(), weight.double())
    return {"input": x.numpy(), "codes": codes.to(torch.int8).numpy(),
            "sums": sums.to(torch.int32).numpy(), "output": y.numpy()}


def record(model: Any, tokens: list[int]) -> list[OperatorRecord]:
    """Runs transformers over ``tokens`` and keeps every operator's input and output."""
    records: list[OperatorRecord] = []

    def hook(name: str, kind: str) -> Any:
        def keep(module: Any, inputs: Any, output: Any) -> None:
            x, y = inputs[0][0], output[0]
            arrays = (_linear_record(module, x, y) if kind == "linear"
                      else {"input": x.numpy().copy(), "output": y.numpy().copy()})
            records.append(OperatorRecord(name, kind, arrays))
        return keep

    for name, module in model.named_modules():
        kind = ("linear" if isinstance(module, (hf_bitnet.AutoBitLinear, hf_bitnet.BitLinear))
                else "norm" if type(module).__name__.endswith("RMSNorm")
                else "activation" if name.endswith("act_fn") else "")
        if kind:
            module.register_forward_hook(hook(name, kind))
    with torch.no_grad():
        model(torch.tensor([tokens]))
        return [*records, _rope_record(model, len(tokens)), _attention_record(model, len(tokens))]


def _rope_record(model: Any, count: int) -> OperatorRecord:
    head_dim = model.model.layers[0].self_attn.head_dim
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.standard_normal((1, 2, count, head_dim)).astype(np.float32))
    cos, sin = model.model.rotary_emb(x, torch.arange(count)[None])
    rotated, _ = hf_llama.apply_rotary_pos_emb(x, x, cos, sin)
    return OperatorRecord("rope", "rope", {"input": x[0].numpy(), "output": rotated[0].numpy()})


def _attention_record(model: Any, count: int) -> OperatorRecord:
    """transformers' attention of the last of ``count`` tokens, on random queries, keys and
    values."""
    module = model.model.layers[0].self_attn
    heads, caches, dim = (model.config.num_attention_heads, model.config.num_key_value_heads,
                          module.head_dim)
    rng = np.random.default_rng(6)
    q, k, v = (rng.standard_normal((1, n, m, dim)).astype(np.float32)
               for n, m in ((heads, 1), (caches, count), (caches, count)))
    out, _ = hf_llama.eager_attention_forward(module, *(torch.from_numpy(x) for x in (q, k, v)),
                                              None, scaling=module.scaling)
    return OperatorRecord("attention", "attention",
                          {"input": q[0, :, 0], "k": k[0], "v": v[0], "output": out[0, 0].numpy()})
