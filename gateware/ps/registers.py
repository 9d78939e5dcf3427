"""Where the processing system's UART and Ethernet controllers have their registers (UG585, appendix
B), and where the rings of Ethernet frames lie. Gateware and firmware share this table.
"""

__all__ = ["BUFFER_BYTES", "GEM", "GEM_BASES", "GEM_CONTROL", "OCM", "OCM_BYTES", "RX_BUFFERS",
           "RX_FRAMES", "RX_RING", "TX_BUFFERS", "TX_FRAMES", "TX_RING", "UART", "UART_BASES",
           "UART_STATUS", "c_header"]

UART_BASES = (0xE000_0000, 0xE000_1000)
#: Offsets, and bits of the status register.
UART = {"control": 0x00, "mode": 0x04, "baudgen": 0x18, "status": 0x2C, "fifo": 0x30,
        "bauddiv": 0x34}
UART_STATUS = {"rx_empty": 1, "tx_empty": 3, "tx_full": 4, "tx_active": 11}

GEM_BASES = (0xE000_B000, 0xE000_C000)
GEM = {"net_ctrl": 0x00, "net_cfg": 0x04, "net_status": 0x08, "dma_cfg": 0x10, "tx_status": 0x14,
       "rx_queue": 0x18, "tx_queue": 0x1C, "rx_status": 0x20, "int_disable": 0x2C, "phy": 0x34,
       "mac_low": 0x88, "mac_high": 0x8C, "rx_frames": 0x158}
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


def c_header() -> str:
    """The same for the firmware."""
    lines = ["// Generated from gateware/ps/registers.py.", "#pragma once", ""]
    for name, bases in (("UART", UART_BASES), ("GEM", GEM_BASES)):
        lines += [f"#define PS_{name}{i}_BASE 0x{base:08X}u" for i, base in enumerate(bases)]
    bit, offset = "(1u << {})", "0x{:X}u"
    for prefix, table, unit in (("UART", UART, offset), ("UART_STATUS", UART_STATUS, bit),
                                ("GEM", GEM, offset), ("GEM_CONTROL", GEM_CONTROL, bit)):
        lines += [f"#define PS_{prefix}_{name.upper()} {unit.format(value)}"
                  for name, value in table.items()]
    for name in ("RX_BUFFERS", "TX_BUFFERS", "BUFFER_BYTES"):
        lines.append(f"#define PS_{name} {globals()[name]}u")
    for name in ("RX_RING", "TX_RING", "RX_FRAMES", "TX_FRAMES"):
        lines.append(f"#define PS_{name} 0x{globals()[name]:08X}u")
    return "\n".join(lines) + "\n"
