"""Instruction set of the ternary vector unit (TVU): one definition, and what is generated from
it."""

__all__ = ["isa", "semantics"]
