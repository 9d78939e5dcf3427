"""The simulated board: top-level pads for our own C++ main, and the generated files it is built
from."""

from __future__ import annotations

import os
from pathlib import Path

from litex.build.generic_platform import GenericPlatform, Pins, Subsignal
from litex.build.io import CRG
from litex.build.sim.common import sim_special_overrides
from litex.gen import ClockSignal, LiteXModule
from litex.soc.interconnect import stream, wishbone
from litex.soc.interconnect.csr import CSRStorage
from tvu.axi import PORTS
from tvu.verilog import AXI_READ_PORTS, AXI_WRITE_PORTS
from xtvu.datagram import BASE_RATE

from ..headers import litex_headers
from ..network import StreamPHY
from ..parts import undated
from ..processing_system import ProcessingSystem
from ..ps7_block import PS7Block
from ..soc import CLOCK_HZ, ROM_SPACE, BitNetSoC, Outside, memory
from ..steps import write_if_changed

__all__ = ["generate"]


def _pads(name: str, *signals: tuple[str, int]):
    return (name, 0, *(Subsignal(signal, Pins(width)) for signal, width in signals))


_STREAM = (("source_valid", 1), ("source_ready", 1), ("source_data", 8), ("sink_valid", 1),
           ("sink_ready", 1), ("sink_data", 8))
_AXI = [(f"read{i}_{name}", width) for i in range(PORTS) for name, width, _ in AXI_READ_PORTS]
_AXI += [(f"{port}_{name}", width) for port in ("write", "upload")
         for name, width, _ in AXI_WRITE_PORTS]
_IO = [
    ("sys_clk", 0, Pins(1)), ("sys_rst", 0, Pins(1)),
    _pads("serial", *_STREAM, ("tuning_word", 32)),
    _pads("eth", *_STREAM, ("source_last", 1), ("sink_last", 1), ("sink_error", 1)),
    _pads("hp", *_AXI),
    _pads("tvu", ("clk", 1), ("dot_clk", 1), ("fast_clk", 1), ("fill_clk", 1), ("awake", 3)),
]


class _Platform(GenericPlatform):
    def __init__(self):
        GenericPlatform.__init__(self, "SIM", _IO, name="soc")

    def get_verilog(self, *args, special_overrides=None, **kwargs):
        return GenericPlatform.get_verilog(
            self, *args, special_overrides={**sim_special_overrides, **(special_overrides or {})},
            **kwargs)


class _UARTPHY(LiteXModule):
    """LiteX's UARTPHY with a dynamic rate, as far as the CPU sees it: bytes go over the pads whole,
    with the rate beside them."""

    def __init__(self, pads):
        self.sink, self.source = sink, source = (stream.Endpoint([("data", 8)]),
                                                 stream.Endpoint([("data", 8)]))
        self._tuning_word = CSRStorage(32, reset=int(BASE_RATE / CLOCK_HZ * 2**32),
                                       name="tuning_word")
        self.comb += [
            pads.source_valid.eq(sink.valid), pads.source_data.eq(sink.data),
            sink.ready.eq(pads.source_ready),
            source.valid.eq(pads.sink_valid), source.data.eq(pads.sink_data),
            pads.sink_ready.eq(source.ready),
            pads.tuning_word.eq(self._tuning_word.storage),
        ]


def _fabric(soc, platform) -> Outside:
    """UART and Ethernet of the fabric, and main memory on a bus of its own."""
    ddr = wishbone.Interface(data_width=32, address_width=32, addressing="word")
    platform.add_extension(ddr.get_ios("ddr"))
    soc.comb += ddr.connect_to_pads(platform.request("ddr"), mode="master")
    return Outside(_UARTPHY(platform.request("serial")), ddr, StreamPHY(platform.request("eth")))


def _at_pads(platform):
    """What stands for the primitive PS7: each of its ports is a pad."""
    def primitive(module, ports):
        found = {name[2:].lower(): (name[0], value) for name, value in ports.items()
                 if not isinstance(value, ClockSignal)}
        platform.add_extension([_pads("ps7", *((name, len(value))
                                               for name, (_, value) in found.items()))])
        pads = platform.request("ps7")
        for name, (direction, value) in found.items():
            pad = getattr(pads, name)
            module.comb += pad.eq(value) if direction == "i" else value.eq(pad)
    return primitive


class _SimSoC(BitNetSoC):
    """The SoC on a simulated board, whose peripherals are those of the ``fabric`` or of the
    processing system."""

    def __init__(self, platform, cfu: Path, fabric: bool):
        reset = platform.request("sys_rst")
        if fabric:
            hp, outside = platform.request("hp"), _fabric(self, platform)
        else:
            self.ps7 = PS7Block(_at_pads(platform))
            self.ps = ProcessingSystem(self.ps7.gp)
            hp, outside = self.ps7.hp, self.ps.outside
            reset = reset | ~self.ps7.running
        super().__init__(
            platform, CRG(platform.request("sys_clk"), reset), cfu, [0x6F],
            hp, outside, platform.request("tvu"))


def generate(folder: Path, generated: Path, cfu: Path, fabric: bool = True) -> list[Path]:
    """Writes soc.v and memory files to ``folder``, C headers to ``generated``; returns the Verilog
    sources. ``fabric``: without the processing system's peripherals."""
    folder.mkdir(parents=True, exist_ok=True)
    platform = _Platform()
    soc = _SimSoC(platform, cfu.resolve(), fabric)
    soc.finalize()
    verilog = platform.get_verilog(soc.get_fragment(), name="soc", regular_comb=False)
    here = Path.cwd()
    os.chdir(folder)  # LiteX writes memory contents beside the Verilog, by relative name
    try:
        verilog.write("soc.v")
    finally:
        os.chdir(here)
    for name, text in litex_headers(soc).items():
        write_if_changed(generated / name, undated(text))
    for region in memory().regions:
        # the ROM's addresses go on behind its end
        assert any(found.origin == region.base
                   and (found.size == region.size or found.size < region.size == ROM_SPACE)
                   for found in soc.mem_regions.values()), region
    return [folder / "soc.v", *(Path(source[0]) for source in platform.sources)]
