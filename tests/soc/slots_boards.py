"""What the tests of slots share."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import numpy as np
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import over_udp

__all__ = ["PAGE", "SHAPE", "answer_alone", "filled", "opened", "raw", "renew", "same_logits",
           "small_pair", "take", "together"]

SHAPE = "hidden=64,intermediate=96,layers=1,heads=4,kv_heads=2,head_dim=32,vocab=128,context=700"
PAGE = 128


@contextmanager
def opened(image, preset="ug585"):
    simulator = Simulator(preset)
    board = BoardTarget(image, over_udp("127.0.0.1", simulator.ports["udp"]), simulator)
    reference = ReferenceTarget(image)
    try:
        board.prepare()
        reference.prepare()
        yield board, reference
    finally:
        board.close()


def small_pair():
    """Thirteen pages for conversations of up to six."""
    return opened(convert(synthetic_checkpoint(parse_shape(SHAPE), 0.6, 1), cache_tokens=13 * PAGE))


def renew(pair):
    """Empties the slots of board and golden model."""
    for target in pair:
        target.prepare()
        for slot in target.slots:
            slot.make_room = lambda: False


def together(work):
    """Runs functions at once; their results, or what they raised."""
    results = [None] * len(work)

    def run(place):
        try:
            results[place] = work[place]()
        except Exception as error:  # told to the test
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    return results


def answer_alone(reference, prompt, tokens, sampling=None):
    reference.reset()
    return reference.generate(prompt, tokens, sampling).token_ids


def filled(slot, tokens):
    """A conversation of so many tokens, whatever they are."""
    if isinstance(slot, BoardTarget):
        slot.fill_cache(tokens)
    else:
        slot.generate([0] * tokens, 0)


def same_logits(slot, reference, tokens):
    for token in tokens:
        np.testing.assert_array_equal(slot.score(token).view(np.uint32),
                                      reference.score(token).view(np.uint32))


def raw(board, slot, prompt, tokens, position=0):
    """The number of a GENERATE whose events somebody else takes."""
    return board.transport.send("GENERATE", [slot, position, tokens, 0, 0, len(prompt), *prompt])


def take(board, said):
    """The next event, whose token is put to those of its answer."""
    event = board.transport.listen(60)
    if event.name == "TOKEN":
        said[event.sequence].append(int(event.payload[0]))
    return event
