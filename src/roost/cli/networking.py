"""The verbs about private networks: network list, check, repair."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import roost
from roost.cli.common import print_json, print_table, say
from roost.cli.table import Painted
from roost.errors import StoreError
from roost.network import Network

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from roost.boot.manage import Machines
    from roost.network import Hop, Link

_TONES = {"ok": "good", "warning": "warn", "failed": "bad"}
_STATES = {"up": "good", "down": "dim"}


def network_list(options: argparse.Namespace) -> int:
    """``roost network list``: what is allotted, and what runs have borrowed."""
    network, _ = _opened(options)
    attached = {one.link: one for one in network.records()}
    every: list[dict[str, Any]] = [
        {
            "machine": link.machine,
            "state": "up" if link in attached else "down",
            "lent": link.lent,
            "address": link.address,
            "address6": link.address6,
            "gateway": link.gateway,
            "gateway6": link.gateway6,
            "interface": link.interface,
            "bridge": link.bridge,
            "published": list(attached[link].ports) if link in attached else [],
        }
        for link in network.links()
    ]
    if options.json:
        print_json(every)
        return 0
    rows = [
        (
            f"{one['machine']} (a run)" if one["lent"] else one["machine"],
            Painted(one["state"], _STATES[one["state"]]),
            one["address"].partition("/")[0],
            one["address6"].partition("/")[0] or "-",
            one["interface"],
            one["bridge"] or "-",
            " ".join(one["published"]) or "-",
        )
        for one in every
    ]
    headers = ["machine", "state", "address", "IPv6", "interface", "bridge", "published"]
    print_table(headers, rows, empty="no machine has a private network: `roost up MACHINE` gives it one")
    return 0


def network_check(options: argparse.Namespace) -> int:
    """``roost network check``: 0 when no hop has failed."""
    network, machines = _opened(options)
    found: dict[str, list[Hop]] = {}
    for link in _chosen(options, network):
        with _inside(machines, link) as fd:
            found[link.machine] = network.check(link, fd)
    if not found:
        found["all machines"] = network.check()
    return _told(found, options)


def network_repair(options: argparse.Namespace) -> int:
    """``roost network repair``: 0 when no hop fails any more."""
    network, machines = _opened(options)
    left: dict[str, list[Hop]] = {}
    wrong: dict[str, list[Hop]] = {}
    chosen = _chosen(options, network)
    if not chosen:
        wrong["all machines"] = network.repair()
        _say_repaired("the host", wrong["all machines"])
        left["all machines"] = network.check()
    for link in chosen:
        with _inside(machines, link) as fd:
            wrong[link.machine] = network.repair(link, fd)
            _say_repaired(link.machine, wrong[link.machine])
            if link in network.links():
                left[link.machine] = network.check(link, fd)
            else:
                left[link.machine] = []
                say(f"{link.machine}: gets another address when it comes up: `roost up {link.machine}`")
    return _told(left, options, wrong)


def _say_repaired(name: str, wrong: list[Hop]) -> None:
    for hop in wrong:
        say(f"{name}: {hop.name}: {hop.found}")


def _opened(options: argparse.Namespace) -> tuple[Network, Machines]:
    manager = roost.Manager(state=options.state)
    for cleared in manager.prepare():
        say(f"cleared what a killed process left: {cleared}")
    return Network(f"{manager.store.state}/network"), manager.boots()


def _chosen(options: argparse.Namespace, network: Network) -> list[Link]:
    """The machines that were named, else all that are up. Raises StoreError."""
    attached = network.attached()
    known = {link.machine: link for link in network.links()}
    unknown = [name for name in options.machines if name not in known]
    if unknown:
        raise StoreError(
            f"machine {unknown[0]} has no private network",
            details=f"with one: {', '.join(known) or 'none'}",
            hint="`roost network list` shows them; `roost up` gives a machine its network",
        )
    return [known[name] for name in options.machines] or [
        link for link in known.values() if link in attached and not link.lent
    ]


@contextlib.contextmanager
def _inside(machines: Machines, link: Link) -> Iterator[int | None]:
    """The network namespace of a machine that is up."""
    fd = None
    if not link.lent:
        with contextlib.suppress(StoreError, OSError):
            fd = os.open(f"/proc/{machines.leader(link.machine).pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _told(found: dict[str, list[Hop]], options: argparse.Namespace, wrong: dict[str, list[Hop]] | None = None) -> int:
    """Prints the hops; of a repair also what was ``wrong`` before, and is not any more."""
    failed = [(name, hop) for name, hops in found.items() for hop in hops if hop.state == "failed"]
    if options.json:
        document: list[dict[str, Any]] = [{"machine": name, "hops": _fields(hops)} for name, hops in found.items()]
        for one in document if wrong is not None else []:
            still = {hop.name for hop in found[one["machine"]] if hop.state != "ok"}
            one["repaired"] = _fields(hop for hop in (wrong or {})[one["machine"]] if hop.name not in still)
        print_json(document)
        return 1 if failed else 0
    rows = [
        (name, Painted(hop.state, _TONES[hop.state]), hop.name, hop.found)
        for name, hops in found.items()
        for hop in hops
    ]
    print_table(
        ["machine", "state", "hop", "found"], rows, empty="nothing was checked", fixed=("machine", "state", "hop")
    )
    for name, hop in [(name, hop) for name, hops in found.items() for hop in hops if hop.remedy]:
        print(f"\n{name}: {hop.name}: {hop.remedy}")
    sys.stdout.flush()
    return 1 if failed else 0


def _fields(hops: Iterable[Hop]) -> list[dict[str, str]]:
    return [{"name": hop.name, "state": hop.state, "found": hop.found, "remedy": hop.remedy} for hop in hops]
