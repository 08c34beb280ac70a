"""Where an rpm base's packages come from and which keys sign them: the definition, else the recipe."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

from msgspec import Struct

from roost.distro import apt_auth, keyring, keyring_files
from roost.distro.releases import check_mirror
from roost.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from roost.definition.model import Base
    from roost.distro.apt_auth import Credential
    from roost.distro.recipe import Recipe
    from roost.host.dnf import HostDnf

KEYS = "/etc/pki/rpm-gpg"
"""Where rpm distributions keep their keys in a tree."""


class Repo(Struct, frozen=True, kw_only=True):
    """One repository. ``url`` has no credentials in it; ``signed`` says that its metadata is signed, too."""

    name: str
    url: str
    signed: bool = False

    def text(self, key: str) -> str:
        """As in a ``.repo`` file (dnf.conf(5)); ``key`` is the file with its keys."""
        return (
            f"[{self.name}]\nname={self.name}\nbaseurl={self.url}\nenabled=1\ngpgcheck=1\n"
            f"repo_gpgcheck={int(self.signed)}\ngpgkey=file://{key}\n"
        )


class Repos(Struct, frozen=True, kw_only=True):
    """All that a download needs. ``keys`` is the keyring, armoured; ``logins`` are by the names of repositories."""

    repos: tuple[Repo, ...] = ()
    keys: bytes = b""
    logins: dict[str, Credential] = {}

    @property
    def cache_key(self) -> str:
        """What shares downloaded packages: the same keys and the same mirrors."""
        return digest("rpm", sorted(repo.url for repo in self.repos), hashlib.sha256(self.keys).hexdigest())

    def text(self, key: str, more: str = "") -> str:
        """The ``.repo`` file of all of them."""
        return "\n".join(repo.text(key) + more for repo in self.repos)

    def credentials(self) -> bytes:
        """Lines of repository, login and password, apart by tabulators."""
        return "".join(f"{name}\t{c.login}\t{c.password}\n" for name, c in self.logins.items()).encode()


def digest(*parts: object) -> str:
    """A short name for a value: 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def resolve(base: Base, recipe: Recipe, host: HostDnf) -> Repos:
    """The repositories of a base. Reads its keyring, and nothing else.

    Raises HostError for a keyring that the host lacks, DefinitionError for one that changed since it was loaded, or for
    what is no address.
    """
    repos, logins = listed(base, recipe, host)
    return Repos(repos=repos, keys=_keys(base, recipe, host), logins=logins)


def listed(base: Base, recipe: Recipe, host: HostDnf) -> tuple[tuple[Repo, ...], dict[str, Credential]]:
    """The repositories of a base, and the logins of those that want one. Raises DefinitionError for what is no address.

    With a mirror in the definition, those that the recipe gets from its ``main`` mirror come from there and no others.
    """
    release = recipe.releases[base.release]
    mirrors = {**recipe.mirrors, **release.mirrors}
    repos = []
    logins = {}
    auth = apt_auth.parse(host.auth)
    for suite in release.suites:
        if base.mirror and suite.mirror != "main":
            continue
        url, login = apt_auth.split(base.mirror or mirrors[suite.mirror])
        check_mirror(url)
        path = suite.path.format(**words(base, recipe))
        repos.append(Repo(name=suite.name, url=f"{url.rstrip('/')}/{path}", signed=release.signed_metadata))
        wanted = apt_auth.hosts((url,))
        if login := login or next((c for c in auth if c.host in wanted), None):
            logins[suite.name] = login
    return tuple(repos), logins


def words(base: Base, recipe: Recipe) -> dict[str, str]:
    """What stands in a recipe's paths as ``{release}`` and so on."""
    return keyring_files.words(recipe, base.release, base.architecture, base.variant)


def local(urls: Iterable[str]) -> tuple[str, ...]:
    """The directories of ``file:`` addresses, each once, without those that are below another."""
    from urllib.parse import unquote, urlsplit

    found = dict.fromkeys(os.path.normpath(unquote(urlsplit(url).path)) for url in urls if url.startswith("file:"))
    return tuple(path for path in found if not any(path != one and f"{path}/".startswith(f"{one}/") for one in found))


def _keys(base: Base, recipe: Recipe, host: HostDnf) -> bytes:
    if base.keyring:
        return keyring.armoured(keyring_files.given(base), base.keyring)
    keys = b""
    for one in keyring_files.of_base(recipe, base).split():
        # on a host of the same distribution its own package has it
        places = [host.root.rstrip("/") + path for path in (one, f"{KEYS}/{os.path.basename(one)}")]
        path = next((place for place in places if os.path.exists(place)), "")
        if not path and host.only_shown:
            keys += keyring.armoured(keyring.UNKNOWN, one)
            continue
        if not path:
            raise HostError(
                f"the keyring {one} is not on this host",
                details=f"it signs {recipe.name} {base.release}; the package {recipe.keyring_package} of rpm distributions has it",
                hint=f'get the keys from {recipe.keyring_source}, and name the file in the definition: keyring = "PATH"',
            )
        keys += keyring.armoured(keyring_files.read(path), path)
    return keys
