"""Reads a BitNet checkpoint from a GGUF file.

Names and keys are those of microsoft/BitNet (utils/convert-hf-to-gguf-bitnet.py). Its
architectures ``bitnet-b1.58`` and ``bitnet-25`` say nothing of the activation: it is squared ReLU.
Rows of q and k lie as in the safetensors checkpoint (files of the architecture llama permute them).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bitnet_host.errors import BadArgument, BadModel
from bitnet_host.model.checkpoint import (
    F32,
    Checkpoint,
    Layer,
    LazyLayers,
    ModelConfig,
    matrix_shapes,
    norm_sizes,
)
from bitnet_host.model.header import MAX_STOPS
from bitnet_host.model.sources.gguf import GgufFile, GgufTensor
from bitnet_host.model.sources.gguf_blocks import LAYOUTS, FloatRows, read_linear
from bitnet_host.model.sources.gguf_layout import PUBLISHED, check
from bitnet_host.model.sources.gguf_text import special_tokens, stop_tokens, tokenizer_json

__all__ = ["open_gguf"]

_ARCHITECTURES = ("bitnet-b1.58", "bitnet-25")
_PROJECTIONS = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
                "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
_NORMS = {"input_norm": "attn_norm", "attn_sub_norm": "attn_sub_norm", "post_norm": "ffn_norm",
          "ffn_sub_norm": "ffn_sub_norm"}
#: Keys of an architecture that are read below, or change nothing.
_READ = {"vocab_size", "context_length", "embedding_length", "block_count", "feed_forward_length",
         "rope.dimension_count", "attention.head_count", "attention.head_count_kv",
         "attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length",
         "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "hidden_activation"}
_MOST = 2**24


class _Fields:
    """What a file says of its architecture."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self.name = file.get("general.architecture", str)
        if self.name not in _ARCHITECTURES:
            raise BadModel(f"{file.path} describes a model of the architecture {self.name!r}: "
                           f"only BitNet b1.58 ({' and '.join(_ARCHITECTURES)}) runs on this "
                           f"machine")
        prefix = f"{self.name}."
        for key in file.fields:
            if key.startswith(prefix) and key.removeprefix(prefix) not in _READ:
                raise BadModel(f"{file.path}: {key} is {str(file.fields[key])[:60]!r}, which this "
                               f"tool does not know and cannot compute with: it would give other "
                               f"words than the model's")

    def get(self, name: str, *kinds: type) -> Any:
        return self._file.get(f"{self.name}.{name}", *kinds)

    def number(self, name: str, default: int | None = None) -> int:
        value = self.get(name, int)
        value = default if value is None else value
        if value is None or not 0 < value < _MOST:
            raise BadModel(f"{self._file.path}: {self.name}.{name} is {value!r}; it must be a "
                           f"positive whole number")
        return int(value)

    def real(self, name: str, default: float, least: float, most: float) -> float:
        value = self.get(name, float, int)
        value = default if value is None else value
        if not least < value < most:
            raise BadModel(f"{self._file.path}: {self.name}.{name} is {value!r}; it must be "
                           f"between {least:g} and {most:g}")
        return float(np.float32(value))


def _config(file: GgufFile) -> ModelConfig:
    fields = _Fields(file)
    if fields.get("hidden_activation", str) not in (None, "relu2"):
        raise BadModel(f"{file.path}: activation {fields.get('hidden_activation', str)!r} is not "
                       f"supported, only relu2 (squared ReLU)")
    if (fields.get("rope.scaling.type", str) not in (None, "none", "linear")
            or fields.real("rope.scaling.factor", 1, 0, 1e9) != 1):
        raise BadModel(f"{file.path}: RoPE of type {fields.get('rope.scaling.type', str)!r} is not "
                       f"supported, only the default one without scaling")
    heads, hidden = fields.number("attention.head_count"), fields.number("embedding_length")
    head_dim = fields.number("attention.key_length",
                             fields.number("rope.dimension_count", max(1, hidden // heads)))
    for name in ("attention.value_length", "rope.dimension_count"):
        if fields.number(name, head_dim) != head_dim:
            raise BadModel(f"{file.path}: {fields.name}.{name} is {fields.number(name)}, not the "
                           f"{head_dim} of a head: this machine has one size for both")
    tokens = file.get("tokenizer.ggml.tokens", list)
    vocab = fields.number("vocab_size", len(tokens) if tokens else None)
    return ModelConfig(
        hidden, fields.number("feed_forward_length"), fields.number("block_count"), heads,
        fields.number("attention.head_count_kv", heads), head_dim, vocab,
        fields.number("context_length"), fields.real("rope.freq_base", 10000, 1, 1e12),
        fields.real("attention.layer_norm_rms_epsilon", 1e-5, 1e-30, 0.1))


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
                           f"BitNet b1.58 model: this is another architecture, which this tool "
                           f"would get wrong")


class _Layers(LazyLayers):
    def __init__(self, taken: _Taken, config: ModelConfig, layout: str) -> None:
        super().__init__(config.layers)
        self._layout = layout
        shapes, norms = matrix_shapes(config), norm_sizes(config)
        self.stored = [
            {key: taken.take(f"blk.{index}.{name}.weight", shapes[key])
             for key, name in _PROJECTIONS.items()}
            | {key: taken.take(f"blk.{index}.{name}.weight", (norms[key],))
               for key, name in _NORMS.items()}
            for index in range(config.layers)]

    def read(self, index: int) -> Layer:
        return {key: (FloatRows(tensor).vector() if key in _NORMS
                      else read_linear(tensor, self._layout))
                for key, tensor in self.stored[index].items()}


def open_gguf(path: Path, layout: str = "") -> Checkpoint:
    """Opens a GGUF file; layers are read when they are asked for. ``layout``: one of
    gguf_blocks.LAYOUTS; without one, the published one if nothing speaks against it. Raises
    BadModel for anything that is no BitNet b1.58 model or that this
    machine would compute otherwise than microsoft/BitNet does."""
    if layout and layout not in LAYOUTS:
        raise BadArgument(f"the layout of I2_S must be {', '.join(LAYOUTS)}, not {layout}")
    file = GgufFile(path)
    config = _config(file)
    taken = _Taken(file)
    embedding = FloatRows(taken.take("token_embd.weight", (config.vocab, config.hidden)))
    if taken.has("output.weight"):
        _tied(FloatRows(taken.take("output.weight", (config.vocab, config.hidden))), embedding,
              path)
    final_norm = FloatRows(taken.take("output_norm.weight", (config.hidden,))).vector()
    layers = _Layers(taken, config, layout or PUBLISHED)
    if not layout:
        check(path, layers.stored)
    taken.refuse_others()
    stops = stop_tokens(file, config.vocab)
    if len(stops) > MAX_STOPS:
        raise BadModel(f"{path} names {len(stops)} end-of-text tokens; this machine knows "
                       f"{MAX_STOPS}")
    config = ModelConfig(**{**vars(config), "stop_tokens": stops})
    return Checkpoint(config, embedding, final_norm, layers, tokenizer_json(file, config.vocab),
                      file.get("tokenizer.chat_template", str),
                      special_tokens(file, config.vocab), {}, (path,))


def _tied(head: FloatRows, embedding: FloatRows, path: Path) -> None:
    """Raises BadModel if the output head is not the embedding."""

    def rows(matrix: FloatRows, start: int) -> F32:
        return matrix[start:start + 4096]

    if not all(np.array_equal(rows(head, start), rows(embedding, start))
               for start in range(0, embedding.shape[0], 4096)):
        raise BadModel(f"{path}: the output head is another matrix than the embedding; this "
                       f"machine has one for both")
