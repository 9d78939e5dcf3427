"""Diagnosis of a board: its memory, its memory ports, and what lies around them."""

__all__: list[str] = []
