"""Proof of a general-purpose port's AXI side; and that it fails for faults planted in a copy of the
gateware."""

from __future__ import annotations

import pytest
from formal.ports import gp_port
from formal.prover import Refuted, package, prove

#: Longer than the longest burst; what the port asserts of its memory is what the bench assumes.
_PROOF = dict(steps=20, given=["nobody asked for", "too early"])

#: What gp.py says and what a fault makes of it.
_FAULTS = [
    ("& (~port.wvalid | port.wready)", ""),
    ("with m.Elif(~busy):", "with m.Else():"),
    ("self.port.awvalid.eq(request.payload.write)", "self.port.awvalid.eq(0)"),
    ("port.wlast.eq(left == 1)", "port.wlast.eq(left == 2)"),
    ("left.eq(left - 1), writes.eq(left != 1)", "left.eq(left - 1), writes.eq(left != 0)"),
    ("done.eq((port.rvalid & port.rlast) | port.bvalid)", "done.eq(port.rvalid | port.bvalid)"),
    ("with m.If(port.awready):", "with m.If(1):"),
    ("port.arvalid.eq(~request.payload.write)", "port.arvalid.eq(1)"),
]


def test_proof(tmp_path):
    prove(*gp_port("ps"), tmp_path, **_PROOF)


@pytest.mark.parametrize("number", range(len(_FAULTS)))
def test_fault_is_found(number, tmp_path):
    old, new = _FAULTS[number]
    top = gp_port(package(tmp_path, f"ps_fault{number}", "gp.py", old, new, source="ps"))
    with pytest.raises(Refuted, match=r"Assert failed|Unreached cover"):
        prove(*top, tmp_path, **_PROOF)
