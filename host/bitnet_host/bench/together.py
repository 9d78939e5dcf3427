"""Several conversations decoded in the same passes, for measurements."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

from bitnet_host.errors import UserError
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.sampling import Sampling
from bitnet_host.run.target import Answer, Cancel

__all__ = ["decode_together"]


def decode_together(board: BoardTarget, slots: int, prompt: list[int], passes: int,
                    sampling: Sampling) -> Answer:
    """What one of so many slots gives that decode ``passes`` tokens in the same passes, whose
    cycles are those of its tokens. ``prompt`` goes on from what the slots hold. Raises UserError if
    one of the others ended meanwhile.
    """
    cancel, begun = Cancel(), [False] * slots

    def company(place: int) -> Answer:
        def heard(token: int) -> None:
            begun[place] = True

        slot = board.slots[place]
        room = slot.image.header.context - slot.position - len(prompt)
        return slot.generate(prompt, room, sampling, heard, cancel=cancel)

    with ThreadPoolExecutor(slots) as pool:
        others: list[Future[Answer]] = [pool.submit(company, place) for place in range(slots - 1)]
        try:
            # the one that is measured comes last, so that all are there from its first pass on
            while not all(begun[:-1]) and not any(other.done() for other in others):
                time.sleep(0.01)
            answer = board.slots[slots - 1].generate(prompt, passes + 1, sampling)
            ended = [other for other in others if other.done()]
        finally:
            cancel.set()
    if ended:
        reason = ended[0].result().stop_reason
        raise UserError(f"one of the conversations ended before the measurement did ({reason}): "
                        f"choose another --context or fewer --tokens")
    return answer
