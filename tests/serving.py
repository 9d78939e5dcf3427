"""A server in this process, for tests to talk to."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import cache

from bitnet_host import open_board, open_model
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_host.model.text import TextModel
from bitnet_host.run.pool import Pool
from bitnet_host.serve.run import listen, server
from bitnet_host.serve.settings import Settings

__all__ = ["quick_image", "serving"]

_SHAPE = "hidden=32,intermediate=32,layers=1,heads=1,kv_heads=1,head_dim=32,vocab=2048"


@cache
def quick_image(context=256):
    """A random model that is fast on the golden model, with the bundled one's words. It never ends
    an answer itself."""
    image = convert(synthetic_checkpoint(parse_shape(f"{_SHAPE},context={context}"), 0.6, 1))
    image.meta.update({name: open_model().meta[name]
                       for name in ("tokenizer", "chat_template", "special")})
    return image


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
