"""Programs for people: the command line and the chat."""

__all__: list[str] = []
