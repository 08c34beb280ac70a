"""What the loader has to know of distributions, taken from their recipes; and the planner, of a store and of the host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from roost import plan as planner
from roost.definition.model import DistributionFacts, OwnRecipe
from roost.distro.recipe import RECIPES, families_path, file_of, is_driven, path_of, recipe, version_of
from roost.errors import HostError, StoreError
from roost.host import architectures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from roost.definition.model import Base, Resolved
    from roost.definition.package_sets import Sets
    from roost.distro.recipe import Recipe
    from roost.store import Store


def architecture() -> str:
    """The host's, by Debian's name; an unknown one by the kernel's."""
    return architectures.of_host()


def not_runnable(machines: Iterable[Resolved]) -> dict[str, HostError]:
    """The machines whose programs this host cannot run, as far as their definition says what they are made for; and why."""
    found: dict[str, HostError] = {}
    known: dict[tuple[str, bool], HostError | None] = {}
    for machine in machines:
        key = (machine.base.architecture, machine.private_users)
        if key[0] in ("", architectures.of_host()):
            continue
        if key not in known:
            known[key] = _why_not(*key)
        if (error := known[key]) is not None:
            found[machine.name] = error
    return found


def _why_not(architecture: str, private_users: bool) -> HostError | None:  # noqa: FBT001  # a key's two parts
    from roost.host import foreign  # few machines are of another architecture

    try:
        foreign.check(architecture, private_users=private_users)
    except HostError as e:
        return e
    return None


def of_distribution(name: str) -> DistributionFacts | None:
    """The facts of a distribution, None when there is no recipe for it."""
    return _facts(recipe(name), None) if name in RECIPES else None


def of_definition(path: str) -> Callable[[str], DistributionFacts | None]:
    """The same, with the recipes beside the definition at ``path``. What it returns raises DefinitionError for a bad one."""

    def facts(name: str) -> DistributionFacts | None:
        file = own_path(path, name)
        return of_own(file, file) if name not in RECIPES and os.path.lexists(file) else of_distribution(name)

    return facts


def own_path(path: str, name: str) -> str:
    """Where the recipe of a distribution would be beside the definition at ``path``, a file or a directory."""
    from roost.definition.loader import RECIPES as OWN

    return os.path.join(path if os.path.isdir(path) else os.path.dirname(path), OWN, f"{name}.toml")


def of_own(path: str, shown: str) -> DistributionFacts:
    """The facts of a recipe that came with a definition. Raises DefinitionError with a line for every mistake of it."""
    from roost.distro.own import read  # few definitions have one

    return _facts(*read(path, shown))


OF_DISTRIBUTIONS: dict[str, Any] = {"facts": of_distribution, "known": RECIPES, "own": of_own}
"""What ``roost.definition.load`` asks for distributions."""


def _facts(data: Recipe, own: OwnRecipe | None) -> DistributionFacts:
    return DistributionFacts(
        family=data.family,
        architectures=data.architectures,
        releases=sorted(data.releases, key=lambda name: _age(name, data), reverse=True),
        release_architectures={n: r.architectures for n, r in data.releases.items() if r.architectures},
        components=data.components,
        bootstraps=data.bootstraps,
        bootstrap=data.bootstraps[0],
        variants=data.variants,
        variant=data.variant,
        keyring=data.keyring,
        versions={r.version: n for n, r in data.releases.items() if r.version and r.version not in data.releases},
        sets=data.sets,
        release_sets={n: r.sets for n, r in data.releases.items() if r.sets},
        obsolete=data.obsolete,
        release_obsolete={n: r.obsolete for n, r in data.releases.items() if r.obsolete},
        own=own,
    )


_DIGITS_MOST = 18
"""Of a part of a version. Python takes none of more than 4300."""


def _age(name: str, data: Recipe) -> tuple[bool, list[int]]:
    """What has no number is newer than all that have one."""
    version = data.releases[name].version or (name if name[:1].isdigit() else "")
    words = version.lstrip("v").replace("-", ".").split(".")
    numbers = [int(word) for word in words if word.isdecimal() and len(word) <= _DIGITS_MOST]
    return not numbers, numbers


def inputs(machines: Iterable[Resolved]) -> set[str]:
    """The files of this package, and of those that bring families, that decide which layers these machines have."""
    machines = list(machines)
    recipes = {path_of(one.base.distribution) for one in machines if one.base.distribution in RECIPES}
    return {*recipes, *filter(None, {file_of(one.family) for one in machines}), planner.__file__, families_path()}


def versions(distribution: str, family: str) -> list[int]:
    """The versions that are part of a layer's identity: the recipe's (of a base) and the family's."""
    own = [recipe(distribution).version] if distribution else []
    return [*own, version_of(family)] if family else own


class Names(Mapping[str, tuple[str, tuple[str, ...], str]]):
    """The committed layers, read when a plan asks for one: a store may have thousands."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, name: str) -> tuple[str, tuple[str, ...], str]:
        try:
            layer = self._store.layer(self._store.named(name))
        except StoreError:
            raise KeyError(name) from None
        return layer.digest, (*layer.parents, layer.digest), layer.family

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.names())

    def __len__(self) -> int:
        return len(self._store.names())


def known(
    store: Store, last: Mapping[str, Sequence[tuple[str, str, dict[str, Any]]]], refreshed: Mapping[str, str],
    definition: str = "",
) -> planner.Known:  # fmt: skip
    """What the planner may know of a store; sources of bases are looked at when a plan has one.

    ``definition`` is its path, for the recipes beside it.
    """

    seen: dict[Base, planner.Found] = {}

    def found(base: Base) -> planner.Found:
        from roost.bases.known import Origins

        if base not in seen:  # machines share one, and a directory takes a while
            seen[base] = Origins(store).find(base)
        return seen[base]

    def family_of(digest: str) -> str:
        try:
            return store.layer(digest).family
        except StoreError:
            return ""

    def sets_of_tree(digest: str) -> tuple[Sets, str]:
        from roost.system import sets_in  # few machines stand on such a tree

        return sets_in(store, digest, of_definition(definition), architecture())

    return planner.Known(
        present=Present(store), last=last, names=Names(store), refreshed=refreshed, found=found, family_of=family_of,
        sets_of=sets_of_tree,
        drives=is_driven,
    )  # fmt: skip


def named(store: Store, bases: Iterable[Base], definition: str) -> set[str]:
    """The files that say what committed layers and sources of bases mean now: of the definition at that path, its recipes
    of their distributions, too.
    """
    names = set()
    for base in bases:
        if base.from_layer:
            names.add(f"{store.state}/names/{base.from_layer}")
            names |= _own_of(store, base.from_layer, definition)
        elif base.source:
            names |= set(_inputs(store, base) or ())
    return names


def _own_of(store: Store, name: str, definition: str) -> set[str]:
    from roost.system import distribution_of

    try:
        found = distribution_of(store, store.named(name))
    except StoreError:
        return set()
    path = own_path(definition, found)
    return {path} if found and found not in RECIPES and os.path.lexists(path) else set()


def is_stamped(store: Store, base: Base) -> bool:
    """Whether those files' stamps say all of a base; not so of a directory."""
    return not base.source or _inputs(store, base) is not None


def _inputs(store: Store, base: Base) -> tuple[str, ...] | None:
    from roost.bases.known import Origins

    return Origins(store).inputs(base)


class Present:
    """Whether the store has a layer, asked only for those that a plan names."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __contains__(self, digest: object) -> bool:
        return self._store.has(str(digest))
