"""Writes the TVU as Verilog: module ``Cfu`` with the port names that LiteX's VexRiscv instance
expects."""

from __future__ import annotations

import argparse
from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import Cat, ClockDomain, Elaboratable, Module, Shape, Signal
from amaranth.lib import wiring

from .axi import PORTS, AXIRead, AXIWrite
from .config import TVUConfig
from .tvu import TVU

__all__ = ["AXI_READ_PORTS", "AXI_WRITE_PORTS", "Cfu", "generate"]

def _signals(channels: wiring.Signature) -> tuple[tuple[str, int, str], ...]:
    return tuple((name, Shape.cast(member.shape).width, "o" if member.flow is wiring.Out else "i")
                 for name, member in channels.members.items())


#: (name, width, direction from the TVU) of the signals of a read and of the write master.
AXI_READ_PORTS, AXI_WRITE_PORTS = _signals(AXIRead()), _signals(AXIWrite())


class Cfu(Elaboratable):
    """Flat wrapper; ``ports`` maps LiteX's port names to signals. ``dot_clk`` and ``fill_clk`` are
    ``clk`` but where the simulation stops them; ``fast_clk`` is twice as fast and in phase, and
    not used where the DSP slices run at the system clock."""

    def __init__(self, config: TVUConfig | None = None) -> None:
        self.tvu = TVU(config)
        tvu = self.tvu
        self._double = tvu.config.dsp_clock == 2
        self.clk, self.reset, self._reset = (Signal(name="clk"), Signal(name="reset"),
                                             Signal(name="bus_reset"))
        self.dot_clk, self.fast_clk, self.fill_clk = (Signal(name="dot_clk"),
                                                      Signal(name="fast_clk"),
                                                      Signal(name="fill_clk"))
        payload = tvu.bus.cmd.payload
        self._inputs = {
            "cmd_valid": tvu.bus.cmd.valid, "cmd_payload_function_id": payload.function_id,
            "cmd_payload_inputs_0": payload.rs1, "cmd_payload_inputs_1": payload.rs2,
            "rsp_ready": tvu.bus.rsp.ready,
        }
        self._outputs = {
            "cmd_ready": tvu.bus.cmd.ready, "rsp_valid": tvu.bus.rsp.valid,
            "rsp_payload_outputs_0": tvu.bus.rsp.payload,
            # a reset wakes it
            "awake": Cat(tvu.awake[0] | self.reset | self._reset, tvu.awake[1:]),
        }
        masters = ([(f"read{i}", AXI_READ_PORTS) for i in range(PORTS)]
                   + [("write", AXI_WRITE_PORTS)])
        for prefix, signals in masters:
            for name, _, direction in signals:
                side = self._outputs if direction == "o" else self._inputs
                side[f"{prefix}_{name}"] = getattr(getattr(tvu, prefix), name)
        self.ports: dict[str, Signal] = {
            name: Signal(len(value), name=name)
            for name, value in (self._inputs | self._outputs).items()}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync, m.domains.bus = sync, bus = ClockDomain("sync"), ClockDomain("bus")
        m.domains.axi = axi = ClockDomain(reset_less=True)
        m.domains.dot = dot = ClockDomain(reset_less=True)
        m.domains.fast = fast = ClockDomain(reset_less=True)
        m.domains.fill = fill = ClockDomain(reset_less=True)
        # A reset register of our own: every state of the unit then depends on its own clock alone,
        # and may sleep with it.
        m.d.axi += self._reset.eq(self.reset)
        m.d.comb += [*(domain.clk.eq(self.clk) for domain in (sync, bus, axi)),
                     dot.clk.eq(self.dot_clk),
                     fast.clk.eq(self.fast_clk if self._double else self.dot_clk),
                     fill.clk.eq(self.fill_clk), bus.rst.eq(self._reset),
                     sync.rst.eq(self.tvu.resetting)]
        m.submodules.tvu = self.tvu
        m.d.comb += [value.eq(self.ports[name]) for name, value in self._inputs.items()]
        m.d.comb += [self.ports[name].eq(value) for name, value in self._outputs.items()]
        return m


def generate(path: Path, config: TVUConfig | None = None) -> None:
    """Writes the Verilog of ``Cfu`` to ``path``."""
    cfu = Cfu(config)
    clocks = [cfu.clk, cfu.dot_clk, cfu.fast_clk, cfu.fill_clk]
    text = verilog.convert(cfu, name="Cfu", ports=[*clocks, cfu.reset, *cfu.ports.values()],
                           emit_src=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the TVU as Verilog.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--dsp-clock", type=int, choices=(1, 2), default=2)
    arguments = parser.parse_args()
    generate(arguments.output, TVUConfig(dsp_clock=arguments.dsp_clock))
