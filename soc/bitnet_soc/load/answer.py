"""Whether a board that was loaded answers, with the firmware that belongs to this source."""

from __future__ import annotations

import re
import time

from bitnet_host.errors import BoardError, BoardHeld, LinkError, UserError
from bitnet_host.model.image import Image
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.open import open_target
from bitnet_host.run.protocol import ERRORS

from ..steps import BuildError
from .route import why_silent

__all__ = ["ask", "check_target"]

_SECONDS = 20.0  # the longest that a link takes to come up
_PAUSE = 0.5
_SELFTEST = ERRORS["SELFTEST"][0]


def check_target(target: str) -> None:
    """Raises BuildError for what is no board."""
    if not re.fullmatch(r"udp://[^:]+(:\d+)?|serial:.+", target):
        raise BuildError(f"--target {target}: write udp://HOST or serial:PORT")


def _info(target: str, image: Image) -> dict[str, int]:
    board = open_target(target, image)
    try:
        assert isinstance(board, BoardTarget)
        return board.info()
    finally:
        board.close()


def _explain(target: str, error: UserError) -> str:
    if isinstance(error, BoardError) and error.code == _SELFTEST:
        return (f"the board at {target} answers, but its vector unit fails its self-test "
                f"({error.detail}): a memory port may be stuck since a bitstream was replaced "
                "while it was used; switch the board off and on, and load it again")
    if isinstance(error, BoardError) and not error.code:  # of another version
        return f"{target}: {error}, and load with --build"
    if isinstance(error, BoardHeld):
        return f"{target} answers, but {error}"
    if "no bitnet firmware" in str(error):
        return (f"the fabric at {target} answers, but its firmware is silent: load it again; if it "
                "stays so, look at what it says on the UART (115200 baud)")
    if isinstance(error, BoardError):
        return f"{target}: {error}"
    if target.startswith("serial:"):
        return (f"nobody answers at {target}: is it the port of this board's UART, and free (no "
                "terminal on it)?")
    silent = why_silent(re.sub(r":\d+$", "", target.removeprefix("udp://")))
    if silent:
        return f"nobody answers at {target}: {silent}"
    return (f"nobody answers at {target}, to which this computer has a link: is another cable in "
            "between, or the firmware silent? The board's UART says; name it with --target "
            "serial:PORT, or look at it with `bitnet-host selftest --target serial:PORT`")


def ask(target: str, image: Image, seconds: float = _SECONDS) -> dict[str, int]:
    """INFO_FIELDS of the board, which may take ``seconds`` to be there. ``image``: any model.
    Raises BuildError."""
    end = time.monotonic() + seconds
    while True:
        try:
            return _info(target, image)
        except (LinkError, BoardError) as error:
            waits = isinstance(error, LinkError) and not isinstance(error, BoardHeld)
            if not waits or time.monotonic() > end:
                raise BuildError(_explain(target, error)) from None
        time.sleep(_PAUSE)
