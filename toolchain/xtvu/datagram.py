"""What host and board say to each other below the level of commands: THE definition of datagrams.

A datagram is a list of 32-bit words, low byte first: MAGIC, token, sequence, operation, address,
data..., CRC-32 of all before. Over the network it is the payload of a UDP packet to PORT, over UART
it stands by itself and MAGIC tells where it starts. Every request but a DATA without ANSWER has one
answer, which is never longer than the request but for a list of RECENT_WORDS. It repeats token,
sequence, operation and address, and has a status. Whoever gets no answer asks again; asking twice
does no harm:

- READ replaces each address among its data by what is there.
- WRITE puts its data at consecutive addresses of the bus. It is done once for each sequence number,
  and not at all if a later one was done already; its status is remembered for whoever asks again.
- DATA puts an even number of words into DDR at ``address`` (an offset, multiple of 8). It may come
  in any order and any number of times, but is passed over once a WRITE with a later sequence number
  was done. The answer lists the last RECENT_WORDS sequence numbers that arrived, newest first, so
  that one answer makes up for lost ones.
- CLAIM makes the sender the holder of the board, if nobody is, or the same token is, or the flag
  TAKE_OVER is set. Token 0 only asks. The answer is the STATE. All other operations are the
  holder's alone.
- RELEASE ends the claim, as silence of SILENCE seconds does.
- RATE, on UART alone: from the answer on, the line runs at ``address`` baud. Who understands
  nothing goes back to BASE_RATE: the board when it has heard LOST_BYTES, but no MAGIC, the host
  when nobody answers. It ends with the claim.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["BASE_RATE", "ETHERBONE_PORT", "FLAGS", "HEAD_WORDS", "LOST_BYTES", "MAGIC",
           "MOST_WORDS", "OPERATIONS", "PORT",
           "RECENT_WORDS", "SILENCE", "SOURCES", "STATE", "STATUS", "Datagram", "c_header"]

PORT, ETHERBONE_PORT = 1235, 1234  # UDP ports of the board
MAGIC = 0xB17E_11A9  # no ASCII text contains it
HEAD_WORDS = 5  # before the data; one more, the CRC, is behind them
MOST_WORDS = 360  # of data
RECENT_WORDS = 16
SILENCE = 30  # seconds
BASE_RATE, LOST_BYTES = 115_200, 64  # baud

OPERATIONS = {"CLAIM": 1, "RELEASE": 2, "READ": 3, "WRITE": 4, "DATA": 5, "RATE": 6}
#: TAKE_OVER of a CLAIM: whoever holds the board loses it. ANSWER of DATA: an answer is wanted.
FLAGS = {"TAKE_OVER": 1, "ANSWER": 2}
STATUS = {
    "OK": 0,
    "HELD": 1,  # by somebody else
    "FREE": 2,  # nobody holds the board, the sender neither
    "PROTECTED": 3,  # nothing was written: part of it belongs to a loaded model
    # no memory there, or none that can be written; what was read there is all ones, nothing was
    # written
    "UNMAPPED": 4,
    "STUCK": 5,  # memory or bus did not answer in time
    "BAD": 6,  # unknown operation, or arguments that it cannot have
}
#: Who holds the board, in an answer to CLAIM. ``claims`` counts changes of the holder since the
#: board's reset. ``malformed`` counts what came damaged or makes no sense on the line that asks,
#: ``crowded`` what found no room (on the network).
STATE = ("source", "ip", "port", "seconds_held", "seconds_silent", "claims", "malformed", "crowded")
SOURCES = {"none": 0, "network": 1, "uart": 2}


@dataclass
class Datagram:
    """A request or an answer. ``flags`` are an answer's status."""

    token: int
    sequence: int
    operation: int
    flags: int = 0
    address: int = 0
    data: Sequence[int] = field(default_factory=list)

    def encode(self, body: bytes | None = None) -> bytes:
        """The datagram's bytes; ``body``, if given, are those of the data."""
        if body is None:
            body = struct.pack(f"<{len(self.data)}I", *self.data)
        kind = self.operation | self.flags << 8 | len(body) // 4 << 16
        whole = struct.pack("<5I", MAGIC, self.token, self.sequence, kind, self.address) + body
        return whole + zlib.crc32(whole).to_bytes(4, "little")

    @staticmethod
    def decode(raw: bytes) -> Datagram | None:
        """The datagram that ``raw`` is, or None if it is none or damaged."""
        if (len(raw) < 4 * (HEAD_WORDS + 1) or len(raw) % 4
            or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little")):
            return None
        magic, token, sequence, kind, address, *data, _ = struct.unpack(f"<{len(raw) // 4}I", raw)
        if magic != MAGIC or kind >> 16 != len(data):
            return None
        return Datagram(token, sequence, kind & 255, kind >> 8 & 255, address, data)


def c_header() -> str:
    """The firmware's view of this module."""
    lines = ["// Generated from toolchain/xtvu/datagram.py.", "#pragma once", ""]
    numbers = {"MAGIC": MAGIC, "HEAD_WORDS": HEAD_WORDS, "MOST_WORDS": MOST_WORDS,
               "RECENT_WORDS": RECENT_WORDS, "BASE_RATE": BASE_RATE,
               "LOST_BYTES": LOST_BYTES, "STATE_WORDS": len(STATE)}
    for prefix, table in (("", numbers), ("OP_", OPERATIONS), ("FLAG_", FLAGS),
                          ("STATUS_", STATUS), ("SOURCE_", SOURCES),
                          ("STATE_", {name.upper(): place for place, name in enumerate(STATE)})):
        lines += [f"#define DATAGRAM_{prefix}{name.upper()} 0x{value:x}u"
                  for name, value in table.items()]
    return "\n".join(lines) + "\n"
