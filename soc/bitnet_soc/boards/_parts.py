"""DRAM devices that several boards have.

Times are those of the devices' data sheets, as Vivado's presets for these boards have them; tRRD is
that of 2 KB pages for devices of 16 bits, and of 1 KB pages for 8 bits. tRFC of 4 Gb is 260 ns by
the standard; 300 is what all public tables use.
"""

from __future__ import annotations

from typing import Any

__all__ = ["MT41J128M16", "MT41J256M8", "MT41K256M16"]

MT41K256M16: dict[str, Any] = dict(part="MT41K256M16 RE-125", megabits=4096, width=16, rows=15,
                                   t_rc=48.75, t_ras=35, t_faw=40, t_rrd=10, t_rfc=300)
MT41J256M8: dict[str, Any] = dict(part="MT41J256M8 HX-15E", megabits=2048, width=8, rows=15,
                                  t_rc=49.5, t_ras=36, t_faw=30, t_rrd=6, t_rfc=160)
MT41J128M16: dict[str, Any] = dict(part="MT41J128M16 HA-15E", megabits=2048, width=16, rows=14,
                                   t_rc=49.5, t_ras=36, t_faw=45, t_rrd=10, t_rfc=160)
