"""An instruction on its way through the queue, and in the sequencer's hands."""

from amaranth.hdl import Cat, Signal, Value
from amaranth.lib import data
from xtvu import isa

from .decoder import OPCODE_BITS, operand
from .repetition import Runs
from .scalars import REGISTER_BITS

__all__ = ["Epilogue", "Held", "QueuedInstruction"]


class QueuedInstruction(data.Struct):
    """An instruction on its way through the queue."""

    opcode: OPCODE_BITS
    rs1: 32
    rs2: 32


class Epilogue(data.Struct):
    """What EPI says."""

    b: 13
    factor: 2
    pick: 2
    rank: 1
    first: 5
    base: 20


class Held:
    """The instruction that the sequencer has in hand, with the operands that REP advances, the
    scalars that were read, the prefixes before it, and what was found out about it: registers that
    the sequencer drives."""

    def __init__(self) -> None:
        self.instruction = Signal(QueuedInstruction)
        # a bit for each name that is asked for
        self.named = {ins.name: Signal(name=f"is_{ins.name}") for ins in isa.INSTRUCTIONS}
        self.group, self.is_dot = Signal(3), Signal()
        self.dst, self.a, self.b = Signal(13), Signal(13), Signal(13)
        self.s, self.t = Signal(REGISTER_BITS), Signal(REGISTER_BITS)
        self.factors = Signal(data.ArrayLayout(32, isa.VECTORS))
        self.addends = Signal(data.ArrayLayout(32, isa.VECTORS))
        self.repeat, self.epilogue = Signal(Runs), Signal(Epilogue)
        # Under REP: all runs as one operation, or none at all; whether that is settled; a run after
        # the first one.
        self.together, self.refused, self.settled, self.again = (Signal(), Signal(), Signal(),
                                                                Signal())
        self.sends_rows = Signal()  # to the store unit or the ranking

    def name_is(self, *names: str) -> Value:
        """Whether an instruction of one of these names is held."""
        return Cat(self.named[name] for name in names).any()

    def field(self, fields: dict[str, str]) -> Value:
        """The operand that the held instruction has under its name in ``fields``."""
        return operand(self.instruction.rs1, self.instruction.rs2, fields, self.name_is)
