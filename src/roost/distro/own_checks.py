"""The values of a recipe that came with a definition: what cannot be is told at its place.

All of them end up in commands, addresses and configuration files, which root reads.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any

from roost.definition import checks, origins
from roost.definition.families import is_family
from roost.definition.mistakes import listed
from roost.definition.parts import read_regular
from roost.distro.keyring_files import keyring_path
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
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}")
"""Of a version, or what a distribution calls an architecture: they stand in paths."""
_KEY = re.compile(r"[A-Za-z0-9_]+")
_VALUE = re.compile(r"[^\s\[\]]*")


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
    for index, name in enumerate(found.components):
        place.at("components", index).wrong(checks.component(name))
    _check_architectures(place, found)
    place.at("debootstrap-script").wrong(_script(found.debootstrap_script))
    for key, table in (("mirrors", found.mirrors), ("ports-mirrors", found.ports_mirrors)):
        for name, url in table.items():
            place.at(key, name).wrong(checks.mirror(url))
    place.at("mirrors").wrong("" if "main" in found.mirrors else "there is no mirror 'main'")
    _check_packages(place, found, found.family)
    keyrings = {}
    for name, release in found.releases.items():
        here = place.at("releases", name)
        if name in own:
            here.wrong(checks.profile_name(name) and "a release's name has a-z, 0-9, '-', '.', '_' and '+'")
            _check_release(here, name, release, found)
        _check_whole(here if name in own else place, release, found)
        where = here if release.keyring else place
        if path := _beside(where.at("keyring"), name, found):
            keyrings[name] = path
    return keyrings


def _check_architectures(place: Place, found: Recipe) -> None:
    """A word that is no processor's would pass for one that this host runs."""
    for key, names in (("architectures", found.architectures), ("ports-architectures", found.ports_architectures)):
        for index, name in enumerate(names):
            place.at(key, index).wrong(origins.architecture(name or "''"))
    for name, own_name in found.architecture_names.items():
        here = place.at("architecture-names", name)
        here.wrong(origins.architecture(name or "''"))
        here.wrong("" if _WORD.fullmatch(own_name) else f"not what an architecture is called: {own_name!r}")


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
    here.at("version").wrong("" if _WORD.fullmatch(release.version or "0") else f"not a version {release.version!r}")
    here.at("debootstrap-script").wrong(_script(release.debootstrap_script))
    for index, path in enumerate(release.mmdebstrap_hooks):
        whole = _FILE.fullmatch(path) and ".." not in path.split("/")
        here.at("mmdebstrap-hooks", index).wrong("" if whole else f"not the path of a directory {path!r}: /DIRECTORY")
    for key, value in release.options.items():
        here.at("options", key).wrong(_option(key, value))
    _check_packages(here, release, found.family)


def _check_whole(here: Place, release: Release, found: Recipe) -> None:
    """What a family needs of each release, those of the recipe that it extends as well."""
    packages = {**found.packages, **release.packages}
    needed = found.family in ("dnf", "zypper", "pacman") or (found.family == "apk" and "apk" in found.bootstraps)
    for variant in found.variants if needed else ():
        here.wrong("" if packages.get(variant) else f"no packages are said for the variant '{variant}'")
    suites: tuple[str, ...] = ()
    if found.family == "apk" and "minirootfs" in found.bootstraps:
        suites = ("releases",)
    elif found.family == "portage":
        built = (f"binpackages-{one}" for one in release.architectures or found.architectures)
        suites = ("stage3", "snapshot", *built)
    there = {suite.name for suite in release.suites}
    for name in suites if there else ():
        here.at("suites").wrong("" if name in there else f"there is no suite '{name}', which says where to find that")


def _check_packages(place: Place, found: Recipe | Release, family: str) -> None:
    """All of them are words of a package manager's command. With '@', rpm distributions have groups."""
    for name, elements in found.sets.items():
        here = place.at("sets", name)
        here.wrong(checks.package(f"@{name}") and "a set's name has a-z, 0-9 and '-'")
        for index, element in enumerate(elements):
            here.at(index).wrong(_element(element, groups=family in ("dnf", "zypper")))
    for variant, names in found.packages.items():
        for index, name in enumerate(names):
            place.at("packages", variant, index).wrong(checks.package(name))
    for name, old in found.obsolete.items():
        place.at("obsolete", name, "use").wrong(checks.package(old.use))


def _element(element: str, *, groups: bool) -> str:
    """What is wrong with an element of a set."""
    package, bracket, rest = element.partition(" [")
    closed = not bracket or (rest[-1:] == "]" and rest[:-1].strip())
    if checks.package(package) or (package[:1] == "@" and not groups) or not closed:
        return f'not a package {element!r}: NAME, or "NAME [ARCHITECTURE ...]"'
    return next(filter(None, map(origins.architecture, rest.rstrip("]").split())), "")


def _option(key: str, value: str) -> str:
    good = _KEY.fullmatch(key) and _VALUE.fullmatch(value)
    return "" if good else f"not an option {key!r} = {value!r}: two words, without '[' and ']'"


def _script(name: str) -> str:
    return "" if not name or _WORD.fullmatch(name) else f"not the name of one of debootstrap's scripts {name!r}"


def _known(place: Place, words: Iterable[str], known: list[str]) -> None:
    for index, word in enumerate(words):
        if known and word not in known:
            place.at(index).wrong(f"this family has no {word!r}: {', '.join(dict.fromkeys(known))}")


def _beside(place: Place, release: str, found: Recipe) -> tuple[str, str] | None:
    """A release's keyring that is a file beside the recipe, with its digest; what begins with '/' are files of the host's."""
    written = found.releases[release].keyring or found.keyring
    plain = _WORDS.sub("x", written)
    if "{" in plain or "}" in plain:
        place.wrong(f"not the path of a keyring {written!r}: it may have {{release}} in it")
        return None
    if written.startswith("/"):
        paths = plain.split() if found.family in ("dnf", "zypper") else [plain]
        bad = [one for one in paths if not _FILE.fullmatch(one)]
        place.wrong(f"not the path of a keyring {bad[0]!r}" if bad else "")
        return None
    if "{architecture}" in written or "{variant}" in written:
        place.wrong("a file beside the recipe is one for all architectures and variants: {release} may be in its name")
        return None
    name = keyring_path(found, release)
    path = os.path.join(place.document.directory, name)
    try:
        content = read_regular(path, most=KEYRING_MOST)
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        why = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        place.wrong(f"{name or 'missing'}: {why}; a path, or a file beside the recipe")
        return None
    place.wrong(checks.keys(content))
    return path, hashlib.sha256(content).hexdigest()
