"""What two machines of a definition cannot both have: a port of the host, an address. And the pool, which they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roost.definition.mistakes import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from roost.definition.mistakes import Document
    from roost.definition.model import Resolved
    from roost.definition.network_checks import Published


def contradictions(machines: Iterable[tuple[Place, Resolved]]) -> None:
    """Tells what a machine publishes, or is called, that another before it has already; each has its table's place."""
    private = [(place, one) for place, one in machines if one.boot_network == "private" and _has_network(one)]
    if any(one.private_network.publish for _, one in private):
        _ports(private)
    taken: dict[str, str] = {}
    for place, one in private:
        address = one.private_network.address.partition("/")[0]
        if address and taken.setdefault(address, one.name) != one.name:
            _near(place, "address").wrong(f"{address} is the address of machine '{taken[address]}' already")


def _has_network(machine: Resolved) -> bool:
    """Whether a private network is made for it without being asked for on a command line."""
    return machine.boot is not None or machine.network == "private"


def _ports(machines: Sequence[tuple[Place, Resolved]]) -> None:
    from roost.definition.network_checks import publish  # few definitions publish anything

    taken: list[tuple[Published, str]] = []
    for place, one in machines:
        for index, text in enumerate(one.private_network.publish):
            port, _ = publish(text)
            if port is None:
                continue
            whose = next((name for other, name in taken if port.meets(other)), None)
            if whose is not None:
                what = f"port {port.host}/{port.protocol} of the host"
                by = "this machine" if whose == one.name else f"machine '{whose}'"
                _near(place, "publish", index).wrong(f"{what} is published by {by} already")
            taken.append((port, one.name))


def _near(place: Place, key: str, *rest: int) -> Place:
    """The key in the machine's own table; the table, when the machine has it from the defaults."""
    written = place.document.definition.machines[str(place.keys[-1])].network
    return place if written is None or getattr(written, key) is None else place.at("network", key, *rest)


def pool(documents: Sequence[Document]) -> tuple[str | None, str | None]:
    """The networks that addresses come from; two files that say different ones are a mistake."""
    found: dict[str, tuple[str, str]] = {}
    for document in documents:
        written = document.definition.network
        for key, value in (("pool", written.pool), ("pool6", written.pool6)):
            if value is None:
                continue
            from roost.definition import network_checks  # few definitions have a pool

            place = Place(document, ("network", key))
            place.wrong(network_checks.pool(value) if key == "pool" else network_checks.pool6(value))
            first, where = found.setdefault(key, (value, document.name))
            if first != value:
                place.wrong(f"{where} says {first} already: all machines share one {key}")
    values = {key: value for key, (value, _) in found.items()}
    return values.get("pool"), values.get("pool6")
