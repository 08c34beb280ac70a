"""Recipes that come with a definition: ``recipes/NAME.toml`` beside it, of the same keys as those that Roost ships.

With ``extends`` a recipe says only what is different: tables (mirrors, packages, sets, releases, and a release of the same
name) are merged key by key, everything else is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from typing import TYPE_CHECKING, Any

from msgspec import NODEFAULT, convert, defstruct, inspect, structs, to_builtins

from roost.definition import checks
from roost.definition.families import is_family
from roost.definition.loader import read_table
from roost.definition.mistakes import Document, Place, listed, report
from roost.definition.model import Base, Definition, OwnRecipe
from roost.definition.parts import read_regular
from roost.distro.recipe import RECIPES, Recipe, Release, path_of, recipe
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterable

KEYRING_MOST = 16 << 20
"""Bytes of a keyring beside a recipe."""
_HINT = "docs/definition.md, Own distributions, describes the keys; Roost's own recipes are examples"
_NO_PART = ("sets", "obsolete", "notes", "releases", "name")  # of a base's identity


def read(path: str, shown: str) -> tuple[Recipe, OwnRecipe]:
    """A recipe, and what of it counts for the bases made from it.

    Raises DefinitionError with a line for every mistake of the file.
    """
    text, table = read_table(shown if os.path.exists(shown) else path)
    document = Document(name=shown, directory=os.path.dirname(path), text=text, definition=Definition())
    cleaned = _cleaned(document, table)
    stem = os.path.basename(path).removesuffix(".toml")
    place = Place(document, ())
    whole = _whole(place, cleaned, stem)
    report([document], shown, _HINT)
    found = convert(whole, Recipe)
    keyrings = _check(place, found, set(cleaned.get("releases") or ()))
    report([document], shown, _HINT)
    return found, OwnRecipe(
        path=path, digests={name: _digest(found, name) for name in found.releases}, keyrings=keyrings
    )


def recipe_of(base: Base) -> Recipe | None:
    """The recipe of a base, shipped or own; None when no recipe makes it.

    Raises DefinitionError when an own one has changed since the definition was read.
    """
    if not base.recipe:
        return recipe(base.distribution) if base.distribution else None
    found, own = read(base.recipe, base.recipe)
    if own.digests.get(base.release) != base.recipe_digest:
        raise DefinitionError(f"the recipe changed since the definition was read: {base.recipe}", hint="start again")
    return found


# -- the file


def _cleaned(document: Document, table: dict[str, Any]) -> dict[str, Any]:
    """The table without what has no place in it."""
    from roost.definition.shape import clean_as

    optional = [(field.name, field.type, None) for field in structs.fields(Recipe) if field.name != "mirrors_of"]
    more = [("extends", str, ""), ("inherit_releases", bool, True)]
    file = defstruct("RecipeFile", [*more, *optional], rename="kebab", kw_only=True)
    found = clean_as(table, inspect.type_info(file))
    document.mistakes |= found.mistakes
    document.skipped |= found.skipped
    document.kept |= found.kept
    return {key: found.table[key] for key in table if key in found.table}


def _whole(place: Place, table: dict[str, Any], stem: str) -> dict[str, Any]:
    """The table over that of what it extends."""
    name = table.setdefault("name", stem)
    if name != stem:
        place.at("name").wrong(f"the file is called {stem}.toml: leave the key out, or write name = {stem!r}")
    place.at("name").wrong(checks.profile_name(stem))
    parent, inherits = table.pop("extends", ""), table.pop("inherit-releases", True)
    below: dict[str, Any] = {}
    if parent in RECIPES:
        with open(path_of(parent), "rb") as stream:
            below = tomllib.load(stream)
        if not inherits:
            del below["releases"]
        if "architectures" in table:  # of those it has not, the other's releases have none either
            for release in below.get("releases", {}).values():
                there = [one for one in release.get("architectures", ()) if one in table["architectures"]]
                release["architectures"] = there or list(table["architectures"])
        if "mirrors" not in table:
            below["mirrors-of"] = parent
    elif parent:
        near = place.did_you_mean(parent, RECIPES) or f": one of {', '.join(RECIPES)}"
        place.at("extends").wrong(f"Roost ships no recipe '{parent}'{near}")
    whole = _merged(below, table)
    whole.setdefault("version", 1)
    if not parent:
        for field in structs.fields(Recipe):
            key = field.encode_name
            needed = field.default is NODEFAULT and field.default_factory is NODEFAULT
            if needed and key not in whole and not place.at(key).skipped:
                place.at(key).wrong('missing (extends = "debian", say, has the rest of another recipe)')
    elif not whole.get("releases"):
        place.at("releases").wrong("there is no release: add a table [releases.NAME]")
    return whole


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for key, value in above.items():
        there = found.get(key)
        found[key] = _merged(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return found


def _digest(found: Recipe, release: str) -> str:
    """What decides about a base of this release: not its sets, whose packages count where they are installed."""
    parts = [
        {
            key: value
            for key, value in to_builtins(one).items()
            if key not in _NO_PART and value not in ("", [], {}, False)
        }
        for one in (found, found.releases[release])
    ]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# -- its values


def _check(place: Place, found: Recipe, own: set[str]) -> dict[str, tuple[str, str]]:
    """Tells every value that cannot be, of the recipe and its ``own`` releases; the keyrings beside it, by release."""
    if not is_family(found.family):
        near = place.did_you_mean(found.family, checks.FAMILIES) or f", one of {', '.join(checks.FAMILIES)}"
        place.at("family").wrong(f"unknown family of distributions{near}")
    shipped = [one for one in map(recipe, RECIPES) if one.family == found.family]
    _known(place.at("bootstraps"), found.bootstraps, [word for one in shipped for word in one.bootstraps])
    _known(place.at("variants"), found.variants, [word for one in shipped for word in one.variants])
    for key, empty in (("bootstraps", not found.bootstraps), ("architectures", not found.architectures)):
        place.at(key).wrong("the list is empty" if empty else "")
    if found.variants and found.variant not in found.variants:
        place.at("variant").wrong(f"no variant {found.variant!r}: it has {', '.join(found.variants)}")
    if found.family == "apt" and not found.components:
        place.at("components").wrong('missing: ["main"], say')
    for key, table in (("mirrors", found.mirrors), ("ports-mirrors", found.ports_mirrors)):
        for name, url in table.items():
            place.at(key, name).wrong(checks.mirror(url))
    place.at("mirrors").wrong("" if "main" in found.mirrors else "there is no mirror 'main'")
    _check_sets(place, found.sets)
    keyrings = {}
    for name, release in found.releases.items():
        here = place.at("releases", name)
        if name in own:
            here.wrong(checks.profile_name(name) and "a release's name has a-z, 0-9, '-', '.', '_' and '+'")
            _check_release(here, name, release, found)
        where = here if release.keyring else place
        if path := _beside(where.at("keyring"), release.keyring or found.keyring):
            keyrings[name] = path
    return keyrings


def _check_release(here: Place, name: str, release: Release, found: Recipe) -> None:
    if not release.suites:
        here.at("suites").wrong(f'there is none: suites = [{{ name = "{name}" }}], say')
    elif found.family == "apt" and release.suites[0].name != name:
        here.at("suites", 0, "name").wrong(f"the first suite bears the release's name: '{name}'")
    mirrors = {**found.mirrors, **release.mirrors}
    for index, suite in enumerate(release.suites):
        if suite.mirror not in mirrors:
            here.at("suites", index, "mirror").wrong(f"no mirror '{suite.mirror}': there are {', '.join(mirrors)}")
        try:
            suite.path.format(release="", version="", architecture="", variant="")
        except (ValueError, LookupError, AttributeError):
            known = "{release}, {version}, {architecture} and {variant}"
            here.at("suites", index, "path").wrong(f"not a path {suite.path!r}: it may have {known} in it")
    for index, architecture in enumerate(release.architectures):
        known = "" if architecture in found.architectures else f"not among the recipe's: {listed(found.architectures)}"
        here.at("architectures", index).wrong(known and f"{architecture!r} is {known}")
    for key, url in release.mirrors.items():
        here.at("mirrors", key).wrong(checks.mirror(url))
    packages = {**found.packages, **release.packages}
    for variant in found.variants if found.family in ("dnf", "zypper") else ():
        here.wrong("" if packages.get(variant) else f"no packages are said for the variant '{variant}'")
    _check_sets(here, release.sets)


def _check_sets(place: Place, sets: dict[str, list[str]]) -> None:
    for name, elements in sets.items():
        here = place.at("sets", name)
        here.wrong(checks.package(f"@{name}") and "a set's name has a-z, 0-9 and '-'")
        for index, element in enumerate(elements):
            package, bracket, rest = element.partition(" [")
            good = bool(package) and package.isprintable() and " " not in package and package[0] != "-"
            good = good and (
                not bracket or (rest.endswith("]") and checks.made_of(rest[:-1], checks.LOWER + checks.DIGITS + " "))
            )
            here.at(index).wrong("" if good else f'not a package {element!r}: NAME, or "NAME [ARCHITECTURE ...]"')


def _known(place: Place, words: Iterable[str], known: list[str]) -> None:
    for index, word in enumerate(words):
        if known and word not in known:
            place.at(index).wrong(f"this family has no {word!r}: {', '.join(dict.fromkeys(known))}")


def _beside(place: Place, keyring: str) -> tuple[str, str] | None:
    """A keyring that is a file beside the recipe, with its digest; what begins with '/' is a file of the host's."""
    if keyring.startswith("/"):
        return None
    path = os.path.join(place.document.directory, keyring)
    try:
        content = read_regular(path, most=KEYRING_MOST)
    except OSError as e:
        place.wrong(f"{keyring or 'missing'}: {e.strerror or e}; a path, or a file beside the recipe")
        return None
    place.wrong(checks.keys(content))
    return path, hashlib.sha256(content).hexdigest()
