"""Where the processing system's UART and Ethernet controllers have their registers (UG585, appendix
B), and where the rings of Ethernet frames lie. The firmware gets the same as C
(bitnet_soc.ps_header).
"""

__all__ = ["BUFFER_BYTES", "GEM", "GEM_BASES", "GEM_CONFIG", "GEM_CONTROL", "GEM_STATUS",
           "MEMORY_PORT", "MEMORY_PORTS", "OCM", "OCM_BYTES", "RX_BUFFERS", "RX_FRAMES", "RX_RING",
           "SLCR", "SLCR_KEYS", "TIMER", "TX_BUFFERS", "TX_FRAMES", "TX_RING", "UART",
           "UART_BASES", "UART_CONTROL", "UART_STATUS"]

UART_BASES = (0xE000_0000, 0xE000_1000)
#: Offsets, and bits of two of them.
UART = {"control": 0x00, "baudgen": 0x18, "status": 0x2C, "fifo": 0x30, "bauddiv": 0x34}
UART_CONTROL = {"rx_reset": 0, "tx_reset": 1, "rx_on": 2, "rx_off": 3, "tx_on": 4, "tx_off": 5}
UART_STATUS = {"rx_empty": 1, "tx_empty": 3, "tx_full": 4, "tx_active": 11}

GEM_BASES = (0xE000_B000, 0xE000_C000)
#: Offsets; ``frames_rx`` counts frames that came, and starts again when it is read.
GEM = {"net_ctrl": 0x00, "net_cfg": 0x04, "net_status": 0x08, "dma_cfg": 0x10, "tx_status": 0x14,
       "rx_qbar": 0x18, "tx_qbar": 0x1C, "rx_status": 0x20, "intr_dis": 0x2C, "phy_maint": 0x34,
       "spec_addr1_bot": 0x88, "spec_addr1_top": 0x8C, "module_id": 0xFC, "frames_rx": 0x158}
#: Bits of net_ctrl: receiver, transmitter, MDIO, start of transmission.
GEM_CONTROL = {"rx": 2, "tx": 3, "mdio": 4, "start": 9}
#: Bits of net_cfg, and the lowest one of MDIO's divisor.
GEM_CONFIG = {"mbit_100": 0, "full_duplex": 1, "frames_1536": 8, "gigabit": 10, "strip_crc": 17,
              "mdc": 18}
GEM_STATUS = {"mdio_idle": 2}

#: Addresses of system control registers, and what is written to the first two.
SLCR = {"lock": 0xF800_0004, "unlock": 0xF800_0008, "gem_clk_ctrl": 0xF800_0140}
SLCR_KEYS = {"lock": 0x767B, "unlock": 0xDF0D}

#: A counter of timer TTC0, which counts the clock of the registers: its clock, control and value.
TIMER = {"clock": 0xF800_1000, "control": 0xF800_100C, "value": 0xF800_1018}

#: The first of four memory ports (AFI), 4 KB apart, and offsets: bit 0 of a mode is 32-bit mode;
#: the lowest bits of commands are the number that may be under way, less one.
MEMORY_PORTS = 0xF800_8000
MEMORY_PORT = {"read_mode": 0x00, "read_commands": 0x04, "write_mode": 0x14,
               "write_commands": 0x18}

#: On-chip memory: descriptors of both rings, then a buffer for each.
OCM, OCM_BYTES = 0xFFFC_0000, 0x4_0000
RX_BUFFERS, TX_BUFFERS, BUFFER_BYTES = 64, 8, 1536
RX_RING, TX_RING = OCM, OCM + 0x400
RX_FRAMES = OCM + 0x1000
TX_FRAMES = RX_FRAMES + RX_BUFFERS * BUFFER_BYTES
assert TX_FRAMES + TX_BUFFERS * BUFFER_BYTES <= OCM + OCM_BYTES
assert RX_RING + 8 * RX_BUFFERS <= TX_RING and TX_RING + 8 * TX_BUFFERS <= RX_FRAMES

