"""The memory model's AXI rules: each is broken once, by pins that no design would drive so, and the
model says which."""

from __future__ import annotations

import re
import subprocess

import pytest
from ddr_driver import compile_driver

_MAIN = r"""
#include "ddr.hpp"
#include <cstring>
static uint32_t araddr[4], awaddr;
static uint8_t arlen[4], arvalid[4], arready[4], rresp[4], rlast[4], rvalid[4], rready[4];
static uint64_t rdata[4], wdata;
static uint8_t awvalid, awready, wstrb = 255, wvalid, wready, bresp, bvalid, bready = 1;
int main(int, char **argv) {
    Ddr ddr(8 << 20, "", load_preset("ug585"), 125e6);
    for (int i = 0; i < 4; i++)
        ddr.attach(i, AxiReadPins{araddr + i, arlen + i, arvalid + i, arready + i, rdata + i,
                                  rresp + i, rlast + i, rvalid + i,
                                  rready + i});
    ddr.attach_write(0, AxiWritePins{&awaddr, &awvalid, &awready, &wdata, &wstrb, &wvalid, &wready,
                                     &bresp, &bvalid, &bready});
    auto cycle = [&] { ddr.sample(); ddr.drive(); };
    const char *what = argv[1];
    uint32_t address = 0x200000;
    cycle();
    if (!strcmp(what, "aligned")) address += 4;
    if (!strcmp(what, "crosses")) address += 0xfc0;
    if (!strcmp(what, "low")) address = 0xfff00;
    if (!strcmp(what, "high")) address = 8 << 20;
    if (!strcmp(what, "write low")) { awaddr = 0x1000; awvalid = wvalid = 1; cycle(); }
    if (!strcmp(what, "write aligned")) { awaddr = 0x200004; awvalid = wvalid = 1; cycle(); }
    bool fall = !strncmp(what, "fall", 4), change = !strncmp(what, "change", 6);
    if (fall || change) {  // while memory is frozen nothing is taken
        ddr.frozen = true;
        cycle();
        char channel = what[strlen(what) - 1];
        if (channel == 'r') { araddr[2] = address; arvalid[2] = 1; }
        if (channel == 'a') { awaddr = address; awvalid = 1; }
        if (channel == 'w') { wvalid = 1; }
        cycle();
        if (fall) arvalid[2] = awvalid = wvalid = 0;
        if (change) { araddr[2] += 8; awaddr += 8; wdata = 1; }
        if (!strcmp(what, "change length r")) { araddr[2] -= 8; arlen[2] = 3; }
        cycle();
    } else {
        araddr[1] = address; arlen[1] = 15; arvalid[1] = 1;
        cycle();
        arvalid[1] = 0;
        for (int i = 0; i < 3; i++) cycle();
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return compile_driver(tmp_path_factory.mktemp("ddr"), _MAIN)


@pytest.mark.parametrize("what,rule", [
    ("aligned", "HP1 read.*not aligned"), ("crosses", "HP1 read.*crosses a 4 KB"),
    ("low", "HP1 read.*outside"), ("high", "HP1 read.*outside"),
    ("write low", "write.*outside"), ("write aligned", "write.*not aligned"),
    ("fall r",
     "HP2 read.*ARVALID fell"), ("change r", "HP2 read.*ARVALID fell"),
    ("change length r", "HP2 read.*ARVALID fell"),
    ("fall a", "write.*AWVALID fell"), ("change a", "write.*AWVALID fell"),
    ("fall w", "write.*WVALID fell"), ("change w", "write.*WVALID fell"),
])
def test_a_broken_rule_ends_the_simulation(driver, what, rule):
    done = subprocess.run([driver, what], capture_output=True, text=True, timeout=20)
    assert done.returncode == 3 and re.search(rule, done.stderr), done.stderr


def test_a_good_burst_breaks_none(driver):
    assert subprocess.run([driver, "nothing wrong"], timeout=20).returncode == 0
