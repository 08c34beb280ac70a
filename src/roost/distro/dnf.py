"""The dnf family: Fedora, CentOS and what is made from them. What is returned here is carried out by the engine.

A base is made by the host's dnf from repositories that are written for it alone; layers above it by the machine's own
dnf or yum.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING

from roost.distro import dnf_inside, dnf_repos
from roost.distro.dnf_inside import (
    CACHE,
    LIST,
    PROVISION,
    add_repository,
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
from roost.distro.dnf_output import explain, unreachable
from roost.distro.recipe import Bootstrap, Inside, Package, Provision
from roost.distro.releases import MOUNTS
from roost.distro.shell import HOSTS
from roost.errors import DefinitionError, HostError
from roost.host import dnf as host_dnf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from roost.definition.model import Base, User
    from roost.distro.dnf_repos import Repos
    from roost.distro.recipe import Origin, Recipe, Release
    from roost.host.dnf import HostDnf

__all__ = [
    "ARCHIVE_ENDINGS", "NAME", "NOBODY_GROUP", "STATUS_PATH", "add_repository", "add_user", "bootstrap", "enable", "explain", "finish",
    "install", "inventory", "list_packages", "mistakes", "packages", "provision", "read_host", "ready_to_boot", "remove", "set_locale",
    "set_root_password", "set_timezone", "unreachable", "upgrade",
]  # fmt: skip

NAME = "dnf"
NOBODY_GROUP = "nobody"
ARCHIVE_ENDINGS: tuple[str, ...] = (".rpm",)
STATUS_PATH = LIST

_ENVIRONMENT = {"LC_ALL": "C.UTF-8"}
_RPM_NAMES = {"armhfp": "armv7hl"}
"""What packages are called whose repository is called otherwise."""
_CERTIFICATES = "certificates.pem"

# $1 the tree, $2 the private directory, $3 and $4 what to say when it fails, then dnf's words.
# The host's rpm may write a database that the machine's own cannot read (Berkeley's until rpm 4.15, SQLite since 4.16,
# another directory in Fedora 36 and openSUSE): the machine's own writes it anew.
_BOOTSTRAP = (
    """\
set -eu
tree=$1 private=$2 archived=$3
shift 3
fail() { echo "$1" >&2; exit 1; }
tool=
for one in dnf dnf5; do
    if [ -z "$tool" ] && command -v "$one" >/dev/null; then tool=$one; fi
done
[ -n "$tool" ] || fail "roost: there is no dnf on this host"
command -v rpmdb >/dev/null || fail "roost: there is no rpm on this host"
mkdir -p "$tree/proc" "$tree/dev"
"""
    + MOUNTS
    + """\
"$tool" "$@" </dev/null || { [ -z "$archived" ] || echo "roost: archived: $archived"; exit 1; }
# dnf puts its own files below the tree, at the places that were named for the host
db=/var/lib/rpm
below=${private%/*}
rm -rf "${tree:?}$below"
while below=${below%/*}; [ -n "$below" ]; do
    if rpm --root "$tree" --dbpath "$db" -qf "$below" >/dev/null 2>&1 || ! rmdir "$tree$below" 2>/dev/null; then break; fi
done
[ -x "$tree/usr/bin/rpm" ] || exit 0
rpmdb --root "$tree" --dbpath "$db" --exportdb >"$private/headers"
wanted=$(rpm --root "$tree" --dbpath "$db" -qa | wc -l)
own=$(chroot "$tree" rpm --eval '%{_dbpath}')
case $own in /*) ;; *) fail "roost: the machine's rpm does not say where its database is: $own" ;; esac
rm -rf "$tree$db"
mkdir -p "$tree$own"
if [ "$own" != "$db" ]; then ln -s "../..$own" "$tree$db"; fi
chroot "$tree" rpmdb --initdb
chroot "$tree" rpmdb --importdb <"$private/headers"
found=$(chroot "$tree" rpm -qa | wc -l)
[ "$found" = "$wanted" ] || fail "roost: the machine's rpm reads $found packages of $wanted"
"""
)


def read_host(root: str = "/") -> HostDnf:
    """How the host reaches mirrors. Never raises."""
    return host_dnf.read(root)


def mistakes(base: Base, recipe: Recipe) -> tuple[str, ...]:
    """Why this base cannot be made, a line for each reason; empty when it can be tried."""
    release = recipe.releases.get(base.release)
    if release is None:
        return (f"{recipe.name} has no release {base.release!r}: one of {', '.join(recipe.releases)}",)
    found = []
    if base.architecture not in (known := release.architectures or recipe.architectures):
        system = f"{recipe.name} {base.release}"
        found.append(f"{system} has no architecture {base.architecture!r}: one of {', '.join(known)}")
    if base.bootstrap not in recipe.bootstraps:
        found.append(f"unknown bootstrap {base.bootstrap!r}: one of {', '.join(recipe.bootstraps)}")
    if base.variant not in recipe.variants:
        found.append(f"{recipe.name} has no variant {base.variant!r}: one of {', '.join(recipe.variants)}")
    return tuple(found)


def _resolve(base: Base, recipe: Recipe, host: HostDnf) -> tuple[Release, Repos]:
    if found := mistakes(base, recipe):
        raise DefinitionError(f"{recipe.name} {base.release} cannot be made", details="\n".join(found))
    return recipe.releases[base.release], dnf_repos.resolve(base, recipe, host)


# -- the base


def bootstrap(
    base: Base, recipe: Recipe, *, host: HostDnf, target: str | Path, private: str | Path, archives: str | Path
) -> Bootstrap:
    """The command that makes a base's tree with the host's dnf. To be run as root in a mount namespace of its own.

    Nothing of the host's own dnf counts: neither its repositories nor its variables and plugins. Packages found in
    ``archives`` (dnf's cache) are not downloaded. Raises HostError for a keyring that the host lacks, or a path that a
    configuration file cannot hold; DefinitionError for a base that ``mistakes`` has something to say about.
    """
    places = {"target": os.fspath(target), "private": os.fspath(private), "archives": os.fspath(archives)}
    for path in places.values():
        if not re.fullmatch(r"/[\w./+@%=~-]*", path):  # they are put into configuration files and addresses
            raise HostError(f"dnf's files cannot hold this path: {path!r}", hint="choose another --state directory")
    release, repos = _resolve(base, recipe, host)
    private = places["private"]
    architecture = dnf_repos.words(base, recipe)["architecture"]
    more = "".join(f"{key}={value}\n" for key, value in _settings(release, host, host.ca_path).items())
    sections = [
        repo.text(f"{private}/keys.asc")
        + (f"username={login.login}\npassword={login.password}\n" if (login := repos.logins.get(repo.name)) else "")
        for repo in repos.repos
    ]
    main = (
        f"[main]\n{more}cachedir={places['archives']}\nreposdir={private}/none\nvarsdir={private}/none\nplugins=0\n\n"
    )
    packages = release.packages.get(base.variant) or recipe.packages[base.variant]
    argv = (
        "/bin/sh",
        "-c",
        _BOOTSTRAP,
        "bootstrap",
        places["target"],
        private,
        _archived(recipe, release, base),
        "-y",
        "-c",
        f"{private}/dnf.conf",
        f"--installroot={places['target']}",
        f"--releasever={dnf_repos.words(base, recipe)['version'].partition('.')[0]}",
        f"--setopt=cachedir={places['archives']}",
        f"--setopt=logdir={private}",
        *(
            (f"--forcearch={_RPM_NAMES.get(architecture, architecture)}",)
            if base.architecture != host.architecture
            else ()
        ),
        "install",
        *packages,
    )
    files = {
        "dnf.conf": (main + "\n".join(sections)).encode(),
        "keys.asc": repos.keys,
        # Debian's rpm keeps the database of another tree below the home directory.
        ".rpmmacros": b"%_dbpath /var/lib/rpm\n",
    }
    return Bootstrap(argv=argv, env={**_ENVIRONMENT, **_proxies(host), "HOME": private}, files=files)


def _archived(recipe: Recipe, release: Release, base: Base) -> str:
    if not release.archived:
        return ""
    mirror = {**recipe.mirrors, **release.mirrors}["main"]
    return f"{recipe.name} {base.release} is archived, and at {mirror}"


def _settings(release: Release, host: HostDnf, certificates: str) -> dict[str, str]:
    """What dnf is told in ``[main]``, by dnf.conf(5); yum leaves out what it does not know."""
    settings = {
        "gpgcheck": "1",
        "best": "1",
        "install_weak_deps": "0",
        "keepcache": "1",
        "skip_if_unavailable": "0",
        "clean_requirements_on_remove": "1",
        "retries": "2",
        "timeout": "30",
        **release.options,
    }
    if host.ca_bundle:  # an old release's own certificates have expired
        settings["sslcacert"] = certificates
    return settings


def _proxies(host: HostDnf) -> dict[str, str]:
    return {f"{scheme}_proxy": url for scheme, url in host.proxies.items()}


def finish(base: Base, recipe: Recipe, *, host: HostDnf) -> Inside:
    """The last step of a base, run inside it: its repositories as they will be used, and nothing of the host."""
    _, repos = _resolve(base, recipe, host)
    return dnf_inside.finish(repos.text(f"{dnf_repos.KEYS}/RPM-GPG-KEY-roost"), HOSTS, repos.keys)


# -- the layers above it


def provision(base: Base, recipe: Recipe | None, *, host: HostDnf, repositories: Sequence[Origin] = ()) -> Provision:
    """What the steps of layers over this base need to reach its mirrors; nothing of it may stay in a layer.

    ``recipe`` None: a committed layer whose mirrors are not known; it gets the host's proxies and certificates, and a
    package cache of its own, as does what has further repositories.
    """
    from roost.distro import apt_auth
    from roost.distro.dnf_repos import digest
    from roost.distro.recipe import Release

    release, repos = _resolve(base, recipe, host) if recipe else (Release(), dnf_repos.Repos())
    settings = {**_settings(release, host, f"{PROVISION}/{_CERTIFICATES}"), "cachedir": CACHE, "logdir": "/run"}
    logins = {repo.url: repos.logins[repo.name] for repo in repos.repos if repo.name in repos.logins}
    urls = [origin.url for origin in repositories]
    for url in urls:
        wanted = apt_auth.hosts((url,))
        if login := next((one for one in apt_auth.parse(host.auth) if one.host in wanted), None):
            logins[url] = login
    lines = (f"{url}\t{one.login}\t{one.password}\n" for url, one in logins.items())
    files = {
        "dnf.conf": ("[main]\n" + "".join(f"{key}={value}\n" for key, value in settings.items())).encode(),
        "credentials": "".join(lines).encode(),
    }
    if host.ca_bundle:
        files[_CERTIFICATES] = host.ca_bundle
    key = repos.cache_key if recipe else digest("rpm", "committed", base.from_layer)
    if repositories:
        key = digest(key, sorted([origin.url, origin.keys] for origin in repositories))
    binds = dnf_repos.local((base.mirror, *(repo.url for repo in repos.repos), *urls))
    return Provision(files=files, env={**_ENVIRONMENT, **_proxies(host)}, cache=CACHE, cache_key=key, binds=binds)


def add_user(user: User) -> Inside:
    """Makes an account, and sudo for it. The same account already there is left alone; another one fails the step."""
    return dnf_inside.add_user(user, NOBODY_GROUP)


def packages(status: bytes) -> dict[str, str]:
    """Name → version of the installed packages, from the content of ``STATUS_PATH``.

    Each of several versions (kernels) is called ``NAME-VERSION``; a second architecture of one is ``NAME.ARCHITECTURE``.
    """
    every = inventory(status)
    several = Counter((one.name, one.architecture) for one in every)
    found: dict[str, str] = {}
    for one in every:
        name = f"{one.name}-{one.version}" if several[one.name, one.architecture] > 1 else one.name
        found[f"{name}.{one.architecture}" if name in found else name] = one.version
    return found


def inventory(status: bytes) -> list[Package]:
    """The installed packages, with what the list says of them."""
    found = []
    for line in status.decode("utf-8", "replace").splitlines():
        name, tab, rest = line.partition("\t")
        version, _, rest = rest.partition("\t")
        if tab and name != "gpg-pubkey":  # a key that rpm trusts
            found.append(Package(name=name, version=version, architecture=rest.partition("\t")[0]))
    return found
