"""What a crash left of machines that boot: what was only of their last run, and their networks.

As in ``roost.recovery``: a machine whose lock is free does not run, and while its other lock is held somebody is bringing
it up or down.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from roost.boot.wiring import network_of
from roost.errors import Error
from roost.host import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from roost.store import Store

PREFIX = "boot_"  # of the lock that whoever changes a machine holds: no machine's name has an underscore


def lock_of(store: Store, name: str) -> str:
    """The lock of whoever brings a machine up or down."""
    return f"{store.run}/locks/{PREFIX}{name}"


def sweep(store: Store) -> list[str]:
    """Clears it; what was cleared, as a person would call it."""
    cleared = []
    network = network_of(store)
    links = {link.machine: link for link in network.own()}
    runs = files.names_in(f"{store.run}/booted")
    for name in dict.fromkeys((*runs, *links)):
        with _ended(store, name) as ended:
            if not ended:
                continue
            if name in links:
                with contextlib.suppress(Error, OSError):  # `roost doctor` and `roost network check` say why
                    network.detach(links[name])
                    cleared.append(f"the network of {name}")
            if name in runs:
                files.remove_tree(f"{store.run}/booted/{name}")
                cleared.append(f"the last run of machine {name}")
    with contextlib.suppress(Error, OSError):
        cleared += map(_network, network.sweep())
    return list(dict.fromkeys(cleared))


def leftovers(store: Store) -> list[str]:
    """What ``sweep`` would clear; changes nothing."""
    network = network_of(store)
    found = [f"the network of {link.machine}" for link in network.own() if _is_ended(store, link.machine)]
    found += [
        f"the last run of machine {name}" for name in files.names_in(f"{store.run}/booted") if _is_ended(store, name)
    ]
    return list(dict.fromkeys([*found, *map(_network, network.leftovers())]))


def _network(whose: str) -> str:
    """What ``Network.leftovers`` calls the host's is Roost's own: its table, its lines and its settings there."""
    return "traces of private networks on the host" if whose == "the host" else f"the network of {whose}"


def _is_ended(store: Store, name: str) -> bool:
    return not store.is_alive(name) and not files.is_held(lock_of(store, name))


@contextlib.contextmanager
def _ended(store: Store, name: str) -> Iterator[bool]:
    """Whether a machine does not run, and stays so while this is held."""
    lock = files.try_lock(lock_of(store, name))
    if lock is None:
        yield False
        return
    try:
        yield not store.is_alive(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(lock_of(store, name))
        os.close(lock)
