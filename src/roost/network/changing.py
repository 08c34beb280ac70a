"""What is changed of interfaces, addresses and routes: one message of rtnetlink(7) each, which starts no process.

Constants and structures are those of linux/rtnetlink.h, if_link.h, if_addr.h, veth.h and netlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

from roost.network.addresses import number_of
from roost.network.netlink import MAIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_REQUEST, _ACK, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
_ERROR = 2
_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _ERROR_TEXT = 270, 10, 11, 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 20, 26, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER, _BR_FORWARD_DELAY, _ADDR_GEN_MODE, _GEN_NONE = 1, 2, 1, 1, 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS, _NODAD = 1, 2, 4, 8, 2
_RTA_OIF, _RTA_GATEWAY, _PROTOCOL_BOOT, _UNICAST = 4, 5, 3, 1
_UP = 0x1  # IFF_UP
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_SECONDS = 30


class Changes:
    """A socket for changes in the network namespace that it is made in. A context manager.

    Each change raises an OSError with the kernel's own words when it is refused.
    """

    def __init__(self) -> None:
        self._door = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._door.bind((0, 0))
        self._door.settimeout(_SECONDS)
        for option in (_CAP_ACK, _EXT_ACK):
            self._door.setsockopt(_SOL_NETLINK, option, 1)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()

    def add_veth(self, name: str, mac: str, peer: str, peer_mac: str, netns: int, *, mtu: int = 0) -> None:
        """A pair of interfaces; ``peer`` is in the network namespace of the descriptor. ``mtu`` 0: the usual."""
        size = _attribute(_IFLA_MTU, _number(mtu)) if mtu else b""
        other = _link() + _text(_IFLA_IFNAME, peer) + _attribute(_IFLA_ADDRESS, _mac(peer_mac)) + size
        data = _attribute(_VETH_PEER, other + _attribute(_IFLA_NET_NS_FD, _number(netns)))
        self._add(name, mac, "veth", data, size)

    def add_bridge(self, name: str, mac: str) -> None:
        """A bridge that forwards at once."""
        self._add(name, mac, "bridge", _attribute(_BR_FORWARD_DELAY, _number(0)))

    def _add(self, name: str, mac: str, kind: str, data: bytes, more: bytes = b"") -> None:
        info = _attribute(_INFO_KIND, kind.encode()) + _attribute(_INFO_DATA, data)
        own = _text(_IFLA_IFNAME, name) + _attribute(_IFLA_ADDRESS, _mac(mac)) + more
        self._ask(f"add {name}", _NEWLINK, _CREATE | _EXCL, _link() + own + _attribute(_IFLA_LINKINFO, info))

    def delete(self, index: int) -> None:
        """Removes an interface, and with it the other end of a pair."""
        self._ask(f"delete {index}", _DELLINK, 0, _link(index))

    def rename(self, index: int, name: str) -> None:
        """An interface that is down."""
        self._ask(f"rename {index}", _NEWLINK, 0, _link(index) + _text(_IFLA_IFNAME, name))

    def describe(self, index: int, alias: str) -> None:
        """Sets what `ip link` shows as the alias."""
        self._ask(f"describe {index}", _NEWLINK, 0, _link(index) + _attribute(_IFLA_IFALIAS, alias.encode()))

    def join(self, index: int, bridge: int) -> None:
        """Makes it a port of a bridge."""
        self._ask(f"join {index}", _NEWLINK, 0, _link(index) + _attribute(_IFLA_MASTER, _number(bridge)))

    def make_no_address(self, index: int) -> None:
        """The kernel gives it no link-local address of IPv6 itself."""
        mode = _attribute(socket.AF_INET6, _attribute(_ADDR_GEN_MODE, bytes((_GEN_NONE,))))
        self._ask(f"addrgenmode {index}", _NEWLINK, 0, _link(index) + _attribute(_IFLA_AF_SPEC, mode))

    def set_up(self, index: int) -> None:
        """Packets pass from now on."""
        self._ask(f"up {index}", _NEWLINK, 0, _link(index, _UP))

    def address(self, index: int, text: str, *, broadcast: bool = False) -> None:
        """An address with the length of its network, unless it is there. One of IPv6 is used without being looked for first."""
        own, _, length = text.partition("/")
        family, value = _address(own)
        more = b""
        if family == socket.AF_INET6:
            more = _attribute(_IFA_FLAGS, _number(_NODAD))
        elif broadcast:
            hosts = (1 << 32 - int(length)) - 1
            more = _attribute(_IFA_BROADCAST, (int.from_bytes(value, "big") | hosts).to_bytes(4, "big"))
        head = struct.pack("=BBBBI", family, int(length), 0, 0, index)
        both = _attribute(_IFA_LOCAL, value) + _attribute(_IFA_ADDRESS, value)
        self._ask(f"address {index}", _NEWADDR, _CREATE | _REPLACE, head + both + more)

    def default_route(self, index: int, gateway: str) -> None:
        """The way of all packets that have no other, instead of the one before."""
        family, value = _address(gateway)
        head = struct.pack("=BBBBBBBBI", family, 0, 0, 0, MAIN, _PROTOCOL_BOOT, 0, _UNICAST, 0)
        way = _attribute(_RTA_GATEWAY, value) + _attribute(_RTA_OIF, _number(index))
        self._ask(f"route {index}", _NEWROUTE, _CREATE | _REPLACE, head + way)

    def _ask(self, what: str, kind: int, flags: int, payload: bytes) -> None:
        """Sends a message, and reads whether it was done."""
        sys.audit("roost.netlink", what.partition(" ")[0])
        self._number += 1
        header = _HEADER.pack(_HEADER.size + len(payload), kind, _REQUEST | _ACK | flags, self._number, 0)
        self._door.send(header + payload)
        while True:
            data = self._door.recv(1 << 16)
            length, kind, _, sequence, _ = _HEADER.unpack_from(data)
            if sequence != self._number or kind != _ERROR:
                continue
            code = -struct.unpack_from("=i", data, _HEADER.size)[0]
            if code:
                said = _said(data[_HEADER.size * 2 + 4 : length])
                raise OSError(code, f"{what}: {said or os.strerror(code)}")
            return


def _said(data: bytes) -> str:
    """The kernel's own words, after the header of the message that they are about."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if kind & 0x3FFF == _ERROR_TEXT:
            return data[4:length].rstrip(b"\0").decode(errors="replace")
        data = data[max(4, length + 3 & ~3) :]
    return ""


def _link(index: int = 0, flags: int = 0) -> bytes:
    """struct ifinfomsg: family, type, index, flags, and which of them are meant."""
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(value: int) -> bytes:
    return struct.pack("=I", value)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _address(text: str) -> tuple[int, bytes]:
    found = number_of(text)
    assert found is not None, text
    bits, value = found
    return (socket.AF_INET if bits == 32 else socket.AF_INET6), value.to_bytes(bits // 8, "big")
