"""Recipes of profiles: ``recipe = "NAME"`` and ``options`` in a profile stand for its packages, users, files and scripts.

A recipe is a module with the names of the protocol ``Recipe``. What its profile's layer has is shared by the machines that
need the same; what is different on each machine goes into the machine's own layer.
"""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct, inspect, structs

from roost.definition.mistakes import listed
from roost.definition.shape import clean_as

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from roost.definition.mistakes import Place
    from roost.definition.model import FileContent, Script, User
    from roost.definition.parts import Part

RECIPES = {"sai-builder": "roost.definition.sai_builder"}


class Host(Struct, frozen=True, kw_only=True):
    """The machine that a recipe is for; all but ``name`` are empty when it is made from a layer."""

    name: str
    distribution: str
    release: str
    architecture: str
    family: str


class Expansion(Struct, frozen=True, kw_only=True):
    """What a recipe stands for on one machine. ``packages`` are by family, of every family when the machine's is not known;
    ``own`` are files of the machine's own layer. ``unique`` are names that no two machines may have, with what they are.
    """

    packages: dict[str, tuple[str, ...]] = {}
    users: tuple[User, ...] = ()
    files: dict[str, FileContent] = {}
    scripts: tuple[Script, ...] = ()
    services: tuple[str, ...] = ()
    own: dict[str, FileContent] = {}
    unique: dict[str, str] = {}


class Recipe(Protocol):
    """A recipe's module. ``Options`` has every key that may be written; all of them have a default."""

    Options: type[Struct]

    def read(self, place: Place, options: Any) -> Any:
        """Options as written in one table, with their values checked and their files read; mistakes are told there."""

    def merged(self, below: Any, above: Any) -> Any:
        """Two of what ``read`` returned, of a profile and a machine, say; what ``above`` says counts."""

    def expand(self, place: Place, read: Any, host: Host) -> Expansion:
        """What the options mean on a machine; mistakes of them as a whole are told at ``place``."""

    def files(self) -> tuple[str, ...]:
        """The files that the recipe itself is in."""


def of(name: str) -> Recipe:
    """The module of a recipe that there is."""
    module: Recipe = import_module(RECIPES[name])
    return module


def options(place: Place, name: str, table: dict[str, Any]) -> Any:
    """Options as written, read by their recipe; every mistake is told at its place, and then there are none (None)."""
    from msgspec import convert

    recipe = of(name)
    place.document.inputs.update((__file__, *recipe.files()))
    cleaned = clean_as(table, inspect.type_info(recipe.Options))
    for keys, message in cleaned.mistakes:
        place.at(*keys).wrong(message)
    read = recipe.read(place, convert(cleaned.table, recipe.Options))
    path = place.document.original(place.keys)
    return None if any(keys[: len(path)] == path for keys, _ in place.document.mistakes) else read


def check_names(
    place: Place, written: Collection[str], known: Collection[str], profiles: Collection[str], own: Sequence[str] | None
) -> bool:
    """Tells which options of a machine are for no recipe of its profiles (``own``; None: of ``[defaults]``, for whom it fits).

    False: there was one, so that those that were meant may be missing elsewhere.
    """
    for name in written:
        if name not in profiles:
            near = place.did_you_mean(name, known) or f", the profiles with a recipe are {listed(known) or 'none yet'}"
            place.at(name).wrong(f"no profile '{name}'{near}")
        elif name not in known:
            place.at(name).wrong(f"profile '{name}' has no recipe, so it has no options")
        elif own is not None and name not in own:
            place.at(name).wrong(f"this machine has not the profile '{name}'")
    return all(name in known and (own is None or name in own) for name in written)


def expanded(
    place: Place, recipe: tuple[str, Any], above: Sequence[tuple[Place, dict[str, Any]]], host: Host
) -> Expansion:
    """What a profile's recipe stands for on a machine, with the options of the defaults and the machine above its own."""
    name, read = recipe
    module = of(name)
    every = [read, *(options(where, name, table) for where, table in above)]
    if any(one is None for one in every):
        return Expansion()  # what is missing without them is not told as well
    return module.expand(place, reduce(module.merged, every), host)


def added(one: Part, found: Expansion) -> Part:
    """A profile's part with what its recipe stands for; what the profile itself says comes after it, and its files win."""
    own = one.packages or {}
    names: Mapping[str, tuple[str, ...]] = found.packages or own
    packages = {
        family: tuple(dict.fromkeys((*found.packages.get(family, ()), *(own.get(family) or own.get("", ())))))
        for family in names
    }
    return structs.replace(
        one, packages=packages, users=(*found.users, *(one.users or ())), files=found.files | one.files,
        scripts=(*found.scripts, *(one.scripts or ())), services=tuple(dict.fromkeys((*found.services, *(one.services or ())))),
    )  # fmt: skip
