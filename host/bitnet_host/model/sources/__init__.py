"""Where checkpoints come from: Hugging Face folders, the bundled one, made-up ones."""

__all__: list[str] = []
