"""The TVU: CFU bus on one side, four AXI read masters and one write master on the other."""

from __future__ import annotations

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import fifo, memory, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from xtvu import isa

from .axi import PORTS, AXIRead, AXIWrite
from .checksum import Checksum
from .collect import Collector
from .config import TVUConfig
from .counters import Counters
from .frontend import PATIENCE_BITS, CFUBus, FrontEnd
from .operation import Sink
from .products import DotProducts
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
        m.submodules.frontend = frontend = FrontEnd(self.patience_bits)
        m.submodules.counters = counters = Counters()
        m.submodules.reader = reader = StreamReader(config)
        m.submodules.products = products = DotProducts(dsp_clock=config.dsp_clock)
        m.submodules.collector = collector = Collector()
        m.submodules.ranking = ranking = Ranking()
        m.submodules.vector = vector = VectorUnit()
        m.submodules.scalar = scalar = ScalarUnit()
        m.submodules.checksum = checksum = Checksum()
        m.submodules.store = store = StoreUnit()
        m.submodules.sequencer = sequencer = Sequencer()
        m.submodules.pick = pick = memory.Memory(shape=unsigned(64), depth=isa.PICK_ROWS, init=[])
        pick_read, pick_write = pick.read_port(), pick.write_port()
        banks = []
        for bank in range(2):
            m.submodules[f"scratch{bank}"] = scratch = memory.Memory(shape=unsigned(256),
                    depth=config.scratch_rows // 2, init=[])
            banks.append((scratch.read_port(), scratch.write_port(granularity=32)))

        for i in range(PORTS):
            connect(m, getattr(reader, f"port{i}"), flipped(getattr(self, f"read{i}")))
        connect(m, store.port, flipped(self.write))

        # -- CFU bus, queue, counters --------------------------------------------------------------
        connect(m, frontend.bus, flipped(self.bus))
        connect(m, frontend.descriptor, reader.descriptor)
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(
            width=len(sequencer.instruction.payload.as_value()), depth=config.queue_depth)
        busy = (queue.level != 0) | sequencer.busy | reader.active | ~store.idle | ~ranking.idle
        commanded = self.bus.cmd.valid | frontend.holds | self.bus.rsp.valid
        word, moving, starved, hungry = reader.word, Signal(), Signal(), Signal(3)
        m.d.comb += [
            queue.w_data.eq(frontend.instruction.payload.as_value()),
            queue.w_en.eq(frontend.instruction.valid),
            frontend.instruction.ready.eq(queue.w_rdy),
            sequencer.instruction.payload.as_value().eq(queue.r_data),
            sequencer.instruction.valid.eq(queue.r_rdy), queue.r_en.eq(sequencer.instruction.ready),
            frontend.busy.eq(busy), frontend.progress.eq(moving | sequencer.complete | store.beat),
            frontend.quiet.eq(reader.quiet & store.quiet), self.resetting.eq(frontend.resetting),
            reader.completed.eq(store.completed), store.issued.eq(sequencer.store_complete),
            frontend.errors.descriptor.eq(sequencer.bad | reader.bad),
            frontend.errors.read.eq(reader.error),
            frontend.errors.write.eq(store.error),
            frontend.errors.overflow.eq(sequencer.overflow | vector.overflow),
            sequencer.peek_address.eq(frontend.scalar_address),
            frontend.scalar.eq(sequencer.peek_data),
            ranking.peek.eq(frontend.ranked_address), frontend.ranked.eq(ranking.number),
            self.awake.eq(Cat(busy
                              | commanded
                              | frontend.resetting
                              | (sequencer.section != 0), products.awake, products.awake_fill)),
            hungry.eq(Cat(products.hungry, checksum.hungry, vector.hungry)),
            moving.eq(word.valid & word.ready), starved.eq(hungry.any() & ~word.valid),
        ]
        with m.If(sequencer.pick_complete):
            m.d.sync += reader.picks.eq(reader.picks + 1)
        steps = {
            "moving": moving,
            "stall_memory": starved,
            "stall_compute": sequencer.busy & ~moving & ~starved,
            "stall_control": ~sequencer.busy & ~moving & ~starved,
            "operations": sequencer.complete,
            "write_beats": store.beat,
            "requested": reader.requested,
        }
        m.d.comb += [counters.section.eq(sequencer.section),
                     counters.address.eq(frontend.counter_address)]
        for place, name in enumerate(isa.COUNTERS):
            m.d.comb += [counters.steps[place].eq(steps[name]),
                         frontend.counter[place].eq(counters.values[place])]
        m.d.sync += [
            Assert((hungry & (hungry - 1)[:3]) == 0, "two units take words of the stream"),
            Assert(~frontend.instruction.valid | queue.w_rdy,
                   "an instruction came to a full queue"),
        ]

        # -- units ---------------------------------------------------------------------------------
        for commands, unit in ((sequencer.vector, vector), (sequencer.dot, products),
                               (sequencer.rank, ranking), (sequencer.check, checksum),
                               (sequencer.scalar, scalar), (sequencer.store, store)):
            for name, member in commands.signature.members.items():
                told, own = getattr(commands, name), getattr(unit, name)
                m.d.comb += own.eq(told) if member.flow is Out else told.eq(own)
        connect(m, products.result, collector.result)
        connect(m, vector.act, products.write)
        connect(m, reader.entry, products.entry)
        # Rows from the collector are handed over every second cycle, so that no path runs from the
        # vector unit into its registers. The stream waits while columns are drained, so their rows
        # come every cycle, by a path into the drain, which is short.
        by_columns, to_ranking = Signal(), Signal()
        m.d.sync += sequencer.row_free.eq(~vector.rows_wait)
        with m.If(sequencer.dot.start):
            m.d.sync += by_columns.eq(sequencer.dot.columns)
        with m.If(sequencer.vector.start):
            m.d.sync += to_ranking.eq(sequencer.vector.op.sink == Sink.RANK)
        with m.If(by_columns & (~vector.dot.valid | vector.dot.ready)):
            m.d.comb += products.column_row.ready.eq(1)
            m.d.sync += [vector.dot.valid.eq(products.column_row.valid),
                         vector.dot.payload.eq(products.column_row.payload)]
        with m.Elif(~by_columns & ~vector.dot.valid):
            m.d.comb += collector.row.ready.eq(1)
            m.d.sync += [vector.dot.valid.eq(collector.row.valid),
                         vector.dot.payload.eq(collector.row.payload)]
        with m.Elif(vector.dot.ready):
            m.d.sync += vector.dot.valid.eq(0)
        for bank, (read, write) in enumerate(banks):
            m.d.comb += [
                read.addr.eq(vector.read_address[bank]), vector.read_data[bank].eq(read.data),
                write.addr.eq(vector.write_address[1:]), write.data.eq(vector.write_data),
                write.en.eq(Mux(vector.write_address[0] == bank, vector.write_mask, 0)),
            ]
        m.d.comb += [
            pick_write.addr.eq(vector.pick_address), pick_write.data.eq(vector.codes),
            pick_write.en.eq(vector.pick_enable),
            pick_read.addr.eq(reader.pick_address), reader.pick_data.eq(pick_read.data),
            collector.vectors.eq(sequencer.dot.vectors),
            # One unit is hungry at a time.
            word.ready.eq(products.word.ready | checksum.word.ready | vector.word.ready),
            products.word.valid.eq(word.valid), products.word.payload.eq(word.payload),
            checksum.word.valid.eq(word.valid), checksum.word.payload.eq(word.payload),
            vector.word.valid.eq(word.valid), vector.word.payload.eq(word.payload),

            sequencer.row.ready.eq(store.row.ready),
            store.more.eq(vector.rows_wait & ~to_ranking),
            ranking.row.payload.eq(vector.row.payload),
        ]
        m.d.comb += [
            ranking.row.valid.eq(vector.row.valid & to_ranking),
            store.row.valid.eq((vector.row.valid & ~to_ranking) | sequencer.row.valid),
            vector.row.ready.eq(Mux(to_ranking, ranking.row.ready, store.row.ready)),
            store.row.payload.as_value().eq(vector.row.payload.as_value()),
        ]
        m.d.sync += Assert(~(vector.row.valid & ~to_ranking & sequencer.row.valid),
                           "two rows for the store unit")
        with m.If(sequencer.row.valid):  # the other elements do not matter
            m.d.comb += [store.row.payload.as_value()[:32].eq(sequencer.row.payload),
                         store.row.payload.as_value()[-isa.LANES:].eq(1)]
        return m
