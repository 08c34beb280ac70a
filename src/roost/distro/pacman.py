"""The pacman family: Arch Linux. What is returned here is carried out by the engine.

A base is made by the host's pacman, as pacstrap(8) makes one, from a configuration, keys and hooks of its own; layers
above it by the machine's.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from roost.distro import apt_auth, dnf_inside, dnf_repos, pacman_inside, pacman_keys
from roost.distro.dnf import mistakes, read_host
from roost.distro.dnf_inside import enable, ready_to_boot
from roost.distro.pacman_inside import (
    CACHE,
    CERTIFICATES,
    LIST,
    PACMAN,
    add_repository,
    install,
    list_packages,
    remove,
    set_locale,
    upgrade,
)  # fmt: skip
from roost.distro.pacman_output import explain, unreachable
from roost.distro.recipe import Bootstrap, Inside, Provision
from roost.distro.shell import HOSTS
from roost.errors import DefinitionError, HostError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from roost.definition.model import Base, User
    from roost.distro.recipe import Origin, Recipe
    from roost.host.dnf import HostDnf

__all__ = [
    "ARCHIVE_ENDINGS",
    "NAME",
    "NOBODY_GROUP",
    "STATUS_PATH",
    "add_repository",
    "add_user",
    "bootstrap",
    "enable",
    "explain",
    "finish",
    "install",
    "list_packages",
    "mistakes",
    "packages",
    "provision",
    "read_host",
    "ready_to_boot",
    "remove",
    "set_locale",
    "set_root_password",
    "set_timezone",
    "unreachable",
    "upgrade",
]  # fmt: skip

NAME = "pacman"
NOBODY_GROUP = "nobody"
ARCHIVE_ENDINGS: tuple[str, ...] = tuple(
    f".pkg.tar{form}{sig}" for form in (".zst", ".xz", ".gz", "") for sig in ("", ".sig")
)
STATUS_PATH = LIST

_ENVIRONMENT = {"LC_ALL": "C.UTF-8"}

# Arch's own, less the user that downloads are made as: pacman 7 wants Landlock for it, which a kernel may lack and
# systemd-nspawn may forbid. And without CheckSpace, which looks for mounts by the host's paths.
_OPTIONS = """\
[options]
HoldPkg = pacman glibc
Architecture = {architecture}
ParallelDownloads = 5
SigLevel = Required DatabaseOptional
LocalFileSigLevel = Optional
"""


def _checked(base: Base, recipe: Recipe) -> None:
    if found := mistakes(base, recipe):
        raise DefinitionError(f"{recipe.name} {base.release} cannot be made", details="\n".join(found))


def _configuration(base: Base, recipe: Recipe, host: HostDnf) -> str:
    """A pacman.conf(5) with the repositories of a base; no login is in it."""
    words = dnf_repos.words(base, recipe)
    repos, _ = dnf_repos.listed(base, recipe, host)
    return _OPTIONS.format(**words) + "".join(f"\n[{repo.name}]\nServer = {repo.url}\n" for repo in repos)


# -- the base


def bootstrap(
    base: Base, recipe: Recipe, *, host: HostDnf, target: str | Path, private: str | Path, archives: str | Path
) -> Bootstrap:
    """The command that makes a base's tree with the host's pacman. To be run as root in a mount namespace of its own.

    Nothing of the host's own pacman counts: neither its configuration nor its keys and hooks. Packages found in
    ``archives`` are not downloaded. Raises HostError for a keyring that the host lacks, or a path that pacman's options
    cannot hold; DefinitionError for a base that ``mistakes`` has something to say about.
    """
    _checked(base, recipe)
    places = (os.fspath(target), os.fspath(private), os.fspath(archives))
    for path in places:
        if not re.fullmatch(r"/[^\s\\\"']*", path):
            raise HostError(f"pacman cannot work at this path: {path!r}", hint="choose another --state directory")
    release = recipe.releases[base.release]
    packages = release.packages.get(base.variant) or recipe.packages[base.variant]
    keys = pacman_keys.of_base(base, recipe, host)
    _, logins = dnf_repos.listed(base, recipe, host)
    files = {
        "pacman.conf": _configuration(base, recipe, host).encode(),
        ".netrc": apt_auth.wget_text(logins.values()),
        **{f"keys{ending}": content for ending, content in keys.items()},
    }
    argv = ("/bin/sh", "-c", pacman_inside.BOOTSTRAP, "bootstrap", *places, *packages)
    return Bootstrap(argv=argv, env={**_ENVIRONMENT, **_proxies(host), "HOME": places[1]}, files=files)


def _proxies(host: HostDnf) -> dict[str, str]:
    return {f"{scheme}_proxy": url for scheme, url in host.proxies.items()}


def finish(base: Base, recipe: Recipe, *, host: HostDnf) -> Inside:
    """The last step of a base, run inside it: its repositories as they will be used, and nothing of the host."""
    _checked(base, recipe)
    return pacman_inside.finish(_configuration(base, recipe, host), HOSTS)


# -- the layers above it


def provision(base: Base, recipe: Recipe | None, *, host: HostDnf, repositories: Sequence[Origin] = ()) -> Provision:
    """What the steps of layers over this base need to reach its mirrors; nothing of it may stay in a layer.

    ``recipe`` None: a tree whose mirrors are not known; it has a package cache of its own, as does what has further
    repositories.
    """
    urls = [origin.url for origin in repositories]
    logins = []
    key = dnf_repos.digest("pacman", "given", base.from_layer, base.source)
    if recipe:
        _checked(base, recipe)
        repos, found = dnf_repos.listed(base, recipe, host)
        logins = list(found.values())
        keys = pacman_keys.of_base(base, recipe, host)
        trusted = {name: hashlib.sha256(content).hexdigest() for name, content in keys.items()}
        key = dnf_repos.digest("pacman", sorted(repo.url for repo in repos), trusted)
        urls += [repo.url for repo in repos]
    if repositories:
        key = dnf_repos.digest(key, sorted([origin.url, origin.keys] for origin in repositories))
    wanted = apt_auth.hosts(urls) - {login.host for login in logins}
    logins += [login for login in apt_auth.parse(host.auth) if login.host in wanted]
    files = {".netrc": apt_auth.wget_text(logins)}
    if host.ca_bundle and any(url.startswith("https:") for url in urls):
        files[CERTIFICATES] = host.ca_bundle
    return Provision(
        files=files, env={**_ENVIRONMENT, **_proxies(host)}, cache=CACHE, cache_key=key,
        binds=dnf_repos.local((base.mirror, *urls)),
    )  # fmt: skip


def set_timezone(name: str) -> Inside:
    """Sets the clock's zone, with the package ``tzdata`` when the machine lacks it."""
    return dnf_inside.set_timezone(name, PACMAN)


def set_root_password(hashed: str) -> Inside:
    """Root's password, as crypt(5) stores it; empty: none is asked for."""
    return dnf_inside.set_root_password(hashed, PACMAN)


def add_user(user: User) -> Inside:
    """Makes an account, and sudo for it. The same account already there is left alone; another one fails the step."""
    return dnf_inside.add_user(user, NOBODY_GROUP, PACMAN)


def packages(status: bytes) -> dict[str, str]:
    """Name → version of the installed packages, from the content of ``STATUS_PATH``."""
    lines = (line.split() for line in status.decode("utf-8", "replace").splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2}
