"""All that the SoC has of the processing system beside its memory ports, on two general-purpose
ports: registers, UART and Ethernet on the first, main memory of the CPU on the second."""

from pathlib import Path

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from network.bus import Bus
from network.frames import Byte
from network.verilog import convert

from . import registers
from .gem import GEMReceiver, GEMTransmitter
from .gp import GP, Port
from .main_ram import BurstBus, MainRam
from .uart import UARTPort
from .window import Window

__all__ = ["ProcessingSystem", "generate"]


class ProcessingSystem(wiring.Component):
    """Members: ``uart_tx`` and ``uart_rx``, bytes to and from UART ``uart``; ``tx`` and ``rx``,
    frames to and from Ethernet controller ``gem``, whose rings are walked while ``enable`` is up,
    and left alone while it is ``idle``; ``window`` on the registers; ``ram``; the ports."""

    def __init__(self, uart: int = 1, gem: int = 0, ram_bits: int = 30) -> None:
        self._uart, self._gem, self._ram_bits = uart, gem, ram_bits
        super().__init__({
            "uart_tx": In(stream.Signature(8)), "uart_rx": Out(stream.Signature(8)),
            "tx": In(stream.Signature(Byte)),
            "rx": Out(stream.Signature(Byte, always_ready=True)),
            "enable": In(1), "idle": Out(1), "window": In(Bus()), "ram": In(BurstBus()),
            "gp0": Out(GP()), "gp1": Out(GP()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.window = window = Window()
        m.submodules.uart = uart = UARTPort(registers.UART_BASES[self._uart])
        m.submodules.receiver = receiver = GEMReceiver()
        m.submodules.transmitter = sender = GEMTransmitter(registers.GEM_BASES[self._gem])
        m.submodules.ram = ram = MainRam(self._ram_bits)
        m.submodules.gp0 = gp0 = Port(4)
        m.submodules.gp1 = gp1 = Port(1)
        for client, access in zip(gp0.clients, (window, uart, receiver, sender), strict=True):
            wiring.connect(m, access.access, client)
        wiring.connect(m, ram.access, gp1.clients[0])
        for ours, inner in ((self.window, window.bus), (self.uart_tx, uart.sink),
                            (self.uart_rx, uart.source), (self.rx, receiver.frame),
                            (self.tx, sender.frame), (self.ram, ram.bus), (self.gp0, gp0.port),
                            (self.gp1, gp1.port)):
            wiring.connect(m, wiring.flipped(ours), inner)
        m.d.comb += [receiver.enable.eq(self.enable), sender.enable.eq(self.enable),
                     self.idle.eq(receiver.idle & sender.idle)]
        return m


def generate(path: Path) -> None:
    """Writes the Verilog, module ``processing_system``, to ``path``."""
    convert(path, ProcessingSystem(), "processing_system")
