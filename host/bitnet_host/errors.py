"""What can go wrong, by type. The text of each is one sentence for the user: what is wrong and what
to do."""

from __future__ import annotations

__all__ = [
    "BadArgument", "BadFile", "BadModel", "BoardBusy", "BoardError", "BoardHeld", "BoardRestarted",
    "BoardTaken", "LinkError",
    "LinkTimeout", "NoBoard", "OutOfContext", "UserError",
    "shown",
]


class UserError(Exception):
    """Base of all of them; the command line prints it and ends with exit code 2.

    It stays one line whatever a file calls its parts: characters that cannot be printed are shown
    as Python's escapes.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(
            c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


class BadArgument(UserError):
    """A value that makes no sense, whoever gave it."""


class BadFile(UserError):
    """A file that cannot be read or written."""


class BadModel(BadFile):
    """A checkpoint or image that is damaged, contradicts itself, or is of a kind that this machine
    does not run."""


class OutOfContext(UserError):
    """More tokens than the model's context holds: ``tokens`` at least."""

    def __init__(self, text: str, tokens: int = 0) -> None:
        super().__init__(text)
        self.tokens = tokens


class LinkError(UserError):
    """There is no way to the board, or it was lost."""


class LinkTimeout(LinkError):
    """The board did not answer in time."""


class NoBoard(LinkError):
    """None of several boards came back in time."""


class BoardBusy(LinkError):
    """The board is busy with a command and does not get on."""


class BoardHeld(LinkError):
    """Another host holds the board. ``state`` says who (xtvu.datagram.STATE)."""

    def __init__(self, text: str, state: dict[str, int]) -> None:
        super().__init__(text)
        self.state = state


class BoardTaken(LinkError):
    """Another host has used the board while this one was away, or it was restarted; what the board
    knew is lost."""


class BoardError(UserError):
    """The board refused or failed. ``code`` and ``detail`` are those of ``protocol.ERRORS``."""

    def __init__(self, text: str, code: int, detail: int = 0) -> None:
        super().__init__(text)
        self.code, self.detail = code, detail


class BoardRestarted(BoardError):
    """The board started anew in the middle of something; model and conversation have to be loaded
    again."""


def shown(value: object, most: int = 60) -> str:
    """A value in a sentence, cut to ``most`` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most - 3]}..."
