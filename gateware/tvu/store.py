"""Store unit: scratchpad rows, int8 codes and scalars to DDR through one AXI write master, one beat
per write."""

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from xtvu.isa import LANES
from xtvu.layout import BLOCK_BYTES

from .axi import AXIWrite, WritePort, physical
from .descriptor import TICKET_BITS

__all__ = ["StoreKind", "StoreRow", "StoreUnit"]


class StoreKind(enum.Enum, shape=2):
    """How a row becomes writes: 2 floats a write, 8 codes a write, or 1 code a write 512 bytes
    apart."""

    FLOAT = 0
    CODES = 1
    COLUMN = 2
    SCALAR = 3


class StoreRow(data.Struct):
    """One row: ``values`` are 8 x 32 bits (codes use the low byte of each), of activation vector
    ``vector`` if they are ranked; ``mask`` marks the lanes to write."""

    values: data.ArrayLayout(32, LANES)
    vector: 3
    mask: LANES


class StoreUnit(wiring.Component):
    """Serialises rows into writes.

    Members: ``address`` and ``kind`` are taken with ``start``; ``row`` in, ``more`` while others
    wait to come in; ``issued`` tells that all rows of a store have come in or wait so, and
    ``completed`` counts the stores all of whose writes are answered, modulo 2^16; ``idle`` while no
    row is there and no write open, ``quiet`` while no write is; ``error`` pulses on an AXI error
    response; ``beat`` for every write.
    """

    def __init__(self) -> None:
        super().__init__({
            "address": In(32),
            "kind": In(StoreKind), "start": In(1), "row": In(stream.Signature(StoreRow)),
            "port": Out(AXIWrite()), "more": In(1), "issued": In(1), "completed": Out(TICKET_BITS),
            "idle": Out(1), "quiet": Out(1),
            "error": Out(1), "beat": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row = self.row
        m.submodules.port = port = WritePort()
        wiring.connect(m, port.port, wiring.flipped(self.port))
        linear, kind = Signal(32), Signal(StoreKind)
        part = Signal(3)

        values = [row.payload.values[i] for i in range(LANES)]
        mask = row.payload.mask
        wdata, strobe, last_part, step = Signal(64), Signal(8), Signal(3), Signal(10)
        with m.Switch(kind):
            with m.Case(StoreKind.FLOAT):
                pair = mask.word_select(part[:2], 2)
                m.d.comb += [
                    wdata.eq(Cat(values).word_select(part[:2], 64)),
                    strobe.eq(Cat(pair[0].replicate(4), pair[1].replicate(4))),
                    last_part.eq(3), step.eq(8),
                ]
            with m.Case(StoreKind.CODES):
                m.d.comb += [wdata.eq(Cat(v[:8] for v in values)), strobe.eq(mask),
                             last_part.eq(0), step.eq(8)]
            with m.Case(StoreKind.COLUMN):
                code = Cat(v[:8] for v in values).word_select(part, 8)
                m.d.comb += [
                    wdata.eq(code.replicate(8)), strobe.eq(mask.bit_select(part, 1) << linear[:3]),
                    last_part.eq(7), step.eq(BLOCK_BYTES),
                ]
            with m.Case(StoreKind.SCALAR):
                m.d.comb += [
                    wdata.eq(values[0].replicate(2)), strobe.eq(Mux(linear[2], 0xF0, 0x0F)),
                    last_part.eq(0), step.eq(8),
                ]

        m.d.comb += [
            port.beat.payload.address.eq(physical(Cat(Const(0, 3), linear[3:]))),
            port.beat.payload.data.eq(wdata), port.beat.payload.strobe.eq(strobe),
        ]
        with m.If(row.valid & port.beat.ready):
            m.d.sync += [linear.eq(linear + step), part.eq(Mux(part == last_part, 0, part + 1))]
            m.d.comb += [row.ready.eq(part == last_part), port.beat.valid.eq(strobe != 0),
                         self.beat.eq(strobe != 0)]
        with m.If(self.start):
            m.d.sync += [linear.eq(self.address), kind.eq(self.kind), part.eq(0)]
        m.d.sync += Assert(~self.start | ~row.valid, "a store starts while rows of another wait")
        # Answers are not told apart: stores count as completed when no row waits and no write is
        # open.
        pending = Signal(TICKET_BITS)
        with m.If(self.idle):
            m.d.sync += [self.completed.eq(self.completed + pending), pending.eq(self.issued)]
        with m.Else():
            m.d.sync += pending.eq(pending + self.issued)
        m.d.comb += [self.error.eq(port.error), self.quiet.eq(port.owed == 0),
                     self.idle.eq(self.quiet & ~row.valid & ~self.more)]
        return m
