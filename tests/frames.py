"""Ethernet frames made and read by hand, for tests of the network side."""

from __future__ import annotations

import struct

__all__ = ["HOST_IP", "HOST_MAC", "SOC_IP", "SOC_MAC", "arp", "checksum", "echo", "etherbone_read",
           "etherbone_write", "ip", "sound", "udp"]

SOC_MAC, SOC_IP = bytes.fromhex("10e2d5000001"), bytes([192, 168, 1, 50])
HOST_MAC, HOST_IP = bytes.fromhex("020000000009"), bytes([192, 168, 1, 9])
_HEAD = bytes.fromhex("4e6f104400000000")


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(protocol: int, body: bytes, source: bytes = HOST_IP, target: bytes = SOC_IP,
       fragment: int = 0x4000) -> bytes:
    """A frame with an IP packet."""
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, fragment, 64, protocol, 0,
                       source, target)
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    frame = SOC_MAC + HOST_MAC + b"\x08\x00" + head + body
    return frame + bytes(max(0, 60 - len(frame)))


def udp(payload: bytes, port: int, source_port: int = 5000, source: bytes = HOST_IP,
        summed: bool = True) -> bytes:
    """A frame with a UDP packet."""
    body = struct.pack(">HHHH", source_port, port, 8 + len(payload), 0) + payload
    if summed:
        total = checksum(source + SOC_IP + struct.pack(">HH", 17, len(body)) + body) or 0xFFFF
        body = body[:6] + struct.pack(">H", total) + body[8:]
    return ip(17, body, source)


def echo(payload: bytes, kind: int = 8, source: bytes = HOST_IP) -> bytes:
    """A frame with an ICMP echo request."""
    body = struct.pack(">BBHHH", kind, 0, 0, 77, 1) + payload
    return ip(1, body[:2] + struct.pack(">H", checksum(body)) + body[4:], source)


def arp(target: bytes = SOC_IP, operation: int = 1) -> bytes:
    """A frame that asks who has an address."""
    body = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, HOST_MAC, HOST_IP, bytes(6),
                       target)
    return (b"\xff" * 6 + HOST_MAC + b"\x08\x06" + body).ljust(60, b"\0")


def etherbone_read(*addresses: int) -> bytes:
    """An Etherbone packet that reads."""
    return (_HEAD
            + struct.pack(f">BBBBI{len(addresses)}I", 0, 0x0F, 0, len(addresses), 0x1234,
                          *addresses))


def etherbone_write(address: int, *values: int) -> bytes:
    """An Etherbone packet that writes."""
    return _HEAD + struct.pack(f">BBBBI{len(values)}I", 0, 0x0F, len(values), 0, address, *values)


def sound(frame: bytes,
          damaged: bool, soc_mac: bytes = SOC_MAC, soc_ip: bytes = SOC_IP) -> str | None:
    """What the board has to take ``frame`` for, by the rules of its documents, or None if it has to
    drop it."""
    import zlib
    if damaged or len(frame) > 1518 or len(frame) < 42:
        return None
    if frame[12:14] == b"\x08\x06":
        right = frame[14:22] == bytes.fromhex("0001080006040001") and frame[38:42] == soc_ip
        return "arp" if right and frame[:6] in (soc_mac, b"\xff" * 6) else None
    if frame[:6] != soc_mac or frame[12:15] != b"\x08\x00\x45":
        return None
    length = struct.unpack_from(">H", frame, 16)[0]
    fragment = struct.unpack_from(">H", frame, 20)[0]
    if (length < 28 or length >= 2048 or 14 + length > len(frame) or fragment & 0xBFFF
        or frame[30:34] != soc_ip):
        return None
    if checksum(frame[14:34]):
        return None
    body = frame[34:14 + length]
    if frame[23] == 1:
        return "echo" if body[:2] == b"\x08\x00" and not checksum(body) else None
    if frame[23] != 17 or struct.unpack_from(">H", body, 4)[0] != len(body):
        return None
    if body[6:8] != bytes(2) and checksum(frame[26:34] + struct.pack(">HH", 17, len(body)) + body):
        return None
    port = struct.unpack_from(">H", body, 2)[0]
    if port == 1234:
        return "etherbone"
    payload = body[8:]
    whole = (len(payload) >= 4 and len(payload) % 4 == 0
             and zlib.crc32(payload[:-4]) == struct.unpack("<I", payload[-4:])[0])
    return "datagram" if port == 1235 and whole else None
