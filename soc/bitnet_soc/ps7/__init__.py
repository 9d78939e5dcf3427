"""The processing system (PS7) of a Zynq-7000: what has to be written to which register before it
runs, computed from a board file."""

__all__: list[str] = []
