"""One DSP48E1 slice as an adder that chooses its operands every cycle: P = Z + X, Z - X or Z.

X is the 48 bits at A:B; Z is zero, port C or the neighbour's P. No multiplier. The pipeline is two
cycles: operands and their choice are registered, then P. Source: Xilinx UG479, tables 2-7 to 2-11.
"""

from __future__ import annotations

from amaranth.hdl import C, Cat, ClockSignal, Instance, Module, Value

__all__ = ["WIDTH", "Z_C", "Z_NEIGHBOUR", "Z_ZERO", "adder"]

WIDTH = 48
#: Values of the Z multiplexer, bits 6:4 of OPMODE.
Z_ZERO, Z_NEIGHBOUR, Z_C = 0b000, 0b001, 0b011

_PARAMETERS = {
    "ACASCREG": 1, "ADREG": 0, "ALUMODEREG": 1, "AREG": 1, "BCASCREG": 1, "BREG": 1,
    "CARRYINREG": 0, "CARRYINSELREG": 0, "CREG": 1,
    "DREG": 0, "INMODEREG": 0, "MREG": 0, "OPMODEREG": 1, "PREG": 1, "USE_MULT": "NONE",
    "USE_SIMD": "ONE48",
}
_ENABLED = ("CEA2", "CEALUMODE", "CEB2", "CEC", "CECTRL", "CEP")
_UNUSED = {"CEA1": 1, "CEAD": 1, "CEB1": 1, "CECARRYIN": 1, "CED": 1, "CEINMODE": 1, "CEM": 1,
           "RSTA": 1, "RSTALLCARRYIN": 1,
           "RSTALUMODE": 1, "RSTB": 1, "RSTC": 1, "RSTCTRL": 1, "RSTD": 1, "RSTINMODE": 1,
           "RSTM": 1, "RSTP": 1, "CARRYIN": 1,
           "CARRYINSEL": 3, "INMODE": 5, "D": 25, "ACIN": 30, "BCIN": 18, "CARRYCASCIN": 1,
           "MULTSIGNIN": 1}


def adder(m: Module, name: str, domain: str, *, x: Value, use_x: Value, subtract: Value, c: Value,
          z: Value, neighbour: Value,
          p: Value, cascade: Value) -> None:
    """Adds the slice to ``m``: ``p`` and ``cascade`` (to the next one's ``neighbour``) are its
    result, 48 bits each."""
    m.submodules[name] = Instance(
        "DSP48E1", **{f"p_{key}": value for key, value in _PARAMETERS.items()},
        **{f"i_{key}": C(1, 1) for key in _ENABLED},
        **{f"i_{key}": C(0, width) for key, width in _UNUSED.items()},
        i_CLK=ClockSignal(domain), i_A=x[18:48], i_B=x[:18], i_C=c, i_PCIN=neighbour,
        i_OPMODE=Cat(use_x, use_x, C(0, 2), z),
        i_ALUMODE=Cat(subtract, subtract, C(0, 2)), o_P=p, o_PCOUT=cascade)
