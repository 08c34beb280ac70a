"""The portage family: Gentoo. A base is its stage3 of the day, with what emerge needs of the ebuild repository of that day.

Packages are installed as Gentoo has built them (its binary packages), each verified by its signature; nothing is compiled.
Of the ebuild repository a base has the profiles and no ebuilds, which are half a million files that nothing here needs.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from roost.distro import dnf_repos, keyring, portage_inside, releases
from roost.distro.dnf import mistakes
from roost.distro.portage_inside import (
    CACHE,
    LIST,
    PROVISION,
    add_repository,
    enable,
    list_packages,
    ready_to_boot,
    remove,
    set_locale,
    set_root_password,
    set_timezone,
    upgrade,
)  # fmt: skip
from roost.distro.portage_output import explain, unreachable
from roost.distro.recipe import Archive, Bootstrap, Inside, Package, Provision
from roost.errors import DefinitionError
from roost.host import dnf as host_dnf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from roost.definition.model import Base, User
    from roost.distro.recipe import Origin, Recipe, Release
    from roost.host.dnf import HostDnf

__all__ = [
    "ARCHIVE_ENDINGS", "NAME", "NOBODY_GROUP", "STATUS_PATH", "add_repository", "add_user", "bootstrap", "enable", "explain", "finish",
    "install", "inventory", "list_packages", "mistakes", "packages", "provision", "read_host", "ready_to_boot", "remove", "set_locale",
    "set_root_password", "set_timezone", "unreachable", "upgrade",
]  # fmt: skip

NAME = "portage"
NOBODY_GROUP = "nogroup"
ARCHIVE_ENDINGS: tuple[str, ...] = (".gpkg.tar", ".xpak", ".tbz2")
STATUS_PATH = LIST

_REPOSITORY = "var/db/repos/gentoo"
_NEEDED = ("profiles", "metadata/layout.conf")
"""What of the ebuild repository emerge reads for binary packages: which profile there is, and what it says."""
_STAGE3 = r"^([0-9TZ]+/stage3-[A-Za-z0-9_.+-]+\.tar\.[a-z0-9]+)(?:[ \t]+[0-9]+)?[ \t\r]*$"
_CERTIFICATES = "certificates.pem"
_VERSION = re.compile(r"(.+?)-([0-9][0-9.]*[a-z]?(?:_(?:alpha|beta|pre|rc|p)[0-9]*)*(?:-r[0-9]+)?)")
"""A package's name and its version, PMS 3.1.2 and 3.2."""


def read_host(root: str = "/") -> HostDnf:
    """How the host reaches mirrors. Never raises."""
    return host_dnf.read(root)


def _resolve(base: Base, recipe: Recipe) -> tuple[Release, str, dict[str, str]]:
    """The release, its mirror, and the address below it of each of its suites."""
    if found := mistakes(base, recipe):
        raise DefinitionError(f"{recipe.name} {base.release} cannot be made", details="\n".join(found))
    release = recipe.releases[base.release]
    words = dnf_repos.words(base, recipe)
    url = releases.mirror(base, recipe, release)
    return release, url, {suite.name: f"{url}/{suite.path.format(**words)}" for suite in release.suites}


def bootstrap(
    base: Base,
    recipe: Recipe,
    *,
    host: HostDnf,
    target: str | Path,  # noqa: ARG001  # Roost unpacks by itself
    private: str | Path,  # noqa: ARG001
    archives: str | Path,  # noqa: ARG001
) -> Bootstrap:
    """The archives that a base is made of: the newest stage3, and the ebuild repository's newest snapshot.

    Raises HostError for a keyring that the host lacks, DefinitionError for a base that ``mistakes`` has something to say
    about.
    """
    _, _, places = _resolve(base, recipe)
    keys = releases.openpgp(base, recipe, host)
    stage3 = Archive(
        url=places["stage3"], keys=keys, pointer=_STAGE3, clearsigned=True, signature=".asc", digests=".DIGESTS",
        proxies=host.proxies, certificates=host.ca_path,
    )  # fmt: skip
    snapshot = Archive(
        url=places["snapshot"], keys=keys, signature=".gpgsig", place=_REPOSITORY, only=_NEEDED,
        proxies=host.proxies, certificates=host.ca_path,
    )  # fmt: skip
    return Bootstrap(archives=(stage3, snapshot))


def finish(base: Base, recipe: Recipe, *, host: HostDnf) -> Inside:
    """The last step of a base, run inside it: its binary packages' place and keys, and nothing of the host."""
    _, _, places = _resolve(base, recipe)
    keys = keyring.armoured(releases.openpgp(base, recipe, host), base.keyring or recipe.keyring)
    return portage_inside.finish(places[f"binpackages-{base.architecture}"], keys)


def provision(base: Base, recipe: Recipe | None, *, host: HostDnf, repositories: Sequence[Origin] = ()) -> Provision:
    """What the steps of layers over this base need to reach its mirrors; nothing of it may stay in a layer.

    ``recipe`` None: a tree whose mirrors are not known; it has a package cache of its own.
    """
    files = {_CERTIFICATES: host.ca_bundle} if host.ca_bundle else {}
    env = {"LC_ALL": "C.UTF-8", **{f"{scheme}_proxy": url for scheme, url in host.proxies.items()}}
    if host.ca_bundle:
        env["SSL_CERT_FILE"] = f"{PROVISION}/{_CERTIFICATES}"
    urls = [origin.url for origin in repositories]
    if recipe is None:
        key = dnf_repos.digest("portage", base.source, base.from_layer)
    else:
        _, url, places = _resolve(base, recipe)
        key = dnf_repos.digest("portage", places, base.variant, base.keyring_digest)
        urls.append(url)
    if repositories:
        key = dnf_repos.digest(key, sorted([origin.url, origin.keys] for origin in repositories))
    return Provision(files=files, env=env, cache=CACHE, cache_key=key, binds=dnf_repos.local(urls))


def install(packages: Sequence[str], *, init: bool = False) -> Inside:  # noqa: ARG001
    """Installs binary packages; a name may be any that emerge takes. Every stage3 has its init: ``init`` adds nothing."""
    return portage_inside.install(packages)


def add_user(user: User) -> Inside:
    """Makes an account, and sudo for it. The same account already there is left alone; another one fails the step."""
    return portage_inside.add_user(user, NOBODY_GROUP)


def packages(status: bytes) -> dict[str, str]:
    """``CATEGORY/NAME`` → version of the installed packages; each of several of a name is called ``CATEGORY/NAME:SLOT``."""
    found = _listed(status)
    several = Counter(one.name for one, _ in found)
    return {f"{one.name}:{slot}" if several[one.name] > 1 else one.name: one.version for one, slot in found}


def inventory(status: bytes) -> list[Package]:
    """The installed packages; ``build`` is when each was built (BUILD_TIME, as portage has it)."""
    return [one for one, _ in _listed(status)]


def _listed(status: bytes) -> list[tuple[Package, str]]:
    """The installed packages, each with its slot."""
    found = []
    for line in status.decode("utf-8", "replace").splitlines():
        whole, slot, built, *_ = [*line.split("\t"), "", ""]
        if match := _VERSION.fullmatch(whole):
            found.append((Package(name=match[1], version=match[2], build=built), slot))
    return found
