"""A private network for a run: an address and an interface, lent for as long as the session is open."""

from __future__ import annotations

import contextlib

from roost.network import Network, terms_from
from roost.structs import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from roost.engine.spec import Spec
    from roost.store import Store


@contextlib.contextmanager
def lent(store: Store, session: str, terms: dict[str, Any], spec: Spec) -> Iterator[tuple[Spec, Callable[[int], None]]]:
    """The specification with its names, and what connects a network namespace (a descriptor). Raises HostError.

    ``terms`` has the fields of a definition's ``network``, and of its pool.
    """
    network = Network(f"{store.state}/network")
    own = terms_from(terms.get("network", {}))
    link = network.lend(session, own, terms.get("pool"), terms.get("pool6"))
    try:
        named = replace(spec, resolv_conf=network.resolv_conf(link), hosts=network.hosts_lines())
        yield named, lambda fd: network.attach(link, own, fd)
    finally:
        network.detach(link, ended=True)
        network.give_back(link)
