"""The processing system's peripherals as the fabric sees them: its UART and Ethernet controller
behind the same streams as those of the fabric, and its registers on the SoC's bus. All of it goes
over general-purpose AXI ports (S_AXI_GP)."""

__all__: list[str] = []
