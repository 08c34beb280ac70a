"""``@NAME`` among packages: a set that the distribution's recipe has, for this release and architecture.

An element of a set is what the family's manager takes for a package, with the architectures that it is for behind it
where it is not for all: ``libc6-i386 [amd64]``, as in a Debian control file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, structs

from roost.definition.mistakes import listed, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from roost.definition.model import Contents, DistributionFacts, Obsolete, Resolved


class Sets(Struct, frozen=True, kw_only=True):
    """What is known of a system's packages; ``system`` is how it is called in messages, empty when nobody knows it."""

    system: str = ""
    release: str = ""
    architecture: str = ""
    sets: dict[str, list[str]] = {}
    obsolete: dict[str, Obsolete] = {}


class Found(Struct, frozen=True, kw_only=True):
    """Packages with their sets replaced. ``unknown`` are the indexes of sets that there are not, with the message."""

    packages: tuple[str, ...]
    notes: tuple[str, ...] = ()
    unknown: tuple[tuple[int, str], ...] = ()


def sets_of(name: str, facts: DistributionFacts, release: str, architecture: str) -> Sets:
    """Those of a distribution's release; of one that the recipe does not know, the recipe's own."""
    return Sets(
        system=f"{name} {release}".rstrip(),
        release=release,
        architecture=architecture,
        sets=facts.sets | facts.release_sets.get(release, {}),
        obsolete=facts.obsolete | facts.release_obsolete.get(release, {}),
    )


def is_open(packages: Iterable[str]) -> bool:
    """Whether there is a set among them."""
    return any(name[:1] == "@" for name in packages)


def replaced(packages: Sequence[str], known: Sets) -> Found:
    """Packages with their sets, and with names of another time, replaced; each is there once."""
    names: dict[str, None] = {}
    notes: list[str] = []
    unknown: list[tuple[int, str]] = []
    for index, name in enumerate(packages):
        if name[:1] != "@":
            names[_of_today(name, known, notes)] = None
        elif name[1:] not in known.sets:
            unknown.append((index, _unknown(name, known)))
        else:
            names |= dict.fromkeys(_for(known.sets[name[1:]], known.architecture))
    return Found(packages=tuple(names), notes=tuple(notes), unknown=tuple(unknown))


def with_system(machine: Resolved, known: Sets, why: str) -> Resolved:
    """A machine whose distribution the definition does not say, once it is known; ``why`` it is not, or not yet."""
    return structs.replace(machine, layers=tuple(_settled(layer, known, why) for layer in machine.layers))


def has_open(machine: Resolved) -> bool:
    """Whether a machine has sets that nobody has replaced yet."""
    return any(is_open((*one.packages, *(n for c in one.choices.values() for n in c))) for one in machine.layers)


def _settled(layer: Contents, known: Sets, why: str) -> Contents:
    if not is_open(layer.packages):
        return layer
    if not known.system:
        return structs.replace(layer, open=why)
    found = replaced(layer.packages, known)
    if found.unknown:
        return structs.replace(layer, open="; ".join(message for _, message in found.unknown))
    return structs.replace(layer, packages=found.packages, notes=found.notes)


def _for(elements: Iterable[str], architecture: str) -> list[str]:
    found = []
    for element in elements:
        name, bracket, rest = element.partition(" [")
        if not bracket or architecture in rest.rstrip("]").split():
            found.append(name)
    return found


def _of_today(name: str, known: Sets, notes: list[str]) -> str:
    old = known.obsolete.get(name)
    if old is None or known.release in old.releases:
        return name
    notes.append(f"{name} is not in {known.system}: {old.use} instead ({old.why})")
    return old.use


def _unknown(name: str, known: Sets) -> str:
    near = nearest(name[1:], known.sets)
    there = listed([f"@{one}" for one in sorted(known.sets)])
    also = f"did you mean '@{near}'?" if near else f"it has {there}" if there else "it has none: name the packages"
    return f"{known.system} has no package set '{name}', {also}"
