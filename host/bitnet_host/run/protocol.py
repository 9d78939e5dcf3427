"""What host and firmware say to each other: THE definition of messages, error codes and the
mailbox.

A command is ``[type, length, payload...]`` in 32-bit words, an event that answers it ``[type,
length, sequence, payload...]`` with the command's sequence number. Both go through the mailbox:
memory on the board that a host reads and writes by datagrams (xtvu/datagram.py). firmware/ gets
all of this as a generated header.

Every command but GENERATE is done when its last event is sent. A GENERATE goes on beside others:
the board has SLOTS conversations (model/header.py) under way, in passes that they share. INFO,
RESET of another slot and SCORE are answered between passes; any other command ends all that is
under way first, as if it had been cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitnet_host.model.header import SLOTS

__all__ = [
    "COMMANDS", "ERRORS", "EVENTS", "EVENT_HEAD_WORDS", "GENERATE_FIELDS", "INFO_FIELDS",
    "MAILBOX", "MAX_PAYLOAD", "MEMORY_FIELDS", "MOST_CANDIDATES", "MOST_READ", "MOST_SUMS",
    "OPERATORS", "OPTIONS", "OUTSIDE_FIELDS",
    "PARTS", "PATTERN", "SLOTS", "STATS_FIELDS", "STOP_REASONS",
    "STEPS", "STREAM_FIELDS", "UNKNOWN", "VERSION", "Mailbox", "c_header", "error_text",
    "restart_text",
]

VERSION = 9
MAX_PAYLOAD = 2048  # words of a message
EVENT_HEAD_WORDS = 3  # type, length, sequence
MOST_CANDIDATES = 64  # tokens that a board names for the host to choose from
MOST_SUMS = 64  # checksums of an event
MOST_READ = 64  # stream words of a READ
PATTERN = 0x9E3779B1  # times the address: what the CPU writes in MEMORY
UNKNOWN = 0xFFFFFFFF  # a field of OUTSIDE that the board knows nothing of

COMMANDS = {
    "INFO": 1,  # -> INFO
    # [trust]: checks the image at the model base, with trust only its header -> PROGRESS..., LOADED
    "LOAD": 2,
    # [slot, position]: keeps so many tokens of a slot's conversation, or takes for granted that
    # the cache holds them, for benches -> DONE
    "RESET": 3,
    # GENERATE_FIELDS, then the prompt's token ids -> PROGRESS..., PROFILE..., TOKEN... or
    # CANDIDATES, STATS
    "GENERATE": 4,
    # [slot, token, position]: one forward pass, logits left in DDR -> SCORED
    "SCORE": 5,
    "UNLOAD": 6,  # forgets the model, whose memory may be written again -> DONE
    # [address, words, count]: checksums (xtvu.semantics) of pieces of so many stream words -> SUMS
    "SUMS": 7,
    "GEMV": 8,  # [rows, stream words per row, mode]: a GEMV over whatever DDR holds -> COUNTERS
    "CLEAR": 9,  # ends all answers and forgets all conversations -> DONE
    "HANG": 10,  # never ends, so that the watchdog can be seen at work
    # From here on for diagnosis; only without a model.
    "STREAM": 11,  # STREAM_FIELDS -> COUNTERS
    "READ": 12,  # [address, stream words]: the bytes that the ports read -> READ
    # [from, to, stream words]: the vector unit copies bytes, of which none is -128 -> DONE
    "STORE": 13,
    # [address, words, flip]: the CPU writes PATTERN * address ^ flip and reads it -> MEMORY
    "MEMORY": 14,
    "OUTSIDE": 15,  # -> OUTSIDE
}

EVENTS = {
    "INFO": 1, "LOADED": 2, "DONE": 3, "PROGRESS": 4, "TOKEN": 5, "STATS": 6, "SCORED": 7,
    "SUMS": 8, "COUNTERS": 9,
    "ERROR": 10,  # [code, detail]
    "CANDIDATES": 12,  # [token, float32 bits of its logit]..., falling
    "READ": 13,  # stream words
    "MEMORY": 14,  # MEMORY_FIELDS
    "OUTSIDE": 15,  # OUTSIDE_FIELDS
    # stage (0 before the layers, 1 a layer, ..., and behind the last one), PARTS of each step
    "PROFILE": 16,
}

#: Errors that the firmware reports: code and sentence for people. ``{detail}`` is the second word
#: of the event.
ERRORS = {
    "COMMAND": (1, "the board does not know command {detail}"),
    "NO_MODEL": (2, "the board has no model loaded: upload one first"),
    "IMAGE": (3,
              "the model image on the board is damaged or of another version (field {detail}): "
              "upload the model again"),
    "CHECKSUM": (4, "tensor {detail} arrived damaged on the board: upload the model again"),
    "TOO_LARGE": (5, "the model does not fit this board's scratchpad or memory (limit {detail})"),
    "CONTEXT": (6, "the conversation is longer than the model's context of {detail} tokens"),
    "ARGUMENT": (7, "the board refused argument {detail} of the command"),
    "TVU": (8, "the vector unit reported error bits 0x{detail:x}"),
    "TIMEOUT": (9, "the vector unit did not finish in time (status 0x{detail:x})"),
    "TRAP": (10,
             "the firmware crashed (cause and address 0x{detail:x}) and its watchdog restarts it"),
    "SELFTEST": (11, "the vector unit failed self-test step {detail}"),
    "MEMORY": (14,
               "the conversations on the board take all {detail} tokens of its KV cache: end one"),
    "BUSY": (15, "slot {detail} of the board is in the middle of an answer: wait or cancel it"),
    "POSITION": (13,
                 "the conversation on the board stands at token {detail}, not where this one goes "
                 "on: start anew"),
    "HANG": (12, "the firmware hung in command {detail} and its watchdog restarted it"),
}

INFO_FIELDS = ("version", "isa_hash", "clock_hz", "selftest", "model_id", "model_base",
               "memory_bytes",
               # starts since it was configured; what ended the run before this one
               "restarts", "last_error", "last_detail",
               # of the KV cache: tokens that it has room for and that no slot has taken; tokens of
               # each slot's conversation
               "cache_tokens", "free_tokens", *(f"position{slot}" for slot in range(SLOTS)))
#: ``position``: tokens that the host knows to be in the slot's part of the KV cache.
#: ``candidates``: how many of the best tokens to name after the prompt, instead of choosing;
#: ``max_tokens`` is 0 then.
GENERATE_FIELDS = ("slot", "position", "max_tokens", "candidates", "options", "prompt_tokens")
#: Bits of GENERATE's options: work that is normally saved. Answers are the same, but for a screened
#: head's. ``profile``: the vector unit is waited for after each layer, and STEPS are told apart.
#: ``lookup``: what comes next is guessed where that pays (firmware/lookup.c).
OPTIONS = {"full_head": 1, "all_rows": 2, "all_columns": 4, "profile": 8, "lookup": 16}
#: A stream by some of the memory ports (xtvu.isa, PORTS): ``rows`` runs of ``words_each`` stream
#: words, ``stride`` blocks of 512 bytes apart; together a multiple of 16 words.
STREAM_FIELDS = ("address", "rows", "words_each", "stride", "mask", "apart", "bursts")
#: Words that were not what the CPU had written: how many, the first, and all bits that differed.
MEMORY_FIELDS = ("wrong", "address", "expected", "found", "differ")
#: What lies around the SoC: the CPU's cycles ``now``; whether a processing system; the link in
#: Mbit/s and the PHY's identifier; ``ticks`` of a clock of ``ticks_hz`` in so many ``cycles``; and
#: the memory ports' own registers.
OUTSIDE_FIELDS = ("now", "processing_system", "link", "phy_id", "cycles", "ticks", "ticks_hz",
                  *(f"hp{port}_{name}" for port in range(4)
                    for name in ("read_mode", "read_commands", "write_mode", "write_commands")))
#: ``memory``: other conversations have the rest of the KV cache.
STOP_REASONS = {"stop": 0, "length": 1, "cancel": 2, "context": 3, "memory": 4}
#: Where cycles go: sections of the TVU's counters, from 1 on. What the CPU does between passes
#: counts as sample.
OPERATORS = ("embed", "norm", "qkv", "rope", "attention", "o_proj", "gate_up", "activation",
             "down_proj", "head", "sample")
#: The steps of a pass in their order, and the operators that they are parts of. Those before
#: input_norm come before the layers, those from final_norm on behind them.
STEPS = {"embed": "embed", "input_norm": "norm", "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv",
         "rope": "rope", "attention": "attention", "attn_sub_norm": "norm", "o_proj": "o_proj",
         "post_norm": "norm", "gate_proj": "gate_up", "up_proj": "gate_up",
         "ffn_sub_norm": "activation", "down_proj": "down_proj", "final_norm": "head",
         "head": "head", "sample": "sample"}
#: The TVU counters that partition an operator's cycles; STATS has them per token (decode, or
#: prefill if nothing was decoded), whatever other slots did in the same passes.
PARTS = ("moving", "stall_memory", "stall_compute", "stall_control")
STATS_FIELDS = ("stop_reason", "tokens", "prefill_tokens", "prefill_cycles_low",
                "prefill_cycles_high",
                "decode_cycles_low", "decode_cycles_high", "position", "drafts",
                "drafted", "accepted",
                *(f"{name}_{part}" for name in OPERATORS for part in PARTS))


@dataclass(frozen=True)
class Mailbox:
    """Word offsets in the mailbox memory.

    The host writes a command, then one more than ``command_taken`` to ``command_sequence``; the
    board copies that to ``command_taken`` when it is done reading. ``doing`` is the command under
    way, or 0, with what is ``done`` of a ``total``. A GENERATE ends early when its sequence number
    stands in the word of its slot, behind ``cancel``. Events are appended to a ring of
    ``ring_words``; ``event_head`` (board) and ``event_tail`` (host) count words and wrap at 2^32.
    ``restarts`` counts starts of the firmware; the two words behind it are the error that ended the
    run before, or 0, and its detail. Who sees it change knows that everything else here started
    anew.
    """

    magic: int = 0
    version: int = 1
    isa_hash: int = 2
    command_sequence: int = 4
    command_taken: int = 5
    event_head: int = 7
    event_tail: int = 8
    restarts: int = 9
    doing: int = 12
    done: int = 13
    total: int = 14
    cancel: int = 16
    command: int = 24
    ring: int = 2080
    ring_words: int = 1024
    magic_value: int = 0x4D555654


MAILBOX = Mailbox()


def error_text(code: int, detail: int) -> str:
    """The sentence for an error that the board reports."""
    for number, text in ERRORS.values():
        if number == code:
            return text.format(detail=detail)
    return f"the board reported error {code} ({detail})"


def restart_text(code: int, detail: int) -> str:
    """The sentence for a board that was restarted in the middle of something; ``code`` is 0 if
    nobody knows why."""
    why = error_text(code, detail) if code else "its reset button was pressed, or its power failed"
    return (f"the board restarted: {why}. It is ready again; the conversation and what it was "
            f"doing are lost: start anew")


def c_header() -> str:
    """The firmware's view of this module."""
    lines = ["// Generated from host/bitnet_host/protocol.py.", "#pragma once", ""]

    def define(name: str, value: int) -> None:
        lines.append(f"#define {name} 0x{value:x}u")

    define("PROTOCOL_VERSION", VERSION)
    define("PROTOCOL_MAX_PAYLOAD", MAX_PAYLOAD)
    define("MOST_CANDIDATES", MOST_CANDIDATES)
    define("EVENT_HEAD_WORDS", EVENT_HEAD_WORDS)
    define("MOST_SUMS", MOST_SUMS)
    define("MOST_READ", MOST_READ)
    define("OUTSIDE_UNKNOWN", UNKNOWN)
    lines.append(f"#define MEMORY_PATTERN(address) ((address) * 0x{PATTERN:x}u)")
    for prefix, table in (("COMMAND", COMMANDS), ("EVENT", EVENTS), ("STOP", STOP_REASONS),
                          ("OPTION", OPTIONS)):
        for name, code in table.items():
            define(f"{prefix}_{name.upper()}", code)
    for name, (code, _) in ERRORS.items():
        define(f"ERROR_{name}", code)
    for name, offset in vars(MAILBOX).items():
        define(f"MAILBOX_{name.upper()}", offset)
    for prefix, fields in (("INFO", INFO_FIELDS), ("GENERATE", GENERATE_FIELDS),
                           ("STATS", STATS_FIELDS), ("STREAM", STREAM_FIELDS),
                           ("MEMORY", MEMORY_FIELDS), ("OUTSIDE", OUTSIDE_FIELDS)):
        for place, name in enumerate(fields):
            define(f"{prefix}_{name.upper()}", place)
        define(f"{prefix}_WORDS", len(fields))
    for place, name in enumerate(OPERATORS):
        define(f"OPERATOR_{name.upper()}", place)
    define("OPERATOR_COUNT", len(OPERATORS))
    for place, name in enumerate(STEPS):
        define(f"STEP_{name.upper()}", place)
    define("STEP_COUNT", len(STEPS))
    numbers = ", ".join(str(OPERATORS.index(name)) for name in STEPS.values())
    lines.append(f"#define STEP_OPERATORS {{{numbers}}}")
    define("PARTS", len(PARTS))
    return "\n".join(lines) + "\n"
