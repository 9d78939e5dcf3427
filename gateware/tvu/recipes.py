"""How each instruction sets up the units."""

from __future__ import annotations

from xtvu import isa

from .operation import Add, Factor, Reduce, Sink, Source
from .scalar import ScalarFunction
from .scalars import REGISTER_BITS
from .store import StoreKind

__all__ = ["DOTS", "TOGETHER", "PREFIXES", "READ_B", "RECIPES", "ROWS", "SCALAR_FUNCTIONS",
           "STORE_KINDS", "named"]

#: How each vector or row-storing instruction sets up the vector unit; what is not named is 0.
RECIPES: dict[str, dict[str, object]] = {
    "MULS": {"scale": 1, "sink": Sink.SCRATCH},
    "MULV": {"scale": 1, "factor": Factor.B, "b_read": 1, "sink": Sink.SCRATCH},
    "MULM": {"scale": 1, "factor": Factor.B, "b_word": 1, "sink": Sink.SCRATCH},
    "ADDV": {"add": Add.B, "b_read": 1, "sink": Sink.SCRATCH},
    "AXPYM": {"scale": 1, "add": Add.B, "b_word": 1, "sink": Sink.SCRATCH},
    "AXPY": {"scale": 1, "add": Add.B, "b_read": 1, "sink": Sink.SCRATCH},
    "EXP2": {"scale": 1, "add": Add.SCALAR, "lookup": 1, "sink": Sink.SCRATCH},
    "SIGMOID": {"lookup": 1, "sigmoid": 1, "sink": Sink.SCRATCH},
    "MULI": {"integer": 1, "scale": 1, "factor": Factor.B, "b_read": 1, "sink": Sink.SCRATCH},
    "LOADF": {"source": Source.WORD, "sink": Sink.SCRATCH},
    "LOADB": {"source": Source.BYTES, "scale": 1, "sink": Sink.SCRATCH},
    "SUM": {"add": Add.RUNNING, "reduce": Reduce.SUM},
    "SUMSQ": {"factor": Factor.SELF, "add": Add.RUNNING, "reduce": Reduce.SUM},
    "MAX": {"reduce": Reduce.MAX},
    "ABSMAX": {"reduce": Reduce.ABSMAX},
    "QUANT5": {"scale": 1, "codes": 1, "digits5": 1, "sink": Sink.ACTIVATIONS},
    "QUANT4": {"scale": 1, "codes": 1, "sink": Sink.ACTIVATIONS},
    "QUANT8": {"scale": 1, "codes": 1, "bytes": 1, "sink": Sink.ACTIVATIONS},
    "PICK": {"scale": 1, "codes": 1, "sink": Sink.PICK},
    "DOT": {"source": Source.DOT, "scale": 1, "sink": Sink.SCRATCH},
    "DOTA": {"source": Source.DOT, "scale": 1, "add": Add.B, "b_read": 1, "b_dst": 1,
             "sink": Sink.SCRATCH},
    "COLS": {"source": Source.DOT, "scale": 1, "add": Add.B, "b_read": 1, "b_dst": 1,
             "sink": Sink.SCRATCH},
    "STOREF": {"sink": Sink.STORE},
    "STOREQ": {"scale": 1, "codes": 1, "sink": Sink.STORE},
    "STOREQT": {"scale": 1, "codes": 1, "sink": Sink.STORE},
}
#: Vector operations that REP runs as one, all runs together: they differ in their places only.
TOGETHER = ("MULS", "MULV", "ADDV", "AXPY", "EXP2", "QUANT5", "QUANT4", "QUANT8", "MAX", "ABSMAX")
#: Those of them that write scratchpad rows, and those that read b from there: their runs must not
#: depend on each other.
ROWS, READ_B = ("MULS", "MULV", "ADDV", "AXPY", "EXP2"), ("MULV", "ADDV", "AXPY")
PREFIXES = ("REP", "EPI")
DOTS = ("DOT", "DOTA", "COLS")
STORE_KINDS = {"STOREF": StoreKind.FLOAT, "STOREQ": StoreKind.CODES, "STOREQT": StoreKind.COLUMN,
                "STORES": StoreKind.SCALAR}
SCALAR_FUNCTIONS = {
    "SADD": ScalarFunction.ADD, "SMUL": ScalarFunction.MULTIPLY, "SDIV": ScalarFunction.DIVIDE,
    "SSQRT": ScalarFunction.SQRT, "SMAX": ScalarFunction.MAXIMUM,
}


def named(*fields: str, registers: bool | None = None) -> dict[str, str]:
    """The instructions that have an operand of one of these names, and its name; only those whose
    operand is a scalar register, or is none."""
    return {ins.name: f.name
            for ins in isa.INSTRUCTIONS if ins.group > isa.STREAM and ins.name not in PREFIXES
            for f in ins.fields
            if f.name in fields and registers in (None, f.width == REGISTER_BITS)}
