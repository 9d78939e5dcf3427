"""What a model is: checkpoints read from their sources, the image made of them, its plan and its
text."""

__all__: list[str] = []
