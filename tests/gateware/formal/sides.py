"""What is proved of the TVU's sides: a bench per unit, whose inputs are free but for what the
neighbours promise.

Each takes the name of the package to prove (the gateware, or a copy with a fault in it) and returns
a Module and its inputs.
"""

from __future__ import annotations

from importlib import import_module

from amaranth.hdl import Assert, Assume, Cat, ClockDomain, Cover, Module, Mux, Signal, Value
from amaranth.lib import wiring
from formal.prover import inputs
from xtvu import isa

__all__ = ["front_end", "held", "patience", "products", "read_count", "read_port", "reader",
           "recovery", "recovery_step", "vector", "write_port"]

_Bench = tuple[Module, list[Signal]]


def _clock(m: Module, *names: str) -> Signal:
    """One clock for domains without reset."""
    clock = Signal(name="clock")
    for name in names:
        domain = ClockDomain(name, reset_less=True)
        m.domains += domain
        m.d.comb += domain.clk.eq(clock)
    return clock


def held(m: Module, valid: Value, ready: Value, *payload: Value, cut: Value | int = 0,
          domain: str = "sync") -> None:
    """What is offered stays, unchanged, until it is taken (or ``cut`` off)."""
    waiting = Signal()
    m.d[domain] += [waiting.eq(valid & ~ready & ~cut),
                    Assert(~waiting | valid, "an offer was withdrawn")]
    for value in payload:
        before = Signal.like(value)
        m.d[domain] += [before.eq(value), Assert(~waiting | (before == value), "an offer changed")]


def read_port(tvu: str) -> _Bench:
    """AXI read side: addresses are held until taken, bursts leave in order, each once and
    unchanged, every beat comes through."""
    m = Module()
    clock = _clock(m, "sync", "axi")
    axi = import_module(f"{tvu}.axi")
    m.submodules.dut = dut = axi.ReadPort(64)
    port, burst = dut.port, dut.burst
    asked, sent = burst.valid & burst.ready, port.arvalid & port.arready
    held(m, port.arvalid, port.arready, port.araddr, port.arlen)
    # any one burst is watched
    which, last, number_in, number_out = Signal(3), Signal(3), Signal(3), Signal(3)
    started, watched = Signal(), Signal.like(burst.payload.as_value())
    m.d.sync += [started.eq(1), last.eq(which), number_in.eq(number_in + asked),
                 number_out.eq(number_out + sent)]
    m.d.comb += Assume(~started | (which == last))
    with m.If(asked & (number_in == which)):
        m.d.sync += watched.eq(burst.payload.as_value())
    wanted = axi.Burst(watched)
    m.d.sync += [
        Assert(~port.arvalid
               | (number_out != which)
               | ((port.araddr == wanted.address) & (port.arlen == wanted.length)),
               "a burst came out as another"),
        Assert(~port.arvalid | (number_in != number_out), "a burst nobody wanted"),
        Assert(port.rready & (dut.valid == port.rvalid) & (dut.data == port.rdata),
               "a beat was lost"),
        Assert(dut.error == (port.rvalid & (port.rresp != 0)), "an error was lost"),
        Cover((number_out == 6) & sent), Cover(burst.valid & ~burst.ready),
    ]
    return m, [clock, which, *inputs(dut)]


def read_count(tvu: str) -> _Bench:
    """``owed`` of the read side is what waits here and what memory owes."""
    m = Module()
    clock = _clock(m, "sync", "axi")
    m.submodules.dut = dut = import_module(f"{tvu}.axi").ReadPort(64)
    port, burst = dut.port, dut.burst
    asked, sent = burst.valid & burst.ready, port.arvalid & port.arready
    waiting, debt = Signal(8), Signal(8)
    m.d.sync += [
        waiting.eq(waiting
                   + Mux(asked, burst.payload.length + 1, 0) - Mux(sent, port.arlen + 1, 0)),
        debt.eq(debt + Mux(sent, port.arlen + 1, 0) - port.rvalid),
        Assert(dut.owed == (waiting + debt)[:8], "what is owed was miscounted"),
        Cover(debt == 20),
    ]
    m.d.comb += [Assume(~asked | (dut.owed + burst.payload.length + 1 <= 64)),
                 Assume(~port.rvalid | (debt != 0))]
    return m, [clock, *inputs(dut)]


def write_port(tvu: str) -> _Bench:
    """AXI write side: what a beat says goes out on both channels, held until taken; ``owed`` is
    what was not answered."""
    m = Module()
    clock = _clock(m, "sync", "axi")
    axi = import_module(f"{tvu}.axi")
    m.submodules.dut = dut = axi.WritePort()
    port, beat = dut.port, dut.beat
    answered, started = port.bvalid & port.bready, Signal()
    # taken, not answered
    addresses, words, before = Signal(8), Signal(8), Signal.like(beat.payload.as_value())
    m.d.sync += [
        addresses.eq(addresses + (port.awvalid & port.awready) - answered),
        words.eq(words + (port.wvalid & port.wready) - answered),
        started.eq(beat.valid & beat.ready), before.eq(beat.payload.as_value()),
    ]
    m.d.comb += Assume(~port.bvalid | ((addresses != 0) & (words != 0)))
    held(m, port.awvalid, port.awready, port.awaddr)
    held(m, port.wvalid, port.wready, port.wdata, port.wstrb)
    sent = axi.WriteBeat(before)
    m.d.sync += [
        Assert((dut.owed == addresses + port.awvalid) & (dut.owed == words + port.wvalid),
               "what is owed was miscounted"),
        Assert(dut.owed <= 32, "more writes are open than can be counted"),
        Assert(~started
               | (port.awvalid
                  & port.wvalid & (port.awaddr == sent.address) & (port.wdata == sent.data)
                           & (port.wstrb == sent.strobe)), "a write went out as another"),
        Assert(port.bready & (dut.error == (port.bvalid & (port.bresp != 0))), "an error was lost"),
        Cover(dut.owed == 5), Cover((dut.owed == 1) & answered & ~started),
    ]
    return m, [clock, *inputs(dut)]


def reader(tvu: str) -> _Bench:
    """Credits of the stream reader: its own assertions, for every descriptor, every pick, every
    memory, and every choice of ports."""
    m = Module()
    clock = _clock(m, "sync", "axi")
    config = import_module(f"{tvu}.config").TVUConfig(port_fifo_depth=64, stream_queue_depth=2)
    m.submodules.dut = dut = import_module(f"{tvu}.reader").StreamReader(config)
    chosen, started = Signal.like(dut.ports.as_value()), Signal()
    m.d.sync += [chosen.eq(dut.ports), started.eq(1)]
    m.d.comb += Assume((dut.ports.mask != 0) & (~started | (dut.ports.as_value() == chosen)))
    ports = [getattr(dut, f"port{i}") for i in range(4)]
    failed = Cat(port.rvalid & (port.rresp != 0) for port in ports).any()
    m.d.sync += [
        Assert(dut.error == failed, "a read error was lost"),
        Cover(dut.word.valid & (dut.requested != 0)), Cover(dut.entry.valid),
        Cover(dut.word.valid & (dut.ports.mask == 4))]
    return m, [clock, *inputs(dut)]



def _front_end(tvu: str, m: Module, clock: Signal, patience_bits: int) -> tuple[wiring.Component,
        Signal]:
    """The front end, and its reset line."""
    line = Signal(name="line")
    m.domains.bus = bus = ClockDomain("bus")
    m.d.comb += [bus.clk.eq(clock), bus.rst.eq(line)]
    m.submodules.front = front = import_module(f"{tvu}.frontend").FrontEnd(patience_bits)
    return front, line


def _command(m: Module, front: wiring.Component) -> Signal:
    """The function id of the command that was taken last."""
    taken = Signal(10)
    with m.If(front.bus.cmd.valid & front.bus.cmd.ready):
        m.d.sync += taken.eq(front.bus.cmd.payload.function_id)
    return taken


def _is(function_id: Value, *names: str) -> Value:
    """The command is one of these instructions."""
    return Cat(function_id == isa.by_name(name).function_id for name in names).any()


def _of(group: int) -> list[str]:
    return [instruction.name for instruction in isa.INSTRUCTIONS if instruction.group == group]


def front_end(tvu: str) -> _Bench:
    """CFU bus: ready without a command; every command is carried out as soon as there is room, or
    what it reads is there, and answered once, a cycle later, and the answer is held. Queues get
    what fits, and nothing while the unit is in reset; a reset ends two cycles after memory owes
    nothing."""
    m = Module()
    clock = _clock(m, "sync")
    front, line = _front_end(tvu, m, clock, 3)
    cmd, rsp, descriptor, instruction = (front.bus.cmd, front.bus.rsp, front.descriptor,
                                         front.instruction)
    accepted, taken, waiting, before, command = (cmd.valid & cmd.ready, rsp.valid & rsp.ready,
                                                 Signal(2), Signal(), _command(m, front))
    free, room = ~rsp.valid | rsp.ready, descriptor.ready & instruction.ready & ~front.resetting
    reads, looked = _is(command, "COUNTER", "SGET", "RANKED"), Signal(2)
    m.d.sync += [
        waiting.eq(Mux(line, 0, waiting + accepted - front.done)), before.eq(front.done & ~line),
        Assert(cmd.valid | cmd.ready, "not ready although no command is offered"),
        Assert(cmd.ready | waiting.any() | line, "not ready without reason"),
        Assert(~front.done | waiting.any(), "commands are not carried out one by one"),
        looked.eq(Mux(front.done | line, 0, Cat(front.holds, looked))),
        Assert(front.done | (reads & ~looked[1]) | ~(waiting.any() & free & room),
               "a command waits although there is room"),
        Assert(~front.done | ~reads | looked[1], "an answer before it was read"),
        Assert(~front.done | free, "an answer is overwritten"),
        Assert(~before | rsp.valid, "an answer is late"),
        Assert(front.holds == waiting, "a command is here unnoticed"),
        Assert(~line | ~accepted, "a command was taken in reset"),
        Assert(~waiting.any() | (front._command.function_id == command),
               "another command is carried out"),
        Assert(~waiting.any() | (front._group == command[:3]), "another group is carried out"),
        *(Assert(~waiting.any() | (front._is(ins.name) == _is(command, ins.name)),
                 "another instruction is carried out") for ins in isa.INSTRUCTIONS),
        Assert(~waiting.any() | (front._defined == _is(command, *(i.name for i in
                                                                  isa.INSTRUCTIONS))),
               "what is defined was mistaken"),
        Assert(~waiting.any() | (front._reads == reads), "who reads was mistaken"),
    ]
    owed = Signal(2)
    m.d.sync += [owed.eq(Mux(line, 0, owed + front.done - taken)),
                 Assert(owed == rsp.valid, "commands and answers are not one to one")]
    held(m, rsp.valid, rsp.ready, rsp.payload, cut=line)
    queued = descriptor.valid | instruction.valid
    m.d.sync += [
        Assert(~queued | (front.done & ~front.resetting), "queued without a command, or in reset"),
        Assert(~descriptor.valid | (descriptor.ready & _is(command, *_of(isa.STREAM))),
               "a descriptor out of place"),
        Assert(~instruction.valid
               | (instruction.ready
                  & ~_is(command, *_of(isa.STREAM), *_of(isa.CONTROL))), "queued out of place"),
    ]
    quiet_for, reset_now = Signal(2), front.done & _is(command, "RESET")
    m.d.sync += quiet_for.eq(Mux(line | reset_now | ~front.quiet, 0,
                                 Mux(quiet_for == 3, 3, quiet_for + 1)))
    was, was_quiet, was_reset = Signal(), Signal(), Signal()
    m.d.sync += [
        was.eq(front.resetting), was_quiet.eq(front.quiet), was_reset.eq(line | reset_now),
        Assert(~was_reset | front.resetting, "a reset did not start"),
        Assert(front.resetting | ~was | was_quiet, "a reset ended while memory owes something"),
        Assert((quiet_for < 3) | ~front.resetting, "a reset did not end"),
        Cover(was & ~front.resetting), Cover(instruction.valid), Cover(descriptor.valid),
    ]
    return m, [clock, line, *inputs(front)]


def patience(tvu: str) -> _Bench:
    """No command waits for ever; none is dropped unless nothing got on; and no error is lost on the
    way to STATUS."""
    bits = 2
    m = Module()
    clock = _clock(m, "sync")
    front, line = _front_end(tvu, m, clock, bits)
    cmd, rsp, descriptor, instruction = (front.bus.cmd, front.bus.rsp, front.descriptor,
                                         front.instruction)
    done, command = front.done, _command(m, front)
    # An idle unit has room.
    m.d.comb += Assume(front.busy | (descriptor.ready & instruction.ready))
    held_up, moves = Signal(bits + 2), front.progress | (~front.busy & ~front.resetting)
    m.d.sync += [
        held_up.eq(Mux(line | ~cmd.valid | cmd.ready | moves | ~rsp.ready, 0, held_up + 1)),
        Assert(held_up <= (1 << bits) + 2, "a command waits for ever"),
    ]
    still, resets = Signal(bits + 1), done & _is(command, "RESET")
    stood = Signal()  # the queue error could stand
    with m.If(line | resets):
        m.d.sync += [still.eq(0), stood.eq(0)]
    with m.Else():
        m.d.sync += [still.eq(Mux(moves, 0, Mux(still[-1], still, still + 1))),
                     stood.eq(stood | (still >= (1 << bits) - 1))]
    wanted = ~_is(command, *_of(isa.CONTROL)) & _is(command, *(i.name for i in isa.INSTRUCTIONS))
    m.d.sync += Assert(~(done & wanted) | descriptor.valid | instruction.valid | stood,
                       "an instruction was dropped")
    expected, asked = Signal(len(isa.ERRORS)), Signal()
    # which the front end finds itself
    queue, undefined = (1 << list(isa.ERRORS).index(name) for name in ("queue", "undefined"))
    happened = Mux(front.resetting, 0, front.errors.as_value() & ~queue) | Mux(
        done & ~_is(command, *(i.name for i in isa.INSTRUCTIONS)), undefined, 0)
    mask = Signal(16)
    with m.If(cmd.valid & cmd.ready):
        m.d.sync += mask.eq(cmd.payload.rs1[:16])
    with m.If(line | resets):
        m.d.sync += expected.eq(0)
    with m.Else():
        m.d.sync += expected.eq((expected & ~Mux(done & _is(command, "CLEAR"), mask, 0)) | happened)
    shown = Signal.like(expected)
    m.d.sync += [
        asked.eq(done & _is(command, "STATUS") & ~line), shown.eq(expected),
        Assert(~asked | ((rsp.payload & shown) == shown), "an error is missing in STATUS"),
        Cover(stood & done & wanted & ~(descriptor.valid | instruction.valid)),
        Cover(asked & (shown != 0)),
    ]
    return m, [clock, line, *inputs(front)]


def recovery(tvu: str) -> _Bench:
    """The front end with both AXI sides: after any reset nothing is owed, the credits hold, and no
    address was withdrawn; with a memory that answers what it took."""
    m, ports, reader, store = _recovery(tvu)
    for i in range(4):
        port, debt = getattr(reader, f"port{i}"), Signal(8, name=f"debt{i}")
        m.d.bench += debt.eq(debt + Mux(port.arvalid & port.arready, port.arlen + 1, 0)
                             - port.rvalid)
        m.d.comb += Assume(~port.rvalid | (debt != 0))
    port, addresses, words = store.port, Signal(8), Signal(8)
    m.d.bench += [
        addresses.eq(addresses + (port.awvalid & port.awready) - port.bvalid),
        words.eq(words + (port.wvalid & port.wready) - port.bvalid),
    ]
    m.d.comb += Assume(~port.bvalid | ((addresses != 0) & (words != 0)))
    return m, ports


def recovery_step(tvu: str) -> _Bench:
    """The same, for a step of induction: memory answers while something is owed by the unit's own
    count."""
    m, ports, *_ = _recovery(tvu)
    return m, ports


def _recovery(tvu: str) -> tuple[Module, list[Signal], wiring.Component, wiring.Component]:
    m = Module()
    clock = _clock(m, "axi")
    bench = ClockDomain("bench", reset_less=True)
    m.domains += bench
    m.domains.sync = sync = ClockDomain("sync")
    front, line = _front_end(tvu, m, clock, 3)
    config = import_module(f"{tvu}.config").TVUConfig(port_fifo_depth=64, stream_queue_depth=2)
    m.submodules.reader = reader = import_module(f"{tvu}.reader").StreamReader(config)
    m.submodules.store = store = import_module(f"{tvu}.store").StoreUnit()
    wiring.connect(m, front.descriptor, reader.descriptor)
    was, before, works = Signal(), Signal(), Signal()
    m.d.comb += [
        front.busy.eq(works | reader.active), reader.ports.eq(front.ports),
        sync.clk.eq(clock), bench.clk.eq(clock), sync.rst.eq(front.resetting),
        front.quiet.eq(reader.quiet & store.quiet),
        Assume(~was | ~store.row.valid),  # what offers rows is in reset then
    ]
    m.d.bench += [
        was.eq(front.resetting), before.eq(was),
        Assert(front.resetting
               | ~was | (reader.quiet & store.quiet), "memory owes something after a reset"),
        Assert(~front.descriptor.valid | ~front.resetting, "a descriptor came in a reset"),
        Assert(reader.ports.mask != 0, "no port is in use"),
        *(Assert(front.resetting | used | (port.owed == 0), "a port that is not in use owes beats")
          for port, used in zip(reader.read_ports, reader.ports.mask, strict=True)),
        # which ports a burst asks is known a cycle before; they do not change meanwhile
        Assert(front.resetting | (reader.measured.asks
                                  == Mux(reader.measured.valid, reader.ports.mask, 0)),
               "a burst asks other ports than those in use"),
        Cover(was & ~front.resetting & before),
        Cover(front.resetting & ~reader.quiet & ~store.quiet),
    ]
    for port, names in ((reader.port0, ("ar",)), (reader.port3, ("ar",)),
                        (store.port, ("aw", "w"))):
        for name in names:
            payload = getattr(port, "wdata" if name == "w" else f"{name}addr")
            held(m, getattr(port, f"{name}valid"), getattr(port, f"{name}ready"), payload,
                  domain="bench")
    driven = {id(Value.cast(value)) for value in (*inputs(reader.descriptor), front.quiet,
                                                  front.busy, reader.ports)}
    ports = [clock, line, works,
             *(v for unit in (front, reader, store) for v in inputs(unit) if id(v) not in driven)]
    return m, ports, reader, store


def products(tvu: str) -> _Bench:
    """Credits of the result queue of the dot products."""
    m = Module()
    clock = _clock(m, "sync", "dot", "fast", "fill")
    # sums do not matter
    m.submodules.dut = dut = import_module(f"{tvu}.products").DotProducts(lambda *_, **__: None)
    m.d.sync += Cover(dut.result.valid & ~dut.result.ready)
    return m, [clock, *inputs(dut)]


def vector(tvu: str) -> _Bench:
    """Credits of the queue of rows to be stored."""
    m = Module()
    clock = _clock(m, "sync")
    m.submodules.dut = dut = import_module(f"{tvu}.vector").VectorUnit()
    op = Signal.like(dut.op)
    m.d.comb += dut.op.eq(op)
    for name in ("factors", "addends", "dst", "stride"):
        m.d.comb += dut.op[name].eq(0)
    m.d.sync += Cover(dut.row.valid & ~dut.row.ready)
    # numbers do not matter
    driven = {id(Value.cast(value)) for value in (dut.op, dut.word.payload, *dut.read_data)}
    return m, [clock, Value.cast(op), *(v for v in inputs(dut) if id(v) not in driven)]
