"""The rules for what ``network`` says: addresses, ports and names. Like ``checks``; ``ipaddress`` is loaded when needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from roost.definition.checks import DIGITS, LETTERS, LOWER, made_of

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    Address = IPv4Address | IPv6Address
    Range = IPv4Network | IPv6Network

PRIVATE_KEYS = ("bridge", "isolated", "publish", "egress", "address")
"""What a network says that only a private one has."""
_PORTS = "a port goes from 1 to 65535"


class Published(Struct, frozen=True):
    """A port of the host that leads into a machine. ``address`` empty: all addresses of the host."""

    address: str
    host: int
    machine: int
    protocol: str

    def meets(self, other: Published) -> bool:
        """Whether the host cannot have both."""
        same = (self.host, self.protocol) == (other.host, other.protocol)
        return same and (self.address == other.address or not self.address or not other.address)


def bridge(name: str) -> str:
    """A name of the definition's: the host's interface gets one that is made from it."""
    if made_of(name, LOWER + DIGITS + "-") and len(name) <= 63 and name[0] != "-" and name[-1] != "-":
        return ""
    return f"not a bridge's name {name!r}: a-z, 0-9 and '-', at most 63, like \"lab\""


def publish(text: str) -> tuple[Published | None, str]:
    """What an entry of ``publish`` says, and what is wrong with it."""
    form = 'like "8080:80", "8080:80/udp" or "127.0.0.1:2222:22/tcp"'
    ports, slash, protocol = text.partition("/")
    address, _, rest = ports.rpartition(":")
    address, colon, host = address.rpartition(":")
    if not colon:
        address, host = "", ports.partition(":")[0]
    if slash and protocol not in ("tcp", "udp"):
        return None, f"not a protocol {protocol!r}: tcp or udp, {form}"
    if not made_of(host, DIGITS) or not made_of(rest, DIGITS) or ":" not in ports or (colon and not address):
        return None, f"not ports {text!r}: HOST:MACHINE, {form}"
    if not _port(host) or not _port(rest):
        return None, f"{_PORTS}, {form}"
    wrong = _host_address(address) if address else ""
    plain = "" if wrong or not address else str(_address(address.strip("[]")))
    everywhere = plain in ("0.0.0.0", "::")  # noqa: S104  # what is written, nothing that is bound here
    found = Published("" if everywhere else plain, int(host), int(rest), protocol or "tcp")
    return (None, wrong) if wrong else (found, "")


def _host_address(text: str) -> str:
    inner = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    found = _address(inner)
    if found is None:
        return f"not an address of the host: {text!r}"
    if found.version == 6 and inner == text:
        return f"an IPv6 address is written in brackets: '[{text}]'"
    return "" if found.version == 6 or inner == text else f"an IPv4 address has no brackets: '{inner}'"


def egress(text: str) -> str:
    """What may be reached: "any", "host", an address, a network or a host name, each with a port or without."""
    place, port, protocol = _split(text)
    if protocol and protocol not in ("tcp", "udp"):
        return f'not a protocol {protocol!r}: tcp or udp, like "example.org:53/udp"'
    if protocol and not port:
        return f'a protocol belongs to a port: {text!r}, write "{place}:PORT/{protocol}"'
    if port and (not made_of(port, DIGITS) or not _port(port)):
        return f"{_PORTS}, in {text!r}"
    if "/" in place:
        return _network_of(place)[1]
    if place in ("any", "host") or _address(place) is not None or _host_name(place):
        return ""
    forms = '"192.0.2.1", "198.51.100.0/24:443", "[2001:db8::1]:443", "example.org:443", "host:4444" or "any"'
    return f"not a place {text!r}: {forms}"


def _split(text: str) -> tuple[str, str, str]:
    """The place, port and protocol of an entry of ``egress``, each as it is written; a colon alone is port 0."""
    head, slash, tail = text.rpartition("/")
    protocol = tail if slash and made_of(tail, LETTERS) else ""
    place = head if protocol else text
    inner, closed, rest = place[1:].partition("]")
    if place[:1] == "[" and closed and ":" in inner and rest[:1] == ":":
        return inner, rest[1:] or "0", protocol
    if place.count(":") == 1 and place[0] != "[":
        name, _, port = place.partition(":")
        return name, port or "0", protocol
    return place, "", protocol


def _host_name(text: str) -> bool:
    """A name for the resolver (RFC 1123). One whose last label has digits only is a misspelt address."""
    labels = text.split(".")
    ends = LETTERS + DIGITS
    good = all(made_of(label, ends + "-_") and len(label) <= 63 for label in labels)
    good = good and all(label[0] in ends and label[-1] in ends for label in labels)
    return good and len(text) <= 253 and not made_of(labels[-1], DIGITS)


def address(text: str) -> str:
    """A machine's own IPv4 address, with the length of its network's prefix or without."""
    plain, slash, length = text.partition("/")
    found = _address(plain)
    if found is None or (slash and not made_of(length, DIGITS)):
        return f'not an address {text!r}: one like "10.77.0.2"'
    if found.version == 6:
        return f"{text} is of IPv6: a machine's is derived, write its IPv4 address"
    if slash and not (len(length) < 3 and 8 <= int(length) <= 31):
        return f"{text}: a machine's network is from /8 to /31"
    usable = not (found.is_loopback or found.is_multicast or found.is_unspecified or found.is_link_local)
    usable = usable and int(found) < 0xF0000000  # 240.0.0.0/4 is reserved (RFC 1112, 4)
    room = (1 << (32 - int(length))) - 1 if slash else 0
    usable = usable and (room < 2 or int(found) & room not in (0, room))
    return "" if usable else f"{text} is no address for a machine"


def pool(text: str) -> str:
    """A network for machines' addresses: a link takes a /30 of it, a bridge a /24."""
    found, wrong = _network_of(text)
    if found is None:
        return wrong
    if found.version == 6:
        return f"{text} is of IPv6: write it as pool6"
    if found.is_loopback or found.is_multicast or found.is_link_local or int(found.network_address) >= 0xF0000000:
        return f'{text} has no addresses for machines: take a private one, like "10.77.0.0/16"'
    return "" if 8 <= found.prefixlen <= 30 else f"a pool is from /8 to /30, not /{found.prefixlen}"


def pool6(text: str) -> str:
    """A network of which each link gets a /64."""
    found, wrong = _network_of(text)
    if found is None:
        return wrong
    if found.version == 4:
        return f"{text} is of IPv4: write it as pool"
    if found.is_loopback or found.is_multicast or found.is_link_local:
        return f'{text} has no addresses for machines: take a private one, like "fd00:77::/48"'
    return "" if 16 <= found.prefixlen <= 64 else f"a pool6 is from /16 to /64, not /{found.prefixlen}"


def _port(text: str) -> bool:
    return len(text) <= 5 and 1 <= int(text) <= 65535


def _address(text: str) -> Address | None:
    import ipaddress

    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def _network_of(text: str) -> tuple[Range | None, str]:
    """A network, or what is wrong with it."""
    import ipaddress

    form = f'not a network {text!r}: one like "10.77.0.0/16"'
    if "/" not in text or "%" in text or not made_of(text.partition("/")[2], DIGITS):
        return None, form
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None, form
    if found.network_address != ipaddress.ip_address(text.partition("/")[0]):
        return None, f"{text} names an address in a network: write '{found}'"
    return found, ""
