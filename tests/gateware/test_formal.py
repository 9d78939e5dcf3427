"""Proofs of the AXI sides, the CFU front end and the credits; and that each proof fails for a fault
planted in a copy of the gateware."""

from __future__ import annotations

import pytest
from formal import sides
from formal.prover import Refuted, package, prove

#: Per bench: cycles from reset that are searched (for covers only, if there is an induction),
#: cycles of an induction step, and what the environment promises.
_PROOFS = {
    "read_port": dict(steps=14, given=["nobody asked for"]),
    "read_count": dict(steps=6, induction=1, given=["nobody asked for"]),
    "write_port": dict(steps=20, induction=2),
    "reader": dict(steps=16, induction=2, given=["nobody asked for"]),
    "front_end": dict(steps=16, induction=3),
    "patience": dict(steps=16),
    "recovery": dict(steps=12, given=["a store starts"]),
    "recovery_step": dict(steps=8, induction=3, given=["nobody asked for", "a store starts"]),
    "products": dict(steps=20, induction=2, given=["columns are read", "two writes"]),
    "vector": dict(steps=38, induction=2, given=["an operation starts", "the operation changes"]),
}

#: Bench, file, what it says and what a fault makes of it.
_FAULTS = [
    ("read_port", "axi.py", "queue.r_en.eq(port.arready)", "queue.r_en.eq(1)"),
    ("read_port", "axi.py",
     "self.error.eq(port.rvalid & (port.rresp != 0))",
     "self.error.eq(port.rvalid & port.rresp[0])"),
    ("read_port", "axi.py", "port.arlen.eq(asked.length)", "port.arlen.eq(burst.payload.length)"),
    ("read_count", "axi.py", "taken * (length + 1) - came", "taken * length - came"),
    ("write_port", "axi.py", "with m.If(port.wready):", "with m.If(port.awready):"),
    ("write_port", "axi.py", "& (self.owed != _OPEN_WRITES)", ""),
    ("write_port", "axi.py", "(~port.wvalid | port.wready) & ", ""),
    ("write_port",
     "axi.py",
     "self.error.eq(answered & (port.bresp != 0))", "self.error.eq(answered & port.bresp.all())"),
    ("reader", "reader.py", "reserved <= Cat(Const(0, exact_log2(BURST_WORDS)), blocks)",
     "reserved < depth"),
    ("reader", "reader.py", "self.ports.mask, 0))", "15, 0))"),
    ("reader", "reader.py", "Mux(mask[i], port.valid, first)", "port.valid"),
    ("reader", "reader.py",
     "burst.length.eq(Mux(ends, left[:5], (BURST_WORDS - offset)[:5])),",
     "burst.length.eq(left[:5]),"),
    ("reader", "reader.py", "left[:5] <= BURST_WORDS - start for", "left[:5] <= BURST_WORDS for"),
    ("reader", "reader.py", "Cat(port.error for port in ports).any()", "ports[0].error"),
    ("reader", "reader.py",
     "(head.words == 0) | (head.rows == 0)", "head.rows == 0"),
    ("front_end", "frontend.py", "cmd.ready.eq(~cmd.valid | (", "cmd.ready.eq(("),
    ("front_end", "frontend.py", "(~holds & ~ResetSignal", "(~ResetSignal"),
    ("front_end", "frontend.py", "with m.If(cmd.valid & ~holds):", "with m.If(cmd.valid):"),
    ("front_end", "frontend.py", "with m.If(~holds):", "with m.If(cmd.ready):"),
    ("front_end", "frontend.py", "(~rsp.valid | rsp.ready) & room", "room"),
    ("front_end", "frontend.py", "with m.Elif(done):\n            m.d.bus += holds",
     "with m.Elif(done & rsp.ready):\n            m.d.bus += holds"),
    ("front_end", "frontend.py", "with m.Elif(rsp.ready):", "with m.Else():"),
    ("front_end", "frontend.py", "room.eq(~self.resetting & Mux(", "room.eq(Mux("),
    ("front_end",
     "frontend.py",
     "Mux(to_stream, self.descriptor.ready, self.instruction.ready)", "self.instruction.ready"),
    ("front_end", "frontend.py", "with m.Elif(seen & self.quiet):", "with m.Elif(seen):"),
    ("front_end", "frontend.py", "& (~self._reads | looked[-1])", ""),
    ("front_end", "frontend.py", "for name in _READS).any()", "for name in _READS[1:]).any()"),
    ("patience", "frontend.py", "with m.Elif(~patience.all()):", "with m.Elif(0):"),
    ("patience",
     "frontend.py", "m.d.bus += errors.eq((errors.as_value() & ~cleared) | raised.as_value())",
     "m.d.bus += errors.eq((errors.as_value() | raised.as_value()) & ~cleared)"),
    ("patience",
     "frontend.py",
     "with m.If(self.progress | (~self.busy & ~self.resetting)):",
     "with m.If(~self.busy & ~self.resetting):"),
    ("patience", "frontend.py", "self.descriptor.valid.eq(done & to_stream & ~errors.queue)",
     "self.descriptor.valid.eq(done & to_stream & ~errors.read)"),
    ("recovery", "axi.py", 'DomainRenamer("axi")(', "("),
    ("recovery", "axi.py",
     "axi += [\n            self.owed.eq(self.owed + start",
     "sync += [\n            self.owed.eq(self.owed + start"),
    ("recovery", "axi.py",
     "axi += [\n            self.owed.eq(self.owed + self._change",
     "sync += [\n            self.owed.eq(self.owed + self._change"),
    ("recovery", "frontend.py", "m.d.bus += seen.eq(self.resetting)", "m.d.comb += seen.eq(1)"),
    ("recovery", "reader.py", "Cat(port.owed == 0 for port in ports).all()", "ports[0].owed == 0"),
    ("recovery_step", "frontend.py",
     "self.busy | self.resetting | (told", "self.resetting | (told"),
    ("recovery_step", "frontend.py", "self.resetting | (told.mask == 0))", "self.resetting)"),
    ("products", "products.py",
     "may_enter.eq(self.hungry & room & ", "may_enter.eq(self.hungry & "),
    ("products", "products.py", "self._ending & ends & room", "self._ending & ends"),
    ("products", "products.py", "credit.eq(credit - ends[0] + ",
     "credit.eq(credit - ends[1] + "),
    ("vector", "issue.py",
     "& (~kind.from_dot | self.dot.valid) & (~kind.buffered | self.room))",
     "& (~kind.from_dot | self.dot.valid))"),
]


@pytest.mark.parametrize("bench", _PROOFS)
def test_proof(bench, tmp_path):
    prove(*getattr(sides, bench)("tvu"), tmp_path, **_PROOFS[bench])


@pytest.mark.parametrize("number", range(len(_FAULTS)), ids=lambda n: f"{_FAULTS[n][0]}-{n}")
def test_fault_is_found(number, tmp_path):
    bench, file, old, new = _FAULTS[number]
    top = getattr(sides, bench)(package(tmp_path, f"tvu_fault{number}", file, old, new))
    with pytest.raises(Refuted, match="Assert failed"):
        prove(*top, tmp_path, **_PROOFS[bench])
