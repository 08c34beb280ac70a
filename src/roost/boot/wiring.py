"""A machine's network, as the start and the end of a machine need it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from roost.boot.leader import netns_fd
from roost.host import files

if TYPE_CHECKING:
    from roost.boot.leader import Leader
    from roost.boot.record import Booted
    from roost.network import Link, Network
    from roost.store import Store

_HOSTS_MOST = 1 << 20  # bytes of a hosts file; the machine's root may write anything into it
_HOSTS = """127.0.0.1 localhost
127.0.1.1 {hostname}
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""
# Its systemd-networkd has no link to bring up there, and would let whoever wants to be online wait for two minutes.
_NOTHING_TO_AWAIT = {
    "/run/systemd/system/systemd-networkd-wait-online.service.d/50-roost.conf": b"[Service]\nExecStart=\nExecStart=/bin/true\n"
}


def network_of(store: Store) -> Network:
    """The networks of a store."""
    from roost.network import Network  # a machine without a private one starts without it

    return Network(f"{store.state}/network")


def link_of(store: Store, record: Booted) -> Link | None:
    """The machine's link, allotted now when it has none yet; None when its network is not private. Raises HostError."""
    if record.network != "private":
        return None
    return network_of(store).allot(record.name, record.terms, record.pool, record.pool6)


def attach(store: Store, record: Booted, leader: Leader) -> None:
    """Connects a machine whose init is ``leader``. Raises HostError."""
    link = link_of(store, record)
    if link is None:
        return
    fd = netns_fd(leader)
    try:
        network_of(store).attach(link, record.terms, fd)
    finally:
        os.close(fd)
    refresh_names(store)


def detach(store: Store, link: Link) -> None:
    """Takes everything of a machine's link from the host."""
    network_of(store).detach(link)


def refresh_names(store: Store) -> None:
    """Lets every machine, and the host, know the names of all."""
    directory = f"{store.state}/booted"
    paths = {name: f"{directory}/{name}/hosts" for name in files.names_in(directory)}
    network_of(store).refresh_hosts({name: path for name, path in paths.items() if os.path.exists(path)})


def hosts_file(store: Store, record: Booted) -> str:
    """The machine's /etc/hosts, made when missing; where it is. What the machine writes into it stays."""
    path = f"{store.state}/booted/{record.name}/hosts"
    if not os.path.exists(path):
        files.write_atomic(
            path, _HOSTS.format(hostname=record.boot.hostname).encode(), staging=f"{store.state}/staging"
        )
    else:
        _rename(path, record.boot.hostname)
    if record.network == "private":
        network_of(store).refresh_hosts({record.name: path})
    return path


def _rename(path: str, hostname: str) -> None:
    """The machine's own line of its hosts file, when it was made for another name; what the machine may have made of the file
    is bounded, and the rest of it stays."""
    with open(path, "rb") as stream:
        old = stream.read(_HOSTS_MOST + 1)
    if len(old) > _HOSTS_MOST:
        return
    new = re.sub(rb"(?m)^127\.0\.1\.1[ \t]+[a-z0-9.-]+$", b"127.0.1.1 " + hostname.encode(), old, count=1)
    if new != old:
        with open(path, "r+b") as stream:  # its inode stays: it may be bound into the machine
            stream.write(new)
            stream.truncate()


def guest_files(store: Store, record: Booted) -> dict[str, bytes]:
    """What the machine's own network managers read, below its /run."""
    link = link_of(store, record)
    if link is not None:
        return network_of(store).guest_files(link)
    return {} if record.boot.nested else _NOTHING_TO_AWAIT  # which makes links itself


def resolv_conf(store: Store, record: Booted) -> bytes:
    """The machine's /etc/resolv.conf."""
    link = link_of(store, record)
    if link is not None:
        return network_of(store).resolv_conf(link)
    if record.network == "none":
        return b""
    try:
        with open("/etc/resolv.conf", "rb") as stream:
            return stream.read(1 << 16)
    except OSError:
        return b""


def known_link(store: Store, name: str) -> Link | None:
    """The link that a machine was allotted; None when it never was."""
    return next((link for link in network_of(store).links() if link.machine == name), None)


def release(store: Store, name: str) -> None:
    """Gives a machine's address back to the pool."""
    network_of(store).release(name)
