"""Whose tree it is: the family that os-release(5) names, when its package manager is there."""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING

from roost.errors import StoreError
from roost.host import architectures, foreign
from roost.trees import OS_RELEASE, beginning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from roost.plan import MachinePlan
    from roost.store import Store

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
    for word in words(fields(trees)):
        name = _FAMILIES.get(word) or next((f for w, f in _FAMILIES.items() if word.startswith(f"{w}-")), "")
        if name in there:
            return name
    return there[0] if len(there) == 1 else NONE


_PROGRAMS_OF_ALL = (
    "/bin/sh",
    "/usr/bin/env",
    "/sbin/init",
    "/usr/lib/systemd/systemd",
    "/bin/busybox",
    "/sbin/ldconfig",
)


def architecture(trees: Sequence[str], wanted: str, source: str) -> str:
    """What the programs of a stack of trees are made for, ``wanted`` where that is not to be seen.

    Raises StoreError when it is another than ``wanted`` (empty: any). An image may be of any that this host runs by itself:
    ``wanted`` is the host's own where none was written.
    """
    found = next((names for path in _PROGRAMS_OF_ALL if (names := _made_for(trees, path))), ())
    if not found or wanted in found:
        return wanted
    if wanted and not (
        wanted == architectures.of_host() and source.startswith("oci:") and foreign.runs_natively(found[0])
    ):
        raise StoreError(
            f"{source} is made for {' or '.join(found)}, not for {wanted}", details="so say the headers of its programs",
            hint=f'architecture = "{found[0]}", or another base',
        )  # fmt: skip
    return found[0]


def architecture_of(store: Store, item: MachinePlan) -> str:
    """What a machine's layers are made for; empty when it is the host's own."""
    base = item.machine.base
    found = base.architecture if base.distribution else ""
    if not found:
        with contextlib.suppress(StoreError, IndexError):
            found = store.layer(item.layers[-1]).architecture
    return "" if found == architectures.of_host() else found


def _made_for(trees: Sequence[str], path: str) -> tuple[str, ...]:
    head = beginning(trees, path)
    return architectures.of_program(head) if head else ()


def fields(trees: Sequence[str]) -> dict[str, str]:
    """What os-release(5) says in a stack of trees, the top first; nothing when there is none."""
    text = next((there for path in OS_RELEASE if (there := beginning(trees, path)) is not None), b"")
    found: dict[str, str] = {}
    for line in text.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        try:
            found[key.strip()] = " ".join(shlex.split(value))
        except ValueError:  # a quote without its other
            continue
    return found


def words(said: Mapping[str, str]) -> list[str]:
    """What a system calls itself, then what it is like."""
    return [*said.get("ID", "").lower().split(), *said.get("ID_LIKE", "").lower().split()]
