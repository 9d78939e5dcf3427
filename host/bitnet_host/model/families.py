"""The published ternary models: dimensions, and what they compute with.

Sources, and what could not be seen in a config of the model's own, stand in docs/models.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bitnet_host.model.checkpoint import ModelConfig
from bitnet_host.model.header import GROUP

__all__ = ["FAMILIES", "Family"]

_CONTEXT = 2048  # that an image is made for here, where the model has more


@dataclass(frozen=True)
class Family:
    """A model: its name on huggingface.co, and its shape."""

    title: str
    config: ModelConfig


def _family(title: str, layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int,
            head_dim: int, vocab: int, theta: float, eps: float, context: int,
            **other: Any) -> Family:
    config = ModelConfig(hidden, intermediate, layers, heads, kv_heads, head_dim, vocab,
                         min(context, _CONTEXT), theta, eps, trained_context=context)
    return Family(title, replace(config, **other))


_SILU = {"activation": "silu", "sub_norms": False, "tied": False}
_OLD = {"activation": "silu"}  # with sub-norms and a tied head
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
_BONSAI = {"activation": "silu", "sub_norms": False, "qk_norms": True, "group": GROUP,
           "rope_scaling": _YARN}

#: By a short name, which `--shape` and `--family` take.
FAMILIES: dict[str, Family] = {
    "2b4t": _family("microsoft/bitnet-b1.58-2B-4T", 30, 2560, 6912, 20, 5, 128, 128256, 5e5, 1e-5,
                    4096),
    "1bitllm-large": _family("1bitLLM/bitnet_b1_58-large", 24, 1536, 4096, 16, 16, 96, 32002, 1e4,
                             1e-5, 2048, **_OLD),
    "1bitllm-xl": _family("1bitLLM/bitnet_b1_58-xl", 24, 2048, 5460, 32, 32, 64, 32002, 1e4, 1e-5,
                          2048, **_OLD),
    "1bitllm-3b": _family("1bitLLM/bitnet_b1_58-3B", 26, 3200, 8640, 32, 32, 100, 32002, 1e4, 1e-5,
                          2048, **_OLD),
    "llama3-8b": _family("HF1BitLLM/Llama3-8B-1.58-100B-tokens", 32, 4096, 14336, 32, 8, 128,
                         128256, 5e5, 1e-5, 8192, **_SILU),
    "falcon3-1b": _family("tiiuae/Falcon3-1B-Instruct-1.58bit", 18, 2048, 8192, 8, 4, 256, 131072,
                          1000042.0, 1e-6, 8192, **_SILU),
    "falcon3-3b": _family("tiiuae/Falcon3-3B-Instruct-1.58bit", 22, 3072, 9216, 12, 4, 256, 131072,
                          1000042.0, 1e-6, 32768, **_SILU),
    "falcon3-7b": _family("tiiuae/Falcon3-7B-Instruct-1.58bit", 28, 3072, 23040, 12, 4, 256, 131072,
                          1000042.0, 1e-6, 32768, **_SILU),
    "falcon3-10b": _family("tiiuae/Falcon3-10B-Instruct-1.58bit", 40, 3072, 23040, 12, 4, 256,
                           131072, 1000042.0, 1e-6, 32768, **_SILU),
    "bonsai-1.7b": _family("prism-ml/Ternary-Bonsai-1.7B", 28, 2048, 6144, 16, 8, 128, 151669, 1e6,
                           1e-6, 32768, **_BONSAI),
    "bonsai-4b": _family("prism-ml/Ternary-Bonsai-4B", 36, 2560, 9728, 32, 8, 128, 151669, 5e6,
                         1e-6, 32768, **_BONSAI),
    "bonsai-8b": _family("prism-ml/Ternary-Bonsai-8B", 36, 4096, 12288, 32, 8, 128, 151669, 1e6,
                         1e-6, 32768, **(_BONSAI | {"tied": False})),
    "bitcpm-1b": _family("openbmb/BitCPM-CANN-1B", 28, 2048, 6144, 16, 2, 128, 73448, 1e4, 1e-5,
                         32768, **(_SILU | {"group": GROUP})),
    "bitcpm-3b": _family("openbmb/BitCPM-CANN-3B", 32, 2560, 10240, 32, 2, 128, 73448, 1e4, 1e-5,
                         32768, **(_SILU | {"group": GROUP})),
    "falcon-e-1b": _family("tiiuae/Falcon-E-1B-Instruct", 24, 2048, 9216, 16, 2, 128, 32768, 1e6,
                           1e-5, 32768, **_SILU),
    "falcon-e-3b": _family("tiiuae/Falcon-E-3B-Instruct", 32, 2048, 13312, 16, 2, 128, 32768, 1e6,
                           1e-5, 32768, **_SILU),
}
