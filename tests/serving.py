"""A server in this process, for tests to talk to."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
from bitnet_host import Sampling, Session, open_board, open_model
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.model.text import TextModel
from bitnet_host.run.pool import Pool
from bitnet_host.run.session import Spelling
from bitnet_host.serve.run import listen, server
from bitnet_host.serve.settings import Settings

__all__ = ["answering", "quick_image", "serving"]

_SHAPE = "hidden=32,intermediate=32,layers=1,heads=1,kv_heads=1,head_dim=32,vocab=2048"


@cache
def quick_image(context=256):
    """A random model that is fast on the golden model, with the bundled one's words, of which each
    depends on all before it. It never ends an answer itself."""
    checkpoint = synthetic_checkpoint(parse_shape(f"{_SHAPE},context={context}"), 0.6, 2)
    norm = np.random.default_rng(2).standard_normal(len(checkpoint.final_norm), np.float32)
    checkpoint.final_norm = 0.5 * norm
    for layer in checkpoint.layers:
        layer |= {name: replace(layer[name], scale=20 * layer[name].scale)
                  for name in ("o", "down")}
    meta = open_model().meta
    checkpoint.tokenizer, checkpoint.chat_template = meta["tokenizer"], meta["chat_template"]
    checkpoint.special = meta["special"]
    return convert(checkpoint)


@contextmanager
def answering(target="reference"):
    """What the library answers to messages, from their text alone, as a server does."""
    with open_board(target, quick_image()) as board:
        text, lock = TextModel(quick_image()), threading.Lock()
        session = Session(board, text, Spelling(text, 0))

        def answer(messages, max_tokens=9, **sampling):
            with lock:
                return session.chat(messages, max_tokens=max_tokens,
                                    sampling=Sampling(**sampling)).reply
        yield answer


@contextmanager
def serving(image, *, targets=("reference",), slots=0, open_one=open_board,
            board_patience=60.0, **settings):
    """The address of a server that is there until the end, and its pool."""
    asked = Settings(**{"port": 0, "names": ("tiny",)} | settings)
    with listen(asked) as listener:
        pool = Pool(targets, image, slots, patience=board_patience, open_one=open_one)
        running = server(pool, TextModel(image), asked)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            host, port = listener.getsockname()[:2]
            yield f"http://{host}:{port}", pool
        finally:
            running.should_exit = True
            thread.join(30)
            pool.close()
            assert not thread.is_alive()
