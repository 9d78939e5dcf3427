"""From a name to what it stands for: targets and models."""

from __future__ import annotations

import re
from pathlib import Path

from xtvu.datagram import PORT

from bitnet_host.errors import BadArgument, LinkError
from bitnet_host.golden.target import ReferenceTarget
from bitnet_host.model.image import Image
from bitnet_host.reporting import Progress, quiet
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import Transport, over_serial, over_udp
from bitnet_host.run.target import Target

__all__ = ["open_board", "open_target", "open_transport"]


def open_target(name: str, image: Image, *, take_over: bool = False) -> Target:
    """Opens ``sim``, ``reference``, ``udp://HOST[:PORT]`` or ``serial:DEVICE``; nothing is uploaded
    before ``prepare``. With ``take_over`` a board that another host holds changes hands. Raises
    BadArgument for another name, LinkError if nobody is there, BoardHeld if another host holds the
    board."""
    if name == "reference":
        return ReferenceTarget(image)
    return BoardTarget(image, *open_transport(name, take_over=take_over))


def open_transport(name: str, *, take_over: bool = False) -> tuple[Transport, Simulator | None]:
    """The way to a board, which knows nothing of models, and the simulator if it is one. Raises as
    ``open_target``."""
    if name == "sim":
        simulator = Simulator()
        try:
            return over_udp("127.0.0.1", simulator.ports["udp"]), simulator
        except BaseException:
            simulator.close()
            raise
    if name.startswith("udp://"):
        host, _, port = name.removeprefix("udp://").partition(":")
        if not host or not re.fullmatch(r"[0-9]{0,5}", port) or not 0 < int(port or PORT) < 65536:
            raise BadArgument(f"target {name}: write udp://HOST or udp://HOST:PORT")
        return over_udp(host, int(port or PORT), take_over=take_over), None
    if name.startswith("serial:"):
        device = name.removeprefix("serial:")
        if not device:
            raise BadArgument("target serial: needs a device, for example serial:/dev/ttyUSB0")
        if "://" not in device and not Path(device).exists():
            raise LinkError(f"there is no device {device}: plug the board in or name its port")
        return over_serial(device, take_over=take_over), None
    raise BadArgument(f"target {name} is unknown: choose sim, reference, udp://HOST[:PORT] or "
                      f"serial:DEVICE")


def open_board(name: str, image: Image, progress: Progress = quiet, *,
               take_over: bool = False) -> Target:
    """Opens a target as ``open_target`` and makes the model ready on it. Raises UserError, and then
    leaves nothing open."""
    target = open_target(name, image, take_over=take_over)
    try:
        target.prepare(progress)
    except BaseException:
        target.close()
        raise
    return target
