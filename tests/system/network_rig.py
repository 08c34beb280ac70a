"""A host of the tests' own: network namespaces with a ``wan`` that knows no way back, so that only NAT can work."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from roost.definition.model import NetworkTerms
from roost.host import syscalls
from roost.network import Link, Network, netlink
from system.rig import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

WAN, WAN6 = "198.51.100.1", "2001:db8:100::1"
UPLINK, UPLINK6 = "198.51.100.2", "2001:db8:100::2"
STRANGER = "198.51.100.99"
SETTINGS = "cd /proc/sys/net; cat ipv4/ip_forward ipv4/conf/*/accept_redirects ipv6/conf/*/forwarding"
QUICK = 0.3  # seconds until a connection that is dropped counts as one


class Space:
    """A network namespace that lives as long as this does."""

    def __init__(self) -> None:
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            syscalls.setns(own, syscalls.CLONE_NEWNET)
        finally:
            os.close(own)
        self.ip("link set lo up")

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        """A program in it."""
        with netlink.inside(self.fd):
            done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=60)
        assert not check or done.returncode == 0, (argv, done)
        return done.stdout

    def ip(self, words: str) -> str:
        """``ip WORDS`` in it."""
        return self.run("ip", *words.split())

    def listen(self, port: int, address: str = "", *, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket of it that takes connections, of both families."""
        family = socket.AF_INET6 if ":" in address or not address else socket.AF_INET
        with netlink.inside(self.fd):
            door = socket.socket(family, kind)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.settimeout(5)
        door.bind((address or "::", port))
        if kind == socket.SOCK_STREAM:
            door.listen(16)
        return door

    def connect(self, address: str, port: int) -> socket.socket:
        """A connection from it. Raises OSError."""
        with netlink.inside(self.fd):
            door = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        door.settimeout(QUICK)
        try:
            door.connect((address, port))
        except OSError:
            door.close()
            raise
        return door

    def reaches(self, address: str, port: int) -> bool:
        """Whether a connection can be made."""
        try:
            self.connect(address, port).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Lets it go, with all that is in it."""
        os.close(self.fd)


class Host:
    """The namespaces of a host and of what is around it; this process is in the host's while ``entered``."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.here, self.wan = Space(), Space()
        os.makedirs(f"{directory}/root/etc")
        self.root = f"{directory}/root"
        self.write("etc/resolv.conf", f"nameserver {WAN}\n")
        self.write("etc/hosts", "127.0.0.1\tlocalhost\n")
        self.network = self.another()
        self.machines: dict[str, Space] = {}
        path = f"/proc/{os.getpid()}/fd/{self.wan.fd}"
        self.here.ip(f"link add up0 index 77 type veth peer name wan0 netns {path}")
        for space, name, number, four, six in (
            (self.here, "up0", 2, UPLINK, UPLINK6),
            (self.wan, "wan0", 1, WAN, WAN6),
        ):
            space.ip(f"link set {name} addrgenmode none")  # an address that is looked for first comes late
            space.ip(f"address add fe80::{number}/64 dev {name} nodad")
            space.ip(f"address add {four}/24 dev {name}")
            space.ip(f"address add {six}/64 dev {name} nodad")
            space.ip(f"link set {name} up")
        self.here.ip(f"route add default via {WAN}")
        self.here.ip(f"route add default via {WAN6} dev up0")
        with self.wan.listen(9, WAN6):  # the kernel takes a moment until a new link carries IPv6
            wait_for(lambda: self.here.reaches(WAN6, 9))
        self.here.run(
            "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding"
        )

    def another(self, name: str = "state") -> Network:
        """A network over a store of that name, as another process would have it."""
        return Network(f"{self.directory}/{name}/network", f"{self.directory}/run", root=self.root)

    def write(self, path: str, text: str) -> None:
        """A file below the host's root."""
        os.makedirs(os.path.dirname(f"{self.root}/{path}"), exist_ok=True)
        with open(f"{self.root}/{path}", "w", encoding="utf-8") as stream:
            stream.write(text)

    def read(self, path: str) -> str:
        """A file below it."""
        with open(f"{self.root}/{path}", encoding="utf-8") as stream:
            return stream.read()

    def up(self, machine: str, terms: NetworkTerms | None = None) -> tuple[Link, Space]:
        """A machine with its network."""
        terms = terms or NetworkTerms()
        link = self.network.allot(machine, terms)
        if machine not in self.machines:
            self.machines[machine] = Space()
        self.network.attach(link, terms, self.machines[machine].fd)
        return link, self.machines[machine]

    def down(self, machine: str) -> None:
        """The machine ends, and its network."""
        link = next(link for link in self.network.links() if link.machine == machine)
        self.network.detach(link)
        self.machines.pop(machine).close()

    def state(self) -> dict[str, str]:
        """What a person sees of the host's network."""
        return {
            "links": self.here.ip("-br link"), "addresses": self.here.ip("-br address"), "routes": self.here.ip("route show table all"),
            "rules": self.here.run("nft", "list", "ruleset"),
            "settings": self.here.run("sh", "-c", SETTINGS),
            "files": "\n".join(sorted(os.path.join(top, name) for top, _, names in os.walk(self.root) for name in names)),
            "hosts": self.read("etc/hosts"),
        }  # fmt: skip

    def close(self) -> None:
        """Ends all of it."""
        shutil.rmtree(f"/run/roost/network-{os.fstat(self.here.fd).st_ino}", ignore_errors=True)
        for space in (*self.machines.values(), self.here, self.wan):
            space.close()


@contextlib.contextmanager
def host_at(directory: str) -> Iterator[Host]:
    """A host; this thread is in it."""
    host = Host(directory)
    try:
        with netlink.inside(host.here.fd):
            yield host
    finally:
        host.close()


def peer_of(door: socket.socket) -> str:
    """Who has just connected to a listening socket."""
    other, address = door.accept()
    other.close()
    return str(address[0]).removeprefix("::ffff:")
