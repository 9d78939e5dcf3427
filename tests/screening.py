"""How often the screened head chooses as the full one does, on stories that the bundled model tells
itself.

python tests/screening.py --positions 10000
"""

from __future__ import annotations

import argparse

import numpy as np
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.run.sampling import Sampler, Sampling
from xtvu.semantics import argmax

__all__ = ["compare_heads"]

_LAST_SPECIAL = 2  # ids up to here end a story


def compare_heads(positions: int) -> tuple[int, int]:
    """Positions where the two heads disagree, and the worst rank in the sketch of what the full
    head chose, best is 0.

    Also checks that the screened head's logits are the full head's, to the bit.
    """
    model = ReferenceModel(convert(open_checkpoint(BUNDLED)))
    seen = wrong = worst = seed = 0
    while True:
        seed += 1
        model.reset()
        sampler, token = Sampler(Sampling(temperature=1.0, seed=seed)), 0
        while model.position < model.header.context:
            if seen == positions:
                return wrong, worst
            x = model.advance(token)
            logits = model.logits(x)
            tokens, candidates = model.candidates(x)
            best, scores = argmax(logits), model.sketch_scores(x)
            wrong += int(tokens[argmax(candidates)]) != best
            np.testing.assert_array_equal(candidates, logits[tokens])
            worst = max(worst, int(np.count_nonzero(scores > scores[best])))
            seen += 1
            best_first = np.argsort(-logits, kind="stable")[:64]
            token = sampler.choose(best_first.tolist(), logits[best_first].tolist()).token
            if token <= _LAST_SPECIAL:
                break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=10_000)
    count = parser.parse_args().positions
    different, rank = compare_heads(count)
    print(f"{count} positions: {different} where the heads choose differently; worst rank of the "
          f"full head's choice in the sketch: {rank}")
    raise SystemExit(different != 0)
