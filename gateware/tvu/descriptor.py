"""What a stream instruction asks the DMA readers for, and by which ports it comes."""

from amaranth.lib import data

from .picks import GROUP_BITS, WORD_ADDRESS_BITS

__all__ = ["Ports", "StreamDescriptor", "TICKET_BITS"]

TICKET_BITS = 16  # of the counters of stores and picks that descriptors wait for


class StreamDescriptor(data.Struct):
    """What to fetch: ``rows`` runs of ``words`` stream words, ``stride`` blocks of 512 bytes apart.

    ``address`` is the linear address divided by 32. With ``fence`` the fetch waits until ``ticket``
    stores are complete; with ``picked``, ``rows`` are groups of eight, ``stride`` does not count,
    ``ticket`` is the number of picks to wait for, and ``everything`` takes all rows for picked.
    """

    address: WORD_ADDRESS_BITS
    words: 24
    rows: GROUP_BITS
    stride: 12
    fence: 1
    picked: 1
    everything: 1
    ticket: TICKET_BITS


class Ports(data.Struct):
    """How streams use the memory ports (instruction PORTS). Changes only while nothing is under
    way."""

    mask: 4 = 0b1111
    apart: 1
    bursts: 6
