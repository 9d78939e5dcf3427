"""LiteX's C headers of an SoC: registers, memory and constants."""

from __future__ import annotations

from litex.soc.integration import export

__all__ = ["litex_headers"]


def litex_headers(soc) -> dict[str, str]:
    """csr.h, mem.h, soc.h, and csr.csv for LiteX's tools: names and contents."""
    return {
        "csr.h": export.get_csr_header(soc.csr_regions, soc.constants,
                                       csr_base=soc.mem_regions["csr"].origin,
                                       with_access_functions=True),
        "mem.h": export.get_mem_header(soc.mem_regions),
        "csr.csv": export.get_csr_csv(soc.csr_regions, soc.constants, soc.mem_regions),
        "soc.h": export.get_soc_header(soc.constants),
    }
