"""What families have in common: addresses, names, the keys of distributions whose bases are archives of their own."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from roost.distro import apt_auth, keyring, keyring_files
from roost.errors import DefinitionError, HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.definition.model import Base, RepositoryKeys
    from roost.distro.recipe import Recipe, Release
    from roost.host.dnf import HostDnf

_MIRROR = re.compile(r"(https?|file)://?[^\s\[\]\"'\\,;{}]+")
_REPOSITORY = re.compile(r"(https?|file)://?[^\s\"'\\]+")

MOUNTS = """\
mount -t proc -o nosuid,nodev,noexec proc "$tree/proc"
mount -t tmpfs -o nosuid,noexec,mode=0755,size=1m none "$tree/dev"
for node in null zero full random urandom tty; do
    : >"$tree/dev/$node"
    mount --bind "/dev/$node" "$tree/dev/$node"
done
"""
"""What programs of a tree need while the host fills it: ``$tree`` has the directories proc and dev."""


def check_mirror(url: str) -> None:
    """Raises DefinitionError for what is no address that can stand in any package manager's configuration."""
    if not _MIRROR.fullmatch(url):
        raise DefinitionError(f"not a mirror's address: {url!r}", hint="http://HOST/PATH, https://... or file:///PATH")


def check_repository(repository: RepositoryKeys, *reserved: str) -> None:
    """Raises DefinitionError for a name that no file can have, or is one of ``reserved``, and for what is no address."""
    name = repository.name
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name in reserved:
        hint = "; not ".join(["a-z, 0-9, '-', '_'", *(f"'{word}', which is taken" for word in reserved)])
        raise DefinitionError(f"not a repository's name: {name!r}", hint=hint)
    if not _REPOSITORY.fullmatch(repository.url):
        raise DefinitionError(
            f"not a repository's address: {repository.url!r}", hint="http://HOST/PATH or file:///PATH"
        )


def mirror(base: Base, recipe: Recipe, release: Release) -> str:
    """The mirror, without a ``/`` at its end. Raises DefinitionError for what is no address, or has a login in it."""
    url, login = apt_auth.split(base.mirror or {**recipe.mirrors, **release.mirrors}["main"])
    check_mirror(url)
    if login is not None:
        raise DefinitionError(
            f"a mirror of {recipe.name} cannot have a login: {url}", hint="use a mirror that asks for none"
        )
    return url.rstrip("/")


def openpgp(base: Base, recipe: Recipe, host: HostDnf) -> bytes:
    """The OpenPGP keys that sign a distribution's archives, binary. Raises HostError when the host lacks them.

    A host whose commands are only shown needs none.
    """
    if base.keyring:
        return keyring.binary(keyring_files.given(base), base.keyring)
    path = host.root.rstrip("/") + keyring_files.of_base(recipe, base)
    if os.path.exists(path):
        return keyring.binary(keyring_files.read(path), path)
    if host.only_shown:
        return keyring.UNKNOWN
    raise missing(recipe, base, path, recipe.keyring_source)


def missing(recipe: Recipe, base: Base, path: str, source: str) -> HostError:
    """What to say when the host lacks a keyring."""
    return HostError(
        f"the keyring {path} is not on this host",
        details=f"it signs {recipe.name} {base.release}",
        hint=f"get the keys from {source}, compare their fingerprints with what {recipe.name} publishes, and name the file "
        'in the definition: keyring = "PATH"',
    )


def check_names(packages: Sequence[str], pattern: str, hint: str) -> None:
    """Raises DefinitionError for what cannot be a package's name."""
    for name in packages:
        if not re.fullmatch(pattern, name):
            raise DefinitionError(f"not the name of a package: {name!r}", hint=hint)
