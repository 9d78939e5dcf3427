"""What lies where in a board's memory: parts by what they are for, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from xtvu.isa import WORD_BYTES

from bitnet_host.model.header import (
    BLOCK_BYTES,
    KINDS,
    MODEL_BASE,
    RESERVED,
    DdrHeader,
    lay_out,
)
from bitnet_host.model.plan import Plan

__all__ = ["PARTS", "Part", "as_bar", "as_svg", "parts"]

#: What a part holds, and kinds of tensors or fields of RESERVED that are in it. Everything has its
#: place in one of them (tests/host/test_memory.py).
PARTS: dict[str, tuple[str, ...]] = {
    "attention": ("Q", "K", "V", "O", "Q_SCALES", "K_SCALES", "V_SCALES", "O_SCALES"),
    "MLP": ("GATE", "UP", "DOWN", "GATE_SCALES", "UP_SCALES", "DOWN_SCALES"),
    "down_proj by rows": ("DOWN_ROWS",),
    "embedding and head": ("EMBEDDING", "EMBEDDING_SCALE", "HEAD", "HEAD_SCALE"),
    "sketch of the head": ("SKETCH", "SKETCH_SCALE"),
    "norms and RoPE": ("INPUT_NORM", "Q_NORM", "K_NORM", "ATTN_SUB_NORM", "POST_NORM",
                       "FFN_SUB_NORM", "FINAL_NORM", "ROPE"),
    "KV cache": ("k_base", "v_base", "ks_base", "vs_base"),
    "logits and work": ("logits_base", "candidates_base", "residual_base", "history_base"),
}
_OTHER, _FREE = "header, and what the machine keeps", "free"
_COLOURS = ("#3b6fb6", "#c8553d", "#e0a458", "#6b7a3f", "#a3b18a", "#8d96a3", "#7b4b94", "#b8b8b8",
            "#555555", "#f2f2f2")
_LETTERS = "amdesnkw-."


@dataclass(frozen=True)
class Part:
    name: str
    bytes: int


def parts(header: DdrHeader, plan: Plan) -> list[Part]:
    """The parts of PARTS, then header and what the firmware has, then what is free, if any. Their
    sum is the board's memory, or more if the model does not fit. ``header`` stays as it is."""
    laid = replace(header, cache_tokens=plan.cache_tokens)
    sizes: dict[str, int] = dict.fromkeys(KINDS, 0)
    for tensor in lay_out(laid, plan.down_rows):
        sizes[KINDS[tensor.kind]] += -(-tensor.words * WORD_BYTES // BLOCK_BYTES) * BLOCK_BYTES
    places = [*(getattr(laid, name) for name in RESERVED), MODEL_BASE + laid.total_bytes]
    sizes |= {name: end - start
              for name, start, end in zip(RESERVED, places, places[1:], strict=False)}
    found = [Part(name, sum(sizes[kind] for kind in kinds)) for name, kinds in PARTS.items()]
    used = MODEL_BASE + laid.total_bytes
    found.append(Part(_OTHER, used - sum(part.bytes for part in found)))
    if used < plan.memory_bytes:
        found.append(Part(_FREE, plan.memory_bytes - used))
    return found


def as_bar(found: Sequence[Part], memory_bytes: int, width: int = 64) -> str:
    """A line of letters for all of the board's memory and what is beyond it, and what they
    mean."""
    whole, line, end = max(memory_bytes, sum(part.bytes for part in found)), "", 0
    for letter, part in zip(_letters(found), found, strict=True):
        end += part.bytes
        line += letter * (round(width * end / whole) - len(line))
    edge = round(width * memory_bytes / whole)
    over = f"|{line[edge:]}  beyond the board's memory" if edge < width else "|"
    lines = [f"|{line[:edge]}{over}"]
    lines += [f"  {letter}  {part.bytes / 2**20:8.1f} MB  {part.name}"
              for letter, part in zip(_letters(found), found, strict=True) if part.bytes]
    return "\n".join(lines)


def _letters(found: Sequence[Part]) -> list[str]:
    return [_LETTERS[-1] if part.name == _FREE else _LETTERS[place]
            for place, part in enumerate(found)]


def as_svg(found: Sequence[Part], memory_bytes: int, title: str) -> str:
    """The same as a picture of 800 x 120 points and a line of 18 for each part."""
    whole = max(memory_bytes, sum(part.bytes for part in found))
    shown = [(part, "#f2f2f2" if part.name == _FREE else colour)
             for part, colour in zip(found, _COLOURS, strict=False) if part.bytes]
    height = 100 + 18 * len(shown)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="800" height="{height}" '
           f'viewBox="0 0 800 {height}" font-family="sans-serif" font-size="13">',
           f'<title>{escape(title)}</title>',
           f'<text x="10" y="22" font-size="15">{escape(title)}</text>']
    start = 0
    for place, (part, colour) in enumerate(shown):
        left, right = (10 + 780 * at / whole for at in (start, start + part.bytes))
        start += part.bytes
        y = 100 + 18 * place
        out += [f'<rect x="{left:.1f}" y="36" width="{max(right - left, 0.5):.1f}" height="36" '
                f'fill="{colour}"/>',
                f'<rect x="10" y="{y - 11}" width="12" height="12" fill="{colour}"/>',
                f'<text x="30" y="{y}">{part.bytes / 2**20:,.1f} MB {escape(part.name)}</text>']
    edge = 10 + 780 * memory_bytes / whole
    out += [f'<line x1="{edge:.1f}" y1="30" x2="{edge:.1f}" y2="78" stroke="black"/>', "</svg>"]
    return "\n".join(out) + "\n"
