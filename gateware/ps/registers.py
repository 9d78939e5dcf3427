"""Where the processing system's UART and Ethernet controllers have their registers (UG585, appendix
B), and where the rings of Ethernet frames lie.
"""

__all__ = ["BUFFER_BYTES", "GEM", "GEM_BASES", "GEM_CONTROL", "OCM", "OCM_BYTES", "RX_BUFFERS",
           "RX_FRAMES", "RX_RING", "TX_BUFFERS", "TX_FRAMES", "TX_RING", "UART", "UART_BASES",
           "UART_STATUS"]

UART_BASES = (0xE000_0000, 0xE000_1000)
#: Offsets, and bits of the status register.
UART = {"status": 0x2C, "fifo": 0x30}
UART_STATUS = {"rx_empty": 1, "tx_full": 4}

GEM_BASES = (0xE000_B000, 0xE000_C000)
GEM = {"net_ctrl": 0x00}  # offsets
#: Bits of net_ctrl: receiver, transmitter, MDIO, start of transmission.
GEM_CONTROL = {"rx": 2, "tx": 3, "mdio": 4, "start": 9}

#: On-chip memory: descriptors of both rings, then a buffer for each.
OCM, OCM_BYTES = 0xFFFC_0000, 0x4_0000
RX_BUFFERS, TX_BUFFERS, BUFFER_BYTES = 64, 8, 1536
RX_RING, TX_RING = OCM, OCM + 0x400
RX_FRAMES = OCM + 0x1000
TX_FRAMES = RX_FRAMES + RX_BUFFERS * BUFFER_BYTES
assert TX_FRAMES + TX_BUFFERS * BUFFER_BYTES <= OCM + OCM_BYTES
assert RX_RING + 8 * RX_BUFFERS <= TX_RING and TX_RING + 8 * TX_BUFFERS <= RX_FRAMES

