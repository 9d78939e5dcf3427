"""firmware/lookup.c by itself: what it guesses, and when it stops guessing."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
from bitnet_host.run.protocol import SLOTS

FIRMWARE = Path(__file__).parents[2] / "firmware"
CONTEXT, VOCAB, MOST = 4000, 1000, 6
_AROUND = {
    "board.h": """#pragma once
        #include <stdint.h>
        extern uint32_t ddr[];
        static inline volatile uint32_t *ddr_word(uint32_t offset) { return ddr + offset / 4; }""",
    "model.h": """#pragma once
        #include <stdint.h>
        extern struct { uint32_t history_base, context, vocab; } model;""",
    "generated/protocol.h": f"#define SLOTS {SLOTS}u",
    "around.c": f"""#include "board.h"
        #include "model.h"
        uint32_t ddr[{SLOTS * CONTEXT}];
        __typeof__(model) model = {{0, {CONTEXT}, {VOCAB}}};""",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The firmware's code with a memory and a model around it."""
    folder = tmp_path_factory.mktemp("lookup")
    for name, text in _AROUND.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", f"-I{folder}",
                    f"-I{FIRMWARE / 'include'}", FIRMWARE / "lookup.c", folder / "around.c", "-o",
                    folder / "lookup.so"], check=True)
    return ctypes.CDLL(str(folder / "lookup.so"))


class _Slot:
    """A conversation in slot 3, from its beginning."""

    def __init__(self, program):
        self.program, self.tokens = program, []
        program.lookup_keep(3, 0)
        for _ in range(200):  # what a pass costs without guesses
            program.lookup_tell(3, 0, 0, 1000)

    def says(self, *tokens):
        for token in tokens:
            self.program.lookup_said(3, len(self.tokens), token)
            self.tokens.append(token)

    def guess(self, most=MOST):
        found = (ctypes.c_uint32 * MOST)()
        count = self.program.lookup_draft(3, len(self.tokens) - 1, most, found)
        return list(found[:count])

    def tell(self, drafted, accepted, spent):
        self.program.lookup_tell(3, drafted, accepted, spent)


def test_what_followed_before(program):
    """Where the last three tokens stood last, and not where only two of them did."""
    slot = _Slot(program)
    slot.says(1, 2, 3, 50, 9, 1, 2, 3, 60, 61, 62, 9, 8, 2, 3)
    assert slot.guess() == []
    slot.says(9, 1, 2, 3)
    assert slot.guess() == [60]
    slot.says(60, 61, 62)
    assert slot.guess() == [9]


def _place(first, second, third):
    """Of three tokens in the table, as firmware/lookup.c reckons it."""
    return (((first * 31 + second) * 31 + third) * 0x9E3779B1 & 0xFFFFFFFF) >> 24


@pytest.mark.parametrize("other", range(3))
def test_others_that_share_a_place(program, other):
    """Three tokens of which one differs are found where the first ones were, and are not them."""
    first, slot = [1, 2, 3], _Slot(program)
    shared = next([*first[:other], token, *first[other + 1:]] for token in range(4, VOCAB)
                  if _place(*first[:other], token, *first[other + 1:]) == _place(*first))
    slot.says(9, *first, 50, *shared)
    assert slot.guess() == []
    slot.says(*first)  # their place is the others' now
    assert slot.guess() == []
    slot.says(7, *first)
    assert slot.guess() == [7]


def test_guesses_grow_as_they_are_right(program):
    slot = _Slot(program)
    text = list(range(100, 160))
    slot.says(*text, *text[:4])
    for length in (1, 2, 3, 4, 5, 6, 6):
        place = len(slot.tokens) - 60
        assert slot.guess() == text[place:place + length]
        slot.tell(length, length, 1000)
        slot.says(*text[place:place + length + 1])
    slot.tell(6, 2, 1000)
    assert len(slot.guess()) == 2
    slot.tell(2, 0, 1000)
    assert len(slot.guess()) == 1 and len(slot.guess(0)) == 0


def test_a_circle_goes_on_behind_what_is_known(program):
    slot = _Slot(program)
    slot.says(5, 6, 5, 6, 5, 6, 5)
    for length in range(1, 7):
        assert slot.guess() == [6, 5, 6, 5, 6, 5][:length]
        slot.tell(length, length, 1000)


def _wrong(slot, count):
    """Guesses that cost half a pass each; then, how many passes there are none."""
    for _ in range(count):
        assert slot.guess()
        slot.tell(1, 0, 1500)
    rest = 0
    while not slot.guess():
        rest += 1
        assert rest < 1000
    return rest


def test_what_does_not_pay_rests(program):
    """When guesses have cost more than two passes beyond what they saved; longer each time, until
    they have paid. What they saved counts up to four passes."""
    slot = _Slot(program)
    slot.says(5, 6, 5, 6, 5, 6, 5)
    assert [_wrong(slot, count) for count in (4, 1, 3, 3, 3, 3, 3)] == [
        0, 16, 32, 64, 128, 256, 256]
    slot.tell(1, 1, 1000)
    assert [_wrong(slot, count) for count in (4, 1)] == [0, 16]
    for _ in range(20):
        slot.tell(1, 1, 1000)
    assert [_wrong(slot, count) for count in (12, 1)] == [0, 16]


def test_a_conversation_that_begins_anew_has_no_past(program):
    slot = _Slot(program)
    slot.says(1, 2, 3, 50, 9)
    program.lookup_keep(3, 0)
    slot.tokens = []
    slot.says(7, 1, 2, 3)
    assert slot.guess() == []
    program.lookup_keep(3, 2)  # cut back, and on in another way
    slot.tokens = slot.tokens[:2]
    slot.says(8, 4, 1, 2, 3)
    assert slot.guess() == []
    slot.says(9, 7, 1, 8)
    assert slot.guess() == [4]
