"""What nobody needs any more: layers that no definition, session or name uses, and the results of old runs."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from msgspec import Struct

from roost.errors import BusyError, StoreError
from roost.host import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from roost.store import Store


class Removal(Struct, frozen=True, kw_only=True):
    """Something that ``gc`` removes, or would: ``kind`` layer, definition, result or download; ``size`` in bytes."""

    kind: str
    name: str
    reason: str
    size: int = 0


RESULTS_KEPT = 50  # the newest runs' logs


def collect(store: Store, chains: Iterable[tuple[str, ...]], *, dry_run: bool) -> list[Removal]:
    """Removes, from the top down, what is not in ``chains`` nor used otherwise; with ``dry_run`` only says so.

    A layer that somebody starts to use meanwhile stays. The layers are listed before their users: whoever publishes one
    has a pin or a record by then, and gives up a pin only once something else names the layer.
    """
    found = []
    for record in store.all_remembered():
        if not os.path.exists(record.definition) and "\\x" not in record.definition:  # a name that is not UTF-8
            found.append(Removal(kind="definition", name=record.definition, reason="the file is gone"))
            if not dry_run:
                store.forget(record.definition)
    layers = {layer.digest: layer for layer in store.layers()}
    parents = {digest: layer.parents for digest, layer in layers.items()}
    chains = tuple(chains)
    gone = {item.name for item in found}

    def used() -> set[str]:
        return _used(store, chains, gone=gone, parents=parents)

    removed = layers.keys() - used()
    if removed and not dry_run:
        from_top = sorted(removed, key=lambda digest: -len(parents[digest]))  # none loses what it stands on first
        removed = store.remove_layers(from_top, used)
    for layer in layers.values():
        if layer.digest in removed:
            name = f"{layer.digest[:12]} {layer.name}"
            found.append(Removal(kind="layer", name=name, reason="nothing uses it", size=layer.size))
    return found + _downloads(store, dry_run=dry_run) + _old_results(store, dry_run=dry_run)


def _used(
    store: Store, chains: Iterable[tuple[str, ...]], gone: set[str], parents: dict[str, tuple[str, ...]]
) -> set[str]:
    used = {digest for chain in chains for digest in chain}
    used.update(digest for session, _ in store.running() for digest in session.layers)
    for record in store.all_remembered():
        if record.definition not in gone:
            used.update(digest for chain in record.chains.values() for digest in chain)
    used.update(digest for chain in booted_chains(store) for digest in chain)
    for digest in {*store.names().values(), *store.referred_to()}:
        if digest not in parents and store.has(digest):  # made since they were listed, or its record is damaged
            try:
                parents[digest] = store.layer(digest).parents
            except StoreError:  # nobody knows what it stands on: everything stays
                parents[digest] = tuple(parents)
        used.update((digest, *parents.get(digest, ())))
    return used


def booted_chains(store: Store) -> Iterator[tuple[str, ...]]:
    """The layers of the machines that boot: those that they stand on, and those that they may go back to."""
    from roost.boot.record import Records

    records = Records(store)
    for name in records.names():
        record = None
        with contextlib.suppress(StoreError):  # a damaged one: what its session stands on is known without it
            record = records.find(name)
        if record is not None:
            yield record.layers
            yield record.previous


def _downloads(store: Store, *, dry_run: bool) -> list[Removal]:
    """What was fetched for bases that were then not made, and that nobody is fetching now."""
    found = []
    for place, lock in (("downloads", "download"), ("images", "image")):
        for name in files.names_in(f"{store.cache}/{place}"):
            path = f"{store.cache}/{place}/{name}"
            with contextlib.suppress(BusyError, FileNotFoundError):
                with files.locked(f"{store.run}/locks/{lock}-{name}", seconds=0, spares=store.spares):
                    size = files.usage(path).size
                    if not dry_run:
                        files.remove_tree(path)
                found.append(
                    Removal(kind="download", name=f"{place}/{name}", reason="its layer was not made", size=size)
                )
    return found


def _old_results(store: Store, *, dry_run: bool) -> list[Removal]:
    top = f"{store.state}/results"
    found = []
    for name in sorted(os.listdir(top))[:-RESULTS_KEPT]:
        if store.is_alive(f"results-{name}"):  # a matrix at work
            continue
        path = f"{top}/{name}"
        with contextlib.suppress(FileNotFoundError):  # another gc is at it
            size = files.usage(path).size if os.path.isdir(path) else os.path.getsize(path)
            if not dry_run:
                files.remove_tree(path)
            found.append(Removal(kind="result", name=name, reason=f"older than the last {RESULTS_KEPT}", size=size))
    return found
