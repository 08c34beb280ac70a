"""The packages of layers: what a stack of them has installed, and which of them brought or changed each."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from msgspec import Struct

from roost.distro.recipe import family_of_tree, inventory
from roost.host import files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.distro.recipe import Family, Package
    from roost.records import LayerRecord
    from roost.store import Store

STATUS_MOST = 64 << 20  # bytes of a tree's list of packages, which may be anything: Debian's largest have some 10 MB


class Installed(Struct, frozen=True, kw_only=True):
    """An installed package. ``layer`` is the digest of the one that brought it, or changed it last.

    ``architecture`` and ``source`` (what it was built from, "NAME VERSION") are empty where the manager does not tell.
    """

    name: str
    version: str
    architecture: str = ""
    source: str = ""
    layer: str = ""


class Lists:
    """Reads the lists of packages in layers, each once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[tuple[str, str], dict[str, str] | None] = {}

    def of(self, chain: Sequence[str], family: str) -> dict[str, str] | None:
        """Name → version of what layers, the base first, have together; None when none of them has a list."""
        manager = family_of_tree(family)
        for digest in reversed(chain):
            key = (digest, manager.NAME)
            if key not in self._read:
                status = _status(self._store, digest, manager)
                self._read[key] = None if status is None else manager.packages(status)
            if (found := self._read[key]) is not None:
                return found
        return None

    def whole(self, chain: Sequence[str], family: str) -> frozenset[Package] | None:
        """The same with all that is known of each package; not kept."""
        manager = family_of_tree(family)
        for digest in reversed(chain):
            status = _status(self._store, digest, manager)
            if status is not None:
                return frozenset(inventory(manager, status))
        return None


def installed(store: Store, layer: LayerRecord) -> list[Installed]:
    """What a layer has with all below it, by name."""
    manager = family_of_tree(layer.family)
    found: dict[tuple[str, str, str], Installed] = {}
    for digest in (*layer.parents, layer.digest):
        status = _status(store, digest, manager)
        if status is None:
            continue
        now = {}
        for one in inventory(manager, status):
            key = (one.name, one.architecture, one.version)
            now[key] = found.get(key) or Installed(
                name=one.name, version=one.version, architecture=one.architecture, source=one.source, layer=digest
            )
        found = now
    return [found[key] for key in sorted(found)]


def _status(store: Store, digest: str, manager: Family) -> bytes | None:
    """A layer's own list; None when it has none: then nothing was installed in it."""
    with contextlib.suppress(OSError):
        return files.read_inside(store.tree(digest), manager.STATUS_PATH, most=STATUS_MOST)
    return None
