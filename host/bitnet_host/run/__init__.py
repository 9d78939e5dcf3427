"""Running a model: targets, the protocol with a board, and the links that carry it."""

__all__: list[str] = []
