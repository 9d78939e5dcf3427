"""Measurements on the simulated board."""

__all__: list[str] = []
