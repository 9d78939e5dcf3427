"""Answering requests of a batch, on the boards of a pool."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from bitnet_host.batch.answers import Row
from bitnet_host.batch.requests import Request, understood
from bitnet_host.errors import BadArgument, BadModel, OutOfContext
from bitnet_host.run.pool import Pool
from bitnet_host.run.session import Session
from bitnet_host.run.target import Cancel
from bitnet_host.serve.model import Model

__all__ = ["Crowded", "answer", "answers"]


class Crowded(Exception):
    """The others under way have the rest of the KV cache."""


def answer(model: Model, pool: Pool, request: Request, cancel: Cancel,
           alone: bool = False) -> Row | None:
    """The row of a request; None if it was cancelled. Raises LinkError or BoardError if no board
    answers it, Crowded if it could be whole, were it ``alone``."""
    try:
        asked = understood(model, request)
        session = Session(pool, model.text, model.spelling)
        reply = session.complete(asked.prompt, max_tokens=asked.max_tokens, stop=asked.stops,
                                 sampling=asked.sampling, cancel=cancel).reply
    except (BadArgument, BadModel, OutOfContext) as error:
        return {**request.named(), "error": str(error)}
    if reply.stop_reason == "cancel":
        return None
    if reply.stop_reason == "memory" and not alone:
        raise Crowded
    return {**request.named(), "text": reply.text, "stop_reason": reply.stop_reason,
            "usage": {"prompt_tokens": reply.usage.prompt,
                      "completion_tokens": reply.usage.completion},
            "model": {"name": model.image.meta.get("name"),
                      "id": f"{model.image.header.model_id:08x}"},
            "seed": asked.sampling.seed if asked.sampling.temperature else None,
            "board": reply.answer.board}


def answers(model: Model, pool: Pool, requests: Sequence[Request], cancel: Cancel) -> Iterator[Row]:
    """The rows of all requests, as they come. Ends early when it is cancelled. Raises as
    ``answer``."""
    done: queue.Queue[Future[Row | None]] = queue.Queue()
    left, most = deque(requests), pool.count
    under_way: dict[Future[Row | None], Request] = {}
    with ThreadPoolExecutor(pool.count, thread_name_prefix="batch") as threads:
        try:
            while not cancel:
                while left and len(under_way) < most:
                    request = left.popleft()
                    future = threads.submit(answer, model, pool, request, cancel, most == 1)
                    under_way[future] = request
                    future.add_done_callback(done.put)
                if not under_way:
                    return
                future = done.get()
                request = under_way.pop(future)
                try:
                    row = future.result()
                except Crowded:  # it is repeated, with fewer beside it
                    most = max(1, min(most - 1, len(under_way)))
                    left.appendleft(request)
                    continue
                if row is not None:
                    yield row
        finally:
            cancel.set()
