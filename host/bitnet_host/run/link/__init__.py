"""Ways to a board: Etherbone over UDP, framed messages over UART, and a simulator to start."""

__all__ = ["etherbone", "simulator", "transport"]
