"""What a link may not have, because the host or another machine has it: addresses, ports, names."""

from __future__ import annotations

import errno
import os
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


def refuse(new: Attached, others: list[Attached]) -> None:
    """Raises HostError when another has its name, its addresses or its ports."""
    link = new.link
    known = netlink.interfaces()
    there = known.get(link.interface)
    if there is not None and there.alias != f"roost:{link.machine}":
        raise HostError(
            f"the host has an interface {link.interface} already, which is not of {link.machine}",
            hint=f"see `ip link show {link.interface}`; rename it, or the machine",
        )
    own = {name for one in (new, *others) for name in (one.link.interface, one.link.device)}
    refuse_strangers(known.values(), own)
    for one in others:
        if link.bridge and one.link.bridge == link.bridge and one.owner != new.owner:
            raise HostError(
                f"the bridge {link.bridge} is one of {one.link.machine}, which is of another state directory",
                details=os.path.dirname(one.owner),
                hint="give the bridge another name",
            )
    for port in new.ports:
        refuse_port(terms.published(port), link, others)
    if there is None:
        for block in blocks_of(link):
            if where := overlapping(block, {link.device}):
                raise HostError(
                    f"the address of {link.machine} is one that the host has a route to: {block} is in {where}",
                    hint=f"`roost network repair {link.machine}` gives it another; or remove the route: `ip route del {where}`",
                )
