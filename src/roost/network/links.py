"""Interfaces: a veth pair with one end in the machine, bridges, addresses and routes on both sides.

Both sides are set up from outside, so that a machine without any network software has its network.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import zlib

from roost.errors import HostError
from roost.network import netlink
from roost.network.changing import Changes
from roost.network.records import INSIDE, PREFIX, Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_USUAL_MTU = 1500
_ENDING = 0.2  # seconds; then somebody else holds the network namespace
_PATIENCE = 2.0  # seconds; whoever has set an end down again is not waited for
_NEW = "roost-new"  # the machine's end, until it is set up


def mac_of(name: str, side: str) -> str:
    """A locally administered address that stays: udev changes those that the kernel has picked, while they are used."""
    word = zlib.crc32(f"{side} {name}".encode())
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x52, *word.to_bytes(4, "big")))


def _make_outside(link: Link, netns: int, known: dict[str, netlink.Interface], changes: Changes) -> None:
    """On the host, with the other end in the network namespace ``netns``."""
    if link.bridge and link.bridge not in known:
        changes.add_bridge(link.bridge, mac_of(link.bridge, "bridge"))
    if link.interface in known:
        changes.delete(known[link.interface].index)
    own, other = mac_of(link.machine, "host"), mac_of(link.machine, "machine")
    changes.add_veth(link.interface, own, _NEW, other, netns, mtu=uplink_mtu(known))
    known = netlink.interfaces()
    changes.describe(known[link.interface].index, f"roost:{link.machine}")
    _set_outside(link, known, changes)


def _set_outside(link: Link, known: dict[str, netlink.Interface], changes: Changes) -> None:
    device, interface = known[link.device].index, known[link.interface].index
    changes.address(device, f"{link.gateway}/{link.address.partition('/')[2]}")
    if link.gateway6:  # a link-local address that is looked for on the link first is of no use for a second or two
        changes.make_no_address(device)
        changes.address(device, "fe80::1/64")
        changes.address(device, f"{link.gateway6}/{link.address6.partition('/')[2]}")
    if link.bridge:
        changes.describe(device, "roost-bridge")
        changes.set_up(device)
        changes.join(interface, device)
    changes.set_up(interface)


def _set_inside(link: Link, known: dict[str, netlink.Interface], changes: Changes) -> None:
    """In the machine.

    A new link has another name until its addresses are there: the machine's systemd-networkd takes notice of it by its
    name. It has a broadcast address as networkd would give it one: networkd 252 asks the kernel again and again for an
    address that is there without, until it fails with ERANGE.
    """
    device = known[_NEW if _NEW in known else INSIDE].index
    changes.set_up(known["lo"].index)
    changes.address(device, link.address, broadcast=True)
    if link.address6:
        changes.address(device, link.address6)
    if _NEW in known:
        changes.rename(device, INSIDE)
    changes.set_up(device)
    changes.default_route(device, link.gateway)
    if link.gateway6:
        changes.default_route(device, link.gateway6)


def try_out() -> None:
    """Makes a pair of interfaces in this network namespace, which should be nobody's. Raises OSError."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Changes() as changes:
            changes.add_veth("ro-try", mac_of("try", "host"), INSIDE, mac_of("try", "machine"), own)
    finally:
        os.close(own)


def make(link: Link, netns: int) -> None:
    """Makes both ends, or only sets what they lack when they are there already; packets pass then. Raises HostError."""
    known = netlink.interfaces()
    with _refusing(link):
        with Changes() as changes:
            if link.interface in known and is_ours(link, known, netns):
                _set_outside(link, known, changes)
            else:
                _make_outside(link, netns, known, changes)
        with netlink.inside(netns), Changes() as changes:
            _set_inside(link, netlink.interfaces(), changes)
    _wait_until_running(link, netns)


def _wait_until_running(link: Link, netns: int) -> None:
    """The kernel opens a new link's queues a moment after it is up; what is sent before is lost, and is late by a second.

    It says so by the operational state. The flag for it is set before, too, as long as the state is not known yet.
    """
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        outside = netlink.interfaces()
        with netlink.inside(netns):
            inside = netlink.interfaces()
        ends = (outside.get(link.interface), outside.get(link.device), inside.get(INSIDE))
        if all(end is not None and end.carries for end in ends):
            return
        time.sleep(0.001)


def set_outside(link: Link) -> None:
    """Sets what the host's end lacks. Raises HostError."""
    with _refusing(link), Changes() as changes:
        _set_outside(link, netlink.interfaces(), changes)


def is_ours(link: Link, known: dict[str, netlink.Interface], netns: int) -> bool:
    """Whether the machine's interface is the other end of the host's."""
    with netlink.inside(netns):
        inside = netlink.interfaces().get(INSIDE)
    outside = known[link.interface]
    return inside is not None and inside.peer == outside.index and outside.peer == inside.index


def remove(link: Link, others: list[Link]) -> None:
    """Removes the host's end, and with it the machine's; with the last of a bridge, the bridge. Raises HostError."""
    known = netlink.interfaces()
    names = [link.interface]
    if link.bridge and not any(other.bridge == link.bridge for other in others):
        names.append(link.bridge)
    with Changes() as changes:
        for name in names:
            try:
                if name in known:
                    changes.delete(known[name].index)
            except OSError as e:
                if name in netlink.interfaces():  # else it went with its machine meanwhile
                    raise _refused(link, e) from e


def remove_nameless(link: Link) -> None:
    """Removes what a process made that was killed before it could say whose it is. Raises HostError."""
    found = netlink.interfaces().get(link.interface)
    if found is not None and not found.alias:
        remove(link, [link])


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


@contextlib.contextmanager
def _refusing(link: Link) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise _refused(link, e) from e
    except KeyError as e:  # an interface that has gone meanwhile, with its machine
        raise _refused(link, OSError(errno.ENODEV, f"{e.args[0]}: {os.strerror(errno.ENODEV)}")) from e


def _refused(link: Link, error: OSError) -> HostError:
    return HostError(
        f"the network of {link.machine} could not be set up",
        details=error.strerror or str(error),
        hint="`ip link` and `ip route` show what is there; `roost network check` says what is missing",
    )
