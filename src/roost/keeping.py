"""The part of the library that looks after what is in the store: commits, removals, packages, what a crash left, gc."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from roost.errors import StoreError
from roost.records import LayerRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.adopt import Adopted
    from roost.definition import Loaded
    from roost.gc import Removal
    from roost.packages import Installed
    from roost.plan import Plan
    from roost.repair import Leftover
    from roost.store import Store


class Keeping:
    """What ``Manager`` does with the store. Most of it asks for root."""

    definition: Loaded | None
    store: Store

    if TYPE_CHECKING:

        def prepare(self) -> list[str]: ...
        def _open(self) -> None: ...
        def plan(self, patterns: Sequence[str] = ()) -> Plan: ...

    def commit(self, session: str, name: str) -> LayerRecord:
        """Makes a kept session's changes a layer called ``name``, for ``from = "layer:NAME"``; the session stays."""
        from roost.commit import commit

        self.prepare()
        return commit(self.store, session, name)

    def adopt(self, directory: str, name: str = "", *, family: str = "") -> Adopted:
        """Makes layers of a tree that was kept by hand, for ``from = "layer:NAME"``; the tree stays as it is."""
        from roost.adopt import adopt

        self.prepare()
        return adopt(self.store, directory, name, family=family)

    def remove_session(self, session: str) -> None:
        """Removes a kept session. Raises StoreError, or BusyError when it is in use."""
        self.prepare()
        with self.store.alive(session):
            self.store.remove_session(session)

    def remove_layer(self, word: str) -> LayerRecord:
        """Removes a layer that nothing stands on; of several names of one layer, only the name.

        Raises StoreError, or BusyError saying what stands on it.
        """
        from roost.repair import remove

        self.prepare()
        digest = self.store.find_digest(word)
        try:
            layer = self.store.layer(digest)
        except StoreError:  # without a record that can be read, nothing else can be done with it
            if not os.path.isdir(os.path.dirname(self.store.tree(digest))):
                raise
            layer = LayerRecord(digest=digest, parents=(), kind="", name="damaged", family="", facts={}, created=0.0)
        names = {name for name, meant in self.store.names().items() if meant == digest}
        if word in names and len(names) > 1:
            self.store.remove_name(word)
            return layer

        remove(self.store, digest, names=names)
        return layer

    def find_layer(self, word: str) -> LayerRecord:
        """A layer by its name, by the start of its digest, or the topmost of a machine of the definition.

        Raises StoreError when it is none, or when that machine's layers are not made.
        """
        if word in self.store.names() or self.definition is None or word not in self.definition.machines:
            return self.store.find_layer(word)
        top = self.plan([word]).machines[0].layers[-1]
        if not self.store.has(top):
            raise StoreError(f"the layers of machine {word} are not made", hint=f"make them: `roost build {word}`")
        return self.store.layer(top)

    def packages(self, layer: LayerRecord) -> dict[str, str]:
        """The packages of a layer with all below it: name → version; empty when the layers have no list of them."""
        from roost.packages import Lists

        return Lists(self.store).of((*layer.parents, layer.digest), layer.family) or {}

    def installed(self, layer: LayerRecord) -> list[Installed]:
        """The packages of a layer with all below it, each with the layer that brought it or changed it last."""
        from roost.packages import installed

        return installed(self.store, layer)

    def spdx(self, layer: LayerRecord) -> dict[str, Any]:
        """The packages of a layer with all below it as an SPDX 2.3 document, ready to be written as JSON."""
        from roost.spdx import document

        return document(self.store, layer, self.installed(layer))

    def leftovers(self) -> list[Leftover]:
        """What a crash or a power cut left: what ``repair`` would clear or leave to a person. Changes nothing."""
        from roost.repair import find

        return find(self.store)

    def repair(self) -> list[Leftover]:
        """Clears what a crash or a power cut left, as far as Roost's own records name it; each with what became of it."""
        from roost.repair import repair

        self._open()
        return repair(self.store)

    def gc(self, *, dry_run: bool = False) -> list[Removal]:
        """Removes the layers that no definition, session or name uses; with ``dry_run``, only says which."""
        from roost.gc import collect

        self.prepare()
        chains = [item.layers for item in self.plan().machines] if self.definition else []
        return collect(self.store, chains, dry_run=dry_run)
