"""Kernel settings that links need. What Roost changed is remembered, and put back with the last link."""

from __future__ import annotations

import contextlib

from roost.errors import HostError
from roost.network import netlink, writing
from roost.network.addresses import Block
from roost.network.records import PREFIX

_ROOT = "/proc/sys/net"
FORWARD4 = "ipv4/ip_forward"
FORWARD6 = "ipv6/conf/all/forwarding"
# interfaces of others that route: whoever made them needs forwarding as much as we do
_ROUTERS = ("docker", "br-", "virbr", "podman", "cni", "lxc", "lxd", "incus", "ve-", "vb-", "vz-", "wg", "tun", "tap")

# every interface has ways there: link-local ones and multicast
_OF_EACH = (
    Block(32, 0xA9FE << 16, 16),
    Block(32, 0xE << 28, 4),
    Block(128, 0xFE80 << 112, 10),
    Block(128, 0xFF << 120, 8),
)


def read(name: str) -> str | None:
    """The value of a setting in our network namespace; None when the kernel has no such."""
    try:
        with open(f"{_ROOT}/{name}", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return None


def write(name: str, value: str) -> None:
    """Raises HostError when it cannot be written."""
    try:
        with open(f"{_ROOT}/{name}", "w", encoding="ascii") as stream:
            stream.write(value)
    except OSError as e:
        raise HostError(
            f"net.{name.replace('/', '.')} cannot be set to {value}: {e.strerror}",
            hint="machines have no way out without it; in a container, /proc/sys must be writable",
        ) from e


def wanted(*, ipv6: bool) -> dict[str, str]:
    """What the host's settings have to be.

    A host that forwards IPv6 no longer listens to routers unless accept_ra is 2 (linux/ip-sysctl): what has its own
    default route from one would lose it.
    """
    found = {FORWARD4: "1"}
    if ipv6 and read(FORWARD6) is not None:
        found[FORWARD6] = "1"
        names = {interface.index: interface.name for interface in netlink.interfaces().values()}
        learned = {
            names.get(route.index, "") for route in netlink.routes() if route.announced and not route.block.length
        }
        for name in sorted(learned - {""}):
            if read(f"ipv6/conf/{name}/accept_ra") == "1":
                found[f"ipv6/conf/{name}/accept_ra"] = "2"
    return found


def turn_on(memory: str, *, ipv6: bool) -> None:
    """Forwarding; what it was before goes to the file ``memory``. Raises HostError."""
    changed = {name: old for name, value in wanted(ipv6=ipv6).items() if (old := read(name)) not in (value, None)}
    if not changed:
        return
    before = recall(memory)
    if FORWARD4 in changed and (redirects := read("ipv4/conf/all/accept_redirects")):
        before.setdefault("ipv4/conf/all/accept_redirects", redirects)  # the kernel changes it with forwarding
    for name, old in changed.items():
        before.setdefault(name, str(old))
    writing.write(memory, "".join(f"{name} {value}\n" for name, value in before.items()).encode(), mode=0o600)
    order = sorted(changed, key=lambda name: "accept_ra" not in name)  # first those that save a route
    for name in order:
        write(name, "2" if name.endswith("accept_ra") else "1")


def recall(memory: str) -> dict[str, str]:
    """What Roost changed, with the values from before."""
    try:
        with open(memory, encoding="ascii") as stream:
            pairs = [line.split(" ") for line in stream.read().splitlines()]
    except FileNotFoundError:
        return {}
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and ".." not in pair[0]}


def put_back(memory: str) -> None:
    """All as before; nothing where others of the host's interfaces may live from forwarding."""
    before = recall(memory)
    if before and not _may_route():
        order = sorted(before, key=lambda name: ("forward" not in name, name))
        for name in order:
            with contextlib.suppress(HostError):  # an interface that has gone
                write(name, before[name])
    writing.remove(memory)


def _may_route() -> bool:
    """Whether the host has ways by two interfaces that are not ours, or one that says that it routes.

    Forwarding that somebody turned on while we had it on leaves no trace. A host with one way can have no use for it.
    """
    names = {interface.index: interface.name for interface in netlink.interfaces().values()}
    others = {index: name for index, name in names.items() if name != "lo" and not name.startswith(PREFIX)}
    ways = {route.index for route in netlink.routes() if not any(own.covers(route.block) for own in _OF_EACH)}
    return len(ways & others.keys()) > 1 or any(name.startswith(_ROUTERS) for name in others.values())


def of_link(device: str, *, localnet: bool) -> None:
    """A link's own: no router is listened to; packets of the host's loopback go through it only when they have to."""
    write(f"ipv4/conf/{device}/route_localnet", "1" if localnet else "0")
    if read(f"ipv6/conf/{device}/accept_ra") is not None:
        write(f"ipv6/conf/{device}/accept_ra", "0")
