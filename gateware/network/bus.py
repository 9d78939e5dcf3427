"""The SoC's bus as the network side sees it: what it can reach, and how."""

from dataclasses import dataclass

from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Bus", "Memory", "Region"]


@dataclass(frozen=True)
class Region:
    """Part of the bus, of a size that is a power of two."""

    base: int
    size: int
    writable: bool = True

    def holds(self, address: Value) -> Value:
        bits = self.size.bit_length() - 1
        assert self.size == 1 << bits and self.base % self.size == 0, (f"{self} is no aligned "
                                                                       f"power of two")
        return address[bits:] == self.base >> bits


@dataclass(frozen=True)
class Memory:
    """What can be reached: ``regions``, among them ``ddr``."""

    regions: tuple[Region, ...]
    ddr: Region


class Bus(wiring.Signature):
    """Wishbone, as seen by the master: whole 32-bit words, classic cycles; ``adr`` counts words."""

    def __init__(self) -> None:
        super().__init__({"adr": Out(30), "dat_w": Out(32), "dat_r": In(32), "we": Out(1),
                          "cyc": Out(1), "ack": In(1), "err": In(1)})
