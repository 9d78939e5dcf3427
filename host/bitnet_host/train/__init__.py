"""Trains ternary models: from texts to a checkpoint folder (docs/training.md)."""

__all__: list[str] = []
