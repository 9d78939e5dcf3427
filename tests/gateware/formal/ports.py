"""What is proved of a general-purpose port of the processing system: for every behaviour of its
clients and every reset of theirs, it keeps the rules of AXI and ends what it began."""

from __future__ import annotations

from importlib import import_module

from amaranth.hdl import Assert, Assume, Cat, ClockDomain, Cover, Module, Mux, Signal
from formal.prover import inputs
from formal.sides import held

__all__ = ["gp_port"]


def gp_port(ps: str) -> tuple[Module, list[Signal]]:
    m = Module()
    clock, reset = Signal(name="clock"), Signal(name="reset")
    m.domains.axi = axi = ClockDomain("axi", reset_less=True)
    m.domains.sync = sync = ClockDomain("sync")
    m.d.comb += [axi.clk.eq(clock), sync.clk.eq(clock), sync.rst.eq(reset)]
    m.submodules.dut = dut = import_module(f"{ps}.gp").Port(2)
    port, (one, other) = dut.port, dut.clients
    # what memory owes: words to read, an answer to a write; and what it is owed: words to write
    reads, answer, writes = Signal(5), Signal(), Signal(5)
    addressed = Signal()  # the address of the write that is open was taken
    for client in dut.clients:
        request = client.request
        with m.If(request.valid & request.ready):
            m.d.axi += [
                reads.eq(Mux(request.payload.write, 0, request.payload.length + 1)),
                writes.eq(Mux(request.payload.write, request.payload.length + 1, 0)),
                answer.eq(request.payload.write), addressed.eq(0),
            ]
    with m.If(port.rvalid):
        m.d.axi += reads.eq(reads - 1)
    with m.If(port.wvalid & port.wready):
        m.d.axi += writes.eq(writes - 1)
    with m.If((port.awvalid & port.awready) | (port.arvalid & port.arready)):
        m.d.axi += addressed.eq(1)
    with m.If(port.bvalid):
        m.d.axi += answer.eq(0)
    m.d.comb += [
        Assume(~port.rvalid | ((reads != 0) & addressed)),
        Assume(port.rlast == (reads == 1)),
        Assume(~port.bvalid | (answer & addressed & (writes == 0))),
    ]
    held(m, port.arvalid, port.arready, port.araddr, port.arlen, domain="axi")
    held(m, port.awvalid, port.awready, port.awaddr, port.awlen, domain="axi")
    held(m, port.wvalid, port.wready, port.wdata, port.wstrb, port.wlast, domain="axi")
    m.d.axi += [
        Assert(~port.wvalid | (writes != 0), "a word that no address announced"),
        Assert(~port.wvalid | (port.wlast == (writes == 1)), "the last word is another one"),
        Assert(~port.arvalid | (reads == port.arlen + 1), "a burst of another length"),
        Assert(~port.awvalid | (answer & ~addressed), "an address that nobody asked for"),
        Assert(~Cat(one.request.ready, other.request.ready).any() | ((reads == 0) & ~answer),
               "two transactions at a time"),
        Assert(~(one.request.ready & other.request.ready), "two were served"),
        Assert(~(one.answer.valid & other.answer.valid), "two were answered"),
        Assert(port.rready & port.bready, "an answer had to wait"),
        Cover((writes == 3) & port.wvalid), Cover(port.bvalid & reset), Cover(port.rvalid & reset),
    ]
    return m, [clock, reset, *inputs(dut)]
