"""Simulation of the SoC with Verilator: platform, build, and the C++ that stands in for the
board."""

__all__: list[str] = []
