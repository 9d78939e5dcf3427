"""A register stage at every pin of the memory ports (S_AXI_HP). The processing system's edge is far
from where the masters lie, and its pins are slow.

The masters always take what they are sent (tvu.axi), so answers need a register each and nothing
else. As those masters' last stages, all of it lies in domain ``axi``, which no reset reaches: what
AXI has begun it must end.
"""

from pathlib import Path

from amaranth.hdl import Cat, DomainRenamer, Module, Signal, Value
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out
from network.verilog import convert
from tvu.axi import PORTS, AXIRead, AXIWrite

__all__ = ["WRITERS", "Slices", "generate"]

#: The masters that write, on the ports of the same numbers.
WRITERS = ("write", "upload")
_DEPTH = 4  # of requests on their way, so that one can go each cycle


class Slices(wiring.Component):
    """Members: ``read0`` to ``read3``, ``write`` and ``upload``, of the masters; ``hp_read0`` and
    so on, of the ports."""

    def __init__(self) -> None:
        members = {f"read{i}": AXIRead() for i in range(PORTS)}
        members |= {name: AXIWrite() for name in WRITERS}
        super().__init__({name: In(signature) for name, signature in members.items()}
                         | {f"hp_{name}": Out(signature) for name, signature in members.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for i in range(PORTS):
            master, port = getattr(self, f"read{i}"), getattr(self, f"hp_read{i}")
            self._request(m, f"ar{i}", master, port, "ar", ("addr", "len"))
            self._answer(m, master, port, "r", ("data", "resp", "last"))
        for name in WRITERS:
            master, port = getattr(self, name), getattr(self, f"hp_{name}")
            self._request(m, f"{name}_aw", master, port, "aw", ("addr",))
            self._request(m, f"{name}_w", master, port, "w", ("data", "strb"))
            self._answer(m, master, port, "b", ("resp",))
        return m

    def _request(self, m: Module, name: str, master: wiring.PureInterface,
                 port: wiring.PureInterface, channel: str, fields: tuple[str, ...]) -> None:
        """A channel to the port, through a queue."""
        payload = Cat(getattr(master, channel + field) for field in fields)
        m.submodules[name] = queue = DomainRenamer("axi")(
            fifo.SyncFIFOBuffered(width=len(payload), depth=_DEPTH))
        m.d.comb += [
            queue.w_data.eq(payload), queue.w_en.eq(getattr(master, channel + "valid")),
            getattr(master, channel + "ready").eq(queue.w_rdy),
            Cat(getattr(port, channel + field) for field in fields).eq(queue.r_data),
            getattr(port, channel + "valid").eq(queue.r_rdy),
            queue.r_en.eq(getattr(port, channel + "ready")),
        ]

    def _answer(self, m: Module, master: wiring.PureInterface, port: wiring.PureInterface,
                channel: str, fields: tuple[str, ...]) -> None:
        """A channel from the port, through a register."""
        signals: list[tuple[Signal, Value]] = [
            (getattr(master, channel + field), getattr(port, channel + field))
            for field in (*fields, "valid")]
        m.d.comb += getattr(port, channel + "ready").eq(1)
        m.d.axi += [ours.eq(theirs) for ours, theirs in signals]


def generate(path: Path) -> None:
    """Writes the Verilog, module ``hp_slices``, to ``path``."""
    convert(path, Slices(), "hp_slices")
