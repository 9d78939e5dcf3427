"""BitNet b1.58 models on a Zynq-7020 board, its simulation, or the golden model. docs/api.md shows
how to use it."""

from __future__ import annotations

from bitnet_host.errors import (
    BadArgument,
    BadFile,
    BadModel,
    BoardBusy,
    BoardError,
    BoardHeld,
    BoardRestarted,
    BoardTaken,
    LinkError,
    LinkTimeout,
    NoBoard,
    OutOfContext,
    UserError,
)
from bitnet_host.model.image import Image
from bitnet_host.model.open import open_model
from bitnet_host.model.text import TextModel
from bitnet_host.run.grammar import Grammar, Grammars
from bitnet_host.run.open import open_board, open_target
from bitnet_host.run.pool import Pool
from bitnet_host.run.sampling import Alternative, Sampling
from bitnet_host.run.session import Reply, Session, Stream, Token, Usage
from bitnet_host.run.slots import Slots
from bitnet_host.run.target import Answer, Cancel, Target

__all__ = [
    "Alternative", "Answer", "BadArgument", "BadFile", "BadModel", "BoardBusy", "BoardError",
    "BoardHeld", "BoardRestarted",
    "BoardTaken", "Cancel", "Grammar", "Grammars", "Image", "LinkError", "LinkTimeout",
    "NoBoard",
    "OutOfContext", "Pool", "Reply",
    "Sampling", "Session", "Slots", "Stream", "Target",
    "TextModel", "Token", "Usage", "UserError", "open_board", "open_model", "open_target",
]
__version__ = "0.1.0"
