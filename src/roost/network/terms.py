"""What a definition says of a private network, read: published ports, and what may be reached."""

from __future__ import annotations

from roost.errors import DefinitionError
from roost.network.addresses import Block, block_of, number_of, text_of
from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PROTOCOLS = ("tcp", "udp")
EVERYTHING = (Block(32, 0, 0), Block(128, 0, 0))


class Port(Struct, frozen=True):
    """A port of the host that leads to one of the machine. ``address`` empty: every address of the host."""

    address: str
    port: int
    inside: int
    protocol: str

    def __str__(self) -> str:
        shown = f"[{self.address}]" if ":" in self.address else self.address
        return f"{shown + ':' if shown else ''}{self.port}/{self.protocol}"

    def clashes(self, other: Port) -> bool:
        """Whether both want the same port."""
        same = (self.port, self.protocol) == (other.port, other.protocol)
        return same and (not self.address or not other.address or self.address == other.address)


class Target(Struct, frozen=True):
    """Something that may be reached: ``kind`` any, host, network or name. ``port`` 0: every port; both protocols."""

    kind: str
    value: str = ""
    port: int = 0
    protocol: str = ""


class Reach(Struct, frozen=True):
    """What of the network may be reached: without a port, all of it."""

    block: Block
    protocol: str = ""
    port: int = 0

    def covers(self, other: Reach) -> bool:
        """Whether the other says nothing that this one does not."""
        same = (self.protocol, self.port) == (other.protocol, other.port)
        return self.block.covers(other.block) and (same or not self.port)


def published(text: str) -> Port:
    """``[ADDRESS:]PORT[:PORT OF THE MACHINE][/tcp|/udp]``, as ``str`` of one is too. Raises DefinitionError."""
    rest, protocol = _protocol(text)
    address = ""
    if rest.startswith("["):
        address, _, rest = rest[1:].partition("]:")
    elif "." in rest.partition(":")[0]:
        address, _, rest = rest.partition(":")
    outside, colon, inside = rest.partition(":")
    ports = _port(outside), _port(inside if colon else outside)
    found = number_of(address) if address else (0, 0)
    if not all(ports) or found is None or protocol is None:
        raise DefinitionError(
            f"not a port to publish: {text}", hint='write it as in "8080:80", "127.0.0.1:2222:22" or "5353:53/udp"'
        )
    every = not address or not found[1]
    return Port("" if every else text_of(*found), ports[0], ports[1], protocol or "tcp")


def target(text: str) -> Target:
    """``any``, ``host``, an address, a network or a name; each with ``:PORT`` and ``/tcp`` or ``/udp`` or without.

    Raises DefinitionError.
    """
    rest, protocol = _protocol(text)
    colon, last = "", ""
    if rest.startswith("["):
        rest, _, last = rest[1:].partition("]")
        colon, last = last[:1], last[1:]
    elif rest.count(":") == 1:
        rest, colon, last = rest.partition(":")
    port = _port(last) if colon == ":" else 0
    if not rest or protocol is None or (colon and not port) or (protocol and not port):
        raise DefinitionError(
            f"nothing that can be reached: {text}",
            hint='write it as in "example.org:443", "192.0.2.0/24", "[2001:db8::1]:22/tcp", "host:4444" or "any"',
        )
    if rest in ("any", "host"):
        return Target(rest, "", port, protocol)
    if block_of(rest) is not None:
        return Target("network", rest, port, protocol)
    if not all(
        part and part.strip("-_").replace("-", "").replace("_", "").isalnum()
        for part in rest.removesuffix(".").split(".")
    ):
        raise DefinitionError(f"not a host name: {rest}", hint="egress takes addresses, networks and host names")
    return Target("name", rest, port, protocol)


def reaches(
    targets: Iterable[Target], known: Mapping[str, Iterable[str]], resolve: Callable[[tuple[str, ...]], Mapping[str, list[str]]]
) -> tuple[tuple[Reach, ...], tuple[str, ...]]:  # fmt: skip
    """The networks that targets mean, and the names that have no address now.

    ``known`` has the machines' addresses; ``resolve`` finds the other names'. What another one covers is left out: the
    kernel takes no element twice.
    """
    wanted = tuple(targets)
    names = tuple(dict.fromkeys(item.value for item in wanted if item.kind == "name" and item.value not in known))
    found: dict[str, Iterable[str]] = {**(resolve(names) if names else {}), **known}
    every: list[Reach] = []
    for item in wanted:
        if item.kind == "host":
            continue
        texts = {"any": map(str, EVERYTHING), "network": (item.value,)}.get(item.kind) or found.get(item.value, ())
        protocols = (item.protocol,) if item.protocol else PROTOCOLS if item.port else ("",)
        blocks = [block for block in map(block_of, texts) if block is not None]
        every += [Reach(block, protocol, item.port) for block in blocks for protocol in protocols]
    every = list(dict.fromkeys(every))
    reach = tuple(one for one in every if not any(other != one and other.covers(one) for other in every))
    return reach, tuple(name for name in names if not found.get(name))


def _protocol(text: str) -> tuple[str, str | None]:
    """What stands before ``/tcp`` or ``/udp``, and that; None for another word. A network's length is none."""
    front, slash, last = text.strip().rpartition("/")
    if not slash or last[:1].isdecimal():
        return text.strip(), ""
    return front, last if last in PROTOCOLS else None


def _port(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 65536 else 0
