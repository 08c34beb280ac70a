"""Interfaces: a veth pair with one end in the machine, bridges, addresses and routes on both sides.

Both sides are set up by ``ip -batch`` from outside, so that a machine without any network software has its network.
"""

from __future__ import annotations

import os
import time
import zlib

from roost.errors import HostError
from roost.host import runner
from roost.network import netlink
from roost.network.records import INSIDE, PREFIX, Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_TIMEOUT = 30.0
_USUAL_MTU = 1500
_ENDING = 0.2  # seconds; then somebody else holds the network namespace
_PATIENCE = 2.0  # seconds; whoever has set an end down again is not waited for
_NEW = "roost-new"  # the machine's end, until it is set up


def mac_of(name: str, side: str) -> str:
    """A locally administered address that stays: udev changes those that the kernel has picked, while they are used."""
    word = zlib.crc32(f"{side} {name}".encode())
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x52, *word.to_bytes(4, "big")))


def outside_batch(link: Link, netns: str, known: dict[str, netlink.Interface], mtu: int) -> str:
    """What ``ip -batch`` does on the host; ``netns`` is a path of the machine's network namespace, ``mtu`` 0 the usual."""
    lines = []
    if link.bridge and link.bridge not in known:
        lines.append(f"link add name {link.bridge} address {mac_of(link.bridge, 'bridge')} type bridge forward_delay 0")
    if link.interface in known:
        lines.append(f"link del dev {link.interface}")
    size = f" mtu {mtu}" if mtu else ""
    peer = f"peer name {_NEW} address {mac_of(link.machine, 'machine')}{size} netns {netns}"
    lines += [
        f"link add name {link.interface} address {mac_of(link.machine, 'host')}{size} type veth {peer}",
        f"link set dev {link.interface} alias roost:{link.machine}",
    ]
    return "\n".join([*lines, *_outside(link)]) + "\n"


def _outside(link: Link) -> list[str]:
    lines = [f"address replace {link.gateway}/{link.address.partition('/')[2]} dev {link.device}"]
    if link.gateway6:  # a link-local address that is looked for on the link first is of no use for a second or two
        length = link.address6.partition("/")[2]
        lines += [
            f"link set dev {link.device} addrgenmode none",
            f"address replace fe80::1/64 dev {link.device} nodad",
            f"address replace {link.gateway6}/{length} dev {link.device} nodad",
        ]
    if link.bridge:
        lines += [
            f"link set dev {link.bridge} alias roost-bridge",
            f"link set dev {link.bridge} up",
            f"link set dev {link.interface} master {link.bridge}",
        ]
    return [*lines, f"link set dev {link.interface} up"]


def inside_batch(link: Link, device: str = INSIDE) -> str:
    """What it does in the machine.

    A new link has another name until its addresses are there: the machine's systemd-networkd takes notice of it by its
    name. It has a broadcast address as networkd would give it one: networkd 252 asks the kernel again and again for an
    address that is there without, until it fails with ERANGE.
    """
    lines = [
        "link set dev lo up",
        f"address replace {link.address} broadcast + dev {device}",
        *([f"address replace {link.address6} dev {device} nodad"] if link.address6 else []),
        *([f"link set dev {device} name {INSIDE}"] if device != INSIDE else []),
        f"link set dev {INSIDE} up",
        f"route replace default via {link.gateway} dev {INSIDE}",
        *([f"route replace default via {link.gateway6} dev {INSIDE}"] if link.gateway6 else []),
    ]
    return "\n".join(lines) + "\n"


def make(link: Link, netns: int) -> None:
    """Makes both ends, or only sets what they lack when they are there already; packets pass then. Raises HostError."""
    known = netlink.interfaces()
    path = f"/proc/{os.getpid()}/fd/{netns}"
    if link.interface in known and is_ours(link, known, netns):
        set_outside(link)
    else:
        batch(outside_batch(link, path, known, uplink_mtu(known)), link)
    with netlink.inside(netns):
        device = _NEW if _NEW in netlink.interfaces() else INSIDE
        batch(inside_batch(link, device), link)
    _wait_until_running(link, netns)


def _wait_until_running(link: Link, netns: int) -> None:
    """The kernel opens a new link's queues a moment after it is up; what is sent before is lost, and is late by a second."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        outside = netlink.interfaces()
        with netlink.inside(netns):
            inside = netlink.interfaces()
        ends = (outside.get(link.interface), outside.get(link.device), inside.get(INSIDE))
        if all(end is not None and end.running for end in ends):
            return
        time.sleep(0.001)


def set_outside(link: Link) -> None:
    """Sets what the host's end lacks. Raises HostError."""
    batch("\n".join(_outside(link)) + "\n", link)


def is_ours(link: Link, known: dict[str, netlink.Interface], netns: int) -> bool:
    """Whether the machine's interface is the other end of the host's."""
    with netlink.inside(netns):
        inside = netlink.interfaces().get(INSIDE)
    outside = known[link.interface]
    return inside is not None and inside.peer == outside.index and outside.peer == inside.index


def remove(link: Link, others: list[Link]) -> None:
    """Removes the host's end, and with it the machine's; with the last of a bridge, the bridge. Raises HostError."""
    known = netlink.interfaces()
    lines = [f"link del dev {link.interface}"] if link.interface in known else []
    if link.bridge in known and not any(other.bridge == link.bridge for other in others):
        lines.append(f"link del dev {link.bridge}")
    if lines:
        done = _ip("\n".join(lines) + "\n", force=True)
        left = {link.interface, *([link.bridge] if len(lines) > 1 else [])} & netlink.interfaces().keys()
        if left:  # else it went with its machine meanwhile
            raise _refused(link, done)


def wait_until_gone(link: Link) -> None:
    """The kernel removes both ends when it ends the machine's network namespace; doing it as well takes twice the time."""
    deadline = time.monotonic() + _ENDING
    while link.interface in netlink.interfaces() and time.monotonic() < deadline:
        time.sleep(0.001)


def strays(every: Iterable[Link]) -> list[Link]:
    """Interfaces that Roost has made, as their aliases tell, and that no link of ``every`` has."""
    known = netlink.interfaces().values()
    used = {name for link in every for name in (link.interface, link.bridge)}
    left = [
        one for one in known if one.name.startswith(PREFIX) and one.alias.startswith("roost") and one.name not in used
    ]
    return [Link(one.alias.partition(":")[2] or one.name, one.name, "", "") for one in left]


def uplink_mtu(known: dict[str, netlink.Interface]) -> int:
    """What fits through the host's default route, when that is less than usual; else 0."""
    by_index = {interface.index: interface for interface in known.values()}
    ways = [
        by_index.get(route.index)
        for route in netlink.routes()
        if not route.block.length and route.table == netlink.MAIN
    ]
    return min((way.mtu for way in ways if way is not None and 576 <= way.mtu < _USUAL_MTU), default=0)


def batch(text: str, link: Link) -> None:
    """``ip -batch``. Raises HostError."""
    done = _ip(text)
    if done.status:
        raise _refused(link, done)


def _ip(text: str, *, force: bool = False) -> runner.Finished:
    argv = ("ip", *(("-force",) if force else ()), "-batch", "-")
    return runner.run(runner.Command(argv=argv, stdin=text.encode(), timeout=_TIMEOUT))


def _refused(link: Link, done: runner.Finished) -> HostError:
    return HostError(
        f"the network of {link.machine} could not be set up",
        details=done.output.decode(errors="replace").strip()[-2000:],
        hint="`ip link` and `ip route` show what is there; `roost network check` says what is missing",
    )
