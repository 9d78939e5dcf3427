"""The network side as a whole, and as Verilog: module ``network`` for the SoC."""

from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import Cat, ClockDomain, Elaboratable, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from tvu.axi import AXIWrite, WritePort
from xtvu.datagram import STATE

from .bus import Bus, Memory
from .claim import Claim, Holder
from .engine import Engine
from .frames import Addresses, Byte
from .receive import Receiver
from .transmit import Transmitter

__all__ = ["Network", "convert", "generate", "ports"]

_COUNTS = ("malformed", "crowded", "refused")
# what it sets of the claim
_FIRMWARE = ("second", "uart_claim", "uart_token", "uart_take_over", "uart_leave")


class Network(wiring.Component):
    """Members: frames ``rx`` in and ``tx`` out; ``bus``; ``axi``, a write port of its own;
    ``state`` of the claim; counts of frames that were ``malformed`` or lost because it was
    ``crowded`` and of requests ``refused``; what the firmware sets (Claim, Engine).
    """

    def __init__(self, addresses: Addresses, memory: Memory) -> None:
        self._addresses, self._memory = addresses, memory
        super().__init__({
            "rx": In(stream.Signature(Byte, always_ready=True)), "tx": Out(stream.Signature(Byte)),
            "bus": Out(Bus()),
            "axi": Out(AXIWrite()), "state": Out(Holder()), **{name: Out(32) for name in _COUNTS},
            "second": In(32),
            "uart_claim": In(1), "uart_token": In(32), "uart_take_over": In(1), "uart_leave": In(1),
            "protect_first": In(18), "protect_end": In(19),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = Receiver(self._addresses)
        m.submodules.transmitter = transmitter = Transmitter()
        m.submodules.claim = claim = Claim()
        m.submodules.engine = engine = Engine(self._addresses, self._memory)
        m.submodules.port = port = WritePort()
        wiring.connect(m, wiring.flipped(self.rx), receiver.frame)
        wiring.connect(m, transmitter.frame, wiring.flipped(self.tx))
        wiring.connect(m, receiver.packet, engine.packet)
        wiring.connect(m, engine.send, transmitter.send)
        wiring.connect(m, engine.claim, claim.network)
        wiring.connect(m, engine.bus, wiring.flipped(self.bus))
        wiring.connect(m, engine.beat, port.beat)
        wiring.connect(m, port.port, wiring.flipped(self.axi))
        wiring.connect(m, claim.state, wiring.flipped(self.state))
        state = [getattr(self, name, None) if name in _COUNTS else getattr(claim.state, name)
                 for name in STATE]
        words = [Signal(32, name=name) for name in STATE]
        m.d.comb += [
            *(word.eq(value) for word, value in zip(words, state, strict=True)),
            engine.state.eq(Cat(words)),
            receiver.address.eq(engine.address), engine.word.eq(receiver.word),
            transmitter.address.eq(engine.tx_address),
            transmitter.word.eq(engine.tx_word), transmitter.write.eq(engine.tx_write),
            engine.owed.eq(port.owed),
            engine.failed.eq(port.error), engine.protect_first.eq(self.protect_first),
            engine.protect_end.eq(self.protect_end),
            *(getattr(claim, name).eq(getattr(self, name)) for name in _FIRMWARE),
        ]
        for name, pulse in zip(_COUNTS, (receiver.malformed, receiver.crowded, engine.refused),
                               strict=True):
            counted = Signal(name=f"{name}_pulse")
            m.d.sync += [counted.eq(pulse),
                         getattr(self, name).eq(getattr(self, name) + counted)]
        return m


class _Top(Elaboratable):
    """With clock and reset as ports. What AXI has begun outlives a reset (tvu.axi)."""

    def __init__(self, unit: wiring.Component, name: str) -> None:
        self._unit, self._name = unit, name
        self.clk, self.rst = Signal(name="clk"), Signal(name="rst")

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = sync = ClockDomain()
        m.domains.axi = axi = ClockDomain(reset_less=True)
        m.d.comb += [sync.clk.eq(self.clk), sync.rst.eq(self.rst), axi.clk.eq(self.clk)]
        m.submodules[self._name] = self._unit
        return m


def ports(unit: wiring.Component) -> dict[str, Signal]:
    """Names in the Verilog, such as ``rx_payload`` or ``axi_awaddr``, and their signals."""
    values = {"_".join(path): Value.cast(value)
              for path, _, value in unit.signature.flatten(unit)}
    # a `ready` that is always high is none
    return {name: value for name, value in values.items() if isinstance(value, Signal)}


def generate(path: Path, addresses: Addresses, memory: Memory) -> None:
    """Writes the Verilog to ``path``."""
    convert(path, Network(addresses, memory), "network")


def convert(path: Path, unit: wiring.Component, name: str) -> None:
    """Writes a unit as module ``name`` to ``path``, with ``clk``, ``rst`` and its ``ports``."""
    top = _Top(unit, name)
    named = {"clk": top.clk, "rst": top.rst, **ports(unit)}
    text = verilog.convert(top, name=name,
                           ports={name: (value, None) for name, value in named.items()},
                           emit_src=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
