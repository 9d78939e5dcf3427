"""Reads a ternary model from a GGUF file.

Rows of q and k lie as in the safetensors checkpoint, but for files of the architecture llama, which
permute them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitnet_host.errors import BadArgument, BadModel
from bitnet_host.model.checkpoint import (
    F32,
    Checkpoint,
    Layer,
    LazyLayers,
    Linear,
    ModelConfig,
    matrix_shapes,
    norm_sizes,
)
from bitnet_host.model.header import GROUP, MAX_STOPS
from bitnet_host.model.rope import check_scaling
from bitnet_host.model.sources.gguf import GgufFile, GgufTensor
from bitnet_host.model.sources.gguf_blocks import LAYOUTS, FloatRows, TokenRows, read_linear
from bitnet_host.model.sources.gguf_config import Architecture, architecture_of, model_config
from bitnet_host.model.sources.gguf_layout import PUBLISHED, check
from bitnet_host.model.sources.gguf_text import special_tokens, stop_tokens, tokenizer_json

__all__ = ["open_gguf"]

_PROJECTIONS = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
                "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
_NORMS = {"input_norm": "attn_norm", "post_norm": "ffn_norm"}
_DIVISORS = "rope_freqs.weight"


class _Taken:
    """The tensors of a file, taken one by one, so that none is passed over."""

    def __init__(self, file: GgufFile) -> None:
        self._file, self._left = file, dict(file.tensors)

    def take(self, name: str, shape: tuple[int, ...]) -> GgufTensor:
        tensor = self._left.pop(name, None)
        if tensor is None:
            raise BadModel(f"{self._file.path}: tensor {name} is missing: the file is incomplete")
        if tensor.shape != shape:
            raise BadModel(f"{self._file.path}: tensor {name} has shape {tensor.shape}, the file's "
                           f"own fields say {shape}")
        return tensor

    def has(self, name: str) -> bool:
        return name in self._left

    def refuse_others(self) -> None:
        if self._left:
            more = f" and {len(self._left) - 1} more" if len(self._left) > 1 else ""
            raise BadModel(f"{self._file.path}: tensor {min(self._left)}{more} has no place in a "
                           f"model of this kind: this is another architecture, which this tool "
                           f"would get wrong")


class _Layers(LazyLayers):
    def __init__(self, taken: _Taken, config: ModelConfig, architecture: Architecture,
                 layout: str) -> None:
        super().__init__(config.layers)
        self._layout, self._permuted = layout, architecture.permuted
        self._config, self._group = config, 0
        shapes, norms = matrix_shapes(config), norm_sizes(config)
        places = _NORMS | architecture.norms
        self.stored = [
            {key: taken.take(f"blk.{index}.{name}.weight", shapes[key])
             for key, name in _PROJECTIONS.items()}
            | {key: taken.take(f"blk.{index}.{places[key]}.weight", (size,))
               for key, size in norms.items()}
            for index in range(config.layers)]

    def probe(self) -> int:
        """How many weights share a scale: GROUP if a matrix of the first layer has several
        scales, 0 for all of a matrix."""
        for key in _PROJECTIONS:
            if read_linear(self.stored[0][key], self._layout).scales is not None:
                self._group = GROUP
                break
        return self._group

    def read(self, index: int) -> Layer:
        return {key: (FloatRows(tensor).vector() if key not in _PROJECTIONS
                      else self._linear(key, tensor))
                for key, tensor in self.stored[index].items()}

    def _linear(self, key: str, tensor: GgufTensor) -> Linear:
        linear = read_linear(tensor, self._layout)
        weights, scales = linear.weights, linear.scales
        if self._group and scales is None:
            groups = -(-weights.shape[1] // GROUP)
            scales = np.full((weights.shape[0], groups), np.float32(linear.scale))
        if scales is not None and not self._group:
            raise BadModel(f"{tensor.file}: tensor {tensor.name} has several scales, where those "
                           f"of the first layer have one each")
        if self._permuted and key in ("q", "k"):
            order = _as_turned(weights.shape[0], self._config.head_dim)
            weights = weights[order]
            scales = scales if scales is None else scales[order]
        return Linear(weights, 1.0 if scales is not None else linear.scale, scales)


def _as_turned(rows: int, head_dim: int) -> NDArray[np.int64]:
    """Which row of a file of permuted heads each row of the matrix is: pairs that RoPE turns stand
    side by side there, here half a head apart."""
    pairs = np.arange(rows).reshape(-1, head_dim // 2, 2)
    return np.ascontiguousarray(pairs.transpose(0, 2, 1)).reshape(-1)


def open_gguf(path: Path, layout: str = "") -> Checkpoint:
    """Opens a GGUF file; layers are read when they are asked for. ``layout``: one of
    gguf_blocks.LAYOUTS; without one, the published one if nothing speaks against it. Raises
    BadModel for anything that is no ternary model or that this
    machine would compute otherwise than llama.cpp does."""
    if layout and layout not in LAYOUTS:
        raise BadArgument(f"the layout of I2_S must be {', '.join(LAYOUTS)}, not {layout}")
    file = GgufFile(path)
    config = model_config(file)
    taken = _Taken(file)
    embedding = TokenRows(taken.take("token_embd.weight", (config.vocab, config.hidden)))
    head = _head(taken, embedding, config)
    final_norm = FloatRows(taken.take("output_norm.weight", (config.hidden,))).vector()
    layers = _Layers(taken, config, architecture_of(file), layout or PUBLISHED)
    if not layout:
        check(path, layers.stored)
    config = _with_divisors(taken, config, path)
    taken.refuse_others()
    stops = stop_tokens(file, config.vocab)
    if len(stops) > MAX_STOPS:
        raise BadModel(f"{path} names {len(stops)} end-of-text tokens; this machine knows "
                       f"{MAX_STOPS}")
    config = replace(config, stop_tokens=stops, tied=head is None, group=layers.probe())
    return Checkpoint(config, embedding, final_norm, layers, tokenizer_json(file, config.vocab),
                      file.get("tokenizer.chat_template", str),
                      special_tokens(file, config.vocab), {}, (path,), head)


def _with_divisors(taken: _Taken, config: ModelConfig, path: Path) -> ModelConfig:
    """With what a tensor says that RoPE's frequencies are divided by, if there is one."""
    if not taken.has(_DIVISORS):
        return config
    values = FloatRows(taken.take(_DIVISORS, (config.head_dim // 2,))).vector().tolist()
    scaling = {"rope_type": "longrope", "short_factor": values, "long_factor": values,
               "attention_factor": 1.0}
    problem = ("it is scaled in two ways" if config.rope_scaling
               else check_scaling(scaling, config.head_dim))
    if problem:
        raise BadModel(f"{path}: RoPE cannot be computed: {problem} ({_DIVISORS})")
    return replace(config, rope_scaling=scaling)


def _head(taken: _Taken, embedding: TokenRows, config: ModelConfig) -> TokenRows | None:
    """The output head, if it is another matrix than the embedding."""
    if not taken.has("output.weight"):
        return None
    head = TokenRows(taken.take("output.weight", (config.vocab, config.hidden)))

    def rows(matrix: TokenRows, start: int) -> F32:
        return matrix[start:start + 4096]

    same = all(np.array_equal(rows(head, start), rows(embedding, start))
               for start in range(0, config.vocab, 4096))
    return None if same else head
