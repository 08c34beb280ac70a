"""A machine's link to the host, as a value, and what is remembered of those that are attached."""

from __future__ import annotations

from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PREFIX = "ro-"
ALIASES = ("roost:", "roost-bridge")  # what an interface of ours has as its alias begins so
INSIDE = "host0"  # systemd-nspawn's own name for it, which systemd's 80-container-host0.network matches


class Link(Struct, frozen=True):
    """The private network of one machine.

    ``interface`` is the host's side (15 characters at most), ``address`` and ``address6`` are the machine's, with the
    length of the network. ``bridge`` is the interface of the bridge that machines share, or empty. Without IPv6,
    ``address6`` and ``gateway6`` are empty.
    """

    machine: str
    interface: str
    address: str
    gateway: str
    address6: str = ""
    gateway6: str = ""
    bridge: str = ""

    @property
    def device(self) -> str:
        """The host's interface that has the gateway's address."""
        return self.bridge or self.interface

    @property
    def lent(self) -> bool:
        """Whether it is a throwaway session's: names of machines have no underscore."""
        return "_" in self.interface

    def to_line(self) -> str:
        """As one line of a file."""
        fields = (self.machine, self.interface, self.address, self.gateway, self.address6, self.gateway6, self.bridge)
        return " ".join(field or "-" for field in fields)


class Terms(Struct, frozen=True):
    """What ``definition.model.NetworkTerms`` has, for a run, which has no time to load that."""

    bridge: str = ""
    isolated: bool = False
    publish: tuple[str, ...] = ()
    egress: tuple[str, ...] | None = None
    address: str = ""


class Hop(Struct, frozen=True):
    """One place on a packet's way: ``state`` ok, warning or failed, what was ``found``, and what to do about it."""

    name: str
    state: str
    found: str
    remedy: str = ""


class Attached(Struct, frozen=True):
    """What Roost set up for a link: where machines' elements are in the firewall, and the ports of the host it has.

    ``owner`` is the directory of its store's networks. ``egress`` is its list when some names in it, ``unknown``, had no
    address.

    An element is written as nft reads it, without ``add element``: ``inet roost links { "ro-db" }``.
    """

    link: Link
    elements: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    owner: str = ""
    egress: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def to_text(self) -> str:
        """As a file."""
        lines = (
            f"link {self.link.to_line()}",
            f"owner {self.owner}",
            *(f"element {element}" for element in self.elements),
            *(f"port {port}" for port in self.ports),
            *(f"egress {text}" for text in self.egress),
            *(f"unknown {name}" for name in self.unknown),
        )
        return "\n".join(lines) + "\n"


def link_from(line: str) -> Link | None:
    """The link that a line tells; None when it is not one."""
    fields = ["" if word == "-" else word for word in line.split(" ")]
    return Link(*fields) if len(fields) == 7 and all(fields[:4]) else None


def attached_from(text: str) -> Attached | None:
    """What a file tells; None when it is not whole."""
    lines = [line.partition(" ") for line in text.splitlines()]
    kinds = ("link", "owner", "element", "port", "egress", "unknown")
    of = {kind: tuple(rest for word, _, rest in lines if word == kind) for kind in kinds}
    link = link_from(of["link"][0]) if len(of["link"]) == 1 else None
    if link is None or not text.endswith("\n"):
        return None
    return Attached(link, of["element"], of["port"], "".join(of["owner"]), of["egress"], of["unknown"])


def terms_from(fields: dict[str, Any]) -> Terms:
    """The terms that a JSON object of them tells: its lists are tuples here."""
    of: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Terms(**of)
