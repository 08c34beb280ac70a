"""What a link may not have, because the host or another machine has it: addresses, ports, names."""

from __future__ import annotations

import errno
import socket

from roost.errors import HostError
from roost.network import netlink, pools, terms
from roost.network.addresses import Block, block_of
from roost.network.records import ALIASES, PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from roost.network.records import Attached, Link


def refuse_port(port: terms.Port, link: Link, others: list[Attached]) -> None:
    """Raises HostError when another machine publishes it, or a program of the host listens there."""
    for other in others:
        if any(port.clashes(terms.published(text)) for text in other.ports):
            raise HostError(
                f"port {port} of the host leads to {other.link.machine} already",
                hint=f"publish another one for {link.machine}, or end {other.link.machine}",
            )
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    with socket.socket(family, kind | socket.SOCK_CLOEXEC) as door:
        if kind == socket.SOCK_STREAM:  # else a connection that has just ended would be in the way
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((port.address, port.port))
        except OSError as e:
            why = "in use by a program of the host" if e.errno == errno.EADDRINUSE else f"not to be had: {e.strerror}"
            raise HostError(
                f"port {port} is {why}",
                hint=f"`ss -lnp 'sport = :{port.port}'` shows it; publish another one for {link.machine}",
            ) from None


def refuse_strangers(known: Iterable[netlink.Interface], own: set[str]) -> None:
    """Raises HostError when an interface that Roost did not make has a name as ours: what managers are told means all."""
    for one in known:
        if one.name.startswith(PREFIX) and one.name not in own and not one.alias.startswith(ALIASES):
            raise HostError(
                f"the host has an interface {one.name} that is not Roost's",
                details=f"firewalls and network managers are told to let {PREFIX}* be, which would open it",
                hint=f"rename it: `ip link set {one.name} down; ip link set {one.name} name up-{one.name[len(PREFIX) :]}`",
            )


def blocks_of(link: Link) -> list[Block]:
    return [block for block in map(block_of, (link.address, link.address6)) if block is not None]


def overlapping(block: Block, own: set[str]) -> str:
    """The route that leads to some of it, not by an interface of ``own``; empty when there is none."""
    names_ = {interface.index: interface.name for interface in netlink.interfaces().values()}
    for route in netlink.routes():
        device = names_.get(route.index, "?")
        if route.block.length >= pools.WIDEST[block.bits] and device not in own and route.block.overlaps(block):
            return f"{route.block} dev {device}"
    return ""
