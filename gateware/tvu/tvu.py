"""The TVU: CFU bus on one side, four AXI read masters and one write master on the other."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from xtvu import isa

from .axi import PORTS, AXIRead, AXIWrite
from .checksum import Checksum
from .collect import Collector
from .config import TVUConfig
from .decoder import OPCODES, Decoder
from .lanes import DotLanes
from .scalar import ScalarUnit
from .sequencer import Sequencer
from .store import StoreUnit
from .stream import StreamReader
from .vector import VectorUnit

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
    is queued, running or asked for), 1 for ``dot``, 2 for ``dotx`` (see lanes.py). The simulation saves most of its time so.

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
        m.submodules.lanes = lanes = DotLanes(config)
        m.submodules.collector = collector = Collector(config)
        m.submodules.vector = vector = VectorUnit(config)
        m.submodules.scalar = scalar = ScalarUnit()
        m.submodules.checksum = checksum = Checksum()
        m.submodules.store = store = StoreUnit()
        m.submodules.sequencer = sequencer = Sequencer()
        m.submodules.scratch = scratch = memory.Memory(shape=unsigned(256), depth=config.scratch_rows, init=[])
        scratch_read, scratch_write = scratch.read_port(), scratch.write_port(granularity=32)

        for i in range(PORTS):
            connect(m, getattr(reader, f"port{i}"), flipped(getattr(self, f"read{i}")))
        connect(m, store.port, flipped(self.write))

        # -- CFU front end -----------------------------------------------------------------------------------------
        cmd, rsp = self.bus.cmd, self.bus.rsp
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(
            width=len(sequencer.instruction.payload.as_value()), depth=config.queue_depth)
        errors = Signal(data.StructLayout({name: 1 for name in isa.ERRORS}))
        counters = {name: Signal(32, name=f"counter_{name}") for name in isa.COUNTERS}
        tickets = Signal(8)

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
            place = next(f for f in isa.by_name(instruction).fields if f.name == name)
            return (cmd.payload.rs1, cmd.payload.rs2)[place.source - 1][place.lo:place.lo + place.width]

        busy = (queue.level != 0) | sequencer.busy | reader.active | (store.idle == 0)
        m.d.comb += self.awake.eq(Cat(busy | cmd.valid | rsp.valid, lanes.awake, lanes.awake_more))
        answer = Signal(32)
        m.d.comb += sequencer.peek_address.eq(operand("SGET", "s"))
        with m.If(opcode_is("ID")):
            m.d.comb += answer.eq(isa.isa_hash())
        with m.Elif(opcode_is("STATUS")):
            m.d.comb += answer.eq(Cat(errors.as_value(), Const(0, 31 - len(isa.ERRORS)), busy))
        with m.Elif(opcode_is("COUNTER")):
            values = Array([*counters.values(), *[Const(0, 32)] * (16 - len(counters))])
            m.d.comb += answer.eq(values[operand("COUNTER", "index")])
        with m.Elif(opcode_is("SGET")):
            m.d.comb += answer.eq(sequencer.peek_data)
        with m.If(accept):
            m.d.sync += [rsp.valid.eq(1), rsp.payload.eq(answer)]
        with m.Elif(rsp.ready):
            m.d.sync += rsp.valid.eq(0)

        descriptor = reader.descriptor.payload
        address = operand("STREAM", "addr")
        strided = opcode_is("STREAMR")
        m.d.comb += [
            descriptor.address.eq(address[5:]), descriptor.fence.eq(address[0]), descriptor.ticket.eq(tickets),
            descriptor.words.eq(Mux(strided, operand("STREAMR", "words"), operand("STREAM", "words"))),
            descriptor.rows.eq(Mux(strided, operand("STREAMR", "rows"), 1)),
            descriptor.stride.eq(operand("STREAMR", "stride")),
            reader.descriptor.valid.eq(accept & to_stream & ~expired),
            queue.w_data.eq(Cat(decoder.opcode, cmd.payload.rs1, cmd.payload.rs2)),
            queue.w_en.eq(accept & to_queue & ~expired),
            sequencer.instruction.payload.as_value().eq(queue.r_data),
            sequencer.instruction.valid.eq(queue.r_rdy), queue.r_en.eq(sequencer.instruction.ready),
        ]
        with m.If(accept & (decoder.group == isa.STORE) & to_queue & ~expired):
            m.d.sync += tickets.eq(tickets + 1)
        with m.If(sequencer.store_complete):
            m.d.sync += reader.completed.eq(reader.completed + 1)

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
        connect(m, collector.row, vector.dot)
        word = reader.word
        m.d.comb += [
            lanes.write.enable.eq(vector.act_enable), lanes.write_vector.eq(vector.act_vector),
            lanes.write.address.eq(vector.act_address), lanes.write.digit.eq(vector.act_digit),
            lanes.write.quarter.eq(vector.act_quarter), lanes.write.codes.eq(vector.act_codes),
            collector.vectors.eq(sequencer.dot_vectors),
            scratch_read.addr.eq(vector.read_address), vector.read_data.eq(scratch_read.data),
            scratch_write.addr.eq(vector.write_address), scratch_write.data.eq(vector.write_data),
            scratch_write.en.eq(vector.write_mask),
            # One unit is hungry at a time.
            word.ready.eq(lanes.word.ready | checksum.word.ready | vector.word.ready),
            lanes.word.valid.eq(word.valid), lanes.word.payload.eq(word.payload),
            checksum.word.valid.eq(word.valid), checksum.word.payload.eq(word.payload),
            vector.word.valid.eq(word.valid), vector.word.payload.eq(word.payload),

            vector.start.eq(sequencer.vector_start), vector.op.eq(sequencer.vector_op),
            sequencer.vector_done.eq(vector.done), sequencer.vector_value.eq(vector.value),
            sequencer.vector_index.eq(vector.index),
            lanes.start.eq(sequencer.dot_start), lanes.words.eq(sequencer.dot_words), lanes.mode.eq(sequencer.dot_mode),
            lanes.vectors.eq(sequencer.dot_vectors), lanes.rows.eq(sequencer.dot_rows),
            checksum.start.eq(sequencer.check_start), checksum.words.eq(sequencer.check_words),
            sequencer.check_done.eq(checksum.done), sequencer.check_value.eq(checksum.value),
            scalar.start.eq(sequencer.scalar_start), scalar.function.eq(sequencer.scalar_function),
            scalar.a.eq(sequencer.scalar_a), scalar.b.eq(sequencer.scalar_b),
            sequencer.scalar_done.eq(scalar.done), sequencer.scalar_value.eq(scalar.r),
            store.start.eq(sequencer.store_start), store.address.eq(sequencer.store_address),
            store.kind.eq(sequencer.store_kind), sequencer.store_idle.eq(store.idle),
            sequencer.store_scalar_ready.eq(store.row.ready),
            store.row.valid.eq(vector.row.valid | sequencer.store_scalar_valid), vector.row.ready.eq(store.row.ready),
        ]
        with m.If(sequencer.store_scalar_valid):
            m.d.comb += store.row.payload.as_value().eq(
                Cat(sequencer.store_scalar, Const(0, 32 * (isa.LANES - 1)), Const(1, isa.LANES)))
        with m.Else():
            m.d.comb += store.row.payload.as_value().eq(vector.row.payload.as_value())

        # -- counters --------------------------------------------------------------------------------------------
        hungry = lanes.hungry | checksum.hungry | vector.wants_word
        steps = {
            "busy": sequencer.busy,
            "beats": word.valid & word.ready,
            "stall_memory": hungry & ~word.valid,
            "stall_compute": word.valid & ~word.ready,
            "operations": sequencer.complete,
            "write_beats": store.beat,
            "requested": reader.requested,
        }
        for name, amount in steps.items():
            m.d.sync += counters[name].eq(counters[name] + amount)
        return m
