"""Whose tree it is: the family that os-release(5) names, when its package manager is there."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from roost.trees import OS_RELEASE, beginning

if TYPE_CHECKING:
    from collections.abc import Sequence

NONE = "none"
_FAMILIES = {
    "debian": "apt", "ubuntu": "apt", "fedora": "dnf", "rhel": "dnf", "centos": "dnf", "suse": "zypper", "opensuse": "zypper",
    "arch": "pacman", "alpine": "apk", "gentoo": "portage",
}  # fmt: skip
_PROGRAMS = {
    "apt": ("/usr/bin/apt-get",),
    "dnf": ("/usr/bin/dnf", "/usr/bin/dnf5", "/usr/bin/microdnf", "/usr/bin/yum"),
    "zypper": ("/usr/bin/zypper",),
    "pacman": ("/usr/bin/pacman",),
    "apk": ("/sbin/apk", "/usr/sbin/apk", "/usr/bin/apk"),
    "portage": ("/usr/bin/emerge",),
}


def family(trees: Sequence[str]) -> str:
    """The family of a stack of trees, the top first; "none" when there is no package manager that Roost knows of.

    ID comes before ID_LIKE; one that is not known is no matter when exactly one package manager is there.
    """
    there = [name for name, paths in _PROGRAMS.items() if any(beginning(trees, path) is not None for path in paths)]
    for word in _words(trees):
        name = _FAMILIES.get(word) or next((f for w, f in _FAMILIES.items() if word.startswith(f"{w}-")), "")
        if name in there:
            return name
    return there[0] if len(there) == 1 else NONE


def os_release(trees: Sequence[str]) -> dict[str, str]:
    """What os-release(5) says in a stack of trees, the top first; empty when there is none."""
    text = next((found for path in OS_RELEASE if (found := beginning(trees, path)) is not None), b"")
    fields: dict[str, str] = {}
    for line in text.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        try:
            fields[key.strip()] = " ".join(shlex.split(value))
        except ValueError:  # a quote without its other
            continue
    return fields


def _words(trees: Sequence[str]) -> list[str]:
    fields = os_release(trees)
    return [*fields.get("ID", "").lower().split(), *fields.get("ID_LIKE", "").lower().split()]
