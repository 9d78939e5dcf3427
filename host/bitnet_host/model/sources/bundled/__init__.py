"""Models that come with the tool."""

from pathlib import Path

__all__ = ["BUNDLED"]

#: The default model: a checkpoint folder.
BUNDLED = Path(__file__).resolve().parent / "tiny-bitnet"
