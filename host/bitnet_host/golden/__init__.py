"""The golden model: what board and firmware must equal bit for bit."""

__all__: list[str] = []
