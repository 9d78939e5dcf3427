"""Loading a board over JTAG: the script for the program that does it, what that program's failures
mean, and whether the board then answers."""

__all__: list[str] = []
