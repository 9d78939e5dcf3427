"""How frames lie in memory, and what passes between the parts.

A frame is stored from byte 2 on, so that everything behind the 14 bytes of the Ethernet head starts
at a word. The first byte of a word is its low one.
"""

from dataclasses import dataclass

from amaranth.lib import data, enum

__all__ = [
    "DATAGRAM_HEAD", "HEAD_BYTES", "SLOT_WORDS", "Addresses", "Byte", "Kind", "Outgoing", "Packet",
    "Word", "swapped",
]

SLOT_WORDS = 512  # a frame has at most 1,514 bytes


@dataclass(frozen=True)
class Addresses:
    """The board's own: ``mac`` (48 bits) and ``ip`` (32 bits), as they are written, highest byte
    first."""

    mac: int
    ip: int


class Kind(enum.Enum, shape=2):
    """What a frame asks for."""

    ARP = 0
    ECHO = 1
    ETHERBONE = 2
    DATAGRAM = 3


class Byte(data.Struct):
    """A byte of a frame; with ``last``, ``error`` says that the frame is damaged."""

    data: 8
    last: 1
    error: 1


class Packet(data.Struct):
    """A sound frame in its slot; ``length`` is the IP packet's, in bytes."""

    kind: Kind
    length: 11


class Outgoing(data.Struct):
    """A frame to send: ``length`` in bytes, without the checksum that is appended to a
    ``datagram``."""

    length: 11
    datagram: 1


class Word:
    """Places of a frame's words."""

    MAC_LOW, MAC_HIGH = 2, 3  # the sender's, first four bytes and last two
    SOURCE, DESTINATION = 7, 8  # of IP
    PORTS = 9
    PAYLOAD = 11
    DATA = 16  # of a datagram
    RECORD, FIRST = 13, 14  # of Etherbone


HEAD_BYTES = 28  # of IP and UDP
DATAGRAM_HEAD = HEAD_BYTES + 4 * (Word.DATA - Word.PAYLOAD + 1)  # with that of a datagram, and CRC


def swapped(number: int, count: int) -> int:
    """``number`` of ``count`` bytes as it is stored."""
    return int.from_bytes(number.to_bytes(count, "big"), "little")
