"""python -m bitnet_host."""

from .cli import main

__all__: list[str] = []

main()
