"""Many prompts, from a file to a file."""

__all__: list[str] = []
