"""The server: a model for the clients that people have."""

__all__: list[str] = []
