"""The golden model: runs an image in NumPy with exactly the hardware's arithmetic.

It follows the numeric contract, not the firmware's instructions: every formula here is stated on
whole vectors with the functions of ``xtvu.semantics``. Board and golden model agree bit for bit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xtvu import semantics as sem
from xtvu.isa import BYTE_VECTORS, WORD_BYTES
from xtvu.layout import row_words, unpack_ternary, unstripe

from bitnet_host.model.header import (
    ACTIVATIONS,
    CHUNK_TOKENS,
    GROUP,
    KINDS,
    DdrHeader,
    Tensor,
    down_chunks,
    mode_of,
)
from bitnet_host.model.image import Image

__all__ = ["Cache", "Quantised", "ReferenceModel", "bitlinear", "group_bitlinear",
           "integer_products", "inverse_scale", "quantise_vector", "relu2", "rms_norm", "rope",
           "silu"]

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
ONE, MAX_CODE, SMALLEST, MAX_CODE_INVERSE, SIGMOID_UNIT = (
    sem.CONSTANTS[name] for name in ("ONE", "MAX_CODE", "SMALLEST", "MAX_CODE_INVERSE",
                                     "SIGMOID_UNIT"))
_CACHED_WEIGHTS = 200_000_000  # models with more are kept as int8, not as float32
# rows that are converted to float32 at once, so that they stay in the processor's cache
_BLOCK = 128
_EXACT = 1024  # products of two int8 codes whose sum is exact in float32: 1024 * 127^2 < 2^24


@dataclass(frozen=True)
class Quantised:
    """int8 codes of a vector and the factor they were scaled with."""

    codes: I8
    scale: np.float32


def rms_norm(x: F32, weight: F32, inverse_count: np.float32, eps: np.float32) -> F32:
    """w * (x * 1 / sqrt(mean(x^2) + eps)); float32 [n] -> float32 [n]."""
    mean = sem.multiply(sem.reduce_sum(sem.multiply(x, x)), inverse_count)
    factor = sem.divide(ONE, sem.sqrt(sem.add(mean, eps)))
    return sem.multiply(sem.multiply(x, factor), weight)


def quantise_vector(x: F32) -> Quantised:
    """s = 127 / max(absmax, 1e-5); codes = clamp(round_half_even(x * s), -127, 127)."""
    scale = np.float32(sem.divide(MAX_CODE, np.maximum(sem.absmax(x), SMALLEST)))
    return Quantised(sem.quantise(x, scale), scale)


def inverse_scale(x: F32) -> np.float32:
    """max(absmax, 1e-5) * (1 / 127): what a code of ``quantise_vector`` is worth, without a
    division."""
    return np.float32(sem.multiply(np.maximum(sem.absmax(x), SMALLEST), MAX_CODE_INVERSE))


def integer_products(matrix: NDArray[np.int8], codes: I8) -> NDArray[np.int32]:
    """int8 [rows, n] times int8 [n], all from -127 to 127, exact; int32 [rows]."""
    out, vector = np.zeros(matrix.shape[0], np.int32), codes.astype(np.float32)
    for row in range(0, matrix.shape[0], _BLOCK):
        block = matrix[row:row + _BLOCK].astype(np.float32)
        for column in range(0, matrix.shape[1], _EXACT):
            part = slice(column, column + _EXACT)
            out[row:row + _BLOCK] += (block[:, part] @ vector[part]).astype(np.int32)
    return out


def ternary_products(weights: NDArray[np.int8] | F32, codes: I8) -> F32:
    """Ternary [out, in], as int8 or float32, times int8 [in], exact; float32 [out]. Sums of
    integers below 2^24 are exact in float32 in any order; an int8 matrix that is stored by columns
    is read only where ``codes`` is not zero."""
    vector = codes.astype(np.float32)
    if weights.dtype == np.float32:
        return weights @ vector
    out = np.zeros(weights.shape[0], np.float32)
    if weights.flags.c_contiguous:
        for row in range(0, weights.shape[0], _BLOCK):
            out[row:row + _BLOCK] = weights[row:row + _BLOCK].astype(np.float32) @ vector
        return out
    columns, used = weights.T, np.flatnonzero(codes)
    for start in range(0, used.size, _BLOCK):
        part = used[start:start + _BLOCK]
        out += vector[part] @ columns[part].astype(np.float32)
    return out


def bitlinear(weights: NDArray[np.int8] | F32, x: Quantised, weight_scale: np.float32) -> F32:
    """int_sum * (weight_scale / s). ``weights`` ternary [out, in], as int8 or float32."""
    return sem.multiply(ternary_products(weights, x.codes), sem.divide(weight_scale, x.scale))


def group_bitlinear(weights: NDArray[np.int8] | F32, x: Quantised, scales: F32,
                    start: F32 | None = None) -> F32:
    """The sum over groups, in their order, of (int_sum * (1 / s)) * scale, added to ``start``.
    ``scales`` float32 [groups, out]."""
    total = start
    factor = sem.divide(ONE, x.scale)
    for group, each in enumerate(scales):
        part = slice(group * GROUP, (group + 1) * GROUP)
        sums = ternary_products(weights[:, part], x.codes[part])
        product = sem.multiply(sem.multiply(sums, factor), each)
        total = product if total is None else sem.add(total, product)
    assert total is not None
    return total


def rope(x: F32, cos: F32, sin: F32) -> F32:
    """rotate_half RoPE on float32 [heads, head_dim]; ``sin`` is negated in its first half."""
    swapped = np.concatenate([x[:, x.shape[1] // 2:], x[:, :x.shape[1] // 2]], axis=1)
    return sem.add(sem.multiply(x, cos), sem.multiply(swapped, sin))


def relu2(x: F32) -> F32:
    """max(x, 0)^2; float32 [n] -> float32 [n]."""
    positive = np.where(x.view(np.int32) < 0, np.float32(0), x)
    return sem.multiply(positive, positive)


def silu(x: F32) -> F32:
    """x / (1 + e^-x) by ``semantics.sigmoid``; float32 [n] -> float32 [n]."""
    shares = sem.sigmoid(x).astype(np.float32)
    return sem.multiply(sem.multiply(shares, SIGMOID_UNIT), x)


_ACTIVATE = {ACTIVATIONS["relu2"]: relu2, ACTIVATIONS["silu"]: silu}
_MATRICES = ("SKETCH", "Q", "K", "V", "O", "GATE", "UP")


class Cache:
    """The KV cache of a conversation of ``position`` tokens: int8 codes [layers, kv_heads, context,
    head_dim] and float32 scales [layers, kv_heads, context]."""

    def __init__(self, header: DdrHeader) -> None:
        shape = (header.layers, header.kv_heads, header.context)
        self.position = 0
        self.k = np.zeros((*shape, header.head_dim), np.int8)
        self.v = np.zeros((*shape, header.head_dim), np.int8)
        self.ks = np.zeros(shape, np.float32)
        self.vs = np.zeros(shape, np.float32)


class ReferenceModel:
    """Runs an image. ``cache`` is that of the conversation it is in; others may take its place."""

    def __init__(self, image: Image) -> None:
        self.image = image
        h = image.header
        self.header = h
        self._mode = mode_of(h)
        # what down_proj is computed with; the other is the same matrix
        self._down = "DOWN" if h.activation == ACTIVATIONS["relu2"] else "DOWN_ROWS"
        ternary = [t for t in image.tensors if KINDS[t.kind] in (*_MATRICES, self._down)]
        self._dtype = (np.float32 if sum(t.rows * t.columns for t in ternary) <= _CACHED_WEIGHTS
                       else np.int8)
        self._matrices: dict[tuple[int, int], NDArray[Any]] = {}
        # what a large model needs at once anyway; NumPy lets threads run beside each other here
        if self._dtype == np.int8:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda tensor: self.matrix(tensor.kind, tensor.layer), ternary))
        self._head_kind = "HEAD" if h.untied else "EMBEDDING"
        self._rows = {kind: (self._linear(kind).view(np.int8)[:h.vocab * h.hidden]
                             .reshape(h.vocab, h.hidden), self.floats(f"{kind}_SCALE", h.vocab))
                      for kind in dict.fromkeys(("EMBEDDING", self._head_kind))}
        self._rope: F32 = self.floats("ROPE", h.context * 2 * h.head_dim).reshape(h.context, 2,
                h.head_dim)
        self.reset()

    def _linear(self, kind: str, layer: int = 0) -> NDArray[np.uint8]:
        return unstripe(self.image.data(self.image.tensor(kind, layer)))

    def floats(self, kind: str, count: int, layer: int = 0) -> F32:
        """The first ``count`` elements of a float32 tensor."""
        return self._linear(kind, layer).view(np.float32)[:count]

    def matrix(self, kind: int, layer: int) -> NDArray[Any]:
        """A ternary matrix [outputs, inputs], int8 or float32."""
        if (kind, layer) not in self._matrices:
            self._matrices[kind, layer] = self._unpack(self.image.tensor(KINDS[kind], layer))
        return self._matrices[kind, layer]

    def rows(self, kind: str) -> I8:
        """Codes of EMBEDDING or, if the model has it, HEAD, int8 [tokens, hidden]."""
        return self._rows[kind][0]

    def rope_row(self, position: int) -> F32:
        """Cosines and signed sines of a position, float32 [2, head_dim]."""
        row: F32 = self._rope[position]
        return row

    def _unpack(self, tensor: Tensor) -> NDArray[Any]:
        data, columns = unstripe(self.image.data(tensor)), [tensor.columns]
        if KINDS[tensor.kind] == "DOWN_ROWS":
            columns = down_chunks(self.header)
        parts, start = [], 0
        if self.header.group and KINDS[tensor.kind] != "SKETCH":
            words = row_words(tensor.columns, self._mode)
            grouped = data[:words * tensor.rows * WORD_BYTES].reshape(words, tensor.rows, -1)
            data, columns = np.ascontiguousarray(grouped.transpose(1, 0, 2)), [tensor.columns]
            data = data.reshape(-1)
        for count in columns:
            size = tensor.rows * row_words(count, self._mode) * WORD_BYTES
            packed = data[start:start + size].reshape(tensor.rows, -1)
            parts.append(unpack_ternary(packed, count, self._mode).astype(self._dtype, copy=False))
            start += size
        weights: NDArray[Any] = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        return weights.T if KINDS[tensor.kind] == "DOWN" else weights

    @staticmethod
    def _bits(value: int) -> np.float32:
        return np.uint32(value).view(np.float32)

    def reset(self) -> None:
        """Begins a conversation."""
        self.cache = Cache(self.header)

    @property
    def position(self) -> int:
        """Tokens in the KV cache."""
        return self.cache.position

    def _project(self, kind: str, layer: int, x: Quantised, start: F32 | None = None) -> F32:
        """The product, added to ``start``."""
        tensor, matrix = self.image.tensor(kind, layer), self.matrix(KINDS.index(kind), layer)
        if self.header.group:
            name, groups = kind.removesuffix("_ROWS"), -(-tensor.columns // self.header.group)
            scales = self.floats(f"{name}_SCALES", tensor.rows * groups, layer)
            return group_bitlinear(matrix, x, scales.reshape(groups, tensor.rows), start)
        product = bitlinear(matrix, x, np.float32(tensor.scale))
        return product if start is None else sem.add(product, start)

    def _norm(self, kind: str, layer: int, x: F32, inverse_bits: int) -> F32:
        return rms_norm(x, self.floats(kind, x.size, layer), self._bits(inverse_bits),
                        self._bits(self.header.eps_bits))

    def _attend(self, layer: int, head: int, queries: F32) -> F32:
        """float32 [group, head_dim] -> float32 [group, head_dim], over the cached tokens including
        the current one. Up to BYTE_VECTORS queries share a scale."""
        if len(queries) > BYTE_VECTORS:
            return np.concatenate([self._attend(layer, head, queries[i:i + BYTE_VECTORS])
                                   for i in range(0, len(queries), BYTE_VECTORS)])
        tokens = self.position + 1
        q = quantise_vector(queries.reshape(-1))
        codes = q.codes.reshape(queries.shape)
        back = sem.multiply(inverse_scale(queries.reshape(-1)),
                            self._bits(self.header.score_scale_bits))
        out = []
        for query in codes:
            sums = integer_products(self.cache.k[layer, head, :tokens], query).astype(np.float32)
            scores = sem.multiply(sem.multiply(sums, back), self.cache.ks[layer, head, :tokens])
            powers = sem.exp2(sem.add(sem.multiply(scores, ONE), -sem.maximum(scores)))
            total = sem.reduce_sum(powers)
            weights = sem.multiply(powers, self.cache.vs[layer, head, :tokens])
            scale = sem.divide(MAX_CODE, sem.absmax(weights))
            factor = sem.divide(sem.multiply(sem.absmax(weights), MAX_CODE_INVERSE), total)
            result = np.zeros(0, np.float32)
            for start in range(0, tokens, CHUNK_TOKENS):
                part = slice(start, min(start + CHUNK_TOKENS, tokens))
                mixed = integer_products(self.cache.v[layer, head, part].T,
                                         sem.quantise(weights[part], scale))
                product = sem.multiply(mixed.astype(np.float32), factor)
                result = sem.add(product, result) if start else product
            out.append(result)
        return np.stack(out)

    def attend_once(self, q: F32, k: F32, v: F32) -> F32:
        """Attention of layer 0 over given keys and values, float32 [kv_heads, tokens, head_dim],
        for the queries of the last token, float32 [heads, head_dim]. Overwrites the cache; for
        comparisons with other implementations."""
        self.reset()
        group = self.header.heads // self.header.kv_heads
        for self.cache.position in range(k.shape[1]):
            for head in range(self.header.kv_heads):
                self._remember(0, head, k[head, self.position], v[head, self.position])
        return np.stack([row for head in range(self.header.kv_heads)
                         for row in self._attend(0, head, q[head * group:(head + 1) * group])])

    def _remember(self, layer: int, head: int, k: F32, v: F32) -> None:
        """Puts a token's key and value, float32 [head_dim], into the cache."""
        for vector, codes, scales in ((k, self.cache.k, self.cache.ks),
                                     (v, self.cache.v, self.cache.vs)):
            quantised = quantise_vector(vector)
            codes[layer, head, self.position] = quantised.codes
            scales[layer, head, self.position] = inverse_scale(vector)

    def _layer(self, layer: int, x: F32) -> F32:
        h = self.header
        normed = quantise_vector(self._norm("INPUT_NORM", layer, x, h.inverse_hidden_bits))
        cos, sin = self._rope[self.position]
        q, k = (rope(self._heads(kind, layer, normed, count), cos, sin)
                for kind, count in (("Q", h.heads), ("K", h.kv_heads)))
        v = self._project("V", layer, normed).reshape(h.kv_heads, h.head_dim)
        mixed = []
        group = h.heads // h.kv_heads
        for head in range(h.kv_heads):
            self._remember(layer, head, k[head], v[head])
            mixed.append(self._attend(layer, head, q[head * group:(head + 1) * group]))
        attended = self._sub_norm("ATTN_SUB_NORM", layer, np.concatenate(mixed).reshape(-1),
                                  h.inverse_query_bits)
        x = self._project("O", layer, quantise_vector(attended), x)

        normed = quantise_vector(self._norm("POST_NORM", layer, x, h.inverse_hidden_bits))
        gate, up = self._project("GATE", layer, normed), self._project("UP", layer, normed)
        inner = self._sub_norm("FFN_SUB_NORM", layer,
                               sem.multiply(_ACTIVATE[h.activation](gate), up),
                               h.inverse_intermediate_bits)
        return sem.add(self._project(self._down, layer, quantise_vector(inner)), x)

    def _heads(self, kind: str, layer: int, normed: Quantised, count: int) -> F32:
        """Queries or keys before they are turned, float32 [count, head_dim]."""
        heads = self._project(kind, layer, normed).reshape(count, -1)
        if not self.header.qk_norms:
            return heads
        return np.stack([self._norm(f"{kind}_NORM", layer, head, self.header.inverse_head_bits)
                         for head in heads])

    def _sub_norm(self, kind: str, layer: int, x: F32, inverse_bits: int) -> F32:
        return self._norm(kind, layer, x, inverse_bits) if self.header.sub_norms else x

    def fill_cache(self, codes: NDArray[np.int8], scales: F32) -> None:
        """Makes the cache hold tokens: codes int8 [2, layers, kv_heads, tokens, head_dim] and
        scales float32 [2, layers, kv_heads, tokens] of keys and of values."""
        self.cache.position = codes.shape[3]
        for place, (cache, cached_scales) in enumerate(((self.cache.k, self.cache.ks),
                                                        (self.cache.v, self.cache.vs))):
            cache[:, :, :self.position] = codes[place]
            cached_scales[:, :, :self.position] = scales[place]

    def advance(self, token: int) -> F32:
        """Appends a token; returns the last layer's output, float32 [hidden]."""
        codes, scales = self._rows["EMBEDDING"]
        x = sem.multiply(codes[token].astype(np.float32), scales[token])
        for layer in range(self.header.layers):
            x = self._layer(layer, x)
        self.cache.position += 1
        return x

    def _head(self, x: F32, tokens: NDArray[np.int64] | slice) -> F32:
        normed = quantise_vector(self._norm("FINAL_NORM", 0, x, self.header.inverse_hidden_bits))
        codes, scales = self._rows[self._head_kind]
        sums = integer_products(codes[tokens], normed.codes).astype(np.float32)
        return sem.multiply(sem.multiply(sums, sem.divide(ONE, normed.scale)), scales[tokens])

    def logits(self, x: F32) -> F32:
        """The full head: int8 logits of all tokens, float32 [vocab]."""
        return self._head(x, slice(None))

    def sketch_scores(self, x: F32) -> F32:
        """What the ternary sketch of the head says of all tokens, float32 [vocab]."""
        normed = quantise_vector(self._norm("FINAL_NORM", 0, x, self.header.inverse_hidden_bits))
        sketch, scales = (self.matrix(KINDS.index("SKETCH"), 0),
                          self.floats("SKETCH_SCALE", self.header.vocab))
        return sem.multiply(bitlinear(sketch, normed, ONE), scales)

    def candidates(self, x: F32) -> tuple[NDArray[np.int64], F32]:
        """The screened head: the tokens that the ternary sketch ranks highest, rising, and their
        int8 logits."""
        kept = (1 << self.header.rank_levels) - 1
        tokens = np.sort(np.argsort(-sem.float_key(self.sketch_scores(x)), kind="stable")[:kept])
        return tokens, self._head(x, tokens)

    def forward(self, token: int) -> F32:
        """Appends a token; returns the full head's logits, float32 [vocab]."""
        return self.logits(self.advance(token))
