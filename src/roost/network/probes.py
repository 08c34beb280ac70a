"""Packets that are really sent, from the host or from inside a machine: an echo request, a question for a name."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time

from roost.network import netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 1.0  # seconds for an answer


@contextlib.contextmanager
def at(netns: int | None) -> Iterator[None]:
    """In a machine's network namespace, or in the host's."""
    if netns is None:
        yield
    else:
        with netlink.inside(netns):
            yield


def echo(address: str, netns: int | None) -> bool:
    """Whether an address answers an ICMP echo request (RFC 792; RFC 4443 for IPv6)."""
    six = ":" in address
    with at(netns):
        family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
        door = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    kinds = (128, 129) if six else (8, 0)
    mark = int.from_bytes(os.urandom(2), "big")
    packet = struct.pack("!BBHHH", kinds[0], 0, 0, mark, 1)
    if not six:  # the kernel fills in IPv6's checksum
        packet = struct.pack("!BBHHH", kinds[0], 0, _checksum(packet), mark, 1)
    with door:
        try:
            door.sendto(packet, (address, 0))
        except OSError:
            return False
        deadline = time.monotonic() + PATIENCE
        while select.select([door], [], [], max(0.0, deadline - time.monotonic()))[0]:
            data, sender = door.recvfrom(2048)
            body = data if six else data[(data[0] & 15) * 4 :]
            if sender[0] == address and len(body) >= 8 and body[0] == kinds[1] and body[4:6] == mark.to_bytes(2, "big"):
                return True
    return False


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def asks(server: str, netns: int | None) -> bool:
    """Whether a server of names answers a question: for the root's own servers, which each one knows (RFC 1035)."""
    with at(netns):
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        door = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    mark = os.urandom(2)
    with door:
        door.settimeout(PATIENCE)
        for _ in range(2):  # a datagram may be lost
            try:
                door.sendto(mark + struct.pack("!HHHHHBHH", 0x0100, 1, 0, 0, 0, 0, 2, 1), (server, 53))
                if door.recv(2048)[:2] == mark:
                    return True
            except OSError:
                continue
    return False
