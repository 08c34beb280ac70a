"""The values of a recipe that came with a definition: what cannot be is told at its place.

All of them end up in commands, addresses and configuration files, which root reads.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any

from roost.definition import checks
from roost.definition.families import is_family
from roost.definition.mistakes import listed
from roost.definition.parts import read_regular
from roost.distro.recipe import RECIPES, recipe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from roost.definition.mistakes import Place
    from roost.distro.recipe import Recipe, Release

KEYRING_MOST = 16 << 20
"""Bytes of a keyring beside a recipe."""
_WORDS = re.compile(r"\{(?:release|version|architecture|variant)\}")
_PATH = re.compile(r"[A-Za-z0-9._/+~:=-]*")
_FILE = re.compile(r"/[A-Za-z0-9._/+~-]+")


def words(place: Place, value: Any) -> None:
    """Tells every text, wherever it is, that is not one line of what can be printed."""
    if isinstance(value, dict):
        for key, inner in value.items():
            place.at(key).wrong(checks.control(key))
            words(place.at(key), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            words(place.at(index), inner)
    elif isinstance(value, str):
        place.wrong(checks.control(value))


def check(place: Place, found: Recipe, own: set[str]) -> dict[str, tuple[str, str]]:
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
    for key, names in (("components", found.components), ("architectures", found.architectures)):
        for index, name in enumerate(names):
            place.at(key, index).wrong(checks.component(name))
    for name, own_name in found.architecture_names.items():
        place.at("architecture-names", name).wrong(checks.component(own_name))
    place.at("debootstrap-script").wrong(found.debootstrap_script and checks.component(found.debootstrap_script))
    for key, table in (("mirrors", found.mirrors), ("ports-mirrors", found.ports_mirrors)):
        for name, url in table.items():
            place.at(key, name).wrong(checks.mirror(url))
    place.at("mirrors").wrong("" if "main" in found.mirrors else "there is no mirror 'main'")
    _check_sets(place.at("sets"), found.sets)
    _check_packages(place.at("packages"), found.packages)
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
        here.at("suites", index, "name").wrong(checks.suite(suite.name))
        if not _PATH.fullmatch(_WORDS.sub("", suite.path)) or ".." in suite.path.split("/"):
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
    _check_sets(here.at("sets"), release.sets)
    _check_packages(here.at("packages"), release.packages)


def _check_sets(place: Place, sets: dict[str, list[str]]) -> None:
    for name, elements in sets.items():
        here = place.at(name)
        here.wrong(checks.package(f"@{name}") and "a set's name has a-z, 0-9 and '-'")
        for index, element in enumerate(elements):
            package, bracket, rest = element.partition(" [")
            good = _is_package(package)
            if bracket:
                good = good and rest[-1:] == "]" and checks.made_of(rest[:-1], f"{checks.LOWER}{checks.DIGITS} ")
            here.at(index).wrong("" if good else f'not a package {element!r}: NAME, or "NAME [ARCHITECTURE ...]"')


def _check_packages(place: Place, packages: dict[str, list[str]]) -> None:
    for variant, names in packages.items():
        for index, name in enumerate(names):
            place.at(variant, index).wrong("" if _is_package(name) else f"not a package {name!r}")


def _is_package(name: str) -> bool:
    return bool(re.fullmatch(r"[@A-Za-z0-9/_][A-Za-z0-9+.:~^_/@()=-]*", name)) and name[-1] != "-"


def _known(place: Place, words: Iterable[str], known: list[str]) -> None:
    for index, word in enumerate(words):
        if known and word not in known:
            place.at(index).wrong(f"this family has no {word!r}: {', '.join(dict.fromkeys(known))}")


def _beside(place: Place, keyring: str) -> tuple[str, str] | None:
    """A keyring that is a file beside the recipe, with its digest; what begins with '/' are files of the host's."""
    if keyring.startswith("/"):
        bad = [one for one in _WORDS.sub("", keyring).split() if not _FILE.fullmatch(one)]
        place.wrong(f"not the path of a keyring {bad[0]!r}" if bad else "")
        return None
    path = os.path.join(place.document.directory, keyring)
    try:
        content = read_regular(path, most=KEYRING_MOST)
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        why = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        place.wrong(f"{keyring or 'missing'}: {why}; a path, or a file beside the recipe")
        return None
    place.wrong(checks.keys(content))
    return path, hashlib.sha256(content).hexdigest()
