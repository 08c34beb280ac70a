"""What the kernel says of interfaces, addresses and routes: read through rtnetlink(7), which starts no process.

/sys/class/net would show the network namespace that /sys was mounted in, which need not be ours.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from roost.host import syscalls
from roost.network.addresses import Block
from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
_REQUEST, _DUMP, _INTERRUPTED = 0x1, 0x300, 0x10
_ERROR, _DONE = 2, 3
_GETLINK, _GETADDR, _GETROUTE = 18, 22, 26
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_OPERSTATE, _IFLA_IFALIAS = 3, 4, 5, 10, 16, 20
_IF_OPER_UP = 6  # linux/if.h
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_CLONED = 0x200  # RTM_F_CLONED: an entry of a cache
_PROTOCOL_RA = 9  # RTPROT_RA: a router has announced it
MAIN = 254  # RT_TABLE_MAIN
# linux/netfilter/nfnetlink.h and nf_tables.h: the message, its attributes, and words for numbers as nft has them
_NETLINK_NETFILTER, _GETCHAIN = 12, 10 << 8 | 4
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE, _HOOK_NUMBER = 1, 3, 4, 5, 7, 1
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")


class Interface(Struct, frozen=True):
    """A network interface. ``peer`` is the index of the other end of a veth pair, ``master`` that of its bridge.

    ``running`` is one that the kernel has not said to be down; ``carries``, one that it has said to be up.
    """

    index: int
    name: str
    up: bool
    running: bool
    carries: bool
    mtu: int
    peer: int
    master: int
    alias: str


class Address(Struct, frozen=True):
    """An address with its network."""

    index: int
    value: int
    block: Block


class Route(Struct, frozen=True):
    """A route: ``index`` of its interface (0: none), ``gateway`` as a number (0: none)."""

    block: Block
    index: int
    gateway: int
    table: int
    announced: bool


def interfaces() -> dict[str, Interface]:
    """All interfaces by name."""
    found = {}
    for payload in _dump(_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
        _, _, index, flags, _ = struct.unpack_from("=BxHiII", payload)
        of = _attributes(payload, 16)
        name = _text(of, _IFLA_IFNAME)
        found[name] = Interface(
            index, name, bool(flags & _IFF_UP), bool(flags & _IFF_RUNNING),
            of.get(_IFLA_OPERSTATE) == bytes((_IF_OPER_UP,)), _number(of, _IFLA_MTU), _number(of, _IFLA_LINK),
            _number(of, _IFLA_MASTER), _text(of, _IFLA_IFALIAS),
        )  # fmt: skip
    return found


def addresses() -> list[Address]:
    """All addresses of both families."""
    found = []
    for payload in _dump(_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        family, length, _, _, index = struct.unpack_from("=BBBBI", payload)
        of = _attributes(payload, 8)
        raw = of.get(_IFA_LOCAL) or of.get(_IFA_ADDRESS)
        if raw and family in (socket.AF_INET, socket.AF_INET6):
            found.append(Address(index, int.from_bytes(raw, "big"), _block(raw, length)))
    return found


def routes() -> list[Route]:
    """All routes of both families, of every table."""
    found = []
    for payload in _dump(_GETROUTE, struct.pack("=BBBBBBBBI", 0, 0, 0, 0, 0, 0, 0, 0, 0)):
        family, length, _, _, table, protocol, _, _, flags = struct.unpack_from("=BBBBBBBBI", payload)
        of = _attributes(payload, 12)
        if family not in (socket.AF_INET, socket.AF_INET6) or flags & _CLONED:
            continue
        raw = of.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
        gateway = int.from_bytes(of.get(_RTA_GATEWAY, b""), "big")
        table = _number(of, _RTA_TABLE) or table
        found.append(Route(_block(raw, length), _number(of, _RTA_OIF), gateway, table, protocol == _PROTOCOL_RA))
    return found


class BaseChain(Struct, frozen=True):
    """A chain of nftables that is called at a hook, in nft's words; ``drops``: packets that no rule of it speaks of."""

    family: str
    table: str
    name: str
    kind: str
    hook: str
    drops: bool


def base_chains() -> list[BaseChain]:
    """All of this network namespace, of every table. Raises OSError when the kernel has no nftables."""
    found = []
    for payload in _dump(_GETCHAIN, bytes(4), protocol=_NETLINK_NETFILTER):
        of = _attributes(payload, 4)  # struct nfgenmsg: family, version, resource
        number = _attributes(memoryview(of.get(_CHAIN_HOOK, b"")), 0).get(_HOOK_NUMBER)
        family = _FAMILIES.get(payload[0])
        if number is None or family is None:
            continue
        hook = int.from_bytes(number, "big")
        table, name, kind = (_text(of, key) for key in (_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_TYPE))
        drops = int.from_bytes(of.get(_CHAIN_POLICY, b"\1"), "big") == 0  # NF_DROP
        found.append(BaseChain(family, table, name, kind, _HOOKS[hook] if hook < len(_HOOKS) else "", drops))
    return found


@contextlib.contextmanager
def inside(netns: int) -> Iterator[None]:
    """This thread is in the network namespace of a descriptor, and then back; sockets stay where they were made."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(netns, syscalls.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
    finally:
        os.close(own)


def _block(raw: bytes, length: int) -> Block:
    bits, room = len(raw) * 8, len(raw) * 8 - length
    return Block(bits, int.from_bytes(raw, "big") >> room << room, length)


def _text(of: dict[int, bytes], key: int) -> str:
    return of.get(key, b"").rstrip(b"\0").decode(errors="replace")


def _number(of: dict[int, bytes], key: int) -> int:
    return int(struct.unpack("=I", of[key])[0]) if len(of.get(key, b"")) == 4 else 0


def _attributes(payload: memoryview, start: int) -> dict[int, bytes]:
    """struct rtattr, linux/rtnetlink.h: length, type, value, padded to four bytes."""
    found = {}
    while start + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, start)
        if length < 4:
            break
        found[kind & 0x3FFF] = bytes(payload[start + 4 : start + length])
        start += length + 3 & ~3
    return found


def _dump(kind: int, payload: bytes, *, protocol: int = socket.NETLINK_ROUTE) -> list[memoryview]:
    """The answers to a request for everything; asked again when it changed while it was told."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as door:
        door.bind((0, 0))
        number, whole = 0, False
        found: list[memoryview] = []
        while not whole and number < 20:
            number += 1
            # struct nlmsghdr: length, type, flags, sequence, port
            door.send(struct.pack("=IHHII", 16 + len(payload), kind, _REQUEST | _DUMP, number, 0) + payload)
            found, whole = _read(door, number)
    return found


def _read(door: socket.socket, number: int) -> tuple[list[memoryview], bool]:
    found: list[memoryview] = []
    whole = True
    while True:
        data = memoryview(door.recv(1 << 18))
        while len(data) >= 16:
            length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
            message, data = data[16:length], data[length + 3 & ~3 :]
            if sequence != number:
                continue
            whole = whole and not flags & _INTERRUPTED
            if kind == _ERROR:
                code = -struct.unpack_from("=i", message)[0]
                raise OSError(code, os.strerror(code), "rtnetlink")
            if kind == _DONE:
                return found, whole
            found.append(message)
