"""python -m bitnet_host."""

from bitnet_host.apps.cli import main

__all__: list[str] = []

main()
