"""The LiteX SoC around the TVU, for simulation and boards."""

__all__: list[str] = []
