"""Host side: checkpoints, model images, the golden model, and talking to the board."""

__all__: list[str] = []
__version__ = "0.1.0"
