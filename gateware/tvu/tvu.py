"""The TVU: CFU bus on one side, four AXI read masters and one write master on the other."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, unsigned
from amaranth.hdl._ast import Value  # the base class has no public home in Amaranth 0.5
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from xtvu import isa

from .axi import PORTS, AXIRead, AXIWrite
from .checksum import Checksum
from .collect import Collector
from .config import TVUConfig
from .decoder import OPCODES, Decoder
from .lanes import DotLanes
from .rank import Ranking
from .scalar import ScalarUnit
from .sequencer import Sequencer
from .store import StoreUnit
from .stream import StreamReader
from .vector import Sink, VectorUnit

__all__ = ["CFUBus", "TVU"]

_WATCHDOG_BITS = 22


class CFUBus(wiring.Signature):
    """VexRiscv's CFU bus, as seen by the CPU."""

    def __init__(self) -> None:
        super().__init__({
            "cmd": Out(stream.Signature(data.StructLayout({"function_id": 10, "rs1": 32, "rs2": 32}))),
            "rsp": In(stream.Signature(32)),
        })


class TVU(wiring.Component):
    """Members: ``bus``; ``read0`` .. ``read3``; ``write``; ``awake``, which clocks must run: bit 0 for ``sync`` (something
    is queued, running, asked for or counted), 1 for ``dot`` and ``fast``, 2 for ``fill`` (see array.py). The simulation saves much
    of its time so.

    Every command is answered, one cycle after it was taken. A queued instruction waits for room in its queue; after
    2^22 cycles without any it is dropped and the ``queue`` error set, so the CPU never hangs.
    """

    def __init__(self, config: TVUConfig | None = None, *, watchdog_bits: int = _WATCHDOG_BITS) -> None:
        self.config = config or TVUConfig()
        self.watchdog_bits = watchdog_bits
        super().__init__({
            "bus": In(CFUBus()), "awake": Out(3), **{f"read{i}": Out(AXIRead()) for i in range(PORTS)}, "write": Out(AXIWrite()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.decoder = decoder = Decoder()
        m.submodules.reader = reader = StreamReader(config)
        m.submodules.lanes = lanes = DotLanes()
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
            m.submodules[f"scratch{bank}"] = scratch = memory.Memory(shape=unsigned(256), depth=config.scratch_rows // 2, init=[])
            banks.append((scratch.read_port(), scratch.write_port(granularity=32)))

        for i in range(PORTS):
            connect(m, getattr(reader, f"port{i}"), flipped(getattr(self, f"read{i}")))
        connect(m, store.port, flipped(self.write))

        # -- CFU front end -----------------------------------------------------------------------------------------
        cmd, rsp = self.bus.cmd, self.bus.rsp
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(
            width=len(sequencer.instruction.payload.as_value()), depth=config.queue_depth)
        errors = Signal(data.StructLayout({name: 1 for name in isa.ERRORS}))
        stores, picks = Signal(8), Signal(8)  # instructions accepted that stores or picks are counted by

        to_stream = decoder.defined & (decoder.group == isa.STREAM)
        to_queue = decoder.defined & (decoder.group > isa.STREAM)
        room = Mux(to_stream, reader.descriptor.ready, Mux(to_queue, queue.w_rdy, 1))
        waiting = Signal(self.watchdog_bits)
        expired = waiting.all()
        accept = Signal()
        m.d.comb += [
            decoder.function_id.eq(cmd.payload.function_id),
            cmd.ready.eq((~rsp.valid | rsp.ready) & (room | expired)),
            accept.eq(cmd.valid & cmd.ready),
        ]
        with m.If(accept | ~cmd.valid):
            m.d.sync += waiting.eq(0)
        with m.Else():
            m.d.sync += waiting.eq(waiting + 1)

        def opcode_is(name: str):
            return decoder.defined & (decoder.opcode == OPCODES[name])

        def operand(instruction: str, name: str):
            place = isa.by_name(instruction).field(name)
            return (cmd.payload.rs1, cmd.payload.rs2)[place.source - 1][place.lo:place.lo + place.width]

        busy = (queue.level != 0) | sequencer.busy | reader.active | ~store.idle | ~ranking.idle
        m.d.comb += self.awake.eq(Cat(
            busy | cmd.valid | rsp.valid | (sequencer.section != 0), lanes.awake, lanes.awake_fill))

        # One adder per counter; the section chooses the register, which lies in distributed RAM.
        hungry = lanes.hungry | checksum.hungry | vector.wants_word
        moving, starved = Signal(), Signal()
        m.d.comb += [moving.eq(reader.word.valid & reader.word.ready), starved.eq(hungry & ~reader.word.valid)]
        steps = {
            "moving": moving,
            "stall_memory": starved,
            "stall_compute": sequencer.busy & ~moving & ~starved,
            "stall_control": ~sequencer.busy & ~moving & ~starved,
            "operations": sequencer.complete,
            "write_beats": store.beat,
            "requested": reader.requested,
        }
        counted = {name: Signal.like(Value.cast(step), name=f"counted_{name}") for name, step in steps.items()}
        m.d.sync += [counted[name].eq(step) for name, step in steps.items()]  # a cycle late: adding takes a cycle of its own
        counters = []
        for name in isa.COUNTERS:
            m.submodules[f"counter_{name}"] = counter = memory.Memory(shape=unsigned(32), depth=isa.SECTIONS, init=[])
            write, read, asked = counter.write_port(), counter.read_port(domain="comb"), counter.read_port(domain="comb")
            m.d.comb += [
                read.addr.eq(sequencer.section), write.addr.eq(sequencer.section), write.data.eq(read.data + counted[name]), write.en.eq(1),
                asked.addr.eq(operand("COUNTER", "section")),
            ]
            counters.append(asked.data)
        answer = Signal(32)
        m.d.comb += [sequencer.peek_address.eq(operand("SGET", "s")), ranking.peek.eq(operand("RANKED", "index"))]
        with m.If(opcode_is("ID")):
            m.d.comb += answer.eq(isa.isa_hash())
        with m.Elif(opcode_is("STATUS")):
            m.d.comb += answer.eq(Cat(errors.as_value(), Const(0, 31 - len(isa.ERRORS)), busy))
        with m.Elif(opcode_is("COUNTER")):
            values = Array([*counters, *[Const(0, 32)] * (16 - len(counters))])
            m.d.comb += answer.eq(values[operand("COUNTER", "index")])
        with m.Elif(opcode_is("SGET")):
            m.d.comb += answer.eq(sequencer.peek_data)
        with m.Elif(opcode_is("RANKED")):
            m.d.comb += answer.eq(ranking.number)
        with m.If(accept):
            m.d.sync += [rsp.valid.eq(1), rsp.payload.eq(answer)]
        with m.Elif(rsp.ready):
            m.d.sync += rsp.valid.eq(0)

        descriptor = reader.descriptor.payload
        address = operand("STREAM", "addr")
        strided, picked = opcode_is("STREAMR"), opcode_is("STREAMP")
        m.d.comb += [
            descriptor.address.eq(address[5:]), descriptor.fence.eq(address[0]), descriptor.picked.eq(picked),
            descriptor.ticket.eq(Mux(picked, picks, stores)),
            descriptor.words.eq(Mux(strided | picked, operand("STREAMR", "words"), operand("STREAM", "words"))),
            descriptor.rows.eq(Mux(strided | picked, operand("STREAMR", "rows"), 1)),
            descriptor.stride.eq(operand("STREAMR", "stride")),
            reader.descriptor.valid.eq(accept & to_stream & ~expired),
            queue.w_data.eq(Cat(decoder.opcode, cmd.payload.rs1, cmd.payload.rs2)),
            queue.w_en.eq(accept & to_queue & ~expired),
            sequencer.instruction.payload.as_value().eq(queue.r_data),
            sequencer.instruction.valid.eq(queue.r_rdy), queue.r_en.eq(sequencer.instruction.ready),
        ]
        with m.If(accept & (decoder.group == isa.STORE) & to_queue & ~expired):
            m.d.sync += stores.eq(stores + 1)
        marks = opcode_is("EPI") & (operand("EPI", "pick") == isa.PICKS["mark"])
        with m.If(accept & (opcode_is("PICK") | marks) & ~expired):
            m.d.sync += picks.eq(picks + 1)
        with m.If(sequencer.pick_complete):
            m.d.sync += reader.picks.eq(reader.picks + 1)
        m.d.comb += [store.issued.eq(sequencer.store_complete), reader.completed.eq(store.completed)]

        misaligned = accept & to_stream & (address[1:5] != 0)
        raised = {
            "undefined": accept & ~decoder.defined,
            "descriptor": sequencer.bad | reader.bad | misaligned,
            "read": reader.error,
            "write": store.error,
            "queue": accept & expired,
            "overflow": sequencer.overflow | vector.overflow,
        }
        for name, event in raised.items():
            with m.If(event):
                m.d.sync += errors[name].eq(1)
        with m.If(accept & opcode_is("CLEAR")):
            m.d.sync += errors.eq(errors.as_value() & ~operand("CLEAR", "mask"))

        # -- units -----------------------------------------------------------------------------------------------
        connect(m, lanes.result, collector.result)
        connect(m, vector.act, lanes.write)
        connect(m, reader.entry, lanes.entry)
        word = reader.word
        # Rows from the collector are handed over every second cycle, so that no path runs from the vector unit into its registers. The
        # stream waits while columns are drained, so their rows come every cycle, by a path into the drain, which is short.
        by_columns, to_ranking, rank_idle = Signal(), Signal(), Signal()
        m.d.sync += [rank_idle.eq(ranking.idle), sequencer.row_free.eq(~vector.rows_wait)]
        with m.If(sequencer.dot_start):
            m.d.sync += by_columns.eq(sequencer.dot_columns)
        with m.If(sequencer.vector_start):
            m.d.sync += to_ranking.eq(sequencer.vector_op.sink == Sink.RANK)
        with m.If(by_columns & (~vector.dot.valid | vector.dot.ready)):
            m.d.comb += lanes.column_row.ready.eq(1)
            m.d.sync += [vector.dot.valid.eq(lanes.column_row.valid), vector.dot.payload.eq(lanes.column_row.payload)]
        with m.Elif(~by_columns & ~vector.dot.valid):
            m.d.comb += collector.row.ready.eq(1)
            m.d.sync += [vector.dot.valid.eq(collector.row.valid), vector.dot.payload.eq(collector.row.payload)]
        with m.Elif(vector.dot.ready):
            m.d.sync += vector.dot.valid.eq(0)
        for bank, (read, write) in enumerate(banks):
            m.d.comb += [
                read.addr.eq(vector.read_address[bank]), vector.read_data[bank].eq(read.data),
                write.addr.eq(vector.write_address[1:]), write.data.eq(vector.write_data),
                write.en.eq(Mux(vector.write_address[0] == bank, vector.write_mask, 0)),
            ]
        m.d.comb += [
            pick_write.addr.eq(vector.pick_address), pick_write.data.eq(vector.codes), pick_write.en.eq(vector.pick_enable),
            pick_read.addr.eq(reader.pick_address), reader.pick_data.eq(pick_read.data),
            collector.vectors.eq(sequencer.dot_vectors),
            # One unit is hungry at a time.
            word.ready.eq(lanes.word.ready | checksum.word.ready | vector.word.ready),
            lanes.word.valid.eq(word.valid), lanes.word.payload.eq(word.payload),
            checksum.word.valid.eq(word.valid), checksum.word.payload.eq(word.payload),
            vector.word.valid.eq(word.valid), vector.word.payload.eq(word.payload),

            vector.start.eq(sequencer.vector_start), vector.op.eq(sequencer.vector_op),
            sequencer.vector_done.eq(vector.done), sequencer.vector_reduced.eq(vector.reduced), sequencer.vector_value.eq(vector.value),
            lanes.start.eq(sequencer.dot_start), lanes.words.eq(sequencer.dot_words), lanes.mode.eq(sequencer.dot_mode),
            lanes.rows.eq(sequencer.dot_rows),
            lanes.picked.eq(sequencer.dot_picked), lanes.columns.eq(sequencer.dot_columns),
            ranking.clear.eq(sequencer.rank_clear), ranking.levels.eq(sequencer.rank_levels), ranking.start.eq(sequencer.rank_start),
            ranking.base.eq(sequencer.rank_base), sequencer.rank_idle.eq(rank_idle),
            checksum.start.eq(sequencer.check_start), checksum.words.eq(sequencer.check_words),
            sequencer.check_done.eq(checksum.done), sequencer.check_value.eq(checksum.value),
            scalar.start.eq(sequencer.scalar_start), scalar.function.eq(sequencer.scalar_function),
            scalar.a.eq(sequencer.scalar_a), scalar.b.eq(sequencer.scalar_b),
            sequencer.scalar_done.eq(scalar.done), sequencer.scalar_value.eq(scalar.r),
            store.start.eq(sequencer.store_start), store.address.eq(sequencer.store_address),
            store.kind.eq(sequencer.store_kind), sequencer.store_scalar_ready.eq(store.row.ready),
            store.more.eq(vector.rows_wait & ~to_ranking),
            ranking.row.payload.eq(vector.row.payload),
        ]
        m.d.comb += [
            ranking.row.valid.eq(vector.row.valid & to_ranking),
            store.row.valid.eq((vector.row.valid & ~to_ranking) | sequencer.store_scalar_valid),
            vector.row.ready.eq(Mux(to_ranking, ranking.row.ready, store.row.ready)),
            store.row.payload.as_value().eq(vector.row.payload.as_value()),
        ]
        with m.If(sequencer.store_scalar_valid):  # the other elements do not matter
            m.d.comb += [store.row.payload.as_value()[:32].eq(sequencer.store_scalar), store.row.payload.as_value()[-isa.LANES:].eq(1)]
        return m
