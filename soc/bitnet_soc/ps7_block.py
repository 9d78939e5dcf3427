"""The processing system as a block of the fabric: the primitive PS7, without the vendor's wrapper,
and what its ports are tied to.

AXI3, as the ports have it (UG585, "AXI_HP Interfaces" and "AXI_GP Interfaces"): whole words of the
port's width, INCR, secure, one ID. A port's clock is the system clock. DDR, MIO and the chip's own
clock and reset are not connected: their pins have no other place to go.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from litex.gen import ClockSignal, LiteXModule, ResetSignal
from litex.soc.interconnect.csr import CSRStatus
from migen import Constant, Instance, Signal
from migen.genlib.cdc import MultiReg
from ps.slices import WRITERS
from tvu.axi import PORTS
from tvu.verilog import AXI_READ_PORTS, AXI_WRITE_PORTS

from .processing_system import GP_PORTS, GP_SIGNALS

__all__ = ["HP_SIGNALS", "PS7Block"]

#: Of the memory ports: name and width, as the SoC's masters have them.
HP_SIGNALS = [(f"{port}_{name}", width)
              for port, signals in (*((f"read{i}", AXI_READ_PORTS) for i in range(PORTS)),
                                    *((name, AXI_WRITE_PORTS) for name in WRITERS))
              for name, width, _ in signals]
_INCR, _BUFFERED = 1, 0b0011
_INTERRUPTS = 29

Primitive = Callable[[LiteXModule, dict[str, Any]], None]


def _instance(module: LiteXModule, ports: dict[str, Any]) -> None:
    module.specials += Instance("PS7", **ports)


def _ties(port: str, size: int, cache: int) -> dict[str, Any]:
    """Inputs of an AXI port that never change. ``size``: log2 of the bytes of a word."""
    values = {"BURST": Constant(_INCR, 2), "CACHE": Constant(cache, 4), "ID": Constant(0, 6),
              "LOCK": Constant(0, 2), "PROT": Constant(0, 3), "QOS": Constant(0, 4),
              "SIZE": Constant(size, 2)}
    ties = {f"i_{port}{channel}{name}": value
            for channel in ("AR", "AW") for name, value in values.items()}
    return ties | {f"i_{port}WID": values["ID"], f"i_{port}ACLK": ClockSignal("sys")}


def _signals(port: str, prefix: str, signals: list[tuple[str, int, str]],
             record: SimpleNamespace) -> dict[str, Any]:
    """What the master drives is an input of the primitive."""
    return {f"{'i' if direction == 'o' else 'o'}_{port}{name.upper()}":
            getattr(record, f"{prefix}_{name}") for name, _, direction in signals}


class PS7Block(LiteXModule):
    """``hp``: signals ``read0_araddr`` and so on for the SoC's masters, a register stage away from
    the ports; ``gp``: signals ``gp0_araddr`` and so on; ``fclk`` and ``running``: clock of the
    fabric, and whether the processing system has been started (its FCLKRESETN0); ``interrupts``:
    IRQP2F, synchronised. ``primitive`` makes the block of its ports."""

    def __init__(self, primitive: Primitive = _instance):
        self.hp = SimpleNamespace(**{name: Signal(width, name=f"hp_{name}")
                                     for name, width in HP_SIGNALS})
        ports = SimpleNamespace(**{name: Signal(width, name=f"port_{name}")
                                   for name, width in HP_SIGNALS})
        self.gp = SimpleNamespace(**{f"{port}_{name}": Signal(width, name=f"{port}_{name}")
                                     for port in GP_PORTS for name, width, _ in GP_SIGNALS})
        clocks, resets, interrupts = Signal(4), Signal(4), Signal(_INTERRUPTS)
        self.fclk, self.running = clocks[0], resets[0]
        self.interrupts = CSRStatus(_INTERRUPTS, description="IRQP2F of the processing system.")
        self.specials += MultiReg(interrupts, self.interrupts.status)
        self._slices(ports)
        params = {"o_FCLKCLK": clocks, "o_FCLKRESETN": resets, "o_IRQP2F": interrupts}
        for i in range(PORTS):
            params |= self._memory_port(i, ports)
        for i, port in enumerate(GP_PORTS):
            name = f"SAXIGP{i}"
            # registers must not be written later than the bus says
            params |= _ties(name, 2, 0 if i == 0 else _BUFFERED)
            params |= _signals(name, port, GP_SIGNALS, self.gp)
        primitive(self, params)

    def _slices(self, ports: SimpleNamespace) -> None:
        directions = {**{f"read{i}": AXI_READ_PORTS for i in range(PORTS)},
                      **dict.fromkeys(WRITERS, AXI_WRITE_PORTS)}
        connections: dict[str, Any] = {}
        for master, signals in directions.items():
            for name, _, direction in signals:
                near = "i" if direction == "o" else "o"  # of the master's side
                connections[f"{near}_{master}_{name}"] = getattr(self.hp, f"{master}_{name}")
                connections[f"{direction}_hp_{master}_{name}"] = getattr(ports, f"{master}_{name}")
        self.specials += Instance("hp_slices", i_clk=ClockSignal("sys"), i_rst=ResetSignal("sys"),
                                  **connections)

    def _memory_port(self, i: int, ports: SimpleNamespace) -> dict[str, Any]:
        name = f"SAXIHP{i}"
        params = _ties(name, 3, _BUFFERED) | {
            f"i_{name}RDISSUECAP1EN": Constant(0, 1), f"i_{name}WRISSUECAP1EN": Constant(0, 1),
            f"i_{name}AWLEN": Constant(0, 4), f"i_{name}WLAST": Constant(1, 1)}
        params |= _signals(name, f"read{i}", AXI_READ_PORTS, ports)
        if i < len(WRITERS):
            return params | _signals(name, WRITERS[i], AXI_WRITE_PORTS, ports)
        return params | {f"i_{name}{signal}": Constant(value, width) for signal, value, width in (
            ("AWADDR", 0, 32), ("AWVALID", 0, 1), ("WDATA", 0, 64), ("WSTRB", 0, 8),
            ("WVALID", 0, 1), ("BREADY", 1, 1))}
