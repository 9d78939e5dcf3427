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
import contextlib
import copy
import io
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import typer
from bitnet_host.apps import verify as command
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.convert import convert
from bitnet_host.model.image import write_image
from bitnet_host.model.rope import inverse_frequencies
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.hf_config import model_config
from bitnet_host.verify.forward import load, record
from bitnet_host.verify.operators import OperatorRecord, compare_records
from families import FORMS, small, write_family
from golden import PROMPT_FIXTURE, fixture_path, load_records, save_records
from models import RECORDED, SHAPES, write_checkpoint
from ropes import ROPE_BASE, ROPES
from transformers import AutoTokenizer, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from xtvu.semantics import argmax

__all__ = ["main"]

PROMPTS = ["Tell me a story about a dog.", "Write a story about a rabbit.", "Who are you?",
           "Tell me a story about Lily and a cat.",
           "Can you tell me a story?", "Hello!"]
TOKENS = 3


@torch.no_grad()
def greedy_prompts() -> list[dict]:
    """transformers' greedy continuations of PROMPTS: 64 tokens, not stopped, and the first
    logits."""
    model, tokenizer = load(BUNDLED, "packed"), AutoTokenizer.from_pretrained(BUNDLED)
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
    model, reference = load(BUNDLED, "packed"), ReferenceModel(convert(open_checkpoint(BUNDLED)))
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
            checkpoint = open_checkpoint(folder)
            records = record(load(folder, checkpoint.stored), tokens)
            reference = ReferenceModel(convert(checkpoint))
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
    for name, problems in compare_families():
        bad += len(problems)
        failed |= {name} if problems else set()
    problems = compare_rope()
    for problem in problems:
        print(problem, file=sys.stderr)
    bad += len(problems)
    failed |= {"rope"} if problems else set()
    print(f"RoPE           {len(ROPES)} configurations {'DIFFER' if problems else 'alike'}")
    problems = compare_command()
    for problem in problems:
        print(problem, file=sys.stderr)
    bad += len(problems)
    failed |= {"verify"} if problems else set()
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
    print(f"{len(cases) + len(_FAMILIES) + 4 - len(failed)} passed, {len(failed)} failed")
    return 1 if bad else 0


#: Families, and their forms that transformers or a checkpoint's own code loads.
_FAMILIES = [(family, form) for family, forms in FORMS.items() for form in forms
             if form != "I2_S" and not form.startswith("Q2_0")]


def compare_families() -> Iterator[tuple[str, list[str]]]:
    """Each family's operators; prints as it goes."""
    for family, form in _FAMILIES:
        with tempfile.TemporaryDirectory() as temporary:
            folder = write_family(Path(temporary), small(family, form), family, form)
            checkpoint = open_checkpoint(folder)
            records = record(load(folder, checkpoint.stored), [3, 17, 40, 5, 6][:TOKENS + 2])
            problems, summary = compare_records(ReferenceModel(convert(checkpoint)), records)
        for problem in problems:
            print(f"{family} {form}: {problem}", file=sys.stderr)
        print(f"{family:<14} {form:<12} {summary}", flush=True)
        yield f"{family} {form}", problems


def compare_command() -> list[str]:
    """`bitnet-host verify` of a folder, and of two readers that are wrong where nothing but the
    model's own forward pass tells."""
    problems = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, image = Path(temporary) / "model", Path(temporary) / "m.bitnet"
        write_family(folder, small("falcon-e-1b", "packed"), "falcon-e-1b", "packed")
        checkpoint = open_checkpoint(folder)
        for name, wrong, said in (
                ("as it is", {}, "2 layers compute what transformers does"),
                ("RoPE", {"rope_theta": 500.0}, "operator rope: relative error"),
                ("norms", {"eps": 0.003}, "operator model.layers.0.input_layernorm: "),
                ("activation", {"activation": "relu2"}, "operator model.layers.0.mlp.act_fn: ")):
            other = replace(checkpoint, config=replace(checkpoint.config, **wrong))
            write_image(convert(other), image)
            text = io.StringIO()
            with contextlib.redirect_stdout(text), mock.patch.object(command, "open_source",
                                                                     lambda *_, it=other: it):
                try:
                    command.verify(image, folder)
                    ended = 0
                except typer.Exit as end:
                    ended = end.exit_code
            if said not in text.getvalue() or ended != bool(wrong):
                problems.append(f"verify, {name}: {text.getvalue()}")
    return problems


def compare_rope() -> list[str]:
    """What transformers makes of configurations of RoPE: frequencies and the factor on cosines."""
    problems = []
    for name, changes in ROPES.items():
        raw = ROPE_BASE | changes
        ours, factor = inverse_frequencies(model_config(raw, Path(name)))
        config = LlamaConfig(**{key: copy.deepcopy(value) for key, value in raw.items()
                                if key != "model_type"})
        theirs = LlamaRotaryEmbedding(config)
        if (not np.allclose(ours, theirs.inv_freq.numpy(), rtol=3e-7, atol=0)
                or abs(factor - theirs.attention_scaling) > 1e-12):
            problems.append(f"RoPE, {name}: other frequencies or another factor")
    return problems


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
