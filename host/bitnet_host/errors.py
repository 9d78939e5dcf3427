"""What the tool says when it cannot go on."""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(Exception):
    """A sentence for the user about what is wrong and what to do; the command ends with exit code 2."""
