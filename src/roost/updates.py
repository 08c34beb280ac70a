"""What making layers anew has changed: packages by name, in the lowest layer that shows it; and whether anything has."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from roost.errors import BusyError, StoreError
from roost.manifest import settings
from roost.packages import Lists

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from roost.distro.recipe import Package
    from roost.plan import LayerPlan, MachinePlan, Plan
    from roost.store import Store

# Files in /etc that differ from one making to the next: the day of a password's last change, and where ld.so looks.
_DATED = frozenset({"/etc/shadow", "/etc/shadow-", "/etc/ld.so.cache"})


class Change(Struct, frozen=True, kw_only=True, rename={"before": "from", "after": "to"}):
    """A package and its versions; ``before`` empty: it was added, ``after`` empty: it was removed."""

    name: str
    before: str = ""
    after: str = ""


class Updated(Struct, frozen=True, kw_only=True):
    """A layer that was made in the place of another.

    ``before`` is that one's digest, empty when it is not known any more, or when there was none. ``changes`` are those
    of its packages that no layer below it shows. ``compared``: whether there was a list of packages to compare with.
    """

    layer: str
    digest: str
    before: str
    machines: tuple[str, ...]
    changes: tuple[Change, ...]
    compared: bool = True


class Update:
    """An update at work: what there was before it, and what came of it."""

    def __init__(
        self, store: Store, older: Plan, last: Mapping[str, Sequence[tuple[str, str, dict[str, Any]]]]
    ) -> None:
        self._store = store
        self._older = older
        self._last = {name: {role: digest for role, digest, _ in items} for name, items in last.items()}
        self._lists = Lists(store)

    def needless(self, plan: Plan, stamps: Mapping[str, str]) -> set[str]:
        """The identities of ``stamps`` all of whose machines are, but for times, what they were before."""
        layers = {layer.digest: layer for layer in plan.layers}
        same: dict[str, bool] = {}
        for was, now in zip(self._older.machines, plan.machines, strict=True):
            own = [layers[digest] for digest in now.layers if digest in layers]
            root = next((layer.identity for layer in own if layer.identity in stamps), "")
            there = all(self._store.has(digest) for digest in (*was.layers, *now.layers))
            same[root] = same.get(root, True) and there and self._is_same(was, own)
        return {root for root, is_same in same.items() if root and is_same}

    def _is_same(self, was: MachinePlan, own: Sequence[LayerPlan]) -> bool:
        roles = {layer.digest: _role(layer) for layer in self._older.layers}
        old = {roles[digest]: digest for digest in was.layers if digest in roles}
        parent = own[0].parent if own else ""
        for layer in own:
            before = old.get(_role(layer), parent)  # one that was not there: what it stands on
            parent = before
            if before == layer.digest:
                continue
            if layer.facts.get("scripts"):
                return False
            if self._listed(before, layer.family) != self._listed(layer.digest, layer.family):
                return False
            if layer.kind != "upgrade" and self._settings(before) != self._settings(layer.digest):
                return False
        return True

    def _settings(self, digest: str) -> dict[str, bytes]:
        found = settings(f"{self._store.state}/layers/{digest}/manifest", b"etc")
        return {path: words for path, words in found.items() if path not in _DATED}

    def _packages(self, digest: str, family: str) -> dict[str, str] | None:
        """Of a layer with all below it; None when it is not there any more, or nobody listed them."""
        try:
            chain = (*self._store.layer(digest).parents, digest)
        except StoreError:
            return None
        return self._lists.of(chain, family)

    def _listed(self, digest: str, family: str) -> frozenset[Package] | None:
        """The same with all that is known of them: a package that was built again may have the version that it had."""
        try:
            return self._lists.whole((*self._store.layer(digest).parents, digest), family)
        except StoreError:
            return None

    def discard(self, digests: set[str]) -> None:
        """Removes layers that were made for nothing, what is above first; one that somebody uses already stays."""
        from roost.repair import remove

        parents = {}
        for digest in digests:
            with contextlib.suppress(StoreError):
                parents[digest] = self._store.layer(digest).parents
        for digest in sorted(parents, key=lambda one: -len(parents[one])):
            with contextlib.suppress(BusyError):
                remove(self._store, digest)

    def report(self, plan: Plan) -> tuple[Updated, ...]:
        """What is another layer now than when its machines were last built, each once whoever shares it."""
        layers = {layer.digest: layer for layer in plan.layers}
        found: dict[tuple[str, str, tuple[Change, ...]], Updated] = {}
        for item in plan.machines:
            if all(self._store.has(digest) for digest in item.layers):
                for one in self._of_machine(item, layers):
                    key = (one.digest, one.before, one.changes)
                    users = found[key].machines if key in found else ()
                    found[key] = Updated(
                        layer=one.layer, digest=one.digest, before=one.before, changes=one.changes, compared=one.compared,
                        machines=(*users, item.machine.name),
                    )  # fmt: skip
        return tuple(found.values())

    def _family(self, item: MachinePlan) -> str:
        """As it was found in the tree, which a plan of a given one does not say of each of its layers."""
        with contextlib.suppress(StoreError):
            return next((one for digest in reversed(item.layers) if (one := self._store.layer(digest).family)), "")
        return ""

    def _of_machine(self, item: MachinePlan, layers: Mapping[str, LayerPlan]) -> list[Updated]:
        last = self._last.get(item.machine.name, {})
        family = self._family(item)
        found = []
        before: dict[str, str] | None = None
        below: set[Change] = set()
        for number, digest in enumerate(item.layers):
            layer = layers.get(digest)
            after = self._lists.of(item.layers[: number + 1], family)
            if layer is None:  # a committed one, which is what it was
                before = after
                continue
            earlier = last.get(_role(layer), "")
            if earlier:
                before = self._packages(earlier, family)
            known = before is not None and after is not None
            changes = compare(before or {}, after or {}) if known else ()
            if digest != earlier:
                new = tuple(change for change in changes if change not in below)
                found.append(
                    Updated(layer=layer.name, digest=digest, before=earlier, machines=(), changes=new, compared=known)
                )  # fmt: skip
            below = set(changes)
        return found


def compare(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """What differs, by name."""
    names = sorted({*before, *after})
    every = (Change(name=name, before=before.get(name, ""), after=after.get(name, "")) for name in names)
    return tuple(one for one in every if one.before != one.after)


def _role(layer: LayerPlan) -> str:
    """As in a definition's record: what is kept of a machine's layers."""
    return "base" if layer.kind == "base" else layer.name
