"""Several conversations decoded in the same passes, for measurements."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from bitnet_host.errors import UserError
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.sampling import Sampling
from bitnet_host.run.target import Answer

__all__ = ["decode_together"]

_LATE = 1.02  # of a pass: what is longer has another pass in it


def decode_together(board: BoardTarget, slots: int, prompt: list[int], passes: int,
                    sampling: Sampling) -> Answer:
    """What one of so many slots gives that decode ``passes`` tokens in the same passes, whose
    cycles are those of its tokens. ``prompt`` goes on from what the slots hold.

    The first slot begins alone, since commands come one by one; the others come in with its next
    pass, if they are all sent by then. Raises UserError if they were not.
    """
    def answer(place: int) -> Answer:
        return board.slots[place].generate(prompt, passes + 1 + (place == 0), sampling)

    with ThreadPoolExecutor(slots) as pool:
        answers = list(pool.map(answer, range(slots)))
    rates = [answer.decode_cycles_per_token for answer in answers[1:]]
    if (any(len(answer.token_ids) != passes + 1 for answer in answers[1:])
            or None in rates or max(r or 0 for r in rates) > _LATE * min(r or 0 for r in rates)):
        raise UserError("the conversations did not run in the same passes, because this computer "
                        "was busy or the model ended one: try again, or with more --tokens")
    return answers[1]
