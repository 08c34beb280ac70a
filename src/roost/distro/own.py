"""Recipes that come with a definition: ``recipes/NAME.toml`` beside it, of the same keys as those that Roost ships.

With ``extends`` a recipe says only what is different: tables (mirrors, packages, sets, releases, and a release of the same
name) are merged key by key, everything else is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from typing import Any

from msgspec import NODEFAULT, convert, defstruct, inspect, structs, to_builtins

from roost.definition import checks
from roost.definition.loader import read_table
from roost.definition.mistakes import Document, Place, report
from roost.definition.model import Base, Definition, OwnRecipe
from roost.distro import own_checks
from roost.distro.recipe import RECIPES, Recipe, path_of, recipe
from roost.errors import DefinitionError

_HINT = "docs/definition.md, Own distributions, describes the keys; Roost's own recipes are examples"
_NO_PART = ("sets", "obsolete", "notes", "releases", "name")  # of a base's identity


def read(path: str, shown: str) -> tuple[Recipe, OwnRecipe]:
    """A recipe, and what of it counts for the bases made from it.

    Raises DefinitionError with a line for every mistake of the file.
    """
    text, table = read_table(shown if os.path.exists(shown) else path)
    document = Document(name=shown, directory=os.path.dirname(path), text=text, definition=Definition())
    written = _cleaned(document, table)
    stem = os.path.basename(path).removesuffix(".toml")
    place = Place(document, ())
    own_checks.words(place, written)
    whole = _whole(place, dict(written), stem)
    report([document], shown, _HINT)
    found = convert(whole, Recipe)
    keyrings = own_checks.check(place, found, set(written.get("releases") or ()))
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
