"""Holds the golden model against Hugging Face transformers (float32), operator by operator, with
the same inputs.

    python tests/oracle.py                     compares live, and checks that the recorded fixtures
    still say the same python tests/oracle.py --record            writes tests/fixtures/, which
    `make test` uses without torch python tests/oracle.py --reference FILE    also prints the greedy
    agreement with a reference.json python tests/oracle.py --heldout FILE      also measures
    perplexity on a JSON list of lists of token ids

int8 codes and int32 sums must be identical; float results must agree to rounding.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from golden import (
    PROMPT_FIXTURE,
    OperatorRecord,
    compare_records,
    fixture_path,
    load_records,
    save_records,
)
from models import RECORDED, SHAPES, write_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations import bitnet as hf_bitnet
from transformers.models.bitnet import modeling_bitnet as hf_model
from xtvu.semantics import argmax

__all__ = ["main"]

PROMPTS = ["Tell me a story about a dog.", "Write a story about a rabbit.", "Who are you?",
           "Tell me a story about Lily and a cat.",
           "Can you tell me a story?", "Hello!"]
TOKENS = 3


def load(folder: Path):
    """The checkpoint in float32 throughout; transformers leaves norms and embedding in their stored
    type."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return torch.nn.Module.float(model).eval()


def _linear_record(module, x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    """Codes and sums as the module's own functions make them."""
    if isinstance(module, hf_bitnet.AutoBitLinear):
        scale = 127 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
        codes = (hf_bitnet.ActQuant.apply(x) * scale).round()
        weight = module.weight
        if module.online_quant:
            weight = (hf_bitnet.WeightQuant.apply(weight) / weight.abs().mean()).round()
    else:
        codes, _ = module.activation_quant(x)
        weight = hf_bitnet.unpack_weights(module.weight, dtype=torch.float32)
    sums = torch.nn.functional.linear(codes.double(), weight.double())
    return {"input": x.numpy(), "codes": codes.to(torch.int8).numpy(),
            "sums": sums.to(torch.int32).numpy(), "output": y.numpy()}


@torch.no_grad()
def record(folder: Path, tokens: list[int]) -> list[OperatorRecord]:
    """Runs transformers over ``tokens`` and keeps every operator's input and output."""
    model = load(folder)
    records: list[OperatorRecord] = []

    def hook(name: str):
        def keep(module, inputs, output):
            x, y = inputs[0][0], output[0]
            if isinstance(module, hf_model.BitNetRMSNorm):
                records.append(OperatorRecord(name, "norm",
                                              {"input": x.numpy(), "output": y.numpy()}))
            else:
                records.append(OperatorRecord(name, "linear", _linear_record(module, x, y)))
        return keep

    for name, module in model.named_modules():
        if (isinstance(module,
                       (hf_bitnet.AutoBitLinear, hf_bitnet.BitLinear, hf_model.BitNetRMSNorm))):
            module.register_forward_hook(hook(name))
    ids = torch.tensor([tokens])
    model(ids)
    head_dim = model.model.layers[0].self_attn.head_dim
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((1, 2, len(tokens),
            head_dim)).astype(np.float32))
    cos, sin = model.model.rotary_emb(x, torch.arange(len(tokens))[None])
    rotated, _ = hf_model.apply_rotary_pos_emb(x, x, cos, sin)
    records.append(OperatorRecord("rope", "rope",
                                  {"input": x[0].numpy(), "output": rotated[0].numpy()}))
    records.append(attention_record(model, len(tokens)))
    return records


def attention_record(model, count: int) -> OperatorRecord:
    """transformers' attention of the last of ``count`` tokens, on random queries, keys and
    values."""
    module = model.model.layers[0].self_attn
    heads, caches, dim = (model.config.num_attention_heads, model.config.num_key_value_heads,
                          module.head_dim)
    rng = np.random.default_rng(6)
    q, k, v = (rng.standard_normal((1, n, m, dim)).astype(np.float32)
               for n, m in ((heads, 1), (caches, count), (caches, count)))
    out, _ = hf_model.eager_attention_forward(module, *(torch.from_numpy(x) for x in (q, k, v)),
                                              None, scaling=module.scaling)
    return OperatorRecord("attention", "attention",
                          {"input": q[0, :, 0], "k": k[0], "v": v[0], "output": out[0, 0].numpy()})


@torch.no_grad()
def greedy_prompts() -> list[dict]:
    """transformers' greedy continuations of PROMPTS: 64 tokens, not stopped, and the first
    logits."""
    model, tokenizer = load(BUNDLED), AutoTokenizer.from_pretrained(BUNDLED)
    out = []
    for prompt in PROMPTS:
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}],
                                             add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        step = model(torch.tensor([ids]), use_cache=True)
        logits, made = step.logits[0, -1], list(ids)
        for _ in range(64):
            made.append(int(step.logits[0, -1].argmax()))
            step = model(torch.tensor([made[-1:]]), past_key_values=step.past_key_values)
        top = torch.topk(logits, 20)
        out.append({"prompt": prompt, "prompt_ids": ids, "greedy_ids": made[len(ids):],
                    "first_logits_top20": [[int(i), float(v)]
                                           for i, v in zip(top.indices, top.values, strict=True)]})
    return out


@torch.no_grad()
def perplexity(file: Path) -> None:
    """Prints the perplexity of both models over the held-out token lists."""
    model, reference = load(BUNDLED), ReferenceModel(convert(open_checkpoint(BUNDLED)))
    sums, count = [0.0, 0.0], 0
    for story in json.loads(file.read_text()):
        ids = story[:reference.header.context]
        theirs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
        reference.reset()
        for place, token in enumerate(ids[:-1]):
            logits = reference.forward(token).astype(np.float64)
            ours = (logits[ids[place + 1]] - logits.max()
                    - math.log(np.exp(logits - logits.max()).sum()))
            sums[0] -= float(theirs[place, ids[place + 1]])
            sums[1] -= float(ours)
            count += 1
    hf, golden = (math.exp(total / count) for total in sums)
    print(f"perplexity over {count} positions: transformers {hf:.4f}, golden {golden:.4f} "
          f"({100 * (golden / hf - 1):+.3f} %)")


def agreement(file: Path) -> None:
    """Prints, per prompt of a reference.json, how many greedy tokens agree before the first that
    does not, and the largest difference of the first logits that it records."""
    reference = ReferenceModel(convert(open_checkpoint(BUNDLED)))
    for prompt in json.loads(file.read_text())["prompts"]:
        reference.reset()
        for token in prompt["prompt_ids"]:
            logits = reference.forward(token)
        error = max(abs(float(logits[token]) - value)
                    for token, value in prompt["first_logits_top20"])
        agreed = 0
        for expected in prompt["greedy_ids"]:
            if argmax(logits) != expected:
                break
            agreed += 1
            logits = reference.forward(expected)
        print(f"greedy agreement {agreed} of {len(prompt['greedy_ids'])}, first logits within "
              f"{error:.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--heldout", type=Path)
    parser.add_argument("--reference", type=Path)
    arguments = parser.parse_args()
    cases = [("bundled", None), *((f"random{shape.seed}", shape) for shape in SHAPES)]
    bad, failed = 0, set()
    for name, shape in cases:
        with tempfile.TemporaryDirectory() as temporary:
            folder = BUNDLED if shape is None else write_checkpoint(Path(temporary), shape)
            tokens = [0, 807, 29, 1368, 506][:TOKENS] if shape is None else [3, 17, 40][:TOKENS]
            records = record(folder, tokens)
            reference = ReferenceModel(convert(open_checkpoint(folder)))
        problems, summary = compare_records(reference, records)
        if shape is not None and shape not in RECORDED:
            pass  # compared live only
        elif arguments.record:
            save_records(fixture_path(name), records)
        else:
            problems += [f"{name}: fixture differs: {text}"
                         for text in _differences(load_records(fixture_path(name)), records)]
        for problem in problems:
            print(problem, file=sys.stderr)
        bad += len(problems)
        failed |= {name} if problems else set()
        print(f"{name:<10} {summary}", flush=True)
    prompts = greedy_prompts()
    if arguments.record:
        PROMPT_FIXTURE.write_text(json.dumps(prompts))
    elif ([p["greedy_ids"]
           for p in json.loads(PROMPT_FIXTURE.read_text())] != [p["greedy_ids"] for p in prompts]):
        print("the recorded greedy continuations differ from transformers'", file=sys.stderr)
        bad += 1
        failed.add("prompts")
    different = compare_templates()
    if different:
        print(f"{different} conversations are rendered or encoded otherwise than by transformers",
              file=sys.stderr)
        bad += different
        failed.add("templates")
    if arguments.reference:
        agreement(arguments.reference)
    if arguments.heldout:
        perplexity(arguments.heldout)
    print(f"{len(cases) + 2 - len(failed)} passed, {len(failed)} failed")
    return 1 if bad else 0


def _differences(old: list[OperatorRecord], new: list[OperatorRecord]) -> list[str]:
    """Names of records whose exact parts differ. torch may round a float matrix product differently
    on another CPU, so an input that changed by rounding is not held against the fixture."""
    if [r.name for r in old] != [r.name for r in new]:
        return ["other operators"]
    out = []
    for a, b in zip(old, new, strict=True):
        if not np.allclose(a.arrays["output"], b.arrays["output"], rtol=1e-2, atol=1e-2):
            out.append(a.name)
        elif "codes" in a.arrays and np.array_equal(a.arrays["input"], b.arrays["input"]) \
                and not np.array_equal(a.arrays["codes"], b.arrays["codes"]):
            out.append(a.name)
    return out


_TEMPLATES = [
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m.content|trim }}{{ eos_token }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}A: {% endif %}",
    "{{ bos_token }}{% set ns = namespace(n=0) %}\n{% for m in messages %}\n  {% if m.role == "
    "'system' %}{% continue %}{% endif %}\n"
    "{% set ns.n = ns.n + 1 %}{% generation %}{{ ns.n }}. {{ m.content }}{% endgeneration %}\n{% "
    "endfor %}",
    "{{ messages|tojson(indent=2) }}{{ messages[0].content|upper }}{% if tools is none and "
    "documents is none %}-{% endif %}",
    "{%- for m in messages if m.content -%}{{ strftime_now('%Y') }}{{ loop.index0 }}{{ "
    "m.content[:3] }}{% break %}{%- endfor -%}",
]


def compare_templates() -> int:
    """How many conversations our templates render, or our tokenizer encodes, otherwise than
    transformers."""
    from bitnet_host import TextModel
    from bitnet_host.model.template import ChatTemplate
    from transformers import AutoTokenizer
    from transformers.utils.chat_template_utils import _compile_jinja_template

    tokenizer, text = (AutoTokenizer.from_pretrained(BUNDLED),
                       TextModel(convert(open_checkpoint(BUNDLED))))
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    turns = [{"role": "system", "content": "Be <brief> & kind."},
             {"role": "user", "content": " Tëll \"me\"\n a story "},
             {"role": "assistant", "content": "Once."}, {"role": "user", "content": "Go on"}]
    bad = 0
    for conversation in (turns, turns[1:], turns[1:2]):
        for source in _TEMPLATES:
            theirs = _compile_jinja_template(source).render(
                messages=conversation, tools=None, documents=None, add_generation_prompt=True,
                **special)
            bad += ChatTemplate(source, special).render(conversation) != theirs
        rendered = tokenizer.apply_chat_template(conversation, tokenize=False,
                                                 add_generation_prompt=True)
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        bad += text.encode_chat(conversation) != (rendered, ids)
    return bad


if __name__ == "__main__":
    sys.exit(main())
