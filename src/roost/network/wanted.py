"""What the terms of a link come to now: its elements in the firewall, its ports, and the names that could not be found."""

from __future__ import annotations

from roost.errors import HostError
from roost.network import firewall, names, terms
from roost.network.records import Attached
from roost.structs import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from roost.definition.model import NetworkTerms
    from roost.network.records import Link, Terms


def by(link: Link, terms_: NetworkTerms | Terms, known: Mapping[str, list[str]], root: str, owner: str) -> Attached:
    """The record of a link with these terms. ``known`` has the machines' addresses by their names.

    A name that has no address is left out, so that a machine comes up while its host finds no names yet. Raises
    HostError for it when the link is a run's, which nobody repairs; DefinitionError when the terms are none.
    """
    ports = tuple(map(terms.published, terms_.publish))
    texts = tuple(terms_.egress or ())
    targets = tuple(map(terms.target, texts))
    reach, unknown = terms.reaches(targets, known, names.resolve)
    if unknown and link.lent:
        raise HostError(f"{unknown[0]}, which may be reached, has no address", hint=f"see `getent ahosts {unknown[0]}`")
    resolvers, local = names.resolvers(root)
    host_ports = tuple(
        (protocol, item.port)
        for item in targets
        if item.kind == "host"
        for protocol in ((item.protocol,) if item.protocol else terms.PROTOCOLS if item.port else ("",))
    )
    asks = terms_.egress is None or any(item.kind in ("any", "name") for item in targets)
    elements = firewall.elements_of(
        link,
        terms_,
        ports,
        reach,
        host_ports,
        names=asks,
        resolvers=resolvers,
        local_resolver=local if asks else "",
    )
    return Attached(link, elements, tuple(map(str, ports)), owner, texts if unknown else (), unknown)


def again(one: Attached, known: Mapping[str, list[str]]) -> Attached:
    """The record when names that had no address have one by now; the same when none has, or another one has lost its."""
    if not one.unknown:
        return one
    reach, unknown = terms.reaches(map(terms.target, one.egress), known, names.resolve)
    if not set(unknown) < set(one.unknown):
        return one
    return replace(one, elements=firewall.reaching_anew(one.elements, one.link, reach), unknown=unknown)
