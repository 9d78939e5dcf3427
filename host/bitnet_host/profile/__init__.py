"""Where the time of a pass goes: steps of each layer, as tables and pictures."""

__all__: list[str] = []
