"""Holds images against checkpoints, and the golden model against transformers."""

__all__: list[str] = []
