"""The TVU: CFU bus on one side, four AXI read masters and one write master on the other."""

from __future__ import annotations

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from xtvu import isa

from .axi import PORTS, AXIRead, AXIWrite
from .checksum import Checksum
from .collect import Collector
from .config import TVUConfig
from .counters import Counters
from .frontend import PATIENCE_BITS, CFUBus, FrontEnd
from .instruction import QueuedInstruction
from .operation import Sink
from .products import DotProducts
from .queue import Queue
from .rank import Ranking
from .reader import StreamReader
from .scalar import ScalarUnit
from .sequencer import Sequencer
from .store import StoreUnit
from .vector import VectorUnit

__all__ = ["TVU"]


class TVU(wiring.Component):
    """Members: ``bus``; ``read0`` .. ``read3``; ``write``; ``resetting``: domain ``sync`` has to be
    in reset, ``bus`` and ``axi`` go on (frontend.py, axi.py); ``awake``, which clocks must run: bit
    0 for ``sync``, ``bus`` and ``axi`` (something is queued, running, asked for or counted), 1 for
    ``dot`` and ``fast``, 2 for ``fill`` (see array.py). The simulation saves much of its time so.
    """

    def __init__(self,
                 config: TVUConfig | None = None, *, patience_bits: int = PATIENCE_BITS) -> None:
        self.config = config or TVUConfig()
        self.patience_bits = patience_bits
        super().__init__({
            "bus": In(CFUBus()), "awake": Out(3), "resetting": Out(1),
            **{f"read{i}": Out(AXIRead()) for i in range(PORTS)}, "write": Out(AXIWrite()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        self._frontend = m.submodules.frontend = FrontEnd(self.patience_bits)
        self._counters = m.submodules.counters = Counters()
        self._sequencer = m.submodules.sequencer = Sequencer()
        self._reader = m.submodules.reader = StreamReader(config)
        self._products = m.submodules.products = DotProducts(dsp_clock=config.dsp_clock)
        self._collector = m.submodules.collector = Collector()
        self._vector = m.submodules.vector = VectorUnit()
        self._ranking = m.submodules.ranking = Ranking()
        self._scalar = m.submodules.scalar = ScalarUnit()
        self._checksum = m.submodules.checksum = Checksum()
        self._store = m.submodules.store = StoreUnit()
        for i in range(PORTS):
            connect(m, getattr(self._reader, f"port{i}"), flipped(getattr(self, f"read{i}")))
        connect(m, self._store.port, flipped(self.write))
        connect(m, self._frontend.bus, flipped(self.bus))
        connect(m, self._frontend.descriptor, self._reader.descriptor)
        m.d.comb += self._reader.ports.eq(self._frontend.ports)
        connect(m, self._products.result, self._collector.result)
        connect(m, self._vector.act, self._products.write)
        connect(m, self._reader.entry, self._products.entry)

        self._command_units(m)
        waiting = self._queue_instructions(m)
        self._share_words(m)
        self._count(m)
        self._answer(m, waiting)
        self._hand_over_dots(m)
        self._route_rows(m)
        self._connect_memories(m)
        return m

    def _command_units(self, m: Module) -> None:
        """A unit is told what the sequencer's port of that purpose says, name by name."""
        sequencer = self._sequencer
        for commands, unit in ((sequencer.vector, self._vector), (sequencer.dot, self._products),
                               (sequencer.rank, self._ranking), (sequencer.check, self._checksum),
                               (sequencer.scalar, self._scalar), (sequencer.store, self._store)):
            for name, member in commands.signature.members.items():
                told, own = getattr(commands, name), getattr(unit, name)
                m.d.comb += own.eq(told) if member.flow is Out else told.eq(own)
        m.d.comb += self._collector.last_vector.eq(sequencer.dot.last_vector)

    def _queue_instructions(self, m: Module) -> Value:
        """From the front end to the sequencer; returns whether an instruction waits."""
        m.submodules.queue = queue = Queue(QueuedInstruction, depth=self.config.queue_depth)
        connect(m, self._frontend.instruction, queue.i)
        connect(m, queue.o, self._sequencer.instruction)
        m.d.sync += Assert(~queue.i.valid | queue.i.ready, "an instruction came to a full queue")
        return queue.level != 0

    def _share_words(self, m: Module) -> None:
        """One unit at a time takes words of the stream."""
        word, takers = self._reader.word, (self._products, self._checksum, self._vector)
        self._hungry = hungry = Signal(len(takers))
        m.d.comb += hungry.eq(Cat(unit.hungry for unit in takers))
        m.d.comb += word.ready.eq(Cat(unit.word.ready for unit in takers).any())
        for unit in takers:
            m.d.comb += [unit.word.valid.eq(word.valid), unit.word.payload.eq(word.payload)]
        m.d.sync += Assert((hungry & (hungry - 1)[:len(takers)]) == 0,
                           "two units take words of the stream")

    def _count(self, m: Module) -> None:
        """Every cycle is of one kind."""
        word, sequencer, counters = self._reader.word, self._sequencer, self._counters
        moving, starved = Signal(), Signal()
        m.d.comb += [moving.eq(word.valid & word.ready),
                     starved.eq(self._hungry.any() & ~word.valid)]
        steps = {
            "moving": moving,
            "stall_memory": starved,
            "stall_compute": sequencer.busy & ~moving & ~starved,
            "stall_control": ~sequencer.busy & ~moving & ~starved,
            "operations": sequencer.complete,
            "write_beats": self._store.beat,
            "requested": self._reader.requested,
        }
        m.d.comb += [
            counters.section.eq(sequencer.section),
            counters.address.eq(self._frontend.counter_address),
        ]
        m.d.sync += self._frontend.progress.eq(moving | sequencer.complete | self._store.beat)
        for place, name in enumerate(isa.COUNTERS):
            m.d.comb += [counters.steps[place].eq(steps[name]),
                         self._frontend.counter[place].eq(counters.values[place])]

    def _answer(self, m: Module, waiting: Value) -> None:
        """What the front end looks at, and which clocks must run."""
        frontend, sequencer, reader, store, ranking, products = (
            self._frontend, self._sequencer, self._reader, self._store, self._ranking,
            self._products)
        busy = waiting | sequencer.busy | reader.active | ~store.idle | ~ranking.idle
        asked = self.bus.cmd.valid | frontend.holds | self.bus.rsp.valid
        m.d.comb += [
            frontend.busy.eq(busy), frontend.quiet.eq(reader.quiet & store.quiet),
            frontend.errors.descriptor.eq(sequencer.bad | reader.bad),
            frontend.errors.read.eq(reader.error), frontend.errors.write.eq(store.error),
            frontend.errors.overflow.eq(sequencer.overflow | self._vector.overflow),
            sequencer.peek_address.eq(frontend.scalar_address),
            frontend.scalar.eq(sequencer.peek_data),
            ranking.peek.eq(frontend.ranked_address),
            ranking.peek_vector.eq(frontend.ranked_vector), frontend.ranked.eq(ranking.number),
            self.resetting.eq(frontend.resetting),
            self.awake.eq(Cat(busy | asked | frontend.resetting | (sequencer.section != 0),
                              products.awake, products.awake_fill)),
        ]

    def _hand_over_dots(self, m: Module) -> None:
        """Rows of dot products and column sums to the vector unit, every second cycle: so no path
        runs from there into the registers that they come from."""
        dot, collected, drained = (self._vector.dot, self._collector.row,
                                   self._products.column_row)
        by_columns = Signal()
        with m.If(self._sequencer.dot.start):
            m.d.sync += by_columns.eq(self._sequencer.dot.columns)
        with m.If(dot.valid):
            m.d.sync += dot.valid.eq(~dot.ready)
        with m.Elif(by_columns):
            m.d.comb += drained.ready.eq(1)
            m.d.sync += [dot.valid.eq(drained.valid), dot.payload.eq(drained.payload)]
        with m.Else():
            m.d.comb += collected.ready.eq(1)
            m.d.sync += [dot.valid.eq(collected.valid), dot.payload.eq(collected.payload)]

    def _route_rows(self, m: Module) -> None:
        """Rows that leave the vector unit go to the ranking or to the store unit, which also gets
        scalars from the sequencer; tickets of stores and picks."""
        sequencer, row, store, ranking = (self._sequencer, self._vector.row, self._store,
                                          self._ranking)
        ranks = Signal()
        with m.If(sequencer.vector.start):
            m.d.sync += ranks.eq(sequencer.vector.op.sink == Sink.RANK)
        with m.If(sequencer.pick_complete):
            m.d.sync += self._reader.picks.eq(self._reader.picks + 1)
        m.d.sync += [
            sequencer.row_free.eq(~self._vector.rows_wait),
            Assert(~(row.valid & ~ranks & sequencer.row.valid), "two rows for the store unit"),
        ]
        m.d.comb += [
            self._reader.completed.eq(store.completed), store.issued.eq(sequencer.store_complete),
            store.more.eq(self._vector.rows_wait & ~ranks),
            ranking.row.payload.eq(row.payload), ranking.row.valid.eq(row.valid & ranks),
            row.ready.eq(Mux(ranks, ranking.row.ready, store.row.ready)),
            store.row.valid.eq((row.valid & ~ranks) | sequencer.row.valid),
            store.row.payload.as_value().eq(row.payload.as_value()),
            sequencer.row.ready.eq(store.row.ready),
        ]
        with m.If(sequencer.row.valid):  # the other elements do not matter
            m.d.comb += [store.row.payload.as_value()[:32].eq(sequencer.row.payload),
                         store.row.payload.as_value()[-isa.LANES:].eq(1)]

    def _connect_memories(self, m: Module) -> None:
        """Pick memory, and the scratchpad's banks of even and of odd rows."""
        vector, reader = self._vector, self._reader
        m.submodules.pick = pick = memory.Memory(shape=unsigned(64), depth=isa.PICK_ROWS, init=[])
        read, write = pick.read_port(), pick.write_port()
        m.d.comb += [
            write.addr.eq(vector.pick_address), write.data.eq(vector.codes),
            write.en.eq(vector.pick_enable),
            read.addr.eq(reader.pick_address), reader.pick_data.eq(read.data),
        ]
        for bank in range(2):
            m.submodules[f"scratch{bank}"] = scratch = memory.Memory(
                shape=unsigned(256), depth=self.config.scratch_rows // 2, init=[])
            read, write = scratch.read_port(), scratch.write_port(granularity=32)
            m.d.comb += [
                read.addr.eq(vector.read_address[bank]), vector.read_data[bank].eq(read.data),
                write.addr.eq(vector.write_address[1:]), write.data.eq(vector.write_data),
                write.en.eq(Mux(vector.write_address[0] == bank, vector.write_mask, 0)),
            ]
