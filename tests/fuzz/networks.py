"""The doors of private networks: what definitions say of them, what is remembered, and files of the host that are read."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from fuzz import checks
from roost.errors import Error
from roost.network import firewall, managers, names, pools, terms
from roost.network.records import Link, Terms, attached_from

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_ADDRESS = r"[0-9a-f.:]+(/\d+)?"
_PART = rf'("ro-db"|{_ADDRESS}|tcp|udp|\d+)'
_ELEMENT = re.compile(rf"inet roost [a-z_46]+ \{{ {_PART}( \. {_PART})*( : {_ADDRESS} \. \d+)? \}}")
LINK = Link("db", "ro-db", "10.213.0.2/30", "10.213.0.1", "fd00:1::2/64", "fd00:1::1")


def networks(data: bytes, place: Path) -> None:
    """The first byte says which door."""
    doors: tuple[Callable[[bytes, Path], None], ...] = (_terms, _remembered, _hosts, _resolver, _matching)
    doors[data[0] % len(doors) if data else 0](data[1:], place)


def _terms(data: bytes, place: Path) -> None:
    """Ports and egress rules become elements of the firewall's sets and nothing else, or are refused in words."""
    words = data.decode(errors="replace").split("\n")
    own = Terms(publish=tuple(words[::2]), egress=tuple(words[1::2]))
    try:
        ports = [terms.published(text) for text in own.publish]
        wanted = [terms.target(text) for text in own.egress or ()]
        reach, _ = terms.reaches(wanted, {}, lambda found: {name: ["192.0.2.1", "2001:db8::1"] for name in found})
        pools.fixed(words[0])
    except Error as e:
        checks.told(e)
        return
    for element in firewall.elements_of(LINK, own, ports, reach, [], names=True, resolvers=[], local_resolver=""):
        assert _ELEMENT.fullmatch(element), element


def _remembered(data: bytes, place: Path) -> None:
    """A damaged record is none; what is read can be written, and is the same then."""
    found = attached_from(data.decode(errors="replace"))
    if found is not None:
        assert attached_from(found.to_text()) == found
    os.makedirs(place / "network", exist_ok=True)
    (place / "network" / "allotted").write_bytes(data)
    book = pools.Allotments(f"{place}/network").read()
    book.blocks()
    links = dict(book.links)
    if all(link.to_line().isascii() for link in links.values()):
        book.write()
        assert pools.Allotments(f"{place}/network").read().links == links


def _hosts(data: bytes, place: Path) -> None:
    """Whatever a hosts file holds: the block goes in once and comes out again, and the rest stays."""
    block = names.block([("10.213.0.2", "db")])
    bare = names.merged(data, b"")
    assert names.merged(names.merged(data, block), block).count(block) == 1
    assert names.merged(names.merged(data, block), b"").rstrip(b"\n") == bare.rstrip(b"\n")
    names.names_outside(data)


def _resolver(data: bytes, place: Path) -> None:
    """A resolv.conf of the host: what comes of it has servers that are addresses, and lines of the same kind."""
    os.makedirs(place / "etc", exist_ok=True)
    (place / "etc" / "resolv.conf").write_bytes(data)
    usable, local = names.resolvers(str(place))
    assert not (usable and local)
    for line in names.resolv_conf(LINK, str(place)).decode().split("\n"):
        assert re.fullmatch(rf"(nameserver {_ADDRESS})?|(search|domain|options) [^\n]+", line), line


def _matching(data: bytes, place: Path) -> None:
    """A file of systemd-networkd's."""
    managers.may_match(data.decode(errors="replace"))
