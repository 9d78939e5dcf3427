"""The real 2B checkpoint's names, shapes and bytes with random weights: what converting and opening
it takes.

Run by `make bench`; prints a line per step with peak memory and CPU time of the process that did
it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HIDDEN, INNER, LAYERS, KEYS, VOCAB, BYTES, TENSORS = 2560, 6912, 30, 640, 128256, 1_178_623_988, 542
_BUNDLED = (Path(__file__).resolve().parent.parent
            / "host/bitnet_host/model/sources/bundled/tiny-bitnet")


def _shapes() -> dict[str, tuple[str, list[int]]]:
    shapes = {"model.norm.weight": ("BF16", [HIDDEN])}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, out, columns in (("self_attn.q_proj", HIDDEN, HIDDEN),
                                   ("self_attn.k_proj", KEYS, HIDDEN),
                                   ("self_attn.v_proj",
                                    KEYS, HIDDEN), ("self_attn.o_proj", HIDDEN, HIDDEN),
                                   ("mlp.gate_proj",
                                    INNER, HIDDEN),
                                   ("mlp.up_proj", INNER,
                                    HIDDEN), ("mlp.down_proj", HIDDEN, INNER)):
            shapes[f"{prefix}{name}.weight"] = ("U8", [out // 4, columns])
            shapes[f"{prefix}{name}.weight_scale"] = ("BF16", [1])
        for name, size in (("input_layernorm", HIDDEN), ("self_attn.attn_sub_norm", HIDDEN),
                           ("post_attention_layernorm", HIDDEN),
                           ("mlp.ffn_sub_norm", INNER)):
            shapes[f"{prefix}{name}.weight"] = ("BF16", [size])
    shapes["model.embed_tokens.weight"] = ("BF16", [VOCAB, HIDDEN])
    assert len(shapes) == TENSORS
    return shapes


def _bf16(values: np.ndarray) -> bytes:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()


def write(folder: Path) -> None:
    """The checkpoint, with the bundled model's tokenizer."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    table, offset = {}, 0
    for name, (kind, shape) in _shapes().items():
        size = int(np.prod(shape)) * (1 if kind == "U8" else 2)
        table[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(table, separators=(",", ":")).encode().ljust(BYTES - offset - 8)
    codes = np.array([a + 4 * b + 16 * c + 64 * d for a in range(3) for b in range(3)
                      for c in range(3) for d in range(3)], np.uint8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, (kind, shape) in _shapes().items():
            if kind == "U8":
                file.write(codes[rng.integers(0, len(codes), shape, np.uint8)].tobytes())
            elif name.endswith("scale"):
                file.write(_bf16(np.array([1.0])))
            elif len(shape) == 2:
                for _ in range(0, VOCAB, 4008):
                    file.write(_bf16(rng.standard_normal((4008, HIDDEN), np.float32)))
            else:
                file.write(_bf16(np.ones(shape)))
    assert (folder / "model.safetensors").stat().st_size == BYTES
    config = json.loads((_BUNDLED / "config.json").read_text())
    config |= {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
               "num_attention_heads": 20,
               "num_key_value_heads": 5, "vocab_size": VOCAB, "max_position_embeddings": 4096,
               "bos_token_id": 128000,
               "eos_token_id": 128001}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((_BUNDLED / name).read_bytes())


def step(what: str, *arguments: object, limit: float = 2000) -> str:
    """Runs bitnet-host; prints its peak memory in MB and CPU seconds."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "bitnet_host", *map(str, arguments)],
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    first_at = time.monotonic() - start
    output = first + process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = usage.ru_utime + usage.ru_stime
    print(f"{what}: peak {usage.ru_maxrss / 1024:.0f} MB, {seconds:.1f} CPU s, first line after "
          f"{first_at:.1f} s", flush=True)
    assert status == 0 and usage.ru_maxrss / 1024 < limit, status
    return output


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/bench/full-size")
    if not (folder / "tokenizer.json").exists():
        write(folder)
    (folder / "model.bitnet").unlink(missing_ok=True)  # of an earlier run
    print(step("convert", "convert", folder, "-o", folder / "model.bitnet"), end="")
    step("info", "info", folder / "model.bitnet", limit=200)
    step("chat --target reference, a token", "chat", "--target", "reference", "--model",
         folder / "model.bitnet", "--raw", "--prompt", "a",
         "--max-tokens", "1", limit=6000)
