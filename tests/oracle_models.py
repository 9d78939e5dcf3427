"""Models as transformers computes them, and records of what their operators do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from golden import OperatorRecord
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations import bitnet as hf_bitnet
from transformers.models.llama import modeling_llama as hf_llama

__all__ = ["load", "load_family", "record"]


def load(folder: Path):
    """The checkpoint in float32 throughout; transformers leaves norms and embedding in their stored
    type."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                 attn_implementation="eager")
    return torch.nn.Module.float(model).eval()


def load_family(folder: Path, family: str, form: str):
    """A checkpoint of another architecture: packed ones as transformers loads them; 1bitLLM's as
    their own modeling_bitnet.py has it, a Llama with two norms more and with matrices that are
    rounded as they run; floats of three values with activations rounded before them."""
    if family.startswith("1bitllm"):
        return _old_bitnet(folder)
    model = load(folder)
    if form.startswith("values"):
        for layer in model.model.layers:
            _replace_linears(layer, online=False)
    return model


def _replace_linears(layer, online: bool) -> None:
    for part, names in ((layer.self_attn, ("q_proj", "k_proj", "v_proj", "o_proj")),
                        (layer.mlp, ("gate_proj", "up_proj", "down_proj"))):
        for name in names:
            old = getattr(part, name)
            new = hf_bitnet.AutoBitLinear(old.in_features, old.out_features, bias=False,
                                          online_quant=online)
            new.weight = nn.Parameter(old.weight.detach().float())
            setattr(part, name, new)


def _old_bitnet(folder: Path):
    raw = json.loads((folder / "config.json").read_text())
    config = LlamaConfig(**{key: value for key, value in raw.items()
                            if key not in ("architectures", "model_type", "rope_scaling")})
    config._attn_implementation = "eager"
    model, tensors = LlamaForCausalLM(config), load_file(folder / "model.safetensors")
    missing, _ = model.load_state_dict(tensors, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
    for index, layer in enumerate(model.model.layers):
        _replace_linears(layer, online=True)
        for part, name, before in ((layer.self_attn, "inner_attn_ln", "o_proj"),
                                   (layer.mlp, "ffn_layernorm", "down_proj")):
            place = "self_attn" if part is layer.self_attn else "mlp"
            weight = tensors[f"model.layers.{index}.{place}.{name}.weight"]
            norm = hf_llama.LlamaRMSNorm(weight.numel(), eps=config.rms_norm_eps)
            norm.weight = nn.Parameter(weight.float())
            setattr(part, name, norm)
            getattr(part, before).register_forward_pre_hook(
                lambda _, inputs, norm=norm: (norm(inputs[0]),))
    return model.float().eval()


def _linear_record(module, x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
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
    sums = torch.nn.functional.linear(codes.double(), weight.double())
    return {"input": x.numpy(), "codes": codes.to(torch.int8).numpy(),
            "sums": sums.to(torch.int32).numpy(), "output": y.numpy()}


@torch.no_grad()
def record(model, tokens: list[int]) -> list[OperatorRecord]:
    """Runs transformers over ``tokens`` and keeps every operator's input and output."""
    records: list[OperatorRecord] = []

    def hook(name: str, kind: str):
        def keep(module, inputs, output):
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
    ids = torch.tensor([tokens])
    model(ids)
    head_dim = model.model.layers[0].self_attn.head_dim
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((1, 2, len(tokens),
            head_dim)).astype(np.float32))
    cos, sin = model.model.rotary_emb(x, torch.arange(len(tokens))[None])
    rotated, _ = hf_llama.apply_rotary_pos_emb(x, x, cos, sin)
    records.append(OperatorRecord("rope", "rope",
                                  {"input": x[0].numpy(), "output": rotated[0].numpy()}))
    records.append(_attention_record(model, len(tokens)))
    return records


def _attention_record(model, count: int) -> OperatorRecord:
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
