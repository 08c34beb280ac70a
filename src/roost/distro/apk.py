"""The apk family: Alpine. A base is its minirootfs, or is made by the host's apk; layers above it by the machine's own apk.

apk verifies the index of a repository by the keys in ``/etc/apk/keys``, and each package by its digest in there.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from roost.distro import apk_inside, dnf_repos, keyring_files, releases
from roost.distro.apk_inside import (
    CACHE,
    LIST,
    PROVISION,
    enable,
    install,
    list_packages,
    ready_to_boot,
    remove,
    set_locale,
    set_root_password,
    set_timezone,
    upgrade,
)  # fmt: skip
from roost.distro.apk_output import explain, unreachable
from roost.distro.dnf import mistakes
from roost.distro.recipe import Archive, Bootstrap, Inside, Provision
from roost.errors import DefinitionError, HostError
from roost.host import dnf as host_dnf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from roost.definition.model import Base, RepositoryKeys, User
    from roost.distro.recipe import Origin, Recipe, Release
    from roost.host.dnf import HostDnf

__all__ = [
    "ARCHIVE_ENDINGS", "NAME", "NOBODY_GROUP", "STATUS_PATH", "add_repository", "add_user", "bootstrap", "enable", "explain", "finish",
    "install", "list_packages", "mistakes", "packages", "provision", "read_host", "ready_to_boot", "remove", "set_locale",
    "set_root_password", "set_timezone", "unreachable", "upgrade",
]  # fmt: skip

NAME = "apk"
NOBODY_GROUP = "nobody"
ARCHIVE_ENDINGS: tuple[str, ...] = (".apk",)
STATUS_PATH = LIST

_KEYS = ("/usr/share/apk/keys/{architecture}", "/etc/apk/keys")
"""Where a host with an apk has the keys that sign Alpine's repositories (apk-keys(5), and Alpine's alpine-keys)."""
_KEYS_SOURCE = "https://alpinelinux.org/keys/ or the package alpine-keys"
_CERTIFICATES = "certificates.pem"
_POINTER = "releases"  # the suite that is no repository


def read_host(root: str = "/") -> HostDnf:
    """How the host reaches mirrors. Never raises."""
    return host_dnf.read(root)


def _resolve(base: Base, recipe: Recipe) -> tuple[Release, dict[str, str]]:
    """The release, and the address of each of its suites."""
    if found := mistakes(base, recipe):
        raise DefinitionError(f"{recipe.name} {base.release} cannot be made", details="\n".join(found))
    release = recipe.releases[base.release]
    words = dnf_repos.words(base, recipe)
    url = releases.mirror(base, recipe, release)
    return release, {suite.name: f"{url}/{suite.path.format(**words)}" for suite in release.suites}


def _repositories(places: dict[str, str]) -> str:
    return "".join(f"{apk_inside.address(url)}\n" for name, url in places.items() if name != _POINTER)


# -- the base


def bootstrap(
    base: Base, recipe: Recipe, *, host: HostDnf, target: str | Path, private: str | Path, archives: str | Path
) -> Bootstrap:
    """What makes a base: the release's minirootfs, or a command for the host's apk.

    Raises HostError for a keyring that the host lacks, DefinitionError for a base that ``mistakes`` has something to say
    about. With ``apk``, a keyring in the definition is one public key as Alpine has them, in a file that is called as the
    signatures of the repositories call it.
    """
    release, places = _resolve(base, recipe)
    architecture = dnf_repos.words(base, recipe)["architecture"]
    if base.bootstrap == "minirootfs":
        version = re.escape(release.version.removeprefix("v"))
        number = r"[0-9]{8}" if base.release == "edge" else rf"{version}\.[0-9]+(?:_rc[0-9]+)?"
        pointer = rf"^\s*file:\s*(alpine-minirootfs-{number}-{re.escape(architecture)}\.tar\.gz)\s*$"
        keys = releases.openpgp(base, recipe, host)
        archive = Archive(
            url=places[_POINTER], keys=keys, pointer=pointer, signature=".asc", digests=".sha256",
            proxies=host.proxies, certificates=host.ca_path,
        )  # fmt: skip
        return Bootstrap(archives=(archive,))
    packages = release.packages.get(base.variant) or recipe.packages[base.variant]
    words = (*(os.fspath(path) for path in (target, private, archives)), architecture, *packages)
    files = {f"key:{name}": content for name, content in _keys(base, recipe, architecture, host).items()}
    files["repositories"] = _repositories(places).encode()
    return Bootstrap(
        argv=("/bin/sh", "-c", apk_inside.BOOTSTRAP, "bootstrap", *words),
        env=_environment(host, host.ca_path),
        files=files,
    )


def _keys(base: Base, recipe: Recipe, architecture: str, host: HostDnf) -> dict[str, bytes]:
    """The keys of repositories, by the names of their files, which signatures refer to."""
    if base.keyring:
        return {os.path.basename(base.keyring): _checked(keyring_files.given(base), base.keyring)}
    for place in _KEYS:
        path = host.root.rstrip("/") + place.format(architecture=architecture)
        try:
            names = sorted(name for name in os.listdir(path) if name.endswith(".pub"))
        except OSError:
            continue
        if names:
            return {name: _checked(keyring_files.read(f"{path}/{name}"), name) for name in names}
    if host.only_shown:
        return {}
    raise releases.missing(recipe, base, _KEYS[0].format(architecture=architecture), _KEYS_SOURCE)


def _checked(content: bytes, name: str) -> bytes:
    if b"-----BEGIN PUBLIC KEY-----" not in content:
        raise HostError(
            f"{name} holds no public key as apk reads them",
            hint='it is a text with BEGIN PUBLIC KEY; the OpenPGP keys are those of bootstrap = "minirootfs"',
        )
    return content


def _environment(host: HostDnf, certificates: str) -> dict[str, str]:
    env = {f"{scheme}_proxy": url for scheme, url in host.proxies.items()}
    return {**env, "SSL_CA_CERT_FILE": certificates} if host.ca_bundle else env


def finish(base: Base, recipe: Recipe, *, host: HostDnf) -> Inside:
    """The last step of a base, run inside it: its repositories as they will be used, and nothing of the host."""
    _, places = _resolve(base, recipe)
    keys: dict[str, bytes] = {}
    if base.keyring and base.bootstrap == "apk":
        keys = _keys(base, recipe, dnf_repos.words(base, recipe)["architecture"], host)
    name, content = next(iter(keys.items()), ("", b""))
    return apk_inside.finish(_repositories(places), name, content)


# -- the layers above it


def provision(base: Base, recipe: Recipe | None, *, host: HostDnf, repositories: Sequence[Origin] = ()) -> Provision:
    """What the steps of layers over this base need to reach its mirrors; nothing of it may stay in a layer.

    ``recipe`` None: a tree whose mirrors are not known; it has a package cache of its own.
    """
    files = {_CERTIFICATES: host.ca_bundle} if host.ca_bundle else {}
    urls = [origin.url for origin in repositories]
    if recipe is None:
        key = dnf_repos.digest("apk", base.source, base.from_layer)
    else:
        _, places = _resolve(base, recipe)
        key = dnf_repos.digest("apk", places, base.architecture, base.keyring_digest)
        urls += places.values()
    if repositories:
        key = dnf_repos.digest(key, sorted([origin.url, origin.keys] for origin in repositories))
    local = [path for path in dnf_repos.local(urls) if not path.endswith(".yaml")]
    env = _environment(host, f"{PROVISION}/{_CERTIFICATES}")
    return Provision(files=files, env=env, cache=CACHE, cache_key=key, binds=tuple(local))


def add_repository(repository: RepositoryKeys) -> Inside:
    """A line in ``/etc/apk/repositories`` and a key. apk knows one set of keys: it trusts it for every repository.

    Raises HostError when the key file holds none.
    """
    key = _checked(repository.key, f"the key of {repository.name}") if repository.key else b""
    return apk_inside.add_repository(repository, key)


def add_user(user: User) -> Inside:
    """Makes an account, and sudo for it. The same account already there is left alone; another one fails the step."""
    return apk_inside.add_user(user, NOBODY_GROUP)


def packages(status: bytes) -> dict[str, str]:
    """Name → version of the installed packages, from the content of ``STATUS_PATH``."""
    lines = (line.partition("\t") for line in status.decode("utf-8", "replace").splitlines())
    return {name: version for name, tab, version in lines if tab}
