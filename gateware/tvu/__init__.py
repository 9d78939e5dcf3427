"""The ternary vector unit (TVU) in Amaranth."""

__all__: list[str] = []
