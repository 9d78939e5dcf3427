"""Tokens per second of training at the bundled model's size, in turn with the scripts that made it:

    python tests/training_speed.py FOLDER_WITH_THEIR_MODEL_PY [--seconds N]

Both compiled, one thread, float32, 4,096 tokens a step; the optimiser is left out of both.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from bitnet_host.apps.train import SIZES
from bitnet_host.train.network import Network, Rounded, new_parameters

__all__ = ["main"]


def _ours(rows, at_once):
    config = SIZES["small"]
    parameters = new_parameters(config, 1)
    for value in parameters.values():
        value.requires_grad_()
    network = Network(config)
    loss = torch.compile(network.loss, dynamic=False)

    def step():
        rounded = Rounded.of(parameters, config, True)
        for part in rows.split(at_once):
            (loss(parameters, rounded, part) * (len(part) / len(rows))).backward()
        rounded.pass_on(parameters)
        for value in parameters.values():
            value.grad = None
    return step


def _theirs(rows, folder):
    sys.path.insert(0, str(folder))
    from model import LM

    model = LM({"hidden": 256, "inter": 512, "layers": 4, "heads": 8, "kv": 2, "head_dim": 32,
                "vocab": 2048, "ctx": 256, "theta": 500000.0})
    loss = torch.compile(model.loss, dynamic=False)

    def step():
        for part in rows.split(4):
            (loss(part[:, :-1], part[:, 1:], model.weights()) / 4).backward()
        model.zero_grad(set_to_none=False)
    return step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = torch.from_numpy(np.random.default_rng(1).integers(0, 2048, (16, 257)))
    steps = {"first scripts": _theirs(rows, arguments.folder),
             **{f"train, {count} rows at once": _ours(rows, count) for count in (2, 4, 8, 16)}}
    times = {name: [] for name in steps}
    for step in steps.values():
        step()  # compiles
    for _ in range(arguments.rounds):  # in turn, so that a busy machine is busy for all
        for name, step in steps.items():
            began = time.process_time()
            step()
            times[name].append(time.process_time() - began)
    base = np.median(times["first scripts"])
    for name, taken in times.items():
        print(f"{name:<24} {4096 / np.median(taken):>7,.0f} tokens/s of CPU time, "
              f"{base / np.median(taken):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
